//! Copies that differ from what was sent, for whatever reason, are found and mended.

use steadfast_model::GroupId;
use steadfast_replication::{DIGEST_INTERVAL_NS, DirtySet, SHARDS, wire::OLDEST_VERSION};

use crate::world::{MS, Rng, World, seeds};

const G: GroupId = GroupId(1);
const H: GroupId = GroupId(2);
const INTERVAL_MS: u64 = DIGEST_INTERVAL_NS / MS;

/// The first node holds a group with some connections, which the second has copies of.
fn two(seed: u64) -> World {
    let mut world = World::new(seed, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=600 {
        world.connect(G, port, 1 + u32::from(port) % 3);
    }
    world.quiesce();
    // Sweeps are over then.
    world.run(4000);
    world
}

#[test]
fn equal_copies_are_found_to_be_equal_while_connections_come_and_go() {
    for seed in seeds(5) {
        let mut world = World::new(seed, 3);
        world.join_all();
        world.take_over(G, 0, &[0, 1, 2]);
        world.take_over(H, 1, &[0, 1, 2]);
        let mut dice = Rng(seed ^ 0xd16e57);
        let rounds = 6;
        for _ in 0..rounds * INTERVAL_MS {
            if dice.chance(60) {
                world.random_change(G, 3000);
                world.random_change(H, 300);
            }
            if dice.below(6000) == 0 {
                world.random_break();
                world.join_all();
            }
            world.step();
        }
        for (here, from) in [(1, 0), (2, 0), (0, 1), (2, 1)] {
            let received = world.nodes[here].received(from);
            assert_eq!(received.digests_differed, 0, "SEED={seed}: {received:?}");
            let least = u64::from(SHARDS) * (rounds - 4);
            assert!(received.digests >= least, "SEED={seed}: {received:?}");
        }
        assert!(world.nodes[0].contents(G).len() > 500, "SEED={seed}: nothing to compare");
    }
}

/// A table that takes many steps to walk, so that connections come and go under both walks.
#[test]
fn a_large_table_that_changes_under_the_walk_is_equal() {
    let mut world = World::of_size(seeds(1)[0], 2, 50_000, DirtySet::new);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    (1..=30_000).for_each(|port| world.connect(G, port, 1));
    world.quiesce();
    for _ in 0..3 * INTERVAL_MS {
        world.random_change(G, 40_000);
        world.step();
    }
    let received = world.nodes[1].received(0);
    assert!(received.digests >= u64::from(SHARDS), "{received:?}");
    assert_eq!(received.digests_differed, 0, "{received:?}");
}

/// What earlier holders have left, before the sweep, is not of the copy.
#[test]
fn what_is_not_of_the_copy_is_not_compared() {
    let mut world = World::new(5, 3);
    world.join(1, 2);
    world.take_over(G, 2, &[1, 2]);
    (1..=50).for_each(|port| world.connect(G, port, 1));
    world.join(0, 1);
    world.run(INTERVAL_MS - 1000);
    // The second node hears of it by the stream, so it donates nothing.
    world.take_over(G, 0, &[0]);
    (101..=150).for_each(|port| world.connect(G, port, 1));
    world.run(2000);
    assert_eq!(world.nodes[1].contents(G).len(), 100, "the sweep comes later");
    let received = world.nodes[1].received(0);
    assert!(received.digests >= u64::from(SHARDS), "{received:?}");
    assert_eq!(received.digests_differed, 0, "{received:?}");
}

#[test]
fn what_a_copy_has_lost_comes_back() {
    let mut world = two(1);
    assert!(world.nodes[1].lose(G, 7) && world.nodes[1].lose(G, 300));
    world.run(3 * INTERVAL_MS);
    world.assert_copies(G, &[1], 1);
    let received = world.nodes[1].received(0);
    assert!((1..=2).contains(&received.digests_refused), "{received:?}");
    assert!(world.completeness(G, 1).is_complete());
}

#[test]
fn what_the_holder_has_lost_goes_from_the_copy() {
    let mut world = two(2);
    assert!(world.nodes[0].lose(G, 7));
    world.run(3 * INTERVAL_MS);
    assert!(world.nodes[1].find(G, 7).is_none());
    world.assert_copies(G, &[1], 2);
    assert_eq!(world.nodes[1].received(0).digests_refused, 1);
}

#[test]
fn a_copy_that_differs_is_not_complete_until_it_is_mended() {
    let mut world = two(3);
    assert!(world.nodes[1].lose(G, 7));
    let (mut was_found, mut was_stale) = (false, false);
    for _ in 0..3 * INTERVAL_MS {
        world.step();
        was_found |= world.nodes[1].received(0).digests_refused == 1;
        was_stale |= !world.completeness(G, 1).is_complete();
        assert!(was_found || !was_stale);
    }
    assert!(was_found && was_stale && world.completeness(G, 1).is_complete());
}

#[test]
fn a_peer_of_the_last_version_gets_no_digests_and_works() {
    let mut world = World::new(4, 2);
    world.version = OLDEST_VERSION;
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    (1..=600).for_each(|port| world.connect(G, port, 1));
    world.quiesce();
    world.run(2 * INTERVAL_MS);
    world.assert_copies(G, &[1], 4);
    assert_eq!(world.nodes[0].sum(|sender| sender.metrics().digests), 0);
    assert!(world.completeness(G, 1).is_complete());
}

/// A peer that is asked about while it is half-open was not sent, and has no part in a digest.
#[test]
fn what_is_half_open_was_not_sent() {
    let mut world = two(6);
    let node = &mut world.nodes[0];
    let now = world.now;
    assert!(node.remove(now, G, 7, steadfast_dataplane::Removal::Reused));
    let epoch = world.holders[&G].1;
    let opened = world.nodes[0].open(now, G, 7, 1, epoch);
    world.run(100);
    assert!(world.nodes[1].find(G, 7).is_none(), "the end of its former life was told");
    assert_eq!(opened.sent_to(), 0);
}
