//! Plans that spread groups evenly again.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_model::{GroupId, NodeId};

use crate::common::*;
use steadfast_ownership::*;

/// SplitMix64, to draw clusters.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }
}

/// Any cluster; `everywhere`: each group can go to each node that takes groups.
fn cluster(random: &mut Seeded, everywhere: bool) -> RebalanceInput {
    let count = 1 + random.below(6);
    let why = [Exclusion::Witness, Exclusion::Cordoned, Exclusion::Silent, Exclusion::Leaving];
    let nodes: BTreeMap<NodeId, Option<Exclusion>> = (1..=count as u32)
        .map(|n| (NodeId(n), (random.below(5) == 0).then(|| why[random.below(4)])))
        .collect();
    let ids: Vec<NodeId> = nodes.keys().copied().collect();
    let groups = (0..random.below(120) as u32).map(|g| {
        // Lower nodes hold more.
        let holder = ids[random.below(ids.len()).min(random.below(ids.len()))];
        let mut takers: Vec<_> = ids
            .iter()
            .copied()
            .filter(|n| *n != holder && (everywhere || random.below(3) > 0))
            .collect();
        let turn = random.below(takers.len().max(1));
        takers.rotate_left(turn);
        let busy = !everywhere && random.below(10) == 0;
        Placed { group: GroupId(g), holder, busy, takers }
    });
    let groups = groups.collect();
    RebalanceInput { nodes, groups }
}

fn held(input: &RebalanceInput) -> BTreeMap<NodeId, usize> {
    let mut held: BTreeMap<NodeId, usize> = input.nodes.keys().map(|node| (*node, 0)).collect();
    for placed in &input.groups {
        *held.get_mut(&placed.holder).unwrap() += 1;
    }
    held
}

fn eligible(input: &RebalanceInput) -> Vec<NodeId> {
    input.nodes.iter().filter(|(_, why)| why.is_none()).map(|(node, _)| *node).collect()
}

/// The fewest moves after which loads differ by one: all groups of excluded nodes, and what the
/// others have above their share, where those that have most keep the larger shares.
fn fewest(input: &RebalanceInput) -> usize {
    let (held, eligible) = (held(input), eligible(input));
    let excluded: usize = input.groups.len() - eligible.iter().map(|n| held[n]).sum::<usize>();
    let mut loads: Vec<usize> = eligible.iter().map(|node| held[node]).collect();
    loads.sort_unstable_by(|a, b| b.cmp(a));
    let (share, larger) = (input.groups.len() / loads.len(), input.groups.len() % loads.len());
    let above = loads
        .iter()
        .enumerate()
        .map(|(at, load)| load.saturating_sub(share + usize::from(at < larger)));
    excluded + above.sum::<usize>()
}

fn check(seed: u64) {
    println!("STEADFAST_SEED={seed} replays this one");
    let mut random = Seeded(seed);
    let everywhere = random.below(2) == 0;
    let input = cluster(&mut random, everywhere);
    let eligible = eligible(&input);
    let whole = plan(&input, usize::MAX);

    // Every move is one that can be made when its turn comes.
    let mut loads = held(&input);
    let mut moved = BTreeSet::new();
    for planned in &whole.moves {
        let placed = input.groups.iter().find(|placed| placed.group == planned.group).unwrap();
        assert!(moved.insert(planned.group), "{planned:?} moves twice");
        assert!(!placed.busy && placed.holder == planned.from, "{planned:?}");
        assert!(placed.takers.contains(&planned.to), "{planned:?}");
        assert!(eligible.contains(&planned.to), "{planned:?}");
        match planned.why {
            Why::Excluded(why) => assert_eq!(input.nodes[&planned.from], Some(why)),
            Why::Uneven { from_holds, to_holds } => {
                assert_eq!((from_holds, to_holds), (loads[&planned.from], loads[&planned.to]));
                assert!(from_holds >= to_holds + 2, "{planned:?} evens nothing out");
            }
        }
        *loads.get_mut(&planned.from).unwrap() -= 1;
        *loads.get_mut(&planned.to).unwrap() += 1;
    }
    let after: BTreeMap<_, _> =
        whole.loads.iter().map(|(node, (_, after))| (*node, *after)).collect();
    assert_eq!(after, loads);

    if everywhere && !eligible.is_empty() {
        let left: Vec<usize> = eligible.iter().map(|node| loads[node]).collect();
        assert!(left.iter().max().unwrap() - left.iter().min().unwrap() <= 1, "{left:?}");
        assert_eq!(whole.moves.len(), fewest(&input), "{input:?}");
        assert_eq!((whole.stuck, whole.stranded), (None, 0));
    } else if whole.stuck.is_none() {
        let left: Vec<usize> = eligible.iter().map(|node| loads[node]).collect();
        assert!(left.iter().max().unwrap_or(&0) - left.iter().min().unwrap_or(&0) <= 1);
    }

    // The same whatever the order of the input, and a bounded one is its beginning.
    let mut other = input.clone();
    other.groups.reverse();
    assert_eq!(whole, plan(&other, usize::MAX));
    let bound = random.below(10);
    let part = plan(&input, bound);
    assert_eq!(part.moves[..], whole.moves[..bound.min(whole.moves.len())]);
    assert_eq!(part.moves.len() + part.more, whole.moves.len());
}

#[test]
fn plans_are_even_minimal_and_repeatable() {
    if let Ok(seed) = std::env::var("STEADFAST_SEED") {
        return check(seed.parse().unwrap());
    }
    (0..2_000).for_each(check);
}

#[test]
fn thousands_of_groups_are_planned_in_runs() {
    for (groups, nodes) in [(1_000, 3), (3_000, 5)] {
        let all: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        let mut input = RebalanceInput {
            nodes: all.iter().map(|node| (*node, None)).collect(),
            groups: (0..groups)
                .map(|g| Placed {
                    group: GroupId(g),
                    holder: all[0],
                    busy: false,
                    takers: all[1..].to_vec(),
                })
                .collect(),
        };
        let mut runs = 0;
        loop {
            let plan = plan(&input, REBALANCE_MOVES_MAX);
            assert!(plan.moves.len() <= REBALANCE_MOVES_MAX);
            for planned in &plan.moves {
                let placed = input.groups.iter_mut().find(|p| p.group == planned.group).unwrap();
                placed.holder = planned.to;
                placed.takers = all.iter().copied().filter(|n| *n != planned.to).collect();
            }
            runs += 1;
            if plan.more == 0 {
                break;
            }
        }
        let held = held(&input);
        let (least, most) = (held.values().min().unwrap(), held.values().max().unwrap());
        assert!(most - least <= 1, "{held:?}");
        let moves = groups as usize - groups.div_ceil(nodes) as usize;
        assert_eq!(runs, moves.div_ceil(REBALANCE_MOVES_MAX), "no group moved twice");
    }
}

/// A cluster of three where node 1 holds six groups.
fn lopsided() -> Net {
    let mut net = Net::new(3, Settings::default());
    net.committed.groups = (1..=6).map(|g| group(GroupId(g), &[1, 2, 3])).collect();
    for n in [1, 2, 3] {
        net.boot(NodeId(n), 1);
    }
    net.run(300 * MS);
    for g in 1..=6 {
        net.grant(GroupId(g), 1);
    }
    net.lead(1);
    net.run(500 * MS);
    net
}

#[test]
fn the_plan_of_a_running_cluster_can_be_carried_out() {
    let mut net = lopsided();
    let now = net.now;
    let plan = plan(&net.core(1).rebalance_input(now), REBALANCE_MOVES_MAX);
    assert_eq!(plan.moves.len(), 4, "{plan:?}");
    for planned in plan.moves {
        let now = net.now;
        let went = net.core(1).handle_move(now, planned.group, Some(planned.to));
        assert_eq!(went, Ok(planned.to));
        net.run(200 * MS);
        assert_eq!(net.holders(planned.group), vec![planned.to]);
    }
    let now = net.now;
    let again = steadfast_ownership::plan(&net.core(1).rebalance_input(now), REBALANCE_MOVES_MAX);
    assert!(again.moves.is_empty(), "{again:?}");
}

#[test]
fn nothing_is_planned_for_who_cannot_take_it() {
    let mut net = lopsided();
    net.committed.members[1].cordoned = true;
    net.committed.applied_index += 1;
    net.apply_everywhere();
    net.complete.retain(|(at, of)| (*at, *of) != (NodeId(3), NodeId(1)));
    net.run(500 * MS);
    let now = net.now;
    let input = net.core(1).rebalance_input(now);
    assert_eq!(input.nodes[&NodeId(2)], Some(Exclusion::Cordoned));
    let plan = plan(&input, REBALANCE_MOVES_MAX);
    assert!(plan.moves.is_empty(), "{plan:?}");
    assert_eq!(plan.stuck, Some((NodeId(1), NodeId(3))), "its copy is not complete");
    net.kill(3);
    net.run(200 * MS);
    let now = net.now;
    assert_eq!(net.core(1).rebalance_input(now).nodes[&NodeId(3)], Some(Exclusion::Silent));
}
