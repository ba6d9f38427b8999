//! A worker: frames of one queue in, verdicts out.
//!
//! Guarantees: a frame is either transmitted or dropped for a counted reason; no packet follows a
//! dead connection, one of a removed server, or one found under an older configuration; ARP and
//! echo are answered only while this node holds the group; nothing is created for a group that
//! another node holds. Not here: VLAN, fragments and IPv6 (dropped, counted), ICMP errors.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use steadfast_packet::{
    ArpRequest, Content, Ipv4Packet, Mac, ParseError, TcpFlags, Transport, arp_reply,
    decrement_ttl, echo_reply, parse, rewrite_destination, rewrite_source, set_macs,
};

use crate::{
    Action, Actions, AddressKind, Config, Connection, Direction, FlowKey, Forwarding, GroupId, Hop,
    NextHops, Reason, ReplyKey, Resolved, Role, Sent, Shared, State, SyncHook, Verdict,
    WorkerCounters,
    bucket::TokenBucket,
    cache::{Cache, Hot, Tuple, Way},
    stale::{Lookout, StaleSender},
};

/// Resets and port unreachables per second and worker, and at once.
const ANSWERS_PER_SECOND: u64 = 1000;
const ANSWERS_BURST: u64 = 100;

/// Times a state is moved when another worker moves it at the same time.
const STATE_TRIES_MAX: usize = 8;

const BROADCAST: Mac = [0xff; 6];

/// Decides what happens to the frames of one queue. Owns its cache of hot flows; shares the rest.
#[derive(Debug)]
pub struct Worker<H> {
    cache: Cache,
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
        let core = Core { index, shared, hook, counters, answers, lookout };
        Self { cache: Cache::new(), discard_arp_until_ns: 0, core }
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
        if let Some(hot) = self.cache.find(&tuple, view.config.generation())
            && !reopens(hot, packet)
        {
            return self.core.forward(frame, packet, hot, view, actions);
        }
        match self.core.look_up(frame, packet, tuple, view) {
            Ok(hot) => {
                let hot = self.cache.insert(hot);
                self.core.forward(frame, packet, hot, view, actions)
            }
            Err(verdict) => verdict,
        }
    }
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Finds or makes the connection of a packet.
    fn look_up(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Ipv4Packet,
        tuple: Tuple,
        view: View<'_>,
    ) -> Result<Hot, Verdict> {
        let Tuple { protocol, src, src_port, dst, dst_port } = tuple;
        let pool = || view.config.pool_group(protocol, src.into(), src_port);
        let (way, connection) = match view.config.address(dst.into()).map(|found| found.kind) {
            Some(AddressKind::Vip) => {
                let key = FlowKey {
                    protocol,
                    client: src.into(),
                    client_port: src_port,
                    vip: dst.into(),
                    vip_port: dst_port,
                };
                (Way::In, self.find_inbound(frame, packet, key, view)?)
            }
            Some(AddressKind::Gateway) => return Err(Verdict::Drop(Reason::NotOurs)),
            None => {
                let group = pool().ok_or(Verdict::Drop(Reason::NotOurs))?;
                (Way::Out, self.find_return(frame, &tuple, group, view)?)
            }
        };
        let server = view.config.server(connection.server());
        Ok(Hot {
            tuple,
            way,
            config_generation: view.config.generation(),
            timeouts: view.config.timeouts(connection.service()),
            counters: server.and_then(|(service, index)| service.counters(index).cloned()),
            hop: None,
            connection,
        })
    }

    fn find_inbound(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Ipv4Packet,
        key: FlowKey,
        view: View<'_>,
    ) -> Result<Connection, Verdict> {
        let Some(found) = self.shared.table.find(&key) else {
            return self.admit(frame, packet, key, None, view);
        };
        let known = view.config.server(found.server()).is_some();
        if found.target().is_none() {
            return match self.shared.table.bind_one(&found, view.config) {
                Some(bound) => Ok(bound),
                None => Err(Verdict::Drop(Reason::Unbound)),
            };
        }
        //= IPVS conn_reuse_mode=1: a SYN in TIME_WAIT or CLOSE opens a new connection; here also
        //= one whose server is gone, which nothing else could ever use again
        let reopens = opens(packet) && (found.state().is_reusable() || !known);
        if reopens || found.is_superseded() {
            return self.admit(frame, packet, key, Some(found), view);
        }
        if known { Ok(found) } else { Err(Verdict::Drop(Reason::ServerRemoved)) }
    }

    fn find_return(
        &mut self,
        frame: &mut Frame<'_>,
        tuple: &Tuple,
        group: GroupId,
        view: View<'_>,
    ) -> Result<Connection, Verdict> {
        let key = ReplyKey {
            protocol: tuple.protocol,
            server: tuple.src.into(),
            server_port: tuple.src_port,
            client: tuple.dst.into(),
            client_port: tuple.dst_port,
        };
        let Some(found) = self.shared.table.find_reply(&key) else {
            return Err(self.refuse_return(frame, group, view));
        };
        if view.config.server(found.server()).is_none() {
            return Err(Verdict::Drop(Reason::ServerRemoved));
        }
        Ok(found)
    }

    /// Sends a packet of a known connection on its way.
    fn forward(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Ipv4Packet,
        hot: &mut Hot,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let connection = &hot.connection;
        let Some(target) = connection.target() else { return Verdict::Drop(Reason::Unbound) };
        let towards = if hot.way == Way::In { target.addr } else { connection.key().client };
        let hop = match hot.hop {
            Some((generation, hop)) if generation == view.hops.generation() => hop,
            _ => match view.hops.resolve(towards) {
                Resolved::Hop(hop) => {
                    hot.hop = Some((view.hops.generation(), hop));
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
            let vip = (hot.way == Way::In).then_some(connection.key().vip);
            self.look(frame, connection.group(), vip, view);
        }
        //= Linux ip_vs_xmit.c, decrement_ttl(): in every forwarding method, DR too
        if !decrement_ttl(&mut *frame.buffer, packet) {
            return Verdict::Drop(Reason::TtlExceeded);
        }
        if target.forwarding == Forwarding::Nat {
            let (addr, port) = match hot.way {
                Way::In => (target.addr, target.port),
                Way::Out => (connection.key().vip, connection.key().vip_port),
            };
            let IpAddr::V4(addr) = addr else { return Verdict::Drop(Reason::Ipv6) };
            match hot.way {
                Way::In => rewrite_destination(frame.buffer, packet, addr, port),
                Way::Out => rewrite_source(frame.buffer, packet, addr, port),
            }
        }
        set_macs(frame.buffer, hop.src_mac, hop.dst_mac);
        self.account(frame.now_ns, packet, hot);
        let sent = if hot.way == Way::In { Sent::Forwarded } else { Sent::Returned };
        self.transmit(sent, hop.port, frame.len)
    }

    /// Notes a forwarded packet: state, age, counters, hook.
    fn account(&self, now_ns: u64, packet: &Ipv4Packet, hot: &Hot) {
        let connection = &hot.connection;
        let nat = connection.target().is_some_and(|t| t.forwarding == Forwarding::Nat);
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
            self.shared.table.changed(connection, &hot.timeouts);
        }
        if let Some(counters) = &hot.counters {
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

/// An opening TCP packet, as IPVS sees it: SYN and no RST.
pub(crate) fn opens(packet: &Ipv4Packet) -> bool {
    matches!(packet.transport, Transport::Tcp { flags, .. } if flags.syn() && !flags.rst())
}

/// A packet of a cached flow that may need a new connection.
fn reopens(hot: &Hot, packet: &Ipv4Packet) -> bool {
    hot.way == Way::In && opens(packet) && hot.connection.state().is_reusable()
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
