//! Which members keep copies of which group: the same answer on every node.
//!
//! Guarantees: it follows from the members and the document alone, so it does not change when the
//! group changes hands; a member that comes or goes changes the choice of a group by one member at
//! most; groups spread evenly over the members. Cordoned members are chosen last, for they take
//! nothing over.

use std::collections::BTreeSet;

use crate::{GroupId, Node, NodeId, document::SyncGroup};

/// The members between which the group goes to and fro: its holder, where it is one of them, and
/// those that keep copies. A number of copies makes one more of them. `None`: all members.
#[must_use]
pub fn sync_group<'a>(
    spec: &SyncGroup,
    group: GroupId,
    nodes: impl Iterator<Item = &'a Node>,
) -> Option<BTreeSet<NodeId>> {
    match spec {
        SyncGroup::All => None,
        SyncGroup::Count(count) => {
            let mut ranked: Vec<_> =
                nodes.map(|node| (node.cordoned, mix(group, node.id), node.id)).collect();
            ranked.sort_unstable();
            let most = usize::try_from(*count).unwrap_or(usize::MAX).saturating_add(1);
            Some(ranked.into_iter().take(most).map(|(_, _, id)| id).collect())
        }
        SyncGroup::Named(names) => {
            Some(nodes.filter(|node| names.contains(&node.name)).map(|node| node.id).collect())
        }
    }
}

/// SplitMix64 of both ids: each group ranks the members in an order of its own.
fn mix(group: GroupId, node: NodeId) -> u64 {
    let mut z = (u64::from(group.0) << 32 | u64::from(node.0)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn node(id: u32) -> Node {
        let at = ([198, 18, 0, 1], 1).into();
        let name = format!("lb{id}");
        Node {
            id: NodeId(id),
            name,
            api: at,
            control: at,
            replication: at,
            cordoned: false,
            held_down: false,
        }
    }

    fn chosen(spec: &SyncGroup, group: u32, nodes: &[Node]) -> BTreeSet<NodeId> {
        sync_group(spec, GroupId(group), nodes.iter()).unwrap()
    }

    #[test]
    fn all_is_all_and_names_are_who_has_them() {
        let nodes: Vec<_> = (1..=4).map(node).collect();
        assert_eq!(sync_group(&SyncGroup::All, GroupId(1), nodes.iter()), None);
        let named = SyncGroup::Named(vec!["lb2".to_owned(), "lb4".to_owned(), "lb9".to_owned()]);
        assert_eq!(chosen(&named, 1, &nodes), [NodeId(2), NodeId(4)].into());
    }

    #[test]
    fn so_many_copies_are_one_node_more_whoever_lists_them() {
        let mut nodes: Vec<_> = (1..=7).map(node).collect();
        for group in 1..=100 {
            let two = chosen(&SyncGroup::Count(2), group, &nodes);
            assert_eq!(two.len(), 3);
            nodes.reverse();
            assert_eq!(chosen(&SyncGroup::Count(2), group, &nodes), two, "group {group}");
        }
        assert_eq!(chosen(&SyncGroup::Count(31), 1, &nodes).len(), 7);
    }

    #[test]
    fn a_member_that_comes_or_goes_changes_one_place_at_most() {
        let nodes: Vec<_> = (1..=8).map(node).collect();
        let mut changed = 0;
        for group in 1..=1000 {
            let before = chosen(&SyncGroup::Count(2), group, &nodes[..7]);
            let after = chosen(&SyncGroup::Count(2), group, &nodes);
            let left = before.difference(&after).count();
            assert!(left <= 1, "group {group}: {before:?} {after:?}");
            assert_eq!(left == 1, after.contains(&NodeId(8)));
            changed += left;
        }
        // Three of eight places.
        assert!((300..450).contains(&changed), "{changed} of 1000");
    }

    #[test]
    fn groups_spread_evenly_and_cordoned_members_come_last() {
        let mut nodes: Vec<_> = (1..=6).map(node).collect();
        let mut held: BTreeMap<NodeId, u32> = BTreeMap::new();
        for group in 1..=3000 {
            for id in chosen(&SyncGroup::Count(1), group, &nodes) {
                *held.entry(id).or_default() += 1;
            }
        }
        assert!(held.values().all(|count| (900..1100).contains(count)), "{held:?}");
        nodes[2].cordoned = true;
        for group in 1..=100 {
            assert!(!chosen(&SyncGroup::Count(4), group, &nodes).contains(&NodeId(3)));
        }
        assert_eq!(chosen(&SyncGroup::Count(5), 1, &nodes).len(), 6);
    }
}
