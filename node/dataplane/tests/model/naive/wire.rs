//! Interfaces and VLANs (IEEE 802.1Q): inside a packet has no tag, and a VLAN is an interface.

use super::Naive;
use crate::packet::{Mac, Pkt};

/// What packets come in on and go out from: an interface, or a VLAN of one.
pub(crate) type Port = u16;

/// The VLAN, its number, and the interface that it is on.
pub(crate) const VLAN_PORT: Port = 2;
pub(crate) const VLAN: u16 = 7;
pub(crate) const TRUNK: Port = 0;

/// Interfaces and VLANs.
pub(crate) const PORTS: usize = 3;

/// The other node, where it is.
pub(crate) const PEERS: [Option<Mac>; PORTS] =
    [Some([2, 0, 0, 0, 1, 12]), None, Some([2, 0, 0, 0, 5, 12])];

impl Pkt {
    /// Comes from the other node.
    pub(super) fn is_from_peer(&self) -> bool {
        PEERS[usize::from(self.port)] == Some(self.src_mac)
    }
}

impl Naive {
    /// The packet without its tag, on the interface that this means.
    pub(crate) fn untag(pkt: &Pkt) -> Result<Pkt, &'static str> {
        let (first, rest) = match &pkt.tags[..] {
            [] => return Ok(pkt.clone()),
            [first, rest @ ..] => (first & 0xfff, rest.to_vec()),
        };
        let port = match (pkt.port, first) {
            // Only a priority.
            (port, 0) => port,
            (TRUNK, VLAN) => VLAN_PORT,
            _ => return Err("vlan"),
        };
        Ok(Pkt { port, tags: rest, ..pkt.clone() })
    }
}
