//! ICMP errors about packets of known connections, on their way to who sent those packets.
//!
//! Who translates packets translates the errors about them (RFC 5508 section 4.2): a real server
//! behind NAT learns of the path to the client, a client of the path to the server, each in its own
//! terms; under full-NAT the server's terms are the local address alone. Under DR the server sent the packet as the VIP and gets the error as it is.
//!
//! Guarantees: an error goes only where a connection of exactly the quoted packet says, changes no
//! state and prolongs nothing, and is never answered. What is unknown here is handed to the holder
//! of the group, once; it is never scheduled (IPVS `schedule_icmp=0`): whoever forges one would
//! choose the server. Not limited in rate: one costs no more than a packet of its connection, and
//! path MTU discovery hangs on each of them; whether it is true the receiver judges (RFC 5927).
//!
//! Not here: errors about packets that this node itself put into a tunnel. They are for an address
//! of the node, so they reach the kernel; see `tunnel_mtu`.

use std::net::IpAddr;

use steadfast_packet::{
    IcmpError, Packet, decrement_ttl, proxy_len, rewrite_error_destination, rewrite_error_source,
    set_macs,
};

use crate::{
    Actions, AddressKind, Connection, FlowKey, Forwarding, GroupId, Reason, ReplyKey, Role, Sent,
    SyncHook, Verdict,
    cache::{Tuple, Way},
    client_address::lower_told,
    forward::full_nat_ends,
    frame::Frame,
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Sends an error to the real server or the client whose packet it quotes.
    pub(crate) fn handle_error(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        error: &IcmpError,
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let quoted = &error.quoted;
        let address = view.config.address(packet.dst);
        let pool = || view.config.pool_group(quoted.protocol, quoted.dst, quoted.dst_port);
        let (group, asked, way) = match address.map(|address| (address.kind, address.group)) {
            Some((AddressKind::Vip, group)) => (group, Some(packet.dst), Way::In),
            Some((AddressKind::Local, group)) => (group, Some(packet.dst), Way::Out),
            Some((AddressKind::Gateway, _)) => return Verdict::Drop(Reason::NotOurs),
            None => match pool() {
                Some(group) => (group, None, Way::Out),
                None => return Verdict::Drop(Reason::NotOurs),
            },
        };
        //= RFC 792, RFC 4443 section 2.2: an error goes to the source of the packet it is about;
        //= another one is forged
        if quoted.src != packet.dst {
            return Verdict::Drop(Reason::Quote);
        }
        match self.find_quoted(error, way, view) {
            Some(known) => self.pass_on(frame, packet, error, (&known, way), view, actions),
            None => self.refuse_error(frame, group, asked, view),
        }
    }

    /// The connection of the quoted packet, which went against the error.
    fn find_quoted(&self, error: &IcmpError, way: Way, view: View<'_>) -> Option<Connection> {
        let quoted = &error.quoted;
        let found = match way {
            Way::In => self.shared.table.find(&FlowKey {
                protocol: quoted.protocol,
                client: quoted.dst,
                client_port: quoted.dst_port,
                vip: quoted.src,
                vip_port: quoted.src_port,
            }),
            Way::Out => self.shared.table.find_reply(&ReplyKey {
                protocol: quoted.protocol,
                server: quoted.dst,
                server_port: quoted.dst_port,
                client: quoted.src,
                client_port: quoted.src_port,
            }),
        }?;
        let found = match found.target() {
            Some(_) => found,
            None => self.shared.table.bind_one(&found, view.config)?,
        };
        let is_current = view.config.server(found.server()).is_some();
        (is_current && found.is_open()).then_some(found)
    }

    /// Forwards an error of a known connection, translated as its packets are.
    fn pass_on(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        error: &IcmpError,
        (connection, way): (&Connection, Way),
        view: View<'_>,
        actions: &mut Actions,
    ) -> Verdict {
        let (target, key, local) = (connection.target(), connection.key(), connection.local());
        let deltas = connection.deltas();
        if connection.is_dead() {
            return Verdict::Drop(Reason::ConnectionGone);
        }
        let Some(target) = target else { return Verdict::Drop(Reason::Unbound) };
        let towards = if way == Way::In { target.addr } else { key.client };
        let hop = match self.next_hop(towards, view, actions) {
            Ok(hop) => hop,
            Err(reason) => return Verdict::Drop(reason),
        };
        if !decrement_ttl(frame.bytes(), packet) {
            return Verdict::Drop(Reason::TtlExceeded);
        }
        if packet.len() > self.way_room(frame.now_ns, &hop, &target, way) {
            // An error about an error is never sent (RFC 1122 section 3.2.2).
            return Verdict::Drop(Reason::TooBig);
        }
        if let Some(deltas) = deltas {
            deltas.shift_error(frame, packet, error, way);
            if way == Way::Out && deltas.header_at.is_some() {
                lower_told(frame, packet, error, proxy_len(packet.is_ipv6()));
            }
        }
        match (target.forwarding, way) {
            (Forwarding::Dr, _) | (Forwarding::Tunnel(_), Way::Out) => {}
            (Forwarding::Tunnel(tunnel), Way::In) => {
                // By the way of the flow that it is about.
                let (addr, hash) = (target.addr, Tuple::of(&key).flow_hash());
                if let Err(reason) = self.encapsulate(frame, packet, (tunnel, addr, hash), &hop) {
                    return Verdict::Drop(reason);
                }
            }
            (Forwarding::Nat, Way::In) => {
                let (addr, port) = (target.addr, target.port);
                rewrite_error_destination(frame.bytes(), packet, error, addr, port);
            }
            //= RFC 5508 section 4.2, REQ-4: the sender becomes the address that the client knows,
            //= also when it is a router behind this node; Linux ip_vs_nat_icmp() does the same
            (Forwarding::Nat, Way::Out) => {
                let (vip, port) = (key.vip, key.vip_port);
                rewrite_error_source(frame.bytes(), packet, error, vip, port);
            }
            (Forwarding::FullNat, way) => {
                let Some(local) = local else { return Verdict::Drop(Reason::Unbound) };
                let (src, dst) = full_nat_ends(way, &key, &target, local);
                if way == Way::Out {
                    self.tell_smaller_mtu(frame, packet, error, connection.service(), view);
                }
                rewrite_error_source(frame.bytes(), packet, error, src.0, src.1);
                rewrite_error_destination(frame.bytes(), packet, error, dst.0, dst.1);
            }
        }
        set_macs(frame.bytes(), hop.src_mac, hop.dst_mac);
        let sent = if way == Way::In { Sent::Forwarded } else { Sent::Returned };
        self.transmit(sent, hop.port, frame.start(), frame.len())
    }

    /// What becomes of an error about a packet of no connection here.
    fn refuse_error(
        &mut self,
        frame: &mut Frame<'_>,
        group: GroupId,
        asked: Option<IpAddr>,
        view: View<'_>,
    ) -> Verdict {
        match &*self.shared.groups.role(group) {
            Role::Other { relay } => self.relay(frame, relay, group, asked, view),
            _ => Verdict::Drop(Reason::UnknownError),
        }
    }
}
