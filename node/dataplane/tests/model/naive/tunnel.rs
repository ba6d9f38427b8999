//! Packets inside others: outer headers, written field by field.

use std::net::IpAddr;

use super::{Naive, VLAN_PORT};
use crate::packet::{Between, Body, Pkt, checksum::ones_complement};

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Tunnel {
    IpIp,
    /// To this UDP port; the checksum is there always, never, or as the outer family needs it.
    Gue(u16, Option<bool>),
    /// With a checksum or without.
    Gre(bool),
}

/// Whose packets take the same way: client and VIP with their ports.
pub(crate) type Flow = ((IpAddr, u16), (IpAddr, u16));

impl Tunnel {
    fn shim(self) -> usize {
        match self {
            Self::IpIp => 0,
            Self::Gue(..) => 12,
            Self::Gre(false) => 4,
            Self::Gre(true) => 8,
        }
    }

    /// What it adds to a packet.
    pub(super) fn overhead(self, server: IpAddr) -> usize {
        self.shim() + if server.is_ipv6() { 40 } else { 20 }
    }
}

impl Naive {
    /// The packet inside another one to the server.
    pub(super) fn encapsulate(
        &mut self,
        inner: &Pkt,
        tunnel: Tunnel,
        server: IpAddr,
        flow: Flow,
    ) -> Option<Pkt> {
        // Of this node's addresses none is on the VLAN.
        if inner.port == VLAN_PORT {
            return None;
        }
        self.outer_id = self.outer_id.wrapping_add(1);
        let v6 = inner.src.is_ipv6();
        *self.tally.tunnels.entry((tunnel, v6, server.is_ipv6())).or_default() += 1;
        let src = self.tunnel_ends[usize::from(server.is_ipv6())];
        let spread = self.spread(tunnel, server, flow);
        let packet = inner.packet();
        let mut bytes = Vec::new();
        let protocol = match tunnel {
            // RFC 2003, RFC 2473, RFC 4213: what is inside is the protocol.
            Tunnel::IpIp => {
                if v6 {
                    41
                } else {
                    4
                }
            }
            Tunnel::Gue(port, _) => {
                bytes.extend((0xc000 | (spread & 0x3fff) as u16).to_be_bytes());
                bytes.extend(port.to_be_bytes());
                bytes.extend((packet.len() as u16 + 12).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend([0, if v6 { 41 } else { 4 }, 0, 0]);
                17
            }
            Tunnel::Gre(checksum) => {
                bytes.extend([if checksum { 0x80 } else { 0 }, 0]);
                bytes.extend(if v6 { [0x86, 0xdd] } else { [0x08, 0x00] });
                bytes.extend(if checksum { &[0; 4][..] } else { &[] });
                47
            }
        };
        bytes.extend(packet);
        match tunnel {
            Tunnel::Gue(_, on) if on.unwrap_or_else(|| server.is_ipv6()) => {
                let pseudo = crate::packet::pseudo_header(src, server, 17, bytes.len());
                let sum = match ones_complement(&[&pseudo, &bytes]) {
                    0 => 0xffff,
                    sum => sum,
                };
                bytes[6..8].copy_from_slice(&sum.to_be_bytes());
            }
            Tunnel::Gre(true) => {
                let sum = ones_complement(&[&bytes]);
                bytes[4..6].copy_from_slice(&sum.to_be_bytes());
            }
            _ => {}
        }
        // An outer IPv4 packet may be fragmented only if the inner one may, and IPv6 never says.
        let df = !v6 && inner.df;
        let id = if df { 0 } else { self.outer_id };
        let label = if server.is_ipv6() { spread } else { 0 };
        let (dst, body) = (server, Body::Inside { protocol, bytes });
        let between = Between::Nothing;
        Some(Pkt { src, dst, df, id, label, part: None, between, body, ..inner.clone() })
    }

    /// The number that spreads flows over ways is the crate's own choice, but the same for all
    /// packets of a flow.
    fn spread(&mut self, tunnel: Tunnel, server: IpAddr, flow: Flow) -> u32 {
        let of = |at: usize| self.seen.get(at).copied().map_or(0, u32::from);
        let chosen = match (server.is_ipv6(), tunnel) {
            (true, _) => (of(15) & 0xf) << 16 | of(16) << 8 | of(17),
            (false, Tunnel::Gue(..)) => (of(34) & 0x3f) << 8 | of(35),
            (false, _) => return 0,
        };
        *self.spread.entry((server.is_ipv6(), flow)).or_insert(chosen)
    }
}
