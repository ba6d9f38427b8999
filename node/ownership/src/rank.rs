//! In which order the nodes stand by for each group: who claims first when its holder dies.
//!
//! Guarantees: equal inputs give equal orders on every node; of the groups of one holder no other
//! node stands next for more than its even share, rounded up, and of those that it shares with the
//! next one none for more than its share of these. So the groups of a dead node spread over the
//! survivors, and those of a second one too. Nodes that take nothing now come last.
//!
//! Does not: count what the survivors hold already; `rebalance` evens that out.

use std::collections::BTreeMap;

use steadfast_model::{GroupId, NodeId};

/// Places behind the holder that are dealt out evenly; further ones follow the hash alone.
const PLACES_DEALT: usize = 2;

/// The order of candidates of every group, its committed holder first.
///
/// `groups` are all groups with the holder of the committed grant; `nodes` are all members, with
/// whether each takes groups now (not cordoned, not held down, no witness).
pub fn rank(
    groups: &[(GroupId, Option<NodeId>)],
    nodes: &[(NodeId, bool)],
) -> BTreeMap<GroupId, Vec<NodeId>> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    let takes: BTreeMap<NodeId, bool> = nodes.iter().copied().collect();
    let mut orders: Vec<(Vec<NodeId>, usize)> = Vec::with_capacity(groups.len());
    for (id, holder) in &groups {
        let holder = holder.filter(|holder| takes.contains_key(holder));
        let mut rest: Vec<NodeId> =
            takes.keys().copied().filter(|node| Some(*node) != holder).collect();
        rest.sort_by_key(|node| (!takes[node], std::cmp::Reverse(affinity(*id, *node)), *node));
        let settled = usize::from(holder.is_some());
        orders.push((holder.into_iter().chain(rest).collect(), settled));
    }
    for _ in 0..PLACES_DEALT {
        deal(&mut orders, &takes);
    }
    groups.iter().map(|(id, _)| *id).zip(orders.into_iter().map(|(order, _)| order)).collect()
}

/// Settles the next place of every order: among those whose places so far are the same, each node
/// that takes groups gets at most its even share.
fn deal(orders: &mut [(Vec<NodeId>, usize)], takes: &BTreeMap<NodeId, bool>) {
    let mut sizes: BTreeMap<Vec<NodeId>, usize> = BTreeMap::new();
    for (order, settled) in &*orders {
        *sizes.entry(order[..*settled].to_vec()).or_default() += 1;
    }
    let mut dealt: BTreeMap<(Vec<NodeId>, NodeId), usize> = BTreeMap::new();
    for (order, settled) in orders {
        let before = order[..*settled].to_vec();
        let open = order[*settled..].iter().filter(|node| takes[node]).count();
        let Some(size) = sizes.get(&before).copied().filter(|_| open > 0) else { continue };
        let share = size.div_ceil(open);
        let room = |node: &NodeId| dealt.get(&(before.clone(), *node)).is_none_or(|n| *n < share);
        let Some(at) = order[*settled..].iter().take(open).position(room) else { continue };
        let next = order.remove(*settled + at);
        order.insert(*settled, next);
        *settled += 1;
        *dealt.entry((before, next)).or_default() += 1;
    }
}

/// How much a group likes a node: the same on every node and in every release, and for each pair
/// independent of the other nodes, so that one that comes or goes changes little.
fn affinity(group: GroupId, node: NodeId) -> u64 {
    // The finaliser of SplitMix64.
    let mut x = (u64::from(group.0) << 32 | u64::from(node.0)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
