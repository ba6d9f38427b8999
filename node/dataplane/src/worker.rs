//! A worker: frames of one queue in, verdicts out.
//!
//! Guarantees: a frame is either transmitted or dropped for a counted reason; no packet follows a
//! dead connection, one of a removed server, or one found under an older configuration; ARP and
//! echo are answered only while this node holds the group; nothing is created for a group that
//! another node holds. Not here: VLAN, fragments and IPv6 (dropped, counted), ICMP errors.

use std::{
    hint::black_box,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use steadfast_packet::{
    ArpRequest, Content, Ipv4Packet, Mac, ParseError, TcpFlags, Transport, arp_reply,
    decrement_ttl, echo_reply, parse, rewrite_destination, rewrite_source, set_macs,
};

use crate::{
    Action, Actions, AddressKind, Config, Connection, Direction, FlowKey, Forwarding, GroupId, Hop,
    NextHops, Protocol, Reason, Resolved, Role, Sent, Shared, State, SyncHook, Verdict,
    WorkerCounters,
    bucket::TokenBucket,
    cache::{Cache, HotServer, Servers, Tuple, Way},
    slab::Place,
    stale::{Lookout, StaleSender},
};

/// Resets and port unreachables per second and worker, and at once.
const ANSWERS_PER_SECOND: u64 = 1000;
const ANSWERS_BURST: u64 = 100;

/// Times a state is moved when another worker moves it at the same time.
const STATE_TRIES_MAX: usize = 8;

/// Frames that are prepared at once; more are handled without.
const PREPARE_MAX: usize = 64;

const BROADCAST: Mac = [0xff; 6];

/// Decides what happens to the frames of one queue. Owns its cache of hot flows; shares the rest.
#[derive(Debug)]
pub struct Worker<H> {
    cache: Cache,
    servers: Servers,
    /// Points at the connection of the packet at hand.
    connection: Connection,
    discard_arp_until_ns: u64,
    core: Core<H>,
}

/// A worker without its cache.
#[derive(Debug)]
pub(crate) struct Core<H> {
    pub(crate) index: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) hook: H,
    counters: Arc<WorkerCounters>,
    pub(crate) answers: TokenBucket,
    lookout: Lookout,
}

/// The frame at hand.
pub(crate) struct Frame<'a> {
    pub(crate) now_ns: u64,
    pub(crate) port: u16,
    pub(crate) buffer: &'a mut [u8],
    pub(crate) len: usize,
    pub(crate) src_mac: Mac,
}

/// A packet's connection and server.
struct Hot<'a> {
    way: Way,
    connection: &'a Connection,
    server: &'a mut HotServer,
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
        let counters = Arc::default();
        let answers = TokenBucket::new(ANSWERS_PER_SECOND, ANSWERS_BURST);
        let lookout = Lookout::default();
        let connection = shared.table.at(Place::default());
        let core = Core { index, shared, hook, counters, answers, lookout };
        let (cache, servers) = (Cache::new(), Servers::new());
        Self { cache, servers, connection, discard_arp_until_ns: 0, core }
    }

    /// After a gap in the driver's loop: ARP handed in before `until_ns` is not answered, because it
    /// may have waited while another node took over.
    pub fn discard_arp_until(&mut self, until_ns: u64) {
        self.discard_arp_until_ns = until_ns;
    }

    /// Handles one frame of `len` bytes at the start of `buffer`, received on interface `port`.
    ///
    /// The frame is rewritten in place. Answers may use the rest of `buffer`: with
    /// [`steadfast_packet::ANSWER_LEN_MAX`] bytes they always fit.
    pub fn handle_frame(
        &mut self,
        now_ns: u64,
        port: u16,
        buffer: &mut [u8],
        len: usize,
        actions: &mut Actions,
    ) -> Verdict {
        self.core.counters.count_received();
        let config = self.core.shared.config.load();
        let hops = self.core.shared.next_hops.load();
        let view = View { config: &config, hops: &hops };
        let mut frame = Frame { now_ns, port, buffer, len, src_mac: [0; 6] };
        let verdict = self.decide(&mut frame, view, actions);
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
            *place = match config.address(tuple.dst.into()) {
                Some(_) => (table.hash(&tuple.key()), false),
                None => (table.hash(&tuple.reply_key()), true),
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
        let Some(bytes) = frame.buffer.get(..frame.len) else {
            return Verdict::Drop(Reason::Malformed);
        };
        let parsed = match parse(bytes) {
            Ok(parsed) => parsed,
            Err(ParseError::HeaderChecksum) => return Verdict::Drop(Reason::HeaderChecksum),
            Err(_) => return Verdict::Drop(Reason::Malformed),
        };
        frame.src_mac = parsed.src_mac;
        let own_mac = view.hops.port_mac(frame.port);
        let to_us = own_mac == Some(parsed.dst_mac);
        match parsed.content {
            Content::ArpRequest(request) if to_us || parsed.dst_mac == BROADCAST => {
                self.handle_arp(frame, request, own_mac, view)
            }
            Content::ArpRequest(_) | Content::ArpOther => Verdict::Drop(Reason::ArpIgnored),
            _ if !to_us => Verdict::Drop(Reason::OtherMac),
            Content::Ipv4(packet) => self.handle_ipv4(frame, &packet, view, actions),
            Content::Ipv6 { .. } => Verdict::Drop(Reason::Ipv6),
            Content::Other(_) => Verdict::Drop(Reason::EtherType),
        }
    }

    fn handle_arp(
        &mut self,
        frame: &mut Frame<'_>,
        request: ArpRequest,
        own_mac: Option<Mac>,
        view: View<'_>,
    ) -> Verdict {
        let address = view.config.address(request.target.into());
        let (Some(address), Some(mac)) = (address, own_mac) else {
            return Verdict::Drop(Reason::ArpIgnored);
        };
        if frame.now_ns < self.discard_arp_until_ns {
            return Verdict::Drop(Reason::ArpStale);
        }
        let group = self.core.shared.groups.get(address.group);
        if !group.is_some_and(|group| group.may_announce(frame.now_ns)) {
            return Verdict::Drop(Reason::ArpIgnored);
        }
        match arp_reply(frame.buffer, mac, request.target) {
            Ok(len) => self.core.transmit(Sent::Answered, frame.port, len),
            Err(_) => Verdict::Drop(Reason::NoSpace),
        }
    }

    fn handle_ipv4(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Ipv4Packet,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Some((protocol, src_port, dst_port)) = packet.tuple() else {
            return self.core.handle_other(frame, packet, view);
        };
        let tuple = Tuple { protocol, src: packet.src, src_port, dst: packet.dst, dst_port };
        let (generation, connection) = (view.config.generation(), &mut self.connection);
        let cached = self.cache.find(&tuple, generation).filter(|(way, place)| {
            connection.point_at(*place);
            connection.is_open() && !reopens(*way, connection, packet)
        });
        let way = match cached {
            Some((way, _)) => {
                self.cache.hits += 1;
                way
            }
            None => {
                let found = self.core.look_up(frame, packet, tuple, view, connection);
                let way = match found {
                    Ok(way) => way,
                    Err(verdict) => return verdict,
                };
                self.cache.insert(tuple, way, connection.place(), generation);
                way
            }
        };
        let Some(server) = self.servers.find(connection.server(), view.config) else {
            return Verdict::Drop(Reason::ServerRemoved);
        };
        self.core.forward(frame, packet, Hot { way, connection, server }, view, actions)
    }
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Finds or makes the connection of a packet, and points `connection` at it.
    fn look_up(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Ipv4Packet,
        tuple: Tuple,
        view: View<'_>,
        connection: &mut Connection,
    ) -> Result<Way, Verdict> {
        let Tuple { protocol, src, src_port, dst, .. } = tuple;
        let pool = || view.config.pool_group(protocol, src.into(), src_port);
        match view.config.address(dst.into()).map(|found| found.kind) {
            Some(AddressKind::Vip) => {
                self.find_inbound(frame, packet, tuple.key(), view, connection)?;
                Ok(Way::In)
            }
            Some(AddressKind::Gateway) => Err(Verdict::Drop(Reason::NotOurs)),
            None => {
                let group = pool().ok_or(Verdict::Drop(Reason::NotOurs))?;
                self.find_return(frame, &tuple, group, view, connection)?;
                Ok(Way::Out)
            }
        }
    }

    fn find_inbound(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Ipv4Packet,
        key: FlowKey,
        view: View<'_>,
        found: &mut Connection,
    ) -> Result<(), Verdict> {
        let Some(place) = self.shared.table.locate(&key) else {
            *found = self.admit(frame, packet, key, None, view)?;
            return Ok(());
        };
        found.point_at(place);
        let known = view.config.server(found.server()).is_some();
        if found.target().is_none() {
            let bound = self.shared.table.bind_one(found, view.config);
            *found = bound.ok_or(Verdict::Drop(Reason::Unbound))?;
            return Ok(());
        }
        //= IPVS conn_reuse_mode=1: a SYN in TIME_WAIT or CLOSE opens a new connection; here also
        //= one whose server is gone, which nothing else could ever use again
        let reopens = opens(packet) && (found.state().is_reusable() || !known);
        if reopens || found.is_superseded() {
            *found = self.admit(frame, packet, key, Some(found.clone()), view)?;
            return Ok(());
        }
        if known { Ok(()) } else { Err(Verdict::Drop(Reason::ServerRemoved)) }
    }

    fn find_return(
        &mut self,
        frame: &mut Frame<'_>,
        tuple: &Tuple,
        group: GroupId,
        view: View<'_>,
        found: &mut Connection,
    ) -> Result<(), Verdict> {
        let Some(place) = self.shared.table.locate_reply(&tuple.reply_key()) else {
            return Err(self.refuse_return(frame, group, view));
        };
        found.point_at(place);
        if view.config.server(found.server()).is_none() {
            return Err(Verdict::Drop(Reason::ServerRemoved));
        }
        Ok(())
    }

    /// Sends a packet of a known connection on its way.
    fn forward(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Ipv4Packet,
        hot: Hot<'_>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let connection = hot.connection;
        let (target, key) = (connection.target(), connection.key());
        // What was read is true if it lives now: one that another worker has ended since it was
        // found leads nowhere.
        if connection.is_dead() {
            return Verdict::Drop(Reason::ConnectionGone);
        }
        let Some(target) = target else { return Verdict::Drop(Reason::Unbound) };
        let towards = if hot.way == Way::In { target.addr } else { key.client };
        let hop = match hot.server.hop {
            Some((generation, addr, hop))
                if generation == view.hops.generation() && addr == towards =>
            {
                hop
            }
            _ => match view.hops.resolve(towards) {
                Resolved::Hop(hop) => {
                    hot.server.hop = Some((view.hops.generation(), towards, hop));
                    hop
                }
                Resolved::Unresolved { port, probe } => {
                    actions.push(Action::Probe { port, addr: probe });
                    return Verdict::Drop(Reason::NextHopUnresolved);
                }
                Resolved::NoRoute => return Verdict::Drop(Reason::NoRoute),
            },
        };
        if self.lookout.is_due(frame.now_ns) {
            let vip = (hot.way == Way::In).then_some(key.vip);
            self.look(frame, connection.group(), vip, view);
        }
        //= Linux ip_vs_xmit.c, decrement_ttl(): in every forwarding method, DR too
        if !decrement_ttl(&mut *frame.buffer, packet) {
            return Verdict::Drop(Reason::TtlExceeded);
        }
        if target.forwarding == Forwarding::Nat {
            let (addr, port) = match hot.way {
                Way::In => (target.addr, target.port),
                Way::Out => (key.vip, key.vip_port),
            };
            let IpAddr::V4(addr) = addr else { return Verdict::Drop(Reason::Ipv6) };
            match hot.way {
                Way::In => rewrite_destination(frame.buffer, packet, addr, port),
                Way::Out => rewrite_source(frame.buffer, packet, addr, port),
            }
        }
        set_macs(frame.buffer, hop.src_mac, hop.dst_mac);
        self.account(frame.now_ns, packet, &hot, target.forwarding == Forwarding::Nat);
        let sent = if hot.way == Way::In { Sent::Forwarded } else { Sent::Returned };
        self.transmit(sent, hop.port, frame.len)
    }

    /// Notes a forwarded packet: state, age, counters, hook.
    fn account(&self, now_ns: u64, packet: &Ipv4Packet, hot: &Hot<'_>, nat: bool) {
        let connection = hot.connection;
        connection.touch(now_ns);
        let (old, new) = match packet.transport {
            Transport::Tcp { flags, .. } => {
                let direction = match (hot.way, nat) {
                    (Way::Out, _) => Direction::Output,
                    (Way::In, true) => Direction::Input,
                    (Way::In, false) => Direction::InputOnly,
                };
                move_state(connection, direction, flags)
            }
            _ => (State::Udp, State::Udp),
        };
        let in_pkts = match hot.way {
            Way::In => connection.count_in(self.index),
            Way::Out => {
                connection.count_out(self.index);
                connection.in_pkts()
            }
        };
        // A datagram is only a conversation once a second one, or a reply, was seen.
        let assured =
            (in_pkts > 1 || hot.way == Way::Out) && !connection.is_assured() && connection.assure();
        if old != new || (assured && new == State::Udp) {
            self.shared.table.changed(connection, &hot.server.timeouts);
        }
        if let Some(counters) = &hot.server.counters {
            match hot.way {
                Way::In => counters.count_in(self.index, packet.len()),
                Way::Out => counters.count_out(self.index, packet.len()),
            }
        }
        match hot.way {
            Way::In => self.hook.forwarded(connection, old, new, in_pkts, now_ns),
            Way::Out => self.hook.replied(connection, old, new, now_ns),
        }
    }

    /// Packets that are neither TCP nor UDP.
    fn handle_other(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Ipv4Packet,
        view: View<'_>,
    ) -> Verdict {
        if packet.transport == Transport::Fragment {
            return Verdict::Drop(Reason::Fragment);
        }
        let Some(address) = view.config.address(packet.dst.into()) else {
            return Verdict::Drop(Reason::NotOurs);
        };
        if packet.transport != Transport::EchoRequest {
            return Verdict::Drop(Reason::Protocol);
        }
        match &*self.shared.groups.role(address.group) {
            Role::Holder { .. } => match echo_reply(frame.buffer, packet) {
                Ok(len) => self.send_back(frame, packet.src, len, view),
                Err(_) => Verdict::Drop(Reason::NoSpace),
            },
            Role::Other { relay } => {
                let vip = (address.kind == AddressKind::Vip).then_some(packet.dst.into());
                self.relay(frame, relay, address.group, vip, view)
            }
            Role::NoHolder { .. } => Verdict::Drop(Reason::NoHolder),
        }
    }

    /// Notes the sender of a frame if it should have sent it to another node.
    fn look(&mut self, frame: &Frame<'_>, group: GroupId, vip: Option<IpAddr>, view: View<'_>) {
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
        set_macs(frame.buffer, own, holder);
        self.transmit(Sent::Relayed, frame.port, frame.len)
    }

    /// Sends an answer to `client`: by its route if that is known, else to whom the frame came from.
    pub(crate) fn send_back(
        &self,
        frame: &mut Frame<'_>,
        client: Ipv4Addr,
        len: usize,
        view: View<'_>,
    ) -> Verdict {
        match view.hops.resolve(client.into()) {
            Resolved::Hop(Hop { port, src_mac, dst_mac }) => {
                set_macs(frame.buffer, src_mac, dst_mac);
                self.transmit(Sent::Answered, port, len)
            }
            // A relayed frame came from a node of the cluster, which is nobody to answer to.
            _ if view.hops.is_cluster_mac(frame.port, frame.src_mac) => {
                Verdict::Drop(Reason::NextHopUnresolved)
            }
            _ => self.transmit(Sent::Answered, frame.port, len),
        }
    }

    pub(crate) fn transmit(&self, sent: Sent, port: u16, len: usize) -> Verdict {
        self.counters.count_sent(sent);
        Verdict::Transmit { port, len }
    }
}

/// The tuple of a frame that looks like TCP or UDP over IPv4 without options, unchecked.
fn peek(frame: &[u8]) -> Option<Tuple> {
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
        src: addr(26),
        src_port: word(34),
        dst: addr(30),
        dst_port: word(36),
    })
}

/// An opening TCP packet, as IPVS sees it: SYN and no RST.
pub(crate) fn opens(packet: &Ipv4Packet) -> bool {
    matches!(packet.transport, Transport::Tcp { flags, .. } if flags.syn() && !flags.rst())
}

/// A packet of a cached flow that may need a new connection.
fn reopens(way: Way, connection: &Connection, packet: &Ipv4Packet) -> bool {
    way == Way::In && opens(packet) && connection.state().is_reusable()
}

/// Moves the TCP state; returns the old and the new one.
fn move_state(connection: &Connection, direction: Direction, flags: TcpFlags) -> (State, State) {
    let mut old = connection.state();
    for _ in 0..STATE_TRIES_MAX {
        let new = old.next(direction, flags);
        if new == old || connection.swap_state(old, new) {
            return (old, new);
        }
        old = connection.state();
    }
    (old, old)
}
