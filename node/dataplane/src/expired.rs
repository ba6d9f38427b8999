//! Packets whose TTL or hop limit has run out: their sender is told, as a router tells it.

use std::net::IpAddr;

use steadfast_packet::{Packet, Transport, time_exceeded};

use crate::{
    Reason, SyncHook, Verdict,
    frame::Frame,
    next_hop::Resolved,
    worker::{Core, View},
};

impl<H> Core<H>
where
    H: SyncHook,
{
    /// Tells the sender, from this node's address on the way to it; without one in the name of
    /// `known`, an address that the sender knows.
    //= RFC 1812 section 5.3.1, RFC 4443 section 3.3; Linux ip_vs_xmit.c, decrement_ttl()
    pub(crate) fn refuse_expired(
        &mut self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        known: IpAddr,
        view: View<'_>,
    ) -> Verdict {
        //= RFC 1122 section 3.2.2: nobody is told about a fragment that is not the first, in IPv4
        if !packet.is_ipv6() && packet.transport == Transport::Fragment {
            return Verdict::Drop(Reason::TtlExceeded);
        }
        if !self.answers.take(frame.now_ns) {
            return Verdict::Drop(Reason::RateLimited);
        }
        let own = match view.hops.resolve(packet.src) {
            Resolved::Hop(hop) => hop.src_addr,
            _ => None,
        };
        match time_exceeded(frame.bytes(), packet, own.unwrap_or(known)) {
            Ok(len) => {
                let verdict = self.send_back(frame, packet.src, len, view);
                if let Verdict::Transmit { .. } = verdict {
                    self.counters.count_expired();
                }
                verdict
            }
            Err(_) => Verdict::Drop(Reason::NoSpace),
        }
    }
}
