//! Gratuitous ARP for the addresses of a group.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr},
};

use steadfast_model::GroupId;
use steadfast_ownership::SegmentId;
use steadfast_packet::gratuitous_arp;
use tracing::debug;

use super::segment::Segment;

/// Frames sent in one turn of the loop: a node that takes over thousands of addresses must not
/// stop beating meanwhile.
const FRAMES_PER_TURN: usize = 64;

/// Addresses of each group by segment, and what is still to be sent.
#[derive(Default)]
pub(crate) struct Announcer {
    addresses: BTreeMap<GroupId, Vec<(SegmentId, Ipv4Addr)>>,
    pending: VecDeque<(GroupId, SegmentId, Ipv4Addr)>,
}

impl Announcer {
    /// The addresses of all groups. IPv6 VIPs are refused by validation until they are served.
    pub(crate) fn set_addresses(
        &mut self,
        addresses: impl IntoIterator<Item = (GroupId, SegmentId, IpAddr)>,
    ) {
        self.addresses.clear();
        for (group, segment, address) in addresses {
            if let IpAddr::V4(address) = address {
                self.addresses.entry(group).or_default().push((segment, address));
            }
        }
    }

    /// Queues one round for a group; a round that is still queued is not doubled.
    pub(crate) fn queue(&mut self, group: GroupId) {
        if self.pending.iter().any(|(g, ..)| *g == group) {
            return;
        }
        let addresses = self.addresses.get(&group).into_iter().flatten();
        self.pending.extend(addresses.map(|(segment, address)| (group, *segment, *address)));
    }

    /// Forgets what is queued for a group: it is not ours to announce any more.
    pub(crate) fn cancel(&mut self, group: GroupId) {
        self.pending.retain(|(g, ..)| *g != group);
    }

    /// Sends what one turn may send; says whether more waits.
    pub(crate) fn send(&mut self, segments: &[Segment]) -> bool {
        for _ in 0..FRAMES_PER_TURN {
            let Some((group, id, address)) = self.pending.pop_front() else { return false };
            let Some(segment) = segments.iter().find(|s| s.id == id) else { continue };
            if let Err(error) = segment.send(&gratuitous_arp(segment.mac, address)) {
                debug!(%group, %address, "gratuitous ARP not sent: {error}");
            }
        }
        !self.pending.is_empty()
    }
}
