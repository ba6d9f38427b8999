//! Thousands of groups spread evenly over the nodes, from the start and after deaths.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_model::{GroupId, NodeId};

use crate::common::*;
use steadfast_ownership::*;

type Held = (GroupId, Option<NodeId>);
type Holders = Vec<Held>;

/// A cluster of `nodes` with `groups` that nobody holds yet; node 1 leads.
fn net_of(groups: u32, nodes: u32) -> Net {
    let mut net = Net::new(nodes, Settings::default());
    net.committed.groups = (1..=groups).map(|g| group(GroupId(g), &[1])).collect();
    net.ranked = true;
    net.rank();
    for n in 1..=nodes {
        net.boot(NodeId(n), 1);
    }
    net.lead(1);
    net
}

/// How many groups each live node announces; every group has one announcer.
fn loads(net: &Net) -> BTreeMap<NodeId, usize> {
    let mut loads = BTreeMap::new();
    for group in &net.committed.groups {
        let holders = net.holders(group.id);
        assert_eq!(holders.len(), 1, "{:?} is announced by {holders:?}", group.id);
        *loads.entry(holders[0]).or_default() += 1;
    }
    loads
}

fn spread_and_fail_over(groups: u32, nodes: u32) {
    let mut net = net_of(groups, nodes);
    net.run(500 * MS);
    let n = nodes as usize;
    let first = loads(&net);
    println!("{groups} groups on {nodes} nodes: {first:?}");
    assert_eq!(first.len(), n, "every node holds some");
    let (least, most) = (groups as usize / n, (groups as usize).div_ceil(n));
    assert!(first.values().all(|load| (least..=most).contains(load)), "{first:?}");

    // The last one, so that the leader lives.
    let dead = NodeId(nodes);
    net.kill(nodes);
    net.run(400 * MS);
    let second = loads(&net);
    println!("after the death of node {nodes}: {second:?}");
    let share = first[&dead].div_ceil(n - 1);
    for (node, load) in &second {
        let got = load - first[node];
        assert!(got <= share, "{node} got {got} of {}, its share is {share}", first[&dead]);
    }
}

#[test]
fn groups_of_a_dead_node_spread_over_the_survivors() {
    spread_and_fail_over(120, 3);
    spread_and_fail_over(100, 5);
}

/// Minutes with thousands of groups, for every instant of the network runs every node.
#[test]
#[ignore = "minutes, in `make test-full`; the ranks alone are in `ranks_deal_out_the_groups_of_the_dead`"]
fn thousands_of_groups_spread_over_the_survivors() {
    for (groups, nodes) in [(1_000, 3), (1_000, 5), (3_000, 3), (3_000, 5)] {
        spread_and_fail_over(groups, nodes);
    }
}

/// The holders after everybody in `dead` has died: each group goes to its first live candidate.
fn fail_over(holders: &Holders, nodes: &[(NodeId, bool)], dead: &BTreeSet<NodeId>) -> Holders {
    let ranks = rank(holders, nodes);
    let live = |group: &GroupId| ranks[group].iter().copied().find(|node| !dead.contains(node));
    holders.iter().map(|(group, _)| (*group, live(group))).collect()
}

fn load(holders: &Holders, node: NodeId) -> usize {
    holders.iter().filter(|(_, holder)| *holder == Some(node)).count()
}

/// What every survivor gets of a dead node's groups is at most its share, in every history.
fn check_deaths(mut holders: Holders, nodes: &[(NodeId, bool)], deaths: usize) {
    let mut dead = BTreeSet::new();
    let takers: Vec<_> = nodes.iter().filter(|(_, takes)| *takes).map(|(node, _)| *node).collect();
    for victim in takers.iter().copied().take(deaths.min(takers.len() - 1)) {
        dead.insert(victim);
        let after = fail_over(&holders, nodes, &dead);
        let survivors: Vec<_> = takers.iter().filter(|node| !dead.contains(node)).collect();
        // The second death is dealt out apart for each of those that share with a dead one.
        let slack = if dead.len() == 1 { 0 } else { takers.len() };
        let share = load(&holders, victim).div_ceil(survivors.len()) + slack;
        for node in survivors {
            let went =
                |(before, now): &(&Held, &Held)| before.1 == Some(victim) && now.1 == Some(*node);
            let got = holders.iter().zip(&after).filter(went).count();
            assert!(got <= share, "{node} got {got} of {}, not {share}", load(&holders, victim));
        }
        holders = after;
    }
}

#[test]
fn ranks_deal_out_the_groups_of_the_dead() {
    for (groups, nodes) in [(1_000, 3), (1_000, 5), (3_000, 3), (3_000, 5), (3_000, 32)] {
        let nodes: Vec<_> = (1..=nodes).map(|n| (NodeId(n), true)).collect();
        let held = |g: u32| Some(nodes[g as usize % nodes.len()].0);
        let holders: Holders = (1..=groups).map(|g| (GroupId(g), held(g))).collect();
        check_deaths(holders, &nodes, 2);
    }
}

#[test]
fn who_joined_later_stands_by_too() {
    // Two nodes hold all, two come: one death must not go to the older one alone.
    let nodes: Vec<_> = (1..=4).map(|n| (NodeId(n), true)).collect();
    let held = |g: u32| Some(NodeId(1 + g % 2));
    let holders: Holders = (1..=1_000).map(|g| (GroupId(g), held(g))).collect();
    check_deaths(holders, &nodes, 2);
}

#[test]
fn who_takes_nothing_stands_by_last() {
    let nodes = [(NodeId(1), true), (NodeId(2), false), (NodeId(3), true), (NodeId(4), false)];
    let holders: Holders = (1..=300).map(|g| (GroupId(g), Some(NodeId(1)))).collect();
    for order in rank(&holders, &nodes).values() {
        assert_eq!(order[..2], [NodeId(1), NodeId(3)]);
        assert_eq!(order.len(), 4);
    }
    check_deaths(holders, &nodes, 1);
}

/// SplitMix64, to draw histories.
fn draw(seed: &mut u64, bound: u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % bound
}

fn check_random(seed: u64) {
    println!("STEADFAST_SEED={seed} replays this one");
    let mut random = seed;
    let count = 2 + draw(&mut random, 7);
    let mut nodes: Vec<_> =
        (0..count).map(|n| (NodeId(n as u32 * 3 + 1), draw(&mut random, 5) > 0)).collect();
    nodes[0].1 = true;
    nodes[1].1 = true;
    let groups = 1 + draw(&mut random, 400);
    let mut holder = || {
        let at = draw(&mut random, count + 1) as usize;
        nodes.get(at).map(|(node, _)| *node)
    };
    let holders: Holders = (0..groups).map(|g| (GroupId(g as u32 * 7), holder())).collect();
    let ranks = rank(&holders, &nodes);
    for (group, held) in &holders {
        let order = &ranks[group];
        assert_eq!(order.iter().copied().collect::<BTreeSet<_>>().len(), nodes.len());
        assert!(held.is_none_or(|held| order[0] == held));
    }
    let mut shuffled = holders.clone();
    shuffled.reverse();
    assert_eq!(ranks, rank(&shuffled, &nodes), "whatever the order of the input");
    check_deaths(holders, &nodes, 1);
}

#[test]
fn ranks_are_even_in_random_histories() {
    if let Ok(seed) = std::env::var("STEADFAST_SEED") {
        return check_random(seed.parse().unwrap());
    }
    (0..300).for_each(check_random);
}
