//! A header of the PROXY protocol before the first octet of a client's stream.
//!
//! The header stands before what the client sends under its first number, wherever that comes: in the
//! ACK that ends the handshake, in the first data where that ACK was lost, in each repetition of
//! either, until the server has acknowledged it. All that follows is shifted by its length, and what
//! the server acknowledges is shifted back. So nobody keeps a timer or a packet: what is lost, client
//! or server send again. What does not fit into one packet with the header makes room for it, and
//! comes again too.
//!
//! Guarantees: the server reads the header before any octet of the client, and once, whatever the
//! client sends: data in or before the place of its SYN (TCP fast open too) is cut off. The client
//! never hears of a number that it has not sent. That a header is under way is copied with the
//! connection; how far the server is any node sees from its packets. Not here: connections that were
//! open before their service wanted this; they go on without.

use std::net::SocketAddr;

use steadfast_packet::{
    IcmpError, Packet, Transport, proxy_len, quoted_seq, set_acknowledged, tcp_header,
};

use crate::{
    ClientAddress, Connection, Deltas, FlowKey, Reason, Service, State, SyncHook, cache::Way,
    frame::Frame, worker::Core,
};

/// A segment as it goes on.
pub(crate) struct Passing {
    /// What it is now.
    pub(crate) packet: Packet,
    /// The header goes before its payload.
    pub(crate) starts: bool,
}

impl Deltas {
    /// Of a connection that this packet opens, where its service wants a header.
    pub(crate) fn for_header(service: &Service, frame: &[u8], packet: &Packet) -> Option<Self> {
        let wanted = service.spec.client_address == ClientAddress::ProxyV2;
        let tcp = wanted.then(|| tcp_header(frame, packet))??;
        let is_syn = matches!(packet.transport, Transport::Tcp { flags, .. } if flags.syn());
        is_syn.then(|| Self {
            to_server: proxy_len(packet.is_ipv6()) as u32,
            header_at: Some(tcp.seq.get().wrapping_add(1)),
            ..Self::default()
        })
    }

    /// Makes of a segment of one side what the other side understands; `room` is the largest packet
    /// that goes on from here.
    pub(crate) fn pass(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        way: Way,
        room: usize,
    ) -> Result<Passing, Reason> {
        let around = self.header_at.zip(tcp_header(frame.received(), packet).copied());
        let (Some((first, tcp)), Transport::Tcp { flags, .. }) = (around, packet.transport) else {
            self.shift(frame, packet, way)?;
            return Ok(Passing { packet: *packet, starts: false });
        };
        let len = proxy_len(packet.is_ipv6());
        if way == Way::Out {
            self.shift(frame, packet, way)?;
            if flags.ack() && !self.is_heard(first, tcp.ack.get()) {
                set_acknowledged(frame.bytes(), packet, first);
            }
            return Ok(Passing { packet: *packet, starts: false });
        }
        let from_first = tcp.seq.get().wrapping_sub(first).cast_signed();
        let starts = from_first == 0 && !flags.syn() && !flags.rst();
        let is_before = from_first <= 0 && !starts || flags.syn();
        if !starts && !is_before {
            self.shift(frame, packet, way)?;
            return Ok(Passing { packet: *packet, starts });
        }
        if packet.fragment.is_some() {
            return Err(Reason::Fragment);
        }
        let before = Self { to_server: self.to_server.wrapping_sub(len as u32), ..*self };
        before.shift(frame, packet, way)?;
        let is_cut = is_before || packet.len() + len > room;
        let passes = if is_cut { frame.cut_payload(packet) } else { *packet };
        if is_before && passes.end < packet.end {
            frame.pad();
        }
        Ok(Passing { packet: passes, starts })
    }

    /// What was added to the number of a client's segment that an error quotes.
    pub(crate) fn of_quoted(&self, frame: &[u8], error: &IcmpError) -> u32 {
        let len = proxy_len(error.quoted.src.is_ipv6()) as u32;
        let before = self.to_server.wrapping_sub(len);
        match (self.header_at, quoted_seq(frame, error)) {
            (Some(first), Some(seq))
                if seq.wrapping_sub(before).wrapping_sub(first).cast_signed() <= 0 =>
            {
                before
            }
            _ => self.to_server,
        }
    }

    /// The server has the header, as it says by acknowledging this.
    fn is_heard(&self, first: u32, ack: u32) -> bool {
        ack.wrapping_sub(self.to_server).wrapping_sub(first).cast_signed() >= 0
    }
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// What is known of the header of a connection after this packet of either side.
    pub(crate) fn follow_header(
        &self,
        frame: &Frame<'_>,
        packet: &Packet,
        (way, connection): (Way, &Connection),
        deltas: Deltas,
    ) -> Deltas {
        let around = deltas.header_at.zip(tcp_header(frame.received(), packet));
        let (Some((first, tcp)), Transport::Tcp { flags, .. }) = (around, packet.transport) else {
            return deltas;
        };
        let next = tcp.seq.get().wrapping_add(1);
        let is_heard = flags.ack() && !flags.syn() && deltas.is_heard(first, tcp.ack.get());
        let header_at = match way {
            // A client that tries again from another number, before its server has answered.
            Way::In if flags.syn() && connection.state() == State::SynRecv => Some(next),
            Way::Out if is_heard => None,
            _ => return deltas,
        };
        let change = |now| Some(Deltas { header_at, ..now });
        let deltas = self.shared.table.change_deltas(connection, change);
        if header_at.is_none() {
            self.hook.renumbered(connection);
        }
        deltas
    }

    /// Puts the header before the payload of a packet.
    pub(crate) fn put_header(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        key: &FlowKey,
    ) -> Result<(), Reason> {
        let client = SocketAddr::new(key.client, key.client_port);
        let vip = SocketAddr::new(key.vip, key.vip_port);
        frame.add_proxy(packet, client, vip).map_err(|_| Reason::NoSpace)?;
        self.counters.count_told(true);
        Ok(())
    }
}
