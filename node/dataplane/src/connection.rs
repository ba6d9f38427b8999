//! A connection: who talks to which real server, and what is known about it now.
//!
//! Guarantees: the record never changes; a connection that moves to another server is another one
//! and the old one is dead. Any thread may read at any time, and no change reaches a connection by
//! way of a dead one's handle, but for its age, its counts and the peers it was sent to, none of
//! which a decision about a packet depends on. Not guaranteed: that two values read one after the
//! other belong together.

use std::{
    fmt,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{Ordering, fence},
    },
};

use crate::{
    Class, Deltas, Forwarding, GroupId, Local, Origin, ServerId, ServiceId, State,
    deltas::{Handshake, Numbers},
    sip::sip13,
    slab::{self, Ends, Place, Slab},
};
pub use steadfast_packet::Protocol;

/// What identifies a connection on the client's side.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FlowKey {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Client address.
    pub client: IpAddr,
    /// Client port.
    pub client_port: u16,
    /// Virtual address.
    pub vip: IpAddr,
    /// Port of the service.
    pub vip_port: u16,
}

/// What identifies a NAT or full-NAT connection on the servers' side.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ReplyKey {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Address of the real server.
    pub server: IpAddr,
    /// Port of the real server.
    pub server_port: u16,
    /// Address that the server answers to: the client's, or a local one under full-NAT.
    pub client: IpAddr,
    /// Its port.
    pub client_port: u16,
}

/// The unchanging part of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Record {
    /// Client, VIP and protocol.
    pub key: FlowKey,
    /// The real server, by its committed id.
    pub server: ServerId,
    /// Where that server is; absent while no configuration here knows the id ("unbound").
    pub target: Option<Target>,
    /// From where packets go to the server, under full-NAT and there alone.
    pub local: Option<Local>,
    /// The service it belongs to.
    pub service: ServiceId,
    /// The VIP group it belongs to.
    pub group: GroupId,
    /// Tells successive connections of one key apart; a higher one replaces.
    pub incarnation: u64,
    /// The epoch under which it was created.
    pub origin: Origin,
}

/// Where and how packets go to the real server.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Target {
    /// Address of the real server.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// How packets reach it.
    pub forwarding: Forwarding,
}

/// Where a connection came from.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Provenance {
    /// Scheduled by this node.
    Local,
    /// Sent by the holder.
    Replica,
    /// Given by a deposed holder.
    Donated,
}

impl FlowKey {
    /// The key of the return direction through `server:port`.
    #[must_use]
    pub fn reply(&self, server: IpAddr, server_port: u16) -> ReplyKey {
        ReplyKey {
            protocol: self.protocol,
            server,
            server_port,
            client: self.client,
            client_port: self.client_port,
        }
    }
}

impl Target {
    /// The key of what the server answers, if that comes back through this node.
    #[must_use]
    pub fn reply_key(&self, key: &FlowKey, local: Option<Local>) -> Option<ReplyKey> {
        let reply = key.reply(self.addr, self.port);
        match self.forwarding {
            Forwarding::Nat => Some(reply),
            Forwarding::FullNat => {
                let Local { addr, port } = local?;
                Some(ReplyKey { client: addr, client_port: port, ..reply })
            }
            Forwarding::Dr | Forwarding::Tunnel(_) => None,
        }
    }
}

impl FlowKey {
    /// Its hash under a secret key: clients choose the tuples.
    pub(crate) fn sip(&self, seed: [u64; 2]) -> u64 {
        let ports = (self.client_port, self.vip_port);
        sip_of(seed, self.protocol, (self.client, self.vip), ports)
    }
}

impl ReplyKey {
    /// As [`FlowKey::sip`].
    pub(crate) fn sip(&self, seed: [u64; 2]) -> u64 {
        let ports = (self.server_port, self.client_port);
        sip_of(seed, self.protocol, (self.server, self.client), ports)
    }
}

fn sip_of(seed: [u64; 2], protocol: Protocol, addrs: (IpAddr, IpAddr), (a, b): (u16, u16)) -> u64 {
    let ports = u32::from(a) << 16 | u32::from(b);
    match addrs {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let addrs = u64::from(a.to_bits()) << 32 | u64::from(b.to_bits());
            sip_of_v4(seed, protocol, addrs, ports)
        }
        (a, b) => {
            // Addresses of two families never stand together in a packet.
            let [a, b] = [a, b].map(|addr| match addr {
                IpAddr::V4(addr) => addr.to_ipv6_mapped().to_bits(),
                IpAddr::V6(addr) => addr.to_bits(),
            });
            let ports = (protocol as u64) << 32 | u64::from(ports);
            sip13(seed, [(a >> 64) as u64, a as u64, (b >> 64) as u64, b as u64, ports])
        }
    }
}

/// Where it comes from is in the upper halves of `addrs` and `ports`.
#[inline(always)]
pub(crate) fn sip_of_v4(seed: [u64; 2], protocol: Protocol, addrs: u64, ports: u32) -> u64 {
    sip13(seed, [addrs, (protocol as u64) << 32 | u64::from(ports)])
}

impl Record {
    /// The key of return packets, for NAT and full-NAT connections that know their server.
    #[must_use]
    pub fn reply_key(&self) -> Option<ReplyKey> {
        let target = self.target?;
        target.reply_key(&self.key, self.local)
    }
}

/// A connection that is to come into the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NewConnection {
    /// The unchanging part.
    pub record: Record,
    /// Its state.
    pub state: State,
    /// Where it comes from.
    pub provenance: Provenance,
    /// When it was seen last.
    pub now_ns: u64,
    /// Inbound packets to start with.
    pub in_pkts: u64,
    /// It is a conversation.
    pub assured: bool,
    /// It counts as one of its source; see `Limits::per_source`.
    pub counted: bool,
    /// It went by the hash so far: half-open until more is seen of it.
    pub adopted: bool,
    /// Snapshot generation that confirms it.
    pub snapshot: u64,
    /// How the numbers of its two sides differ.
    pub deltas: Option<Deltas>,
    /// A template counts it.
    pub(crate) controlled: bool,
    /// Its client came with a cookie, and its server has heard nothing yet.
    pub(crate) handshake: Option<Handshake>,
}

fn class(state: State, assured: bool, adopted: bool) -> Class {
    if !assured && (adopted || state == State::Udp) { Class::HalfOpen } else { state.class() }
}

/// What a connection was when it left the table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gone {
    record: Record,
    state: State,
    sent_to: u32,
    controlled: bool,
}

/// A connection in the table, or one that was: a handle.
///
/// It is cheap to keep and may outlive the connection. Then [`Self::is_dead`] says so, and what the
/// other methods say is of whoever came after; what was read before `is_dead` said no is true.
/// The changing part is relaxed: each value stands alone.
#[derive(Clone)]
pub struct Connection {
    slab: Arc<Slab>,
    place: Place,
}

impl NewConnection {
    /// A connection in `state`, last seen now.
    #[must_use]
    pub fn new(record: Record, state: State, provenance: Provenance, now_ns: u64) -> Self {
        Self {
            record,
            state,
            provenance,
            now_ns,
            in_pkts: 0,
            assured: false,
            counted: false,
            adopted: false,
            controlled: false,
            snapshot: 0,
            deltas: None,
            handshake: None,
        }
    }

    /// See [`Connection::class`].
    pub(crate) fn class(&self) -> Class {
        class(self.state, self.assured, self.adopted)
    }
}

impl Gone {
    /// What the connection in a slot that was just closed was; `word` is its state and flags.
    pub(crate) fn new(connection: &Connection, word: u64) -> Self {
        Self {
            record: connection.record(),
            state: State::from_u8(word as u8).unwrap_or(State::Close),
            sent_to: connection.sent_to(),
            controlled: word & slab::CONTROLLED != 0,
        }
    }

    /// A template counted it, and wants to hear of its end.
    pub(crate) fn is_controlled(&self) -> bool {
        self.controlled
    }

    /// Client, VIP and protocol.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        self.record.key
    }

    /// The VIP group it belonged to.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.record.group
    }

    /// Tells successive connections of one key apart.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.record.incarnation
    }

    /// All of the unchanging part.
    #[must_use]
    pub fn record(&self) -> Record {
        self.record
    }

    /// Its last state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Replication peers that were ever sent its record, one bit each.
    #[must_use]
    pub fn sent_to(&self) -> u32 {
        self.sent_to
    }
}

/// The same connection: not just the same key.
impl PartialEq for Connection {
    fn eq(&self, other: &Self) -> bool {
        self.place == other.place && Arc::ptr_eq(&self.slab, &other.slab)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("record", &self.record())
            .field("state", &self.state())
            .field("dead", &self.is_dead())
            .finish()
    }
}

impl Connection {
    pub(crate) fn new(slab: Arc<Slab>, place: Place) -> Self {
        Self { slab, place }
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Makes it the handle of another connection of the same table: cheaper than another handle.
    #[inline]
    pub(crate) fn point_at(&mut self, place: Place) {
        self.place = place;
    }

    #[inline]
    fn hot(&self, word: usize) -> &std::sync::atomic::AtomicU64 {
        &self.slab.hot(self.place.slot)[word]
    }

    fn cold(&self, word: usize) -> &std::sync::atomic::AtomicU64 {
        &self.slab.cold(self.place.slot)[word]
    }

    #[inline]
    fn word(&self) -> u64 {
        self.slab.word(self.place.slot)
    }

    /// State and flags while it lives.
    #[inline(always)]
    fn live_word(&self) -> Option<u64> {
        let word = self.word();
        let same = slab::generation(word) == self.place.generation;
        (same && word & slab::OPEN != 0).then_some(word)
    }

    /// Client, VIP and protocol.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        self.slab.key(self.place.slot)
    }

    /// The real server, by its committed id.
    #[must_use]
    pub fn server(&self) -> ServerId {
        ServerId(self.slab.server(self.place.slot))
    }

    /// Where that server is; absent while no configuration here knows the id.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        self.slab.target(self.place.slot)
    }

    /// From where packets go to the server, under full-NAT.
    #[must_use]
    pub fn local(&self) -> Option<Local> {
        self.slab.local(self.place.slot)
    }

    /// Client, server and what is between them.
    pub(crate) fn ends(&self) -> Ends<'_> {
        self.slab.ends(self.place.slot)
    }

    /// How the numbers of its two sides differ, if they do.
    #[must_use]
    pub fn deltas(&self) -> Option<Deltas> {
        match self.ends().numbers() {
            Numbers::Shifted(deltas) => Some(deltas),
            Numbers::Same | Numbers::Unknown => None,
        }
    }

    /// What was said to a client that came with a cookie, while its server has not answered.
    pub(crate) fn handshake(&self) -> Option<Handshake> {
        let word = self.live_word()?;
        (word & slab::SHAKING != 0).then(|| self.slab.handshake(self.place.slot))
    }

    /// Up to which number of its server its replies were judged, if that is known.
    pub(crate) fn judged(&self) -> Option<u32> {
        self.slab.judged(self.place)
    }

    /// Notes that; never goes back.
    pub(crate) fn note_judged(&self, until: u32) {
        self.slab.note_judged(self.place, until);
    }

    /// The service it belongs to.
    #[must_use]
    pub fn service(&self) -> ServiceId {
        ServiceId((self.cold(slab::IDS).load(Ordering::Relaxed) >> 32) as u32)
    }

    /// The VIP group it belongs to.
    #[must_use]
    pub fn group(&self) -> GroupId {
        GroupId(self.cold(slab::IDS).load(Ordering::Relaxed) as u32)
    }

    /// Tells successive connections of one key apart.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.cold(slab::INCARNATION).load(Ordering::Relaxed)
    }

    /// The epoch under which it was created. Takes a lock: not for packets.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.slab.origin(self.cold(slab::SNAPSHOT).load(Ordering::Relaxed) as u32)
    }

    /// The key of return packets, for NAT connections that know their server.
    #[must_use]
    pub fn reply_key(&self) -> Option<ReplyKey> {
        let ends = self.ends();
        ends.target()?.reply_key(&ends.key(), ends.local())
    }

    /// All of the unchanging part. Takes a lock: not for packets.
    #[must_use]
    pub fn record(&self) -> Record {
        Record {
            key: self.key(),
            server: self.server(),
            target: self.target(),
            local: self.local(),
            service: self.service(),
            group: self.group(),
            incarnation: self.incarnation(),
            origin: self.origin(),
        }
    }

    /// What it is worth when the table is full.
    ///
    /// A UDP flow of one packet is worth as much as a SYN: otherwise forged datagrams would fill
    /// the table with entries that nothing may push out. So is a connection that was opened in its
    /// middle by one packet.
    #[must_use]
    pub fn class(&self) -> Class {
        let word = self.word();
        let state = State::from_u8(word as u8).unwrap_or(State::Close);
        class(state, word & slab::ASSURED != 0, word & slab::ADOPTED != 0)
    }

    /// It went by the hash before it came into the table.
    pub(crate) fn is_adopted(&self) -> bool {
        self.word() & slab::ADOPTED != 0
    }

    /// One packet, in the middle of a connection that went by the hash until then, is all that is
    /// known of it.
    #[must_use]
    pub fn is_unproven(&self) -> bool {
        self.word() & (slab::ADOPTED | slab::ASSURED) == slab::ADOPTED
    }

    /// The snapshot generation that last confirmed this replica.
    pub(crate) fn snapshot(&self) -> u32 {
        (self.cold(slab::SNAPSHOT).load(Ordering::Relaxed) >> 32) as u32
    }

    /// Replication peers that were ever sent this record, one bit each.
    #[must_use]
    pub fn sent_to(&self) -> u32 {
        (self.hot(slab::PEERS).load(Ordering::SeqCst) >> 32) as u32
    }

    /// Notes that the peers of these bits are about to be sent this record.
    pub fn note_sent_to(&self, peers: u32) {
        self.hot(slab::PEERS).fetch_or(u64::from(peers) << 32, Ordering::SeqCst);
    }

    /// The peers of these bits were not sent this record after all.
    pub fn forget_sent_to(&self, peers: u32) {
        self.hot(slab::PEERS).fetch_and(!(u64::from(peers) << 32), Ordering::SeqCst);
    }

    /// The snapshot generation that last confirmed it, if the holder sent it.
    #[must_use]
    pub fn confirmed_by(&self) -> Option<u64> {
        (self.provenance() == Provenance::Replica).then(|| self.snapshot().into())
    }

    /// The state that was copied to the peers last (IPVS `old_state`).
    #[must_use]
    #[inline]
    pub fn synced_state(&self) -> State {
        State::from_u8((self.word() >> slab::SYNCED_SHIFT) as u8).unwrap_or(State::None)
    }

    /// Notes the state that the peers know.
    pub fn set_synced_state(&self, state: State) {
        let bits = (state as u64) << slab::SYNCED_SHIFT;
        self.slab.update(self.place, |word| {
            let new = word & !(0xff << slab::SYNCED_SHIFT) | bits;
            (new != word).then_some(new)
        });
    }

    /// The replication policy's own word (IPVS `sync_endtime`).
    #[must_use]
    #[inline]
    pub fn sync_word(&self) -> u64 {
        self.hot(slab::SYNC).load(Ordering::Relaxed)
    }

    /// Replaces that word; false when another thread was first.
    pub fn swap_sync_word(&self, old: u64, new: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        self.hot(slab::SYNC).compare_exchange(old, new, relaxed, relaxed).is_ok()
    }

    /// Moves the state from `old` to `new`; false when another thread was first, or it is dead.
    pub fn swap_state(&self, old: State, new: State) -> bool {
        let change = |word: u64| (word as u8 == old as u8).then_some(word & !0xff | new as u64);
        self.slab.update(self.place, change).is_some()
    }

    /// Sets the state without looking at the old one (a holder's record for its replica).
    pub fn set_state(&self, state: State) {
        self.slab.update(self.place, |word| Some(word & !0xff | state as u64));
    }

    /// Notes a packet at `now_ns`; never goes back.
    #[inline(always)]
    pub fn touch(&self, now_ns: u64) {
        // Two workers may race here; a plain store is enough unless it would lose seconds.
        let seen = self.hot(slab::SEEN);
        if seen.load(Ordering::Relaxed) < now_ns {
            seen.store(now_ns, Ordering::Relaxed);
        }
    }

    /// Counts an inbound packet carried by `worker`; returns the new count.
    #[inline(always)]
    pub fn count_in(&self, worker: usize) -> u64 {
        self.note_worker(worker, 0);
        let pkts = self.hot(slab::PKTS);
        // Not read and then written: the slot may change hands between the two.
        let old = pkts.fetch_add(1, Ordering::Relaxed);
        if old as u32 == u32::MAX {
            // What it carried over is not a return packet.
            pkts.fetch_sub(1 << 32, Ordering::Relaxed);
        }
        u64::from((old as u32).wrapping_add(1))
    }

    /// Counts a return packet carried by `worker`; returns the new count.
    #[inline(always)]
    pub fn count_out(&self, worker: usize) -> u64 {
        self.note_worker(worker, 1);
        let old = self.hot(slab::PKTS).fetch_add(1 << 32, Ordering::Relaxed);
        (old >> 32).wrapping_add(1)
    }

    /// Workers that carried the last packet client to server, and server to client.
    #[must_use]
    pub fn workers(&self) -> (Option<u32>, Option<u32>) {
        let last = self.hot(slab::PEERS).load(Ordering::Relaxed);
        let who = |noted: u64| (noted as u8).checked_sub(1).map(u32::from);
        (who(last), who(last >> 8))
    }

    #[inline(always)]
    fn note_worker(&self, worker: usize, way: u32) {
        const { assert!(crate::WORKERS_MAX < u8::MAX as usize) };
        let (last, shift) = (self.hot(slab::PEERS), way * 8);
        let mine = worker as u64 + 1;
        let before = last.load(Ordering::Relaxed);
        if before >> shift & 0xff != mine {
            let new = |word: u64| Some(word & !(0xff << shift) | mine << shift);
            let _ = last.fetch_update(Ordering::SeqCst, Ordering::Relaxed, new);
        }
    }

    /// Sets the inbound count (a replica starts at the `sync_threshold`, as in IPVS).
    pub fn set_in_pkts(&self, count: u64) {
        let low = u64::from(u32::MAX);
        let new = |pkts: u64| Some(pkts & !low | count & low);
        let _ = self.hot(slab::PKTS).fetch_update(Ordering::Relaxed, Ordering::Relaxed, new);
    }

    /// Sets the count of return packets.
    pub(crate) fn set_out_pkts(&self, count: u64) {
        let low = u64::from(u32::MAX);
        let new = |pkts: u64| Some(pkts & low | count << 32);
        let _ = self.hot(slab::PKTS).fetch_update(Ordering::Relaxed, Ordering::Relaxed, new);
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        State::from_u8(self.word() as u8).unwrap_or(State::Close)
    }

    /// When a packet was last seen here, or the replica last applied.
    #[must_use]
    pub fn last_seen_ns(&self) -> u64 {
        self.hot(slab::SEEN).load(Ordering::Relaxed)
    }

    /// Inbound packets, modulo 2^32.
    #[must_use]
    #[inline]
    pub fn in_pkts(&self) -> u64 {
        self.hot(slab::PKTS).load(Ordering::Relaxed) & u64::from(u32::MAX)
    }

    /// Return packets, modulo 2^32.
    #[must_use]
    pub fn out_pkts(&self) -> u64 {
        self.hot(slab::PKTS).load(Ordering::Relaxed) >> 32
    }

    /// No packet may follow this connection any more. What was read from it before is true if not.
    #[must_use]
    #[inline]
    pub fn is_dead(&self) -> bool {
        fence(Ordering::Acquire);
        self.live_word().is_none()
    }

    /// The holder was handed a SYN that opens another connection in its place; this node waits to
    /// hear of that one.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.live_word().is_some_and(|word| word & slab::SUPERSEDED != 0)
    }

    /// Packets may follow it.
    pub(crate) fn is_open(&self) -> bool {
        self.live_word().is_some_and(|word| word & slab::SUPERSEDED == 0)
    }

    /// Packets may follow it, and it says where to.
    pub(crate) fn is_to_follow(&self) -> bool {
        const BITS: u64 = slab::SUPERSEDED | slab::BOUND;
        self.live_word().is_some_and(|word| word & BITS == slab::BOUND)
    }

    pub(crate) fn supersede(&self) {
        self.slab.update(self.place, |word| Some(word | slab::SUPERSEDED));
    }

    /// Where it came from. A local connection that the new holder confirms becomes a replica.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        match self.word() {
            word if word & slab::DONATED != 0 => Provenance::Donated,
            word if word & slab::LOCAL != 0 => Provenance::Local,
            _ => Provenance::Replica,
        }
    }

    /// More than one packet was seen, or a reply, or a peer vouches for it.
    #[must_use]
    pub fn is_assured(&self) -> bool {
        self.word() & slab::ASSURED != 0
    }

    /// Marks it a conversation; true for the call that did.
    pub(crate) fn assure(&self) -> bool {
        let old = self.slab.update(self.place, |word| Some(word | slab::ASSURED));
        old.is_some_and(|word| word & slab::ASSURED == 0)
    }

    /// A template led it to its server, counts it, and wants to hear of its end.
    pub fn is_controlled(&self) -> bool {
        self.word() & slab::CONTROLLED != 0
    }

    /// From here on a template counts it; false when it is gone.
    pub(crate) fn set_controlled(&self) -> bool {
        self.slab.update(self.place, |word| Some(word | slab::CONTROLLED)).is_some()
    }

    /// The holder vouches for it: from now on it is a replica.
    pub(crate) fn become_replica(&self) {
        self.slab.update(self.place, |word| Some(word & !(slab::LOCAL | slab::DONATED)));
    }
}
