//! Servers that see another address than their client's are told it, where their service wants that.
//!
//! As a TCP option (TOA): kernel modules on servers read it from the packet that makes the socket of
//! the connection, which is the ACK that ends the handshake, the first data where the server waits
//! for that (`TCP_DEFER_ACCEPT`) or the ACK was lost, and the SYN with TCP fast open. So it is in all
//! packets from the client, but for resets, until [`TOLD_UNTIL_REPLIES`] packets from the server have
//! passed here. That needs nothing but a count that each node has anyway: after a take-over it starts
//! again, and the option that the server has long read is skipped by it, as any unknown one.
//!
//! Guarantees: an option of this kind that the client sent never reaches the server. A packet without
//! room for the option goes without it, and is counted. So that there is room, the server's half of
//! the handshake, which is what clients obey, announces less by the length of the option.

use std::net::SocketAddr;

use steadfast_packet::{
    IcmpError, Packet, Transport, clamp_mss, erase_toa, lower_mss, lower_told_mtu, toa_len,
};

use crate::{
    ClientAddress, Connection, FlowKey, Hop, ServiceId, SyncHook,
    cache::Way,
    frame::Frame,
    mss::headers_len,
    too_big::mtu_min,
    worker::{Core, View},
};

/// Packets from the server, until which it is told again. Not before one of them is more than the
/// second half of the handshake has it surely read the option: Linux sends that six times at most
/// (`tcp_synack_retries`), and an ACK for each packet out of its window.
const TOLD_UNTIL_REPLIES: u64 = 8;

/// The least segment size that a handshake is lowered to: what a peer takes that is told none (RFC
/// 9293 section 3.7.1).
const MSS_LEAST_V4: u16 = 536;
const MSS_LEAST_V6: u16 = 1220;

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Adds the option to a packet of the client, and makes room for it in handshakes.
    pub(crate) fn tell_by_option(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        (way, connection, key): (Way, &Connection, &FlowKey),
        hop: &Hop,
        view: View<'_>,
    ) {
        let Transport::Tcp { flags, .. } = packet.transport else { return };
        let len = toa_len(packet.is_ipv6());
        if way == Way::Out {
            if flags.syn() {
                leave_room(frame, packet, len, view);
            }
            return;
        }
        // What the client says of itself is worth nothing, in any packet.
        erase_toa(frame.bytes(), packet);
        if flags.rst() || connection.out_pkts() >= TOLD_UNTIL_REPLIES {
            return;
        }
        let client = SocketAddr::new(key.client, key.client_port);
        let fits = packet.len() + len <= usize::from(hop.mtu);
        let told = fits && frame.add_toa(packet, client).is_ok();
        self.counters.count_told(told);
    }

    /// Of a service whose packets grow on their way to the server: its client is told an MTU that
    /// leaves room.
    pub(crate) fn tell_smaller_mtu(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        error: &IcmpError,
        service: ServiceId,
        view: View<'_>,
    ) {
        let Some(service) = view.config.service(service) else { return };
        let by = match service.spec.client_address {
            // Only as long as it is under way: see where deltas are.
            ClientAddress::None | ClientAddress::ProxyV2 => return,
            ClientAddress::Toa => toa_len(packet.is_ipv6()),
        };
        lower_told(frame, packet, error, by);
    }
}

/// Lowers the MTU that an error tells by what will be added on the way.
pub(crate) fn lower_told(frame: &mut Frame<'_>, packet: &Packet, error: &IcmpError, by: usize) {
    let least = mtu_min(packet.is_ipv6()) as u32;
    lower_told_mtu(frame.bytes(), packet, error, by as u32, least);
}

/// Lowers what the server announces: its packets come in where the client's will go out.
fn leave_room(frame: &mut Frame<'_>, packet: &Packet, len: usize, view: View<'_>) {
    let least = if packet.is_ipv6() { MSS_LEAST_V6 } else { MSS_LEAST_V4 };
    let mtu = usize::from(view.hops.port_mtu(frame.port));
    let room = mtu.saturating_sub(headers_len(packet) + len);
    let most = u16::try_from(room).unwrap_or(u16::MAX).max(least);
    lower_mss(frame.bytes(), packet, len as u16, least);
    clamp_mss(frame.bytes(), packet, most);
}
