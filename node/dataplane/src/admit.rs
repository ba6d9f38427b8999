//! Packets of no known connection: who may open one, and what the others get.

use std::net::IpAddr;

use steadfast_packet::{Packet, Transport, port_unreachable, sctp_abort, tcp_reset};

use crate::{
    Actions, Class, Connection, Deltas, Excess, FlowKey, Forwarding, Gone, Holding, InsertError,
    Local, NewConnection, Origin, Protocol, Provenance, Reason, Record, Removal, Role, Service,
    State, SyncHook, Target, Unserved, Verdict, Wanted,
    cache::Tuple,
    degrade::{Above, asked, hashing_time},
    deltas::Handshake,
    forward::{opens, resets},
    frame::Frame,
    lookup::asked_for,
    quic::Routed,
    unknown::Known,
    worker::{Core, View},
};

/// After a take-over, packets of unknown connections are held back this long: what the former
/// holder still sends, or a slow peer donates, may make them known.
pub const HOLD_BACK_NS: u64 = 3_000_000_000;

/// Times an insertion is tried again after a connection that stood in its way was removed.
const INSERT_TRIES_MAX: usize = 3;

/// A connection that is to come.
#[derive(Clone, Copy)]
pub(crate) struct Opening {
    pub(crate) key: FlowKey,
    /// Index of its server.
    pub(crate) server: usize,
    pub(crate) epoch: Origin,
    /// It went by the hash so far.
    pub(crate) adopted: bool,
    /// A template counts it.
    pub(crate) controlled: bool,
    /// How the numbers of its sides will differ.
    pub(crate) deltas: Option<Deltas>,
    /// Its client came with a cookie.
    pub(crate) handshake: Option<Handshake>,
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// The connection that this packet opens, in the place of `old` if there is one, or what
    /// becomes of the packet otherwise.
    pub(crate) fn admit(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        key: FlowKey,
        old: Option<Connection>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Result<Connection, Verdict> {
        let opening = key.protocol == Protocol::Udp || opens(packet);
        let address = view.config.address(key.vip).ok_or(Verdict::Drop(Reason::NotOurs))?;
        let role = self.shared.groups.role(address.group);
        let epoch = match &*role {
            Role::Holder { epoch, .. } => *epoch,
            Role::Other { relay } => {
                // The holder opens a new one for this SYN. What follows must not go to the server
                // of the finished one while the copy of the new one is still on its way here. It
                // stays in its place, or a late copy of it would take it again.
                if let Some(old) = old.filter(|_| opening) {
                    old.supersede();
                }
                return Err(self.relay(frame, relay, address.group, Some(key.vip), view));
            }
            Role::NoHolder { .. } => return Err(Verdict::Drop(Reason::NoHolder)),
        };
        if !is_client(packet.src) {
            return Err(Verdict::Drop(Reason::Malformed));
        }
        let settled = is_settled(&role, frame.now_ns);
        if !opening {
            let (known, held) = ((key, old.as_ref()), (epoch, settled));
            let opened = self.open_by_cookie(frame, packet, known, held, view, actions);
            if let Some(verdict) = opened {
                return Err(verdict);
            }
        }
        let lost = !opening && old.is_none() && !resets(packet);
        if !opening && !settled {
            let wanted = Wanted { key, group: address.group, epoch };
            if !lost || self.shared.unknown.ask(frame.now_ns, wanted) == Known::NotYet {
                return Err(Verdict::Drop(Reason::HeldBack));
            }
        }
        let listener = view.config.listener(key.protocol, key.vip, key.vip_port);
        let Some(service) = listener.filter(|service| self.may_come(service, &key)) else {
            if !opening && !settled {
                return Err(Verdict::Drop(Reason::HeldBack));
            }
            return Err(match address.unserved {
                Unserved::Drop => Verdict::Drop(Reason::Unserved),
                Unserved::Reject => self.reject(frame, packet, view),
            });
        };
        if lost
            && self.shared.groups.may_adopt(address.group, frame.now_ns)
            && let Some(connection) = self.adopt_derived(frame.now_ns, service, &key, epoch)
        {
            return Ok(connection);
        }
        if !opening && !settled {
            return Err(Verdict::Drop(Reason::HeldBack));
        }
        let policies = service.spec.policies;
        //= Linux ip_vs_proto_tcp.c, tcp_conn_schedule(); ip_vs_proto_sctp.c, sctp_conn_schedule()
        let opens_in_the_middle = policies.opens_in_the_middle(key.protocol, old.is_some());
        if !opening && (resets(packet) || !opens_in_the_middle) {
            if let Some(old) = old {
                self.forget(&old, frame.now_ns, view);
            } else if service.defence.is_hashing(frame.now_ns) {
                return self.adopt(
                    frame,
                    packet,
                    &Above { service, key, excess: Excess::HalfOpen },
                    epoch,
                    view,
                    actions,
                );
            }
            return Err(self.reject(frame, packet, view));
        }
        self.note_newcomer(frame, service.spec.forwarding, key.client, view, actions);
        let now_ns = frame.now_ns;
        let is_syn = key.protocol == Protocol::Tcp && opening;
        if is_syn
            && self.gives_cookies(service, now_ns)
            && let Some(verdict) = self.send_cookie(frame, packet, (&key, service, epoch), view)
        {
            // Its client may come back; until then nobody else's packets follow it.
            old.inspect(Connection::supersede);
            return Err(verdict);
        }
        if let Some(excess) = self.excess(service, &key, now_ns) {
            old.inspect(|old| self.end(old, now_ns));
            let above = Above { service, key, excess };
            return Err(self.open_above(frame, packet, &above, view, actions));
        }
        let named = service.quic().and_then(|quic| match quic.route(frame.received(), packet) {
            Routed::To(server) => Some(server),
            Routed::Unroutable => None,
        });
        match self.choose(service, &asked(key, now_ns), epoch, named) {
            Some((server, _)) if service.spec.one_packet => {
                Err(self.send_once(frame, packet, key, (service, server), view, actions))
            }
            Some((server, controlled)) => {
                let deltas = Deltas::for_header(service, frame.received(), packet);
                let (adopted, handshake) = (false, None);
                let new = Opening { key, server, epoch, adopted, controlled, deltas, handshake };
                match self.open_counted(now_ns, service, &new, old) {
                    Err(Reason::OverLimit)
                        if is_syn
                            && self.gives_cookies(service, now_ns)
                            && let Some(verdict) =
                                self.send_cookie(frame, packet, (&key, service, epoch), view) =>
                    {
                        Err(verdict)
                    }
                    Err(Reason::OverLimit) => {
                        let above = Above { service, key, excess: Excess::HalfOpen };
                        Err(self.open_above(frame, packet, &above, view, actions))
                    }
                    Err(Reason::LocalPortsExhausted) => {
                        Err(self.refuse_exhausted(frame, packet, address.unserved, view))
                    }
                    opened => opened.map(|(connection, _)| connection).map_err(Verdict::Drop),
                }
            }
            //= Linux ip_vs_core.c, ip_vs_leave(): a service without a server says so
            None => {
                // What the SYN would have replaced has ended for the client; as in IPVS, it goes.
                old.inspect(|old| self.end(old, now_ns));
                Err(self.reject(frame, packet, view))
            }
        }
    }

    /// Gives a connection that went by the hash a place in the table, if the limits have room, or
    /// what becomes of its packet otherwise.
    fn adopt(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        above: &Above<'_>,
        epoch: Origin,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Result<Connection, Verdict> {
        let (now_ns, Above { service, key, .. }) = (frame.now_ns, *above);
        // Its fragments could follow no connection that a later part would have to make.
        if !resets(packet) && self.excess(service, &key, now_ns).is_none() {
            let server = service.by_hash(&asked(key, now_ns));
            let new = server.map(|server| Opening {
                key,
                server,
                epoch,
                adopted: true,
                controlled: false,
                deltas: None,
                handshake: None,
            });
            match new.map(|new| self.open(now_ns, service, &new, None)) {
                Some(Ok((connection, _))) => {
                    service.defence.count_adopted(self.index);
                    return Ok(connection);
                }
                Some(Err(Reason::OverLimit)) | None => {}
                Some(Err(reason)) => return Err(Verdict::Drop(reason)),
            }
        }
        Err(self.send_by_hash(frame, packet, above, view, actions))
    }

    /// Opens a connection that the former holder had no time to tell of where the hash says that it
    /// was, if that is all there is to know, and the limits have room.
    fn adopt_derived(
        &self,
        now_ns: u64,
        service: &Service,
        key: &FlowKey,
        epoch: Origin,
    ) -> Option<Connection> {
        let server = service.derived(key)?;
        if self.excess(service, key, now_ns).is_some() {
            return None;
        }
        let (key, adopted, controlled) = (*key, true, false);
        let (deltas, handshake) = (None, None);
        let new = Opening { key, server, epoch, adopted, controlled, deltas, handshake };
        let (connection, _) = self.open(now_ns, service, &new, None).ok()?;
        service.defence.count_adopted(self.index);
        Some(connection)
    }

    /// What becomes of a packet from a server that belongs to no connection here.
    pub(crate) fn refuse_return(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        tuple: &Tuple,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let Some((group, local)) = asked_for(tuple, view) else {
            return Verdict::Drop(Reason::NotOurs);
        };
        let role = self.shared.groups.role(group);
        if let Role::Holder { .. } = &*role
            && let Some(verdict) = self.return_by_hash(frame, packet, tuple, view, actions)
        {
            return verdict;
        }
        match &*role {
            // The server has not yet heard who answers for that address now.
            Role::Other { relay } => self.relay(frame, relay, group, local, view),
            Role::Holder { .. } if !is_settled(&role, frame.now_ns) => {
                Verdict::Drop(Reason::HeldBack)
            }
            _ => Verdict::Drop(Reason::UnknownReturn),
        }
    }

    /// As [`Self::open`]; its template counts it if it is this one that is there.
    pub(crate) fn open_counted(
        &self,
        now_ns: u64,
        service: &Service,
        new: &Opening,
        old: Option<Connection>,
    ) -> Result<(Connection, bool), Reason> {
        let opened = self.open(now_ns, service, new, old);
        let is_new = opened.as_ref().is_ok_and(|(_, is_new)| *is_new);
        if let (true, false, Some(server)) =
            (new.controlled, is_new, service.spec.servers.get(new.server))
        {
            self.shared.table.templates.release(service.spec.id, new.key.client, server.id);
        }
        opened
    }

    /// Puts a new connection into the table. True when it is this one that is there.
    pub(crate) fn open(
        &self,
        now_ns: u64,
        service: &Service,
        new: &Opening,
        old: Option<Connection>,
    ) -> Result<(Connection, bool), Reason> {
        let Opening { key, server, epoch, adopted, controlled, deltas, handshake } = *new;
        let chosen = service.spec.servers.get(server).ok_or(Reason::TableFull)?;
        let forwarding = service.spec.forwarding;
        let before = old.as_ref().map_or(0, |old| old.incarnation().saturating_add(1));
        let port = service.spec.server_port(chosen, key.vip_port);
        let target = Target { addr: chosen.addr, port, forwarding };
        let record = Record {
            key,
            server: chosen.id,
            target: Some(target),
            local: None,
            service: service.spec.id,
            group: service.spec.group,
            // Time tells incarnations apart even when nobody remembers the one before.
            incarnation: now_ns.max(before),
            origin: epoch,
        };
        let state = State::first(key.protocol);
        let (table, timeouts) = (&self.shared.table, &service.spec.timeouts);
        let mut evicted = Vec::new();
        let mut given = None;
        for _ in 0..INSERT_TRIES_MAX {
            let local = match given.take() {
                Some(local) => Some(local),
                None => self.pick_local(service, &key, &target)?,
            };
            let record = Record { local, ..record };
            let connection = NewConnection {
                counted: service.spec.limits.per_source > 0,
                adopted,
                controlled,
                deltas,
                handshake,
                ..NewConnection::new(record, state, Provenance::Local, now_ns)
            };
            let inserted = match &old {
                Some(old) => {
                    table.replace(old, connection, timeouts).map(|(new, gone)| (new, Some(gone)))
                }
                // Nobody goes by the hash here: who is refused needs nothing to give way.
                None if local.is_some() => table.insert_over(connection, timeouts, &mut evicted),
                None => table.insert(connection, timeouts, &mut evicted).map(|new| (new, None)),
            };
            for gone in evicted.drain(..) {
                self.expect(service, &gone, now_ns);
                self.hook.removed(&gone, Removal::Evicted, now_ns);
            }
            match inserted {
                Ok((connection, gone)) => {
                    if let Some(gone) = &gone {
                        self.hook.removed(gone, Removal::Reused, now_ns);
                    }
                    if let Some(counters) = service.counters(server) {
                        counters.count_conn(self.index);
                    }
                    self.hook.created(&connection, now_ns);
                    return Ok((connection, true));
                }
                // Another worker was first: the packet follows its choice.
                Err(InsertError::Exists(connection)) => return Ok((connection, false)),
                Err(InsertError::Gone) => {
                    let found = table.find(&key).ok_or(Reason::TableFull)?;
                    return Ok((found, false));
                }
                Err(full @ (InsertError::Full | InsertError::HalfOpenFull)) => {
                    self.hook.no_room(&record);
                    return Err(match full {
                        InsertError::Full => Reason::TableFull,
                        _ => Reason::OverLimit,
                    });
                }
                Err(InsertError::ReplyTaken(held)) => {
                    // The client reuses its port for another VIP, or no local port was free: the
                    // finished one gives way. The first also if there is no room: where the new one
                    // then goes by the hash, its replies would be the finished one's.
                    if !held.state().is_reusable() {
                        if local.is_some() {
                            // Another worker was first.
                            continue;
                        }
                        return Err(Reason::ReplyTaken);
                    }
                    let gone = table.remove(&held.key(), held.incarnation());
                    if let Some(gone) = gone {
                        self.hook.removed(&gone, Removal::Reused, now_ns);
                    }
                    // Who looks for a free one again may not come by it.
                    given = local;
                }
            }
        }
        Err(if forwarding == Forwarding::FullNat {
            Reason::LocalPortsExhausted
        } else {
            Reason::ReplyTaken
        })
    }

    /// From where a new connection goes to its server, if not from the client's address.
    fn pick_local(
        &self,
        service: &Service,
        key: &FlowKey,
        target: &Target,
    ) -> Result<Option<Local>, Reason> {
        if target.forwarding != Forwarding::FullNat {
            return Ok(None);
        }
        let ports = service.local_ports.as_ref().ok_or(Reason::LocalPortsExhausted)?;
        let table = &self.shared.table;
        let holding = |local: Local| {
            let reply = target.reply_key(key, Some(local));
            match reply.and_then(|reply| table.find_reply(&reply)) {
                None => Holding::Free,
                Some(held) if held.state().is_reusable() => Holding::Finished,
                Some(_) => Holding::Live,
            }
        };
        ports.pick(holding).map(Some).map_err(|_| Reason::LocalPortsExhausted)
    }

    /// No local port is left for a new connection: its client hears what it would hear of a port
    /// without a service.
    fn refuse_exhausted(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        unserved: Unserved,
        view: View<'_>,
    ) -> Verdict {
        if unserved == Unserved::Reject
            && let answer @ Verdict::Transmit { .. } = self.reject(frame, packet, view)
        {
            self.counters.count_dropped(Reason::LocalPortsExhausted);
            return answer;
        }
        Verdict::Drop(Reason::LocalPortsExhausted)
    }

    /// A handshake that was pushed out had its time, but may be under way: where the hash leads to its
    /// server, its ACK is not refused.
    fn expect(&self, service: &Service, gone: &Gone, now_ns: u64) {
        let Record { key, server, .. } = gone.record();
        // A template may have led it elsewhere.
        if service.spec.persistence.is_some() {
            return;
        }
        let is_half_open = gone.state().class() == Class::HalfOpen;
        let index = service.spec.servers.iter().position(|held| held.id == server);
        if is_half_open && index.is_some_and(|index| service.derives(index, &key)) {
            service.defence.hash_for(now_ns, hashing_time(service));
        }
    }

    /// Takes a connection out that its client has ended.
    fn end(&self, old: &Connection, now_ns: u64) {
        if let Some(gone) = self.shared.table.remove(&old.key(), old.incarnation()) {
            self.hook.removed(&gone, Removal::Reused, now_ns);
        }
    }

    /// Takes a connection out whose server is gone: its client is about to hear that.
    fn forget(&self, old: &Connection, now_ns: u64, view: View<'_>) {
        if view.config.server(old.server()).is_some() {
            return;
        }
        if let Some(gone) = self.shared.table.remove(&old.key(), old.incarnation()) {
            self.hook.removed(&gone, Removal::ServerGone, now_ns);
        }
    }

    /// Says that nobody listens: RST for TCP, ABORT for SCTP, port unreachable for UDP, within the
    /// rate limit.
    pub(crate) fn reject(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        view: View<'_>,
    ) -> Verdict {
        //= RFC 9293 section 3.10.7.1: a segment with RST is discarded
        //= RFC 9260 section 8.4, rule 2: so is a packet with an ABORT
        if resets(packet) {
            return Verdict::Drop(Reason::UnknownReset);
        }
        if !self.answers.take(frame.now_ns) {
            return Verdict::Drop(Reason::RateLimited);
        }
        let answer = match packet.transport {
            Transport::Tcp { .. } => tcp_reset(frame.bytes(), packet).map(Some),
            Transport::Sctp { .. } => sctp_abort(frame.bytes(), packet),
            _ => port_unreachable(frame.bytes(), packet).map(Some),
        };
        match answer {
            Ok(Some(len)) => self.send_back(frame, packet.src, len, view),
            Ok(None) => Verdict::Drop(Reason::UnknownReset),
            Err(_) => Verdict::Drop(Reason::NoSpace),
        }
    }
}

/// This node holds the group and knows all there was to know about its connections.
fn is_settled(role: &Role, now_ns: u64) -> bool {
    matches!(role, Role::Holder { since_ns, copy_complete: true, .. }
        if now_ns >= since_ns.saturating_add(HOLD_BACK_NS))
}

/// An address that a client can have (RFC 1122 section 3.2.1.3, RFC 4291 section 2.5). A link-local
/// one of IPv6 is none: what carries it must not be forwarded (section 2.5.6).
fn is_client(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            let first = addr.octets()[0];
            // Class E and broadcast come after multicast.
            !(first == 0 || first == 127 || first >= 224)
        }
        IpAddr::V6(addr) => {
            let is_mapped = addr.to_ipv4_mapped().is_some();
            let is_nobody = addr.is_unspecified() || addr.is_loopback() || addr.is_multicast();
            !(is_nobody || is_mapped || addr.is_unicast_link_local())
        }
    }
}
