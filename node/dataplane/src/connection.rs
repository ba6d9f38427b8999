//! A connection: who talks to which real server, and what is known about it now.
//!
//! Guarantees: the record never changes; a connection that moves to another server is another
//! [`Connection`] and the old one is dead. Everything that changes is atomic, so any thread may
//! read it at any time. Not guaranteed: that two atomics read one after the other belong together.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
    sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering},
};

use crate::{Class, Forwarding, GroupId, Origin, ServerId, ServiceId, State};
pub use steadfast_packet::Protocol;

/// What identifies a connection on the client's side.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
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

/// What identifies a NAT connection on the servers' side.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct ReplyKey {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Address of the real server.
    pub server: IpAddr,
    /// Port of the real server.
    pub server_port: u16,
    /// Client address.
    pub client: IpAddr,
    /// Client port.
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

/// A connection in the table. The changing part is relaxed: each value stands alone.
#[derive(Debug)]
pub struct Connection {
    /// The unchanging part.
    record: Record,
    state: AtomicU8,
    last_seen_ns: AtomicU64,
    in_pkts: AtomicU64,
    out_pkts: AtomicU64,
    /// Bits that keep packets from following it: [`DEAD`], [`SUPERSEDED`].
    gate: AtomicU8,
    flags: AtomicU32,
    /// Snapshot generation that last confirmed this replica.
    snapshot: AtomicU64,
    /// Its place in the ledger, or [`NO_SLOT`].
    slot: AtomicU32,
    /// Replication peers that were ever sent this record, one bit each. The data plane never reads
    /// it; it lives here so that a delete needs no second look-up.
    sent_to: AtomicU32,
    /// For the replication policy alone: the state last sent (IPVS `old_state`).
    synced_state: AtomicU8,
    /// For the replication policy alone: a word of its own (IPVS `sync_endtime`).
    sync_word: AtomicU64,
    /// Workers that carried packets client to server, a bit each.
    in_workers: AtomicU64,
    /// Workers that carried packets server to client, a bit each.
    out_workers: AtomicU64,
}

/// Not in the ledger.
pub(crate) const NO_SLOT: u32 = u32::MAX;

/// It left the table.
const DEAD: u8 = 1;
/// See [`Connection::is_superseded`].
const SUPERSEDED: u8 = 2;

/// Scheduled by this node.
const LOCAL: u32 = 1;
/// Given by a deposed holder: a sweep leaves it alone.
const DONATED: u32 = 2;
/// More than one packet was seen, or a reply: a conversation even without a handshake.
const ASSURED: u32 = 4;

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

impl Hash for FlowKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = (self.client_port, self.vip_port);
        hash_tuple(self.protocol, (self.client, self.vip), ports, state);
    }
}

impl Hash for ReplyKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = (self.server_port, self.client_port);
        hash_tuple(self.protocol, (self.server, self.client), ports, state);
    }
}

/// Two words for IPv4 instead of the nine writes that deriving makes.
fn hash_tuple<H: Hasher>(
    protocol: Protocol,
    addrs: (IpAddr, IpAddr),
    ports: (u16, u16),
    state: &mut H,
) {
    match addrs {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            state.write_u64(u64::from(a.to_bits()) << 32 | u64::from(b.to_bits()));
        }
        (a, b) => (a, b).hash(state),
    }
    let ports = u64::from(ports.0) << 16 | u64::from(ports.1);
    state.write_u64((protocol as u64) << 32 | ports);
}

impl Record {
    /// The key of return packets, for NAT connections that know their server.
    #[must_use]
    pub fn reply_key(&self) -> Option<ReplyKey> {
        let target = self.target?;
        (target.forwarding == Forwarding::Nat).then(|| self.key.reply(target.addr, target.port))
    }
}

impl Connection {
    /// A connection in `state`, last seen now.
    #[must_use]
    pub fn new(record: Record, state: State, provenance: Provenance, now_ns: u64) -> Self {
        let flags = match provenance {
            Provenance::Local => LOCAL,
            Provenance::Replica => 0,
            Provenance::Donated => DONATED,
        };
        Self {
            record,
            state: AtomicU8::new(state as u8),
            last_seen_ns: AtomicU64::new(now_ns),
            in_pkts: AtomicU64::new(0),
            out_pkts: AtomicU64::new(0),
            gate: AtomicU8::new(0),
            flags: AtomicU32::new(flags),
            snapshot: AtomicU64::new(0),
            slot: AtomicU32::new(NO_SLOT),
            sent_to: AtomicU32::new(0),
            synced_state: AtomicU8::new(State::None as u8),
            sync_word: AtomicU64::new(0),
            in_workers: AtomicU64::new(0),
            out_workers: AtomicU64::new(0),
        }
    }

    /// Client, VIP and protocol.
    #[must_use]
    pub fn key(&self) -> FlowKey {
        self.record.key
    }

    /// The real server, by its committed id.
    #[must_use]
    pub fn server(&self) -> ServerId {
        self.record.server
    }

    /// Where that server is; absent while no configuration here knows the id.
    #[must_use]
    pub fn target(&self) -> Option<Target> {
        self.record.target
    }

    /// The service it belongs to.
    #[must_use]
    pub fn service(&self) -> ServiceId {
        self.record.service
    }

    /// The VIP group it belongs to.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.record.group
    }

    /// Tells successive connections of one key apart.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.record.incarnation
    }

    /// The epoch under which it was created.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.record.origin
    }

    /// The key of return packets, for NAT connections that know their server.
    #[must_use]
    pub fn reply_key(&self) -> Option<ReplyKey> {
        self.record.reply_key()
    }

    /// All of the unchanging part.
    #[must_use]
    pub fn record(&self) -> Record {
        self.record
    }

    /// What it is worth when the table is full.
    ///
    /// A UDP flow of one packet is worth as much as a SYN: otherwise forged datagrams would fill
    /// the table with entries that nothing may push out.
    #[must_use]
    pub fn class(&self) -> Class {
        match self.state() {
            State::Udp if !self.is_assured() => Class::HalfOpen,
            state => state.class(),
        }
    }

    /// The same connection with its server known; live values are copied.
    pub(crate) fn bound(&self, target: Target) -> Self {
        let relaxed = Ordering::Relaxed;
        let old = self;
        Self {
            record: Record { target: Some(target), ..self.record },
            state: AtomicU8::new(old.state.load(relaxed)),
            last_seen_ns: AtomicU64::new(old.last_seen_ns.load(relaxed)),
            in_pkts: AtomicU64::new(old.in_pkts.load(relaxed)),
            out_pkts: AtomicU64::new(old.out_pkts.load(relaxed)),
            gate: AtomicU8::new(0),
            flags: AtomicU32::new(old.flags.load(relaxed)),
            snapshot: AtomicU64::new(old.snapshot.load(relaxed)),
            slot: AtomicU32::new(NO_SLOT),
            sent_to: AtomicU32::new(old.sent_to.load(relaxed)),
            synced_state: AtomicU8::new(old.synced_state.load(relaxed)),
            sync_word: AtomicU64::new(old.sync_word.load(relaxed)),
            in_workers: AtomicU64::new(old.in_workers.load(relaxed)),
            out_workers: AtomicU64::new(old.out_workers.load(relaxed)),
        }
    }

    /// Its place in the ledger, or [`NO_SLOT`].
    pub(crate) fn slot(&self) -> u32 {
        self.slot.load(Ordering::Relaxed)
    }

    pub(crate) fn set_slot(&self, slot: u32) {
        self.slot.store(slot, Ordering::Relaxed);
    }

    /// The snapshot generation that last confirmed this replica.
    pub(crate) fn snapshot(&self) -> u64 {
        self.snapshot.load(Ordering::Relaxed)
    }

    /// A snapshot of this generation has a record of it; never goes back.
    pub(crate) fn confirm(&self, snapshot: u64) {
        self.snapshot.fetch_max(snapshot, Ordering::Relaxed);
    }

    /// Replication peers that were ever sent this record, one bit each.
    #[must_use]
    pub fn sent_to(&self) -> u32 {
        self.sent_to.load(Ordering::SeqCst)
    }

    /// Notes that the peers of these bits are about to be sent this record.
    pub fn note_sent_to(&self, peers: u32) {
        self.sent_to.fetch_or(peers, Ordering::SeqCst);
    }

    /// The state that was copied to the peers last (IPVS `old_state`).
    #[must_use]
    pub fn synced_state(&self) -> State {
        State::from_u8(self.synced_state.load(Ordering::Relaxed)).unwrap_or(State::None)
    }

    /// Notes the state that the peers know.
    pub fn set_synced_state(&self, state: State) {
        self.synced_state.store(state as u8, Ordering::Relaxed);
    }

    /// The replication policy's own word (IPVS `sync_endtime`).
    #[must_use]
    pub fn sync_word(&self) -> u64 {
        self.sync_word.load(Ordering::Relaxed)
    }

    /// Replaces that word; false when another thread was first.
    pub fn swap_sync_word(&self, old: u64, new: u64) -> bool {
        let relaxed = Ordering::Relaxed;
        self.sync_word.compare_exchange(old, new, relaxed, relaxed).is_ok()
    }

    /// Moves the state from `old` to `new`; false when another thread was first.
    pub fn swap_state(&self, old: State, new: State) -> bool {
        self.state
            .compare_exchange(old as u8, new as u8, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Sets the state without looking at the old one (a holder's record for its replica).
    pub fn set_state(&self, state: State) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Notes a packet at `now_ns`; never goes back.
    pub fn touch(&self, now_ns: u64) {
        // Two workers may race here; a plain store is enough unless it would lose seconds.
        if self.last_seen_ns.load(Ordering::Relaxed) < now_ns {
            self.last_seen_ns.store(now_ns, Ordering::Relaxed);
        }
    }

    /// Counts an inbound packet carried by `worker`; returns the new count.
    pub fn count_in(&self, worker: usize) -> u64 {
        note_worker(&self.in_workers, worker);
        self.in_pkts.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Counts a return packet carried by `worker`; returns the new count.
    pub fn count_out(&self, worker: usize) -> u64 {
        note_worker(&self.out_workers, worker);
        self.out_pkts.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Workers that carried packets client to server, and server to client, a bit each.
    #[must_use]
    pub fn workers(&self) -> (u64, u64) {
        let read = |workers: &AtomicU64| workers.load(Ordering::Relaxed);
        (read(&self.in_workers), read(&self.out_workers))
    }

    /// Sets the inbound count (a replica starts at the `sync_threshold`, as in IPVS).
    pub fn set_in_pkts(&self, count: u64) {
        self.in_pkts.store(count, Ordering::Relaxed);
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        State::from_u8(self.state.load(Ordering::Acquire)).unwrap_or(State::Close)
    }

    /// When a packet was last seen here, or the replica last applied.
    #[must_use]
    pub fn last_seen_ns(&self) -> u64 {
        self.last_seen_ns.load(Ordering::Relaxed)
    }

    /// Inbound packets.
    #[must_use]
    pub fn in_pkts(&self) -> u64 {
        self.in_pkts.load(Ordering::Relaxed)
    }

    /// Return packets.
    #[must_use]
    pub fn out_pkts(&self) -> u64 {
        self.out_pkts.load(Ordering::Relaxed)
    }

    /// No packet may follow this connection any more.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.gate.load(Ordering::Acquire) & DEAD != 0
    }

    /// The holder was handed a SYN that opens another connection in its place; this node waits to
    /// hear of that one.
    #[must_use]
    pub fn is_superseded(&self) -> bool {
        self.gate.load(Ordering::Acquire) & SUPERSEDED != 0
    }

    /// Packets may follow it.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.load(Ordering::Acquire) == 0
    }

    pub(crate) fn supersede(&self) {
        self.gate.fetch_or(SUPERSEDED, Ordering::AcqRel);
    }

    /// Where it came from. A local connection that the new holder confirms becomes a replica.
    #[must_use]
    pub fn provenance(&self) -> Provenance {
        match self.flags.load(Ordering::Relaxed) {
            flags if flags & DONATED != 0 => Provenance::Donated,
            flags if flags & LOCAL != 0 => Provenance::Local,
            _ => Provenance::Replica,
        }
    }

    /// More than one packet was seen, or a reply, or a peer vouches for it.
    #[must_use]
    pub fn is_assured(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & ASSURED != 0
    }

    /// Marks it a conversation; true for the call that did.
    pub(crate) fn assure(&self) -> bool {
        self.flags.fetch_or(ASSURED, Ordering::Relaxed) & ASSURED == 0
    }

    /// The holder vouches for it: from now on it is a replica.
    pub(crate) fn become_replica(&self) {
        self.flags.fetch_and(!(LOCAL | DONATED), Ordering::Relaxed);
    }

    pub(crate) fn kill(&self) {
        self.gate.fetch_or(DEAD, Ordering::AcqRel);
    }
}

/// Written once per worker and connection, then only read.
fn note_worker(workers: &AtomicU64, worker: usize) {
    let bit = 1_u64.checked_shl(worker as u32).unwrap_or(0);
    if workers.load(Ordering::Relaxed) & bit != bit {
        workers.fetch_or(bit, Ordering::Relaxed);
    }
}
