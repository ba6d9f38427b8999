//! Packets of known connections: on their way, and noted.

use std::net::IpAddr;

use steadfast_packet::{
    Chunk, Packet, Transport, decrement_ttl, rewrite_destination, rewrite_source, set_macs,
};

use crate::{
    Action, Actions, Carried, ClientAddress, Config, Connection, Deltas, Direction, FlowKey,
    Forwarding, Hop, Local, Reason, Removal, Resolved, Sent, ServiceId, State, SyncHook, Target,
    Verdict,
    cache::{HotServer, Tuple, Way},
    deltas::Numbers,
    frame::Frame,
    too_big::may_be_cut,
    worker::{Core, View},
};

/// Times a state is moved when another worker moves it at the same time.
const STATE_TRIES_MAX: usize = 8;

/// A packet's connection and server.
pub(crate) struct Hot<'a> {
    pub(crate) way: Way,
    pub(crate) connection: &'a Connection,
    pub(crate) server: &'a mut HotServer,
}

/// The way of a packet, whoever says so: its connection or the hash.
pub(crate) struct Path<'a> {
    pub(crate) way: Way,
    pub(crate) target: Target,
    pub(crate) key: FlowKey,
    /// Of full-NAT.
    pub(crate) local: Option<Local>,
    pub(crate) deltas: Option<Deltas>,
    pub(crate) service: ServiceId,
    /// Whose server is told its client by a TCP option.
    pub(crate) told: Option<&'a Connection>,
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Sends a packet of a known connection on its way.
    pub(crate) fn forward(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        hot: Hot<'_>,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let connection = hot.connection;
        let ends = connection.ends();
        let (target, key, local) = (ends.target(), ends.key(), ends.local());
        let numbers = ends.numbers();
        // What was read is true if it lives now: one that another worker has ended since it was
        // found leads nowhere.
        if connection.is_dead() {
            return Verdict::Drop(Reason::ConnectionGone);
        }
        let Some(target) = target else { return Verdict::Drop(Reason::Unbound) };
        let mut deltas = match numbers {
            Numbers::Same => None,
            Numbers::Shifted(deltas) => Some(deltas),
            Numbers::Unknown => return self.shake(frame, packet, &hot, view, actions),
        };
        let towards = if hot.way == Way::In { target.addr } else { key.client };
        let generation = view.hops.generation();
        let hop = match hot.server.hop(hot.way, towards, generation) {
            Some(hop) => *hop,
            None => match self.next_hop(towards, view, actions) {
                Ok(hop) => {
                    hot.server.note_hop(hot.way, towards, generation, hop);
                    hop
                }
                Err(reason) => match self.newcomer(hot.way, towards, view) {
                    Some(hop) => hop,
                    None => return Verdict::Drop(reason),
                },
            },
        };
        if self.lookout.is_due(frame.now_ns) {
            let vip = (hot.way == Way::In).then_some(key.vip);
            self.look(frame, hot.server.service.spec.group, vip, view);
        }
        let translated;
        let mut packet = packet;
        if hot.server.control_port == Some(key.vip_port) && target.forwarding == Forwarding::Nat {
            let of = (hot.way, connection, &key, &target);
            match self.translate(frame, packet, of, &mut deltas) {
                Ok(passes) => translated = passes,
                Err(reason) => return Verdict::Drop(reason),
            }
            packet = &translated;
        }
        if let Some(deltas) = &mut deltas {
            *deltas = self.follow_header(frame, packet, (hot.way, connection), *deltas);
        }
        // The connection says so too, but in memory that packets need not touch.
        let (way, service) = (hot.way, hot.server.service.spec.id);
        let tells = hot.server.client_address == ClientAddress::Toa
            && target.forwarding == Forwarding::FullNat;
        let told = tells.then_some(connection);
        let path = Path { way, target, key, local, deltas, service, told };
        if let Err(verdict) = self.put_on_way(frame, packet, &path, &hop, view, actions) {
            return verdict;
        }
        self.account(frame.now_ns, packet, &hot, target.forwarding.is_nat(), view.config);
        let sent = if hot.way == Way::In { Sent::Forwarded } else { Sent::Returned };
        self.transmit(sent, hop.port, frame.start(), frame.len())
    }

    /// Makes of a packet what goes to its next hop.
    pub(crate) fn put_on_way(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        path: &Path<'_>,
        hop: &Hop,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Result<(), Verdict> {
        let Path { way, target, key, local, deltas, service, told } = path;
        //= Linux ip_vs_xmit.c, decrement_ttl(): in every forwarding method, DR too
        // Under full-NAT the server knows the local address alone.
        let known = match (target.forwarding, way) {
            (Forwarding::FullNat, Way::Out) => packet.dst,
            _ => key.vip,
        };
        if !decrement_ttl(frame.bytes(), packet) {
            return Err(self.refuse_expired(frame, packet, known, view));
        }
        let room = self.way_room(frame.now_ns, hop, target, *way);
        if packet.len() > room && !may_be_cut(frame, packet, room) {
            return Err(self.refuse_too_big(frame, packet, known, room, view));
        }
        self.clamp_mss(frame, packet, *service, room, view);
        let passing = match deltas {
            Some(deltas) => Some(deltas.pass(frame, packet, *way, room).map_err(Verdict::Drop)?),
            None => None,
        };
        let packet = passing.as_ref().map_or(packet, |passing| &passing.packet);
        let is_cut = packet.len() > room;
        let mut through = None;
        match (target.forwarding, way) {
            (Forwarding::Dr, _) | (Forwarding::Tunnel(_), Way::Out) => {}
            (Forwarding::Nat, Way::In) => {
                rewrite_destination(frame.bytes(), packet, target.addr, target.port);
            }
            (Forwarding::Nat, Way::Out) => {
                rewrite_source(frame.bytes(), packet, key.vip, key.vip_port);
            }
            (Forwarding::FullNat, way) => {
                let local = local.ok_or(Verdict::Drop(Reason::Unbound))?;
                let (src, dst) = full_nat_ends(*way, key, target, local);
                rewrite_source(frame.bytes(), packet, src.0, src.1);
                rewrite_destination(frame.bytes(), packet, dst.0, dst.1);
            }
            (Forwarding::Tunnel(tunnel), Way::In) => {
                let by = (tunnel, target.addr, Tuple::of(key).flow_hash());
                through = Some(by);
                if !is_cut {
                    self.encapsulate(frame, packet, by, hop).map_err(Verdict::Drop)?;
                }
            }
        }
        if passing.as_ref().is_some_and(|passing| passing.starts) {
            self.put_header(frame, packet, key).map_err(Verdict::Drop)?;
        }
        if let Some(connection) = told {
            self.tell_by_option(frame, packet, (*way, connection, key), hop, view);
        }
        if is_cut {
            let cut = self.send_in_pieces(frame, packet, (hop, room), through, view, actions);
            cut.map_err(Verdict::Drop)?;
        }
        set_macs(frame.bytes(), hop.src_mac, hop.dst_mac);
        Ok(())
    }

    /// Where a packet for `towards` goes next; what is not resolved yet is asked for.
    pub(crate) fn next_hop(
        &self,
        towards: IpAddr,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Result<Hop, Reason> {
        match view.hops.resolve(towards) {
            Resolved::Hop(hop) => Ok(hop),
            Resolved::Unresolved { port, probe } => {
                actions.push(Action::Probe { port, addr: probe });
                Err(Reason::NextHopUnresolved)
            }
            Resolved::NoRoute => Err(Reason::NoRoute),
        }
    }

    /// Notes a forwarded packet: state, age, counters, hook.
    pub(crate) fn account(
        &self,
        now_ns: u64,
        packet: &Packet,
        hot: &Hot<'_>,
        nat: bool,
        config: &Config,
    ) {
        let connection = hot.connection;
        connection.touch(now_ns);
        // The rest of a packet that was noted with its first fragment.
        if packet.transport == Transport::Fragment {
            return hot.server.count(hot.way, self.index, packet.len());
        }
        let direction = match (hot.way, nat) {
            (Way::Out, _) => Direction::Output,
            (Way::In, true) => Direction::Input,
            (Way::In, false) => Direction::InputOnly,
        };
        let (old, new) = match packet.transport {
            Transport::Tcp { flags, .. } => {
                move_state(connection, |state| state.next(direction, flags))
            }
            Transport::Sctp { chunk, .. } => {
                move_state(connection, |state| state.next_sctp(direction, chunk))
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
        let proves = assured && (new == State::Udp || connection.is_adopted());
        if (old != new || proves)
            && let Some(gone) =
                self.shared.table.changed(connection, &hot.server.service.spec.timeouts)
        {
            self.hook.removed(&gone, Removal::Evicted, now_ns);
        }
        hot.server.count(hot.way, self.index, packet.len());
        // Nobody hears of what one packet may have made up; what proves it is its beginning.
        if connection.is_unproven() {
            return;
        }
        let converses = old != new && new == State::Established || assured && new == State::Udp;
        if converses
            && connection.is_controlled()
            && let Some(template) = self.shared.table.templates.assure(connection)
        {
            self.hook.template(&template, now_ns);
        }
        let old = if proves { State::first(connection.key().protocol) } else { old };
        let service = &hot.server.service;
        let carried = Carried { connection, old, new, in_pkts, now_ns, service, config };
        match hot.way {
            Way::In => self.hook.forwarded(&carried),
            Way::Out => self.hook.replied(&carried),
        }
    }
}

/// Source and destination that a full-NAT packet goes on with: between the local address and the
/// server, or between the VIP and the client.
pub(crate) fn full_nat_ends(
    way: Way,
    key: &FlowKey,
    target: &Target,
    local: Local,
) -> ((IpAddr, u16), (IpAddr, u16)) {
    match way {
        Way::In => ((local.addr, local.port), (target.addr, target.port)),
        Way::Out => ((key.vip, key.vip_port), (key.client, key.client_port)),
    }
}

/// An opening packet, as IPVS sees it: a SYN without RST, or an INIT.
//= Linux ip_vs_core.c, is_new_conn()
pub(crate) fn opens(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Tcp { flags, .. } => flags.syn() && !flags.rst(),
        Transport::Sctp { chunk, .. } => chunk == Chunk::INIT,
        _ => false,
    }
}

/// A packet that ends a connection at once, and so never opens one.
pub(crate) fn resets(packet: &Packet) -> bool {
    match packet.transport {
        Transport::Tcp { flags, .. } => flags.rst(),
        Transport::Sctp { chunk, .. } => chunk == Chunk::ABORT,
        _ => false,
    }
}

/// A packet of a cached flow that may need a new connection: looking it up tells.
pub(crate) fn reopens(way: Way, packet: &Packet) -> bool {
    way == Way::In && opens(packet)
}

/// Moves the state as `next` says; returns the old and the new one.
fn move_state(connection: &Connection, next: impl Fn(State) -> State) -> (State, State) {
    let mut old = connection.state();
    for _ in 0..STATE_TRIES_MAX {
        let new = next(old);
        if new == old || connection.swap_state(old, new) {
            return (old, new);
        }
        old = connection.state();
    }
    (old, old)
}
