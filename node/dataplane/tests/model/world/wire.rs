//! How packets come over the wire: on which interface, and with which tags.

use super::World;
use crate::{
    naive::{PEERS, TRUNK, VLAN, VLAN_PORT},
    packet::Pkt,
};

/// VLANs that no segment is on.
const STRANGE: [u16; 3] = [1, 8, 4094];

impl World {
    /// What of a packet is left to the network between.
    pub(super) fn over_the_wire(&mut self, mut pkt: Pkt) -> Pkt {
        // Some networks have several ways to here.
        if self.random.percent(2) {
            pkt.port = self.random.of(&[0, 1, VLAN_PORT]);
            pkt.dst_mac = self.naive.own[usize::from(pkt.port)];
        }
        let from_peer = if self.naive.role == crate::naive::Role::Other { 20 } else { 1 };
        if self.random.percent(from_peer) {
            pkt.src_mac = PEERS[usize::from(pkt.port)].unwrap_or([2, 0, 0, 0, 1, 12]);
        }
        let priority = (self.random.next() as u16) << 12;
        if pkt.port == VLAN_PORT {
            pkt.port = TRUNK;
            pkt.tags.push(priority | VLAN);
        } else if self.random.percent(3) {
            pkt.tags.push(priority);
        }
        match self.random.below(600) {
            0 => pkt.tags = vec![priority | self.random.of(&STRANGE)],
            // Of a VLAN within a VLAN, which nobody here is in.
            1 => pkt.tags = vec![priority | VLAN, VLAN],
            2 => pkt.tags = vec![priority, self.random.of(&STRANGE)],
            3 if pkt.port != TRUNK => pkt.tags = vec![VLAN],
            _ => {}
        }
        pkt
    }
}
