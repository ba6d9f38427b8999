//! Gratuitous ARP and unsolicited neighbour advertisements for the addresses of a group.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
};

use steadfast_model::GroupId;
use steadfast_ownership::{SegmentId, StaleSender};
use steadfast_packet::{gratuitous_arp, unsolicited_advertisement};
use tracing::{debug, info};

use super::segment::Wire;

/// Frames sent in one turn of the loop: a node that takes over thousands of addresses must not
/// stop beating meanwhile.
const FRAMES_PER_TURN: usize = 64;

/// Senders that wait to be told alone; more are reported again.
const ALONE_MAX: usize = 256;

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Addresses of each group by segment, and what is still to be sent.
#[derive(Default)]
pub(crate) struct Announcer {
    addresses: BTreeMap<GroupId, Vec<(SegmentId, IpAddr)>>,
    gateways: BTreeSet<IpAddr>,
    pending: VecDeque<(GroupId, SegmentId, IpAddr)>,
    alone: VecDeque<StaleSender>,
}

/// An address of a group and what it is for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GroupAddress {
    pub(crate) group: GroupId,
    pub(crate) segment: SegmentId,
    pub(crate) address: IpAddr,
    /// The gateway of a NAT pool; else a VIP or a local address.
    pub(crate) gateway: bool,
}

impl Announcer {
    /// The addresses of all groups.
    pub(crate) fn set_addresses(&mut self, addresses: impl IntoIterator<Item = GroupAddress>) {
        self.addresses.clear();
        self.gateways.clear();
        for GroupAddress { group, segment, address, gateway } in addresses {
            self.addresses.entry(group).or_default().push((segment, address));
            if gateway {
                self.gateways.insert(address);
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

    /// Queues one announcement to a sender alone.
    pub(crate) fn queue_to(&mut self, sender: StaleSender) {
        if self.alone.len() < ALONE_MAX && !self.alone.contains(&sender) {
            self.alone.push_back(sender);
        }
    }

    /// Forgets what is queued for a group: it is not ours to announce any more.
    pub(crate) fn cancel(&mut self, group: GroupId) {
        self.pending.retain(|(g, ..)| *g != group);
        self.alone.retain(|sender| sender.group != group);
    }

    /// Sends what one turn may send; says whether more waits.
    pub(crate) fn send(&mut self, wires: &[Wire]) -> bool {
        for _ in 0..FRAMES_PER_TURN {
            let Some((group, id, address)) = self.pending.pop_front() else { break };
            let Some(wire) = wires.iter().find(|w| w.segments.contains(&id)) else { continue };
            if let Err(error) = wire.send(&self.announcement(wire.mac(), address)) {
                debug!(%group, %address, "announcement not sent: {error}");
            }
        }
        for _ in 0..FRAMES_PER_TURN {
            let Some(sender) = self.alone.pop_front() else { break };
            self.announce_to(sender, wires);
        }
        !(self.pending.is_empty() && self.alone.is_empty())
    }

    /// The segment of the address to which a stale sender sent: one of those on the interface where
    /// its frame came in.
    pub(crate) fn segment_of(
        &self,
        group: GroupId,
        vip: Option<IpAddr>,
        on: &BTreeSet<SegmentId>,
    ) -> Option<SegmentId> {
        let mut of_group = self.addresses.get(&group).into_iter().flatten();
        let found = of_group
            .find(|(segment, address)| on.contains(segment) && self.is_meant(vip, *address));
        found.map(|(segment, _)| *segment)
    }

    /// Whether a frame for this VIP (`None`: for a gateway address) was for `address`.
    fn is_meant(&self, vip: Option<IpAddr>, address: IpAddr) -> bool {
        match vip {
            Some(vip) => vip == address,
            None => self.gateways.contains(&address),
        }
    }

    /// The frame that tells everybody on the link that `address` is at `mac`.
    fn announcement(&self, mac: [u8; 6], address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(address) => gratuitous_arp(mac, address).into(),
            IpAddr::V6(v6) => {
                //= RFC 4861 section 7.2.5: an advertisement without the flag would have servers
                //= forget their default router
                unsolicited_advertisement(mac, v6, self.gateways.contains(&address)).into()
            }
        }
    }

    /// The same frame as for everybody, to one MAC address. A peer says which VIP; it must be one
    /// of the group's.
    fn announce_to(&self, sender: StaleSender, wires: &[Wire]) {
        let StaleSender { group, segment: id, mac, vip } = sender;
        let Some(wire) = wires.iter().find(|w| w.segments.contains(&id)) else { return };
        let of_group = self.addresses.get(&group).into_iter().flatten();
        for (_, address) in of_group.filter(|(on, _)| *on == id) {
            if !self.is_meant(vip, *address) {
                continue;
            }
            let mut frame = self.announcement(wire.mac(), *address);
            frame[..6].copy_from_slice(&mac);
            match wire.send(&frame) {
                Ok(()) => info!(%group, %address, mac = mac_text(mac), "told a stale sender"),
                Err(error) => debug!(%group, %address, "stale sender not told: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use steadfast_packet::{ArpRequest, Content, Transport, parse};

    /// (address, whether a gateway, what everybody is told: target or type, and the flags)
    #[test]
    fn each_address_is_announced_in_the_manner_of_its_family() {
        const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
        let mut announcer = Announcer::default();
        let cases = [
            ("198.18.0.100", false),
            ("198.18.0.254", true),
            ("2001:db8::100", false),
            ("2001:db8::254", true),
        ];
        announcer.set_addresses(cases.map(|(address, gateway)| GroupAddress {
            group: GroupId(1),
            segment: SegmentId(1),
            address: address.parse().unwrap(),
            gateway,
        }));
        announcer.queue(GroupId(1));
        assert_eq!(announcer.pending.len(), cases.len(), "none is left out");
        for (text, gateway) in cases {
            let address: IpAddr = text.parse().unwrap();
            let frame = announcer.announcement(MAC, address);
            assert_eq!(frame[6..12], MAC);
            match parse(&frame).unwrap().content {
                Content::ArpRequest(ArpRequest { sender, target, .. }) => {
                    assert_eq!((IpAddr::V4(sender), IpAddr::V4(target)), (address, address));
                    assert_eq!(frame[..6], [0xff; 6]);
                }
                Content::Ip(packet) => {
                    assert_eq!((packet.src, packet.dst), (address, "ff02::1".parse().unwrap()));
                    assert_eq!(packet.transport, Transport::Other(58));
                    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
                    // RFC 4861 section 4.4: router, solicited, override.
                    assert_eq!(frame[packet.l4 + 4], if gateway { 0xa0 } else { 0x20 });
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_stale_sender_is_on_the_segment_of_the_address_it_meant() {
        let mut announcer = Announcer::default();
        let address = |segment, last, gateway| GroupAddress {
            group: GroupId(1),
            segment: SegmentId(segment),
            address: IpAddr::from([198, 18, 0, last]),
            gateway,
        };
        announcer.set_addresses([address(1, 100, false), address(2, 254, true)]);
        let vip = Some(IpAddr::from([198, 18, 0, 100]));
        let both = BTreeSet::from([SegmentId(1), SegmentId(2)]);
        let of = |vip, on: &BTreeSet<_>| announcer.segment_of(GroupId(1), vip, on);
        assert_eq!(of(vip, &both), Some(SegmentId(1)));
        assert_eq!(of(None, &both), Some(SegmentId(2)), "for the gateway");
        assert_eq!(of(vip, &BTreeSet::from([SegmentId(2)])), None, "on another interface");
        assert_eq!(of(Some(IpAddr::from([198, 18, 0, 9])), &both), None, "no address of ours");
    }
}
