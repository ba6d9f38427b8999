//! TCP handshakes that announce larger segments than fit.

use steadfast_packet::{Packet, Transport, clamp_mss};

use crate::{
    MssClamp, ServiceId, SyncHook,
    frame::Frame,
    worker::{Core, View},
};

/// IP and TCP headers without options (RFC 9293 section 3.7.1).
const HEADERS_V4: usize = 40;
const HEADERS_V6: usize = 60;

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Lowers what a SYN or SYN-ACK announces, if its service wants it; `room` is the largest
    /// packet that goes on from here.
    ///
    /// What is announced limits the packets that come back, and those leave by the interface that
    /// this one came from: both ways count.
    pub(crate) fn clamp_mss(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        service: ServiceId,
        room: usize,
        view: View<'_>,
    ) {
        let is_handshake = matches!(packet.transport, Transport::Tcp { flags, .. } if flags.syn());
        if !is_handshake {
            return;
        }
        let Some(service) = view.config.service(service) else { return };
        let most = match service.spec.mss_clamp {
            MssClamp::Off => return,
            MssClamp::At(most) => most,
            MssClamp::Auto => {
                let room = room.min(usize::from(view.hops.port_mtu(frame.port)));
                u16::try_from(room.saturating_sub(headers_len(packet))).unwrap_or(u16::MAX)
            }
        };
        clamp_mss(frame.bytes(), packet, most);
    }
}

/// IP and TCP headers without options.
pub(crate) fn headers_len(packet: &Packet) -> usize {
    if packet.is_ipv6() { HEADERS_V6 } else { HEADERS_V4 }
}
