//! How packets come over the wire: on which interface, and with which tags.

use super::World;
use crate::{
    naive::{PEERS, Role, TRUNK, VLAN, VLAN_PORT},
    packet::{
        Between, Flaw, Pkt,
        between::{DESTINATION, HOP_BY_HOP, ROUTING},
    },
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
        let from_peer = if self.naive.roles.contains(&Role::Other) { 20 } else { 1 };
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
        if pkt.tags.is_empty() && pkt.part.is_none() && pkt.proto().is_some() {
            match self.random.below(80) {
                0 => pkt.between = self.between(pkt.src.is_ipv6()),
                1 if self.random.percent(20) => pkt.flaw = Some(self.flaw(&pkt)),
                _ => {}
            }
        }
        pkt
    }

    fn flaw(&mut self, pkt: &Pkt) -> Flaw {
        match self.random.below(5) {
            0 => Flaw::Type(self.random.of(&[0x88cc, 0x86d0, 0x05dc, 0x8864])),
            1 => Flaw::Version(self.random.of(&[0, 5, 7, 15])),
            2 | 3 if !pkt.src.is_ipv6() => Flaw::Checksum(1 << self.random.below(16)),
            _ => Flaw::Cut(self.random.below(14 + pkt.len()) as u16),
        }
    }

    /// Options, or headers: those that go along, and now and then those that do not.
    fn between(&mut self, ipv6: bool) -> Between {
        let is_good = self.random.percent(70);
        if ipv6 {
            let inside = |eights: usize| [vec![1, 4, 0, 0, 0, 0], vec![0; 8 * eights]].concat();
            let (used_up, left) = (vec![4, 0, 0, 0, 0, 0], vec![4, 1, 0, 0, 0, 0]);
            let choices = [
                vec![(HOP_BY_HOP, inside(0))],
                vec![(DESTINATION, inside(2)), (DESTINATION, inside(1))],
                vec![(HOP_BY_HOP, inside(1)), (ROUTING, used_up), (DESTINATION, inside(0))],
                vec![(DESTINATION, inside(0)); 7],
                vec![(DESTINATION, inside(0)); 8],
                vec![(DESTINATION, inside(0)), (HOP_BY_HOP, inside(0))],
                vec![(ROUTING, left)],
            ];
            let at = if is_good { self.random.below(4) } else { 4 + self.random.below(3) };
            return Between::Extensions(choices[at].clone());
        }
        // Padding, a router alert, a record of the route, a timestamp, and one that nobody knows.
        let good: [&[u8]; 5] = [
            &[1, 1, 1, 0],
            &[148, 4, 0, 0],
            &[7, 7, 4, 0, 0, 0, 0, 1],
            &[68, 4, 5, 0],
            &[222, 2, 0, 9],
        ];
        let bad: [&[u8]; 5] = [
            &[131, 7, 4, 198, 18, 0, 9, 0],
            &[137, 3, 4, 0],
            &[1, 7, 1, 0],
            &[7, 9, 4, 0],
            &[1, 1, 1, 7],
        ];
        let mut options: Vec<u8> = self.random.of(&good).to_vec();
        options.extend(if is_good { self.random.of(&good) } else { self.random.of(&bad) });
        Between::Options(options)
    }
}
