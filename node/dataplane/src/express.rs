//! The short way: packets with nothing special about them, of connections with nothing special about
//! them. Most are.
//!
//! Guarantees: a packet that goes this way leaves frame, connection, counters and observer as the
//! long way would have left them, in `forward`; one that has anything special is left to it, and
//! nothing was changed. Only for packets that were prepared: what is not, shows what the long way does.

use std::net::{IpAddr, Ipv4Addr};

use steadfast_packet::{Rewrite, plain};

use crate::{
    Carried, Resolved, Sent, State, SyncHook, Verdict,
    cache::Way,
    frame::Frame,
    slab::Place,
    worker::{Desk, View},
};

/// The connection of a plain packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainEnds {
    pub(crate) place: Place,
    pub(crate) server: u32,
    /// Where the packet goes.
    pub(crate) towards: Ipv4Addr,
    pub(crate) rewrite: Rewrite,
}

impl<H> Desk<H>
where
    H: SyncHook,
{
    /// Sends a packet on its way if that is the short one.
    #[inline]
    pub(crate) fn express(&mut self, frame: &mut Frame<'_>, view: View<'_>) -> Option<Verdict> {
        let trail = self.trail?;
        let slot = trail.slot?;
        let [dst_mac, src_mac] = *frame.received().as_chunks().0.first_chunk()?;
        if view.hops.port_mac(frame.port) != Some(dst_mac) {
            return None;
        }
        let packet = plain(frame.received())?;
        let core = &mut self.core;
        let ends = core.shared.table.follow_plain(slot, trail.way, &packet)?;
        let server = self.servers.find(ends.server.into(), view.config)?;
        if !server.is_plain {
            return None;
        }
        let towards = IpAddr::V4(ends.towards);
        let generation = view.hops.generation();
        if server.hop(trail.way, towards, generation).is_none() {
            let Resolved::Hop(hop) = view.hops.resolve(towards) else { return None };
            server.note_hop(trail.way, towards, generation, hop);
        }
        let hop = server.hop(trail.way, towards, generation)?;
        if packet.len > hop.mtu {
            return None;
        }
        self.connection.point_at(ends.place);
        let connection = &self.connection;
        // As in `forward`: what was read is true if it lives now.
        if connection.is_dead() {
            return None;
        }
        if core.lookout.is_due(frame.now_ns) {
            frame.src_mac = src_mac;
            let vip = (trail.way == Way::In).then_some(packet.dst.into());
            core.look(frame, server.service.spec.group, vip, view);
        }
        packet.send_on(frame.bytes(), hop.src_mac, hop.dst_mac, ends.rewrite);
        connection.touch(frame.now_ns);
        server.count(trail.way, core.index, packet.len.into());
        let state = if packet.is_tcp { State::Established } else { State::Udp };
        let mut carried = Carried {
            connection,
            old: state,
            new: state,
            in_pkts: 0,
            now_ns: frame.now_ns,
            service: &server.service,
            config: view.config,
        };
        let sent = match trail.way {
            Way::In => {
                carried.in_pkts = connection.count_in(core.index);
                core.hook.forwarded(&carried);
                Sent::Forwarded
            }
            Way::Out => {
                connection.count_out(core.index);
                carried.in_pkts = connection.in_pkts();
                core.hook.replied(&carried);
                Sent::Returned
            }
        };
        Some(core.transmit(sent, hop.port, frame.start(), frame.len()))
    }
}
