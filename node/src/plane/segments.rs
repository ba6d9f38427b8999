//! Which segments of the configuration are on which interfaces of this node.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use steadfast_model::{ClusterState, document::Prefix};
use steadfast_ownership::SegmentId;

use crate::kernel::KernelView;

/// What the configuration and the kernel's addresses make of it. Segments that no group uses do not
/// count.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Segments {
    /// By kernel index of the interface; several segments may be on one.
    pub(super) on: BTreeMap<u32, BTreeSet<SegmentId>>,
    /// Names and first prefixes of segments in which no interface has an address.
    pub(super) missing: Vec<(String, Prefix)>,
    /// Prefixes of a segment in which its interface has no address, with name and interface:
    /// addresses there may be out of reach.
    pub(super) partial: Vec<(String, Prefix, String)>,
    /// Addresses of groups that an interface of this node has, with the interface: the kernel would
    /// answer for them.
    pub(super) stray: Vec<(IpAddr, String)>,
}

impl Segments {
    pub(super) fn of(state: &ClusterState, view: &KernelView) -> Self {
        let used: BTreeSet<u16> =
            state.groups.values().flat_map(|g| g.segments.iter().copied()).collect();
        let mut found = Self::default();
        let ours: BTreeSet<IpAddr> =
            state.groups.values().flat_map(|g| g.spec.all_addresses().copied()).collect();
        for interface in view.interfaces.values() {
            let stray = interface.addresses.iter().filter(|address| ours.contains(address));
            found.stray.extend(stray.map(|address| (*address, interface.name.clone())));
        }
        for (number, segment) in state.segments.iter().filter(|(n, _)| used.contains(n)) {
            let Some(interface) =
                segment.all_prefixes().find_map(|prefix| view.interface_in(prefix, &ours))
            else {
                found.missing.push((segment.name.clone(), segment.prefix));
                continue;
            };
            found.on.entry(interface.index).or_default().insert(SegmentId(*number));
            let has = |prefix: &Prefix| {
                interface.addresses.iter().any(|a| prefix.contains(*a) && !ours.contains(a))
            };
            for prefix in segment.all_prefixes().filter(|prefix| !has(prefix)) {
                found.partial.push((segment.name.clone(), prefix, interface.name.clone()));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Interface;

    fn view(interfaces: &[(u32, &[&str])]) -> KernelView {
        let interfaces = interfaces.iter().map(|(index, addresses)| {
            let interface = Interface {
                index: *index,
                name: format!("eth{index}"),
                mac: [0; 6],
                up: true,
                mtu: 1500,
                addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
                vlan: None,
            };
            (*index, interface)
        });
        KernelView { interfaces: interfaces.collect(), ..KernelView::default() }
    }

    fn state(segments: &[(u16, &str, &str)], used: &[u16]) -> ClusterState {
        let mut state = ClusterState::default();
        for (number, name, prefix) in segments {
            let json = serde_json::json!({ "name": name, "prefix": prefix });
            state.segments.insert(*number, serde_json::from_value(json).unwrap());
        }
        let spec = serde_json::json!({ "name": "web", "addresses": [] });
        let group = steadfast_model::Group {
            id: steadfast_model::GroupId(1),
            spec: serde_json::from_value(spec).unwrap(),
            segments: used.to_vec(),
            grant: None,
        };
        state.groups.insert(group.id, group);
        state
    }

    fn on(found: &Segments) -> Vec<(u32, Vec<u16>)> {
        found.on.iter().map(|(i, s)| (*i, s.iter().map(|s| s.0).collect())).collect()
    }

    /// As on a real server, or left from another load balancer.
    #[test]
    fn an_address_of_a_group_is_no_address_of_the_node() {
        let mut state = state(&[(1, "front", "198.18.0.0/24")], &[1]);
        let group = state.groups.values_mut().next().unwrap();
        group.spec.addresses = vec!["198.18.0.100".parse().unwrap()];
        let found = Segments::of(&state, &view(&[(1, &["198.18.0.100"]), (7, &["198.18.0.1"])]));
        assert_eq!(found.on, [(7, [SegmentId(1)].into())].into());
        assert_eq!(found.stray, [("198.18.0.100".parse().unwrap(), "eth1".to_owned())]);
    }

    #[test]
    fn segments_are_where_the_addresses_are() {
        let front = (1, "front", "198.18.0.0/24");
        let back = (2, "back", "198.18.1.0/24");
        let state = state(&[front, back, (3, "other", "198.18.3.0/24")], &[1, 2]);
        let two = view(&[(7, &["198.18.0.1"]), (8, &["198.18.1.1", "198.18.3.1"])]);
        let found = Segments::of(&state, &two);
        assert_eq!(on(&found), [(7, vec![1]), (8, vec![2])], "one each; unused ones nowhere");
        let one = view(&[(9, &["198.18.1.1", "198.18.0.1"])]);
        assert_eq!(on(&Segments::of(&state, &one)), [(9, vec![1, 2])], "both on one interface");
    }

    #[test]
    fn a_segment_of_two_families_is_where_either_has_an_address() {
        let mut state = state(&[(1, "front", "198.18.0.0/24")], &[1]);
        let six: Prefix = "2001:db8::/64".parse().unwrap();
        state.segments.get_mut(&1).unwrap().prefixes = vec![six];
        let both = Segments::of(&state, &view(&[(7, &["fe80::1", "198.18.0.1", "2001:db8::1"])]));
        assert_eq!((on(&both), both.partial), (vec![(7, vec![1])], vec![]));
        let four = Segments::of(&state, &view(&[(7, &["fe80::1", "198.18.0.1"])]));
        let told = vec![("front".to_owned(), six, "eth7".to_owned())];
        assert_eq!((on(&four), four.partial), (vec![(7, vec![1])], told));
        let only_six = Segments::of(&state, &view(&[(7, &["2001:db8::1"])]));
        assert_eq!(on(&only_six), [(7, vec![1])]);
        assert_eq!(only_six.partial.len(), 1, "IPv4 is out of reach");
        assert_eq!(only_six.missing, []);
    }

    #[test]
    fn a_renamed_segment_has_another_number_on_the_same_interface() {
        let there = view(&[(7, &["198.18.0.1"])]);
        let before = Segments::of(&state(&[(1, "front", "198.18.0.0/24")], &[1]), &there);
        let after = Segments::of(&state(&[(2, "public", "198.18.0.0/24")], &[2]), &there);
        assert_eq!((on(&before), on(&after)), (vec![(7, vec![1])], vec![(7, vec![2])]));
    }

    #[test]
    fn a_used_segment_without_an_address_is_named() {
        let state = state(&[(1, "front", "198.18.0.0/24")], &[1]);
        let found = Segments::of(&state, &view(&[(7, &["198.18.5.1"])]));
        assert_eq!(found.missing, [("front".to_owned(), "198.18.0.0/24".parse().unwrap())]);
    }
}
