//! Packets that do not fit the way to their next hop.
//!
//! The sender is told, as a router tells it; IPv4 packets that may be fragmented are, see `pieces`.

use std::net::IpAddr;

use steadfast_packet::{Packet, Transport, packet_too_big};

use crate::{
    Forwarding, Hop, Reason, SyncHook, Target, Verdict,
    cache::Way,
    frame::Frame,
    worker::{Core, View},
};

/// The least MTU of an IPv4 link (RFC 791) and of an IPv6 link (RFC 8200 section 5).
const MTU_MIN_V4: usize = 68;
const MTU_MIN_V6: usize = 1280;

/// The packet may leave in pieces of `room` octets.
pub(crate) fn may_be_cut(frame: &Frame<'_>, packet: &Packet, room: usize) -> bool {
    room >= MTU_MIN_V4 && packet.may_be_fragmented(frame.received())
}

/// The least MTU that a link of the family has.
pub(crate) fn mtu_min(is_ipv6: bool) -> usize {
    if is_ipv6 { MTU_MIN_V6 } else { MTU_MIN_V4 }
}

impl<H> Core<H>
where
    H: SyncHook,
{
    /// The largest packet that fits the way to the next hop, inside a tunnel if there is one.
    //= Linux ip_vs_xmit.c, __ip_vs_get_out_rt(): the MTU of the route less what the tunnel adds
    pub(crate) fn way_room(&self, now_ns: u64, hop: &Hop, target: &Target, way: Way) -> usize {
        let (Forwarding::Tunnel(tunnel), Way::In) = (target.forwarding, way) else {
            return hop.mtu.into();
        };
        let mtu = hop.mtu.min(self.shared.tunnel_mtus.of(now_ns, target.addr));
        usize::from(mtu).saturating_sub(tunnel.overhead(target.addr.is_ipv6()))
    }

    /// Tells the sender, in the name of an address it knows, that no more than `room` octets go through.
    pub(crate) fn refuse_too_big(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        teller: IpAddr,
        room: usize,
        view: View<'_>,
    ) -> Verdict {
        //= RFC 8200 section 5: nobody has to send less than 1280 octets; Linux ip_vs_xmit.c,
        //= __ip_vs_get_out_rt(): an MTU below 68 is an error
        //= RFC 1122 section 3.2.2: nobody is told about a fragment that is not the first, in IPv4
        let is_later = !packet.is_ipv6() && packet.transport == Transport::Fragment;
        if room < mtu_min(packet.is_ipv6()) || is_later {
            return Verdict::Drop(Reason::TooBig);
        }
        if !self.too_big.take(frame.now_ns) {
            return Verdict::Drop(Reason::RateLimited);
        }
        let mtu = u16::try_from(room).unwrap_or(u16::MAX);
        match packet_too_big(frame.bytes(), packet, teller, mtu) {
            Ok(len) => {
                let verdict = self.send_back(frame, packet.src, len, view);
                if let Verdict::Transmit { .. } = verdict {
                    self.counters.count_too_big();
                }
                verdict
            }
            Err(_) => Verdict::Drop(Reason::NoSpace),
        }
    }
}
