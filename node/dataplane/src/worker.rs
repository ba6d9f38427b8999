//! A worker: frames of one queue in, verdicts out.
//!
//! Guarantees: a frame is either transmitted or dropped for a counted reason; no packet follows a
//! dead connection, one of a removed server, or one found under an older configuration; ARP,
//! neighbour solicitations and echo are answered only while this node holds the group; nothing is
//! created for a group that another node holds; inside, a frame has no tag: that of a VLAN is taken
//! off first and put on last.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use steadfast_packet::{
    Content, Mac, Packet, ParseError, Untagged, parse, set_macs, tag, untag, vlan_of,
};

use crate::{
    Actions, Address, AddressKind, Config, Connection, GroupId, Hop, NextHops, Protocol, Reason,
    Resolved, Role, Sent, Shared, SyncHook, Tagged, Verdict, WorkerCounters,
    bucket::TokenBucket,
    cache::{Cache, Servers, Tuple, Way},
    forward::{Hot, reopens},
    frame::Frame,
    slab::Place,
    stale::{Lookout, StaleSender},
};

/// Resets and port unreachables per second and worker, and at once; as many again of packet too
/// big.
const ANSWERS_PER_SECOND: u64 = 1000;
const ANSWERS_BURST: u64 = 100;

/// How far apart the identifications of outer packets start from worker to worker.
const OUTER_ID_STEP: u16 = (u16::MAX as usize / crate::WORKERS_MAX) as u16;
/// Frames that are prepared at once; more are handled without.
const PREPARE_MAX: usize = 64;

/// Decides what happens to the frames of one queue. Owns its cache of hot flows; shares the rest.
#[derive(Debug)]
pub struct Worker<H> {
    cache: Cache,
    servers: Servers,
    /// Points at the connection of the packet at hand.
    connection: Connection,
    core: Core<H>,
}

/// A worker without its cache.
#[derive(Debug)]
pub(crate) struct Core<H> {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) hook: H,
    pub(crate) answers: TokenBucket,
    /// What is left of the answers that packets are too big: a flood for closed ports must not keep
    /// senders from learning their path MTU.
    pub(crate) too_big: TokenBucket,
    /// The last identification given to an outer IPv4 packet.
    pub(crate) outer_id: u16,
    pub(crate) lookout: Lookout,
    /// Questions for addresses that came before are not answered.
    pub(crate) discard_questions_until_ns: u64,
    pub(crate) counters: Arc<WorkerCounters>,
}

/// What one frame sees of what others may replace at any time.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) config: &'a Config,
    pub(crate) hops: &'a NextHops,
}

impl<H> Worker<H>
where
    H: SyncHook,
{
    /// Worker number `index` (below `ConfigSpec::workers`).
    #[must_use]
    pub fn new(index: usize, shared: Arc<Shared>, hook: H) -> Self {
        let connection = shared.table.at(Place::default());
        let core = Core {
            index,
            shared,
            hook,
            answers: TokenBucket::new(ANSWERS_PER_SECOND, ANSWERS_BURST),
            too_big: TokenBucket::new(ANSWERS_PER_SECOND, ANSWERS_BURST),
            // Workers that start apart give the same number less often in a short time.
            outer_id: (index as u16).wrapping_mul(OUTER_ID_STEP),
            lookout: Lookout::default(),
            discard_questions_until_ns: 0,
            counters: Arc::default(),
        };
        Self { cache: Cache::new(), servers: Servers::new(), connection, core }
    }

    /// After a gap in the driver's loop: ARP and neighbour solicitations handed in before `until_ns`
    /// are not answered, because they may have waited while another node took over.
    pub fn discard_questions_until(&mut self, until_ns: u64) {
        self.core.discard_questions_until_ns = until_ns;
    }

    /// Handles the frame of `len` bytes at `start` of `buffer`, received on interface `port`.
    ///
    /// The frame is rewritten in place, and may grow at both ends: answers use what comes after it
    /// (with [`steadfast_packet::ANSWER_LEN_MAX`] bytes from `start` on they always fit), tunnel
    /// headers what comes before it.
    pub fn handle_frame(
        &mut self,
        now_ns: u64,
        port: u16,
        buffer: &mut [u8],
        (start, len): (usize, usize),
        actions: &mut Actions,
    ) -> Verdict {
        self.core.counters.count_received();
        let config = self.core.shared.config.load();
        let hops = self.core.shared.next_hops.load();
        let view = View { config: &config, hops: &hops };
        let verdict = match received(&hops, port, buffer, (start, len)) {
            Ok((port, start, len)) => {
                let mut frame = Frame::new(now_ns, port, buffer, start, len);
                match self.decide(&mut frame, view, actions) {
                    Verdict::Transmit { port, start, len } => {
                        to_send(&hops, port, buffer, (start, len))
                    }
                    dropped @ Verdict::Drop(_) => dropped,
                }
            }
            Err(reason) => Verdict::Drop(reason),
        };
        if let Verdict::Drop(reason) = verdict {
            self.core.counters.count_dropped(reason);
        }
        verdict
    }

    /// Brings near what the frames of a burst will need, before they are handled one by one: what
    /// each waits for in memory is fetched for all of them at the same time.
    ///
    /// Only reads; a frame that is left out, or is another by the time it is handled, costs time.
    pub fn prepare<'a>(&self, frames: impl Iterator<Item = &'a [u8]>) {
        let table = &self.core.shared.table;
        let config = self.core.shared.config.load();
        let mut hashes = [(0, false); PREPARE_MAX];
        let mut count = 0;
        for (place, tuple) in hashes.iter_mut().zip(frames.filter_map(peek)) {
            *place = match config.address(tuple.dst) {
                Some(Address { kind: AddressKind::Vip, .. }) => (table.hash(&tuple.key()), false),
                _ => (table.hash(&tuple.reply_key()), true),
            };
            count += 1;
        }
        let hashes = &hashes[..count];
        // The loads do not depend on each other, so the processor has many under way at once; it
        // must not find out that nobody asked for the sums.
        let sum = |touch: &dyn Fn(u64, bool) -> u64| {
            hashes.iter().fold(0, |sum: u64, (hash, reply)| sum ^ touch(*hash, *reply))
        };
        black_box(sum(&|hash, reply| table.touch_index(hash, reply)));
        black_box(sum(&|hash, reply| table.touch_slot(hash, reply)));
    }

    /// Counters of this worker, for whoever reads them.
    #[must_use]
    pub fn counters(&self) -> Arc<WorkerCounters> {
        Arc::clone(&self.core.counters)
    }

    /// Packets whose flow was found in the worker's own cache.
    #[must_use]
    pub fn cache_hits(&self) -> u64 {
        self.cache.hits
    }

    fn decide(&mut self, frame: &mut Frame<'_>, view: View<'_>, actions: &mut Actions) -> Verdict {
        let parsed = match parse(frame.received()) {
            Ok(parsed) => parsed,
            Err(error) => return Verdict::Drop(reason_of(error)),
        };
        if parsed.vlan.is_some() {
            return Verdict::Drop(Reason::EtherType);
        }
        frame.src_mac = parsed.src_mac;
        let own_mac = view.hops.port_mac(frame.port);
        match parsed.content {
            Content::ArpRequest(request) => {
                self.core.answer_arp(frame, parsed.dst_mac, request, view)
            }
            Content::Solicitation(solicitation) => {
                self.core.answer_solicitation(frame, parsed.dst_mac, solicitation, view)
            }
            Content::ArpOther => Verdict::Drop(Reason::ArpIgnored),
            _ if own_mac != Some(parsed.dst_mac) => Verdict::Drop(Reason::OtherMac),
            Content::Ip(packet) => self.handle_packet(frame, &packet, view, actions),
            Content::Other(_) => Verdict::Drop(Reason::EtherType),
        }
    }

    fn handle_packet(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        if let Some(fragment) = &packet.fragment
            && let Some(verdict) = self.core.handle_fragment(frame, packet, fragment, view, actions)
        {
            return verdict;
        }
        let Some(tuple) = Tuple::of_packet(packet) else {
            return self.core.handle_other(frame, packet, view, actions);
        };
        let (generation, connection) = (view.config.generation(), &mut self.connection);
        let cached = self.cache.find(&tuple, generation).filter(|(way, place)| {
            connection.point_at(*place);
            connection.is_open() && !reopens(*way, packet)
        });
        let way = match cached {
            Some((way, _)) => {
                self.cache.hits += 1;
                way
            }
            None => {
                let found = self.core.look_up(frame, packet, tuple, view, connection, actions);
                let way = match found {
                    Ok(way) => way,
                    Err(verdict) => return verdict,
                };
                self.cache.insert(tuple, way, connection.place(), generation);
                way
            }
        };
        let mut server = self.servers.find(connection.server(), view.config);
        if way == Way::In
            && server.as_ref().is_some_and(|s| s.is_for_another(frame.received(), packet))
        {
            let old = connection.clone();
            *connection =
                match self.core.admit(frame, packet, tuple.key(), Some(old), view, actions) {
                    Ok(connection) => connection,
                    Err(verdict) => return verdict,
                };
            server = self.servers.find(connection.server(), view.config);
        }
        let Some(server) = server else {
            return Verdict::Drop(Reason::ServerRemoved);
        };
        self.core.carry(frame, packet, Hot { way, connection, server }, view, actions)
    }
}

/// The port that a frame came in on, and where it is without its tag.
fn received(
    hops: &NextHops,
    port: u16,
    buffer: &mut [u8],
    (start, len): (usize, usize),
) -> Result<(u16, usize, usize), Reason> {
    let Some(Untagged { vlan, start, len }) = untag(buffer, start, len) else {
        return Ok((port, start, len));
    };
    //= IEEE 802.1Q-2018 section 9.6: number 0 is no VLAN, the tag has a priority only
    if vlan == 0 {
        return Ok((port, start, len));
    }
    let port = hops.port_of(Tagged { trunk: port, vlan }).ok_or(Reason::Vlan)?;
    Ok((port, start, len))
}

/// A frame that leaves by `port`, with its tag if that is a VLAN.
fn to_send(hops: &NextHops, port: u16, buffer: &mut [u8], (start, len): (usize, usize)) -> Verdict {
    let Some(Tagged { trunk, vlan }) = hops.tagged(port) else {
        return Verdict::Transmit { port, start, len };
    };
    match tag(buffer, start, len, vlan) {
        Ok((start, len)) => Verdict::Transmit { port: trunk, start, len },
        Err(_) => Verdict::Drop(Reason::NoSpace),
    }
}

/// The tuple of a frame that looks like TCP or UDP over IPv4 without options, unchecked.
fn peek(frame: &[u8]) -> Option<Tuple> {
    // Behind a tag everything but the addresses comes four octets later.
    let frame = if vlan_of(frame).is_some() { frame.get(4..)? } else { frame };
    let header: &[u8; 38] = frame.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let addr = |at: usize| Ipv4Addr::from_bits(u32::from(word(at)) << 16 | u32::from(word(at + 2)));
    let protocol = match header[23] {
        6 => Protocol::Tcp,
        17 => Protocol::Udp,
        _ => return None,
    };
    (word(12) == 0x0800 && header[14] == 0x45).then(|| Tuple {
        protocol,
        src: addr(26).into(),
        src_port: word(34),
        dst: addr(30).into(),
        dst_port: word(36),
    })
}

pub(crate) fn reason_of(error: ParseError) -> Reason {
    match error {
        ParseError::HeaderChecksum => Reason::HeaderChecksum,
        ParseError::Extension => Reason::Extension,
        ParseError::Fragment => Reason::Fragment,
        ParseError::Quote => Reason::Quote,
        ParseError::Truncated(_)
        | ParseError::Length(_)
        | ParseError::Version
        | ParseError::Solicitation => Reason::Malformed,
    }
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Notes the sender of a frame if it should have sent it to another node.
    pub(crate) fn look(
        &mut self,
        frame: &Frame<'_>,
        group: GroupId,
        vip: Option<IpAddr>,
        view: View<'_>,
    ) {
        let stale = matches!(&*self.shared.groups.role(group), Role::Other { .. })
            && !view.hops.is_cluster_mac(frame.port, frame.src_mac);
        let sender = StaleSender { group, port: frame.port, mac: frame.src_mac, vip };
        self.lookout.looked(frame.now_ns, stale.then_some(sender), &self.shared.stale_senders);
    }

    /// Hands a frame unchanged to the node that holds the group; `vip` as in [`StaleSender`].
    pub(crate) fn relay(
        &mut self,
        frame: &mut Frame<'_>,
        relay: &[Option<Mac>],
        group: GroupId,
        vip: Option<IpAddr>,
        view: View<'_>,
    ) -> Verdict {
        // Two nodes that each take the other for the holder must not play ping-pong.
        if view.hops.is_cluster_mac(frame.port, frame.src_mac) {
            return Verdict::Drop(Reason::RelayLoop);
        }
        let holder = relay.get(usize::from(frame.port)).copied().flatten();
        let (Some(holder), Some(own)) = (holder, view.hops.port_mac(frame.port)) else {
            return Verdict::Drop(Reason::NoHolder);
        };
        if self.lookout.is_due(frame.now_ns) {
            self.look(frame, group, vip, view);
        }
        set_macs(frame.bytes(), own, holder);
        self.transmit(Sent::Relayed, frame.port, frame.start(), frame.len())
    }

    /// Sends an answer to `client`: by its route if that is known, else to whom the frame came from.
    pub(crate) fn send_back(
        &self,
        frame: &mut Frame<'_>,
        client: IpAddr,
        len: usize,
        view: View<'_>,
    ) -> Verdict {
        match view.hops.resolve(client) {
            Resolved::Hop(Hop { port, src_mac, dst_mac, .. }) => {
                set_macs(frame.bytes(), src_mac, dst_mac);
                self.transmit(Sent::Answered, port, frame.start(), len)
            }
            // A relayed frame came from a node of the cluster, which is nobody to answer to.
            _ if view.hops.is_cluster_mac(frame.port, frame.src_mac) => {
                Verdict::Drop(Reason::NextHopUnresolved)
            }
            _ => self.transmit(Sent::Answered, frame.port, frame.start(), len),
        }
    }

    pub(crate) fn transmit(&self, sent: Sent, port: u16, start: usize, len: usize) -> Verdict {
        self.counters.count_sent(sent);
        Verdict::Transmit { port, start, len }
    }
}
