//! Copies and the holder's table.

use std::collections::VecDeque;

use steadfast_dataplane::{Removal, State};
use steadfast_model::{Epoch, GroupId};
use steadfast_replication::{DirtySet, SHARDS};

use crate::world::{MS, Rng, World, seeds};

const G: GroupId = GroupId(1);
const H: GroupId = GroupId(2);

#[test]
fn equal_the_holders_table_after_random_changes_and_breaks() {
    for seed in seeds(30) {
        let mut world = World::new(seed, 3);
        world.join_all();
        // Two groups with different holders: traffic in both directions.
        world.take_over(G, 0, &[0, 1, 2]);
        world.take_over(H, 1, &[0, 1, 2]);
        let mut dice = Rng(seed ^ 0xd1ce);
        let mut complete = 0;
        for _ in 0..1500 {
            for _ in 0..dice.below(8) {
                world.random_change(G, 400);
                world.random_change(H, 40);
            }
            if dice.chance(5) {
                world.random_break();
            }
            world.step();
            if dice.chance(5) {
                complete += u32::from(world.assert_complete_is_true(G, 1, seed));
                complete += u32::from(world.assert_complete_is_true(G, 2, seed));
            }
        }
        assert!(complete > 0, "SEED={seed}: never complete");
        world.join_all();
        world.quiesce();
        world.assert_copies(G, &[1, 2], seed);
        world.assert_copies(H, &[0, 2], seed);
        assert!(world.nodes[0].contents(G).len() > 50, "SEED={seed}: nothing to compare");
        assert!(world.nodes[0].sum(|s| s.metrics().breaks) > 0, "SEED={seed}: nothing broke");
    }
}

/// The breaks alone must do: without a snapshot after each, what was on its way is marked again.
#[test]
fn what_a_broken_stream_lost_is_sent_again_without_a_new_snapshot() {
    for seed in seeds(20) {
        let mut world = World::new(seed, 2);
        world.join_all();
        world.take_over(G, 0, &[0, 1]);
        for port in 1..=300 {
            world.connect(G, port, 1);
        }
        world.quiesce();
        world.run(4000);
        let begun = world.nodes[0].sum(|s| s.metrics().snapshots_begun);
        for _ in 0..40 {
            for _ in 0..20 {
                world.random_change(G, 300);
            }
            world.run(2);
            world.cut(0, 1);
            world.join(0, 1);
        }
        world.quiesce();
        world.assert_copies(G, &[1], seed);
        let sender = &world.nodes[0];
        assert!(sender.sum(|s| s.metrics().remarked) > 0, "SEED={seed}: nothing was on its way");
        assert_eq!(sender.sum(|s| s.metrics().snapshots_begun), begun, "SEED={seed}");
    }
}

#[test]
fn a_joiner_gets_a_snapshot_while_connections_come_and_go() {
    for seed in seeds(10) {
        let mut world = World::new(seed, 2);
        world.take_over(G, 0, &[0, 1]);
        for port in 1..=3000 {
            world.connect(G, port, 1 + u32::from(port) % 3);
        }
        world.join(0, 1);
        for _ in 0..100 {
            for _ in 0..10 {
                world.random_change(G, 3000);
            }
            world.step();
        }
        world.quiesce();
        world.assert_copies(G, &[1], seed);
        assert!(world.completeness(G, 1).is_complete());
        assert!(world.nodes[0].sum(|s| s.metrics().walk_records) > 2000, "SEED={seed}");
    }
}

/// Bytes of a snapshot a second, in a test.
const LIMIT: u64 = 60_000;

#[test]
fn a_join_under_a_limit_completes_at_its_rate_and_delays_no_change() {
    for seed in seeds(5) {
        let mut world = World::new(seed, 2);
        world.nodes[0].budget.set_rate(LIMIT);
        world.take_over(G, 0, &[0, 1]);
        for port in 1..=3000 {
            world.connect(G, port, 1 + u32::from(port) % 3);
        }
        let begun = world.now;
        world.join(0, 1);
        let mut news = VecDeque::new();
        let mut port = 3000;
        while !world.completeness(G, 1).is_complete() {
            world.step();
            if port < 4000 {
                port += 1;
                world.connect(G, port, 1);
                news.push_back((port, world.now));
            }
            news.retain(|(port, _)| world.nodes[1].find(G, *port).is_none());
            let waited = news.front().map_or(0, |(_, since)| world.now - since);
            assert!(waited < 50 * MS, "SEED={seed}: a change waits for a snapshot");
            assert!(world.now < begun + 60_000 * MS, "SEED={seed}: no end");
        }
        let sent = world.nodes[0].sum(|s| s.metrics().walk_bytes);
        let due_ns = sent * 1_000_000_000 / LIMIT;
        let took_ns = world.now - begun;
        assert!(sent > 3000 * 16, "SEED={seed}: {sent} bytes of it");
        assert!(took_ns >= due_ns - due_ns / 5, "SEED={seed}: {took_ns} ns, {due_ns} at the rate");
        assert!(took_ns <= due_ns * 5 / 4, "SEED={seed}: {took_ns} ns, {due_ns} at the rate");
        let held_up = world.nodes[0].sum(|s| s.metrics().held_up_ns);
        assert!(held_up > took_ns, "SEED={seed}: {held_up} ns in {SHARDS} shards");
        world.quiesce();
        world.assert_copies(G, &[1], seed);
    }
}

#[test]
fn a_restarted_peer_gets_everything_again() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=500 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    world.restart(1, 4096);
    assert!(world.nodes[1].contents(G).is_empty());
    let epoch = world.epoch(G);
    world.nodes[1].copies.handle_epoch(G, epoch);
    world.join(0, 1);
    world.quiesce();
    world.assert_copies(G, &[1], 1);
    assert_eq!(world.nodes[1].contents(G).len(), 500);
}

#[test]
fn deletes_reach_the_copies_and_only_those_who_know() {
    let mut world = World::new(1, 3);
    world.join(0, 1);
    world.take_over(G, 0, &[0, 1, 2]);
    world.quiesce();
    for port in 1..=100 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    assert_eq!(world.nodes[1].contents(G).len(), 100);
    let now = world.now;
    for port in 1..=60 {
        assert!(world.nodes[0].remove(now, G, port, Removal::Expired));
    }
    world.quiesce();
    assert_eq!(world.nodes[1].contents(G).len(), 40);
    world.assert_copies(G, &[1], 1);
    let to = |peer: usize| {
        let senders = world.nodes[0].senders.iter().filter(|((to, _), _)| *to == peer);
        senders.map(|(_, s)| s.metrics().deletes).sum::<u64>()
    };
    // Node 2 was never connected, so it was never sent anything that could be deleted.
    assert_eq!((to(1), to(2)), (60, 0));
    assert_eq!(world.nodes[1].receivers.values().map(|r| r.metrics().deleted).sum::<u64>(), 60);
}

#[test]
fn a_half_open_connection_is_never_copied_and_never_deleted() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    let (now, epoch) = (world.now, world.epoch(G));
    for port in 1..=50 {
        world.nodes[0].open(now, G, port, 1, epoch);
    }
    world.quiesce();
    for port in 1..=50 {
        assert!(world.nodes[0].remove(now, G, port, Removal::Evicted));
    }
    world.quiesce();
    assert_eq!(world.nodes[0].sum(|s| s.metrics().records + s.metrics().deletes), 0);
    assert!(world.nodes[1].shared.table.is_empty());
}

#[test]
fn a_sweep_removes_what_forgotten_deletes_would_have() {
    // Room for 20 deletes per peer and shard; 400 connections end while the peer is away.
    let mut world = World::with_dirty(1, 2, || DirtySet::with_bounds(1000, 20));
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=500 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    assert_eq!(world.nodes[1].contents(G).len(), 500);
    world.cut(0, 1);
    let now = world.now;
    for port in 1..=400 {
        assert!(world.nodes[0].remove(now, G, port, Removal::Expired));
    }
    world.connect(G, 1000, 2);
    assert!(world.nodes[0].dirty.metrics().overflows > 0);
    assert!(world.nodes[0].dirty.metrics().waiting < 100, "forgotten, not kept");
    world.join(0, 1);
    world.quiesce();
    world.run(3500);
    world.assert_copies(G, &[1], 1);
    assert_eq!(world.nodes[1].contents(G).len(), 101);
    assert!(world.nodes[1].receivers.values().map(|r| r.metrics().swept).sum::<u64>() > 300);
}

#[test]
fn a_tuple_that_is_reused_at_once_never_shows_its_former_life() {
    for seed in seeds(20) {
        let mut world = World::new(seed, 2);
        world.join_all();
        world.take_over(G, 0, &[0, 1]);
        for port in 1..=20 {
            world.connect(G, port, 1);
        }
        for _ in 0..300 {
            let port = 1 + world.rng.below(20) as u16;
            let server = 1 + world.rng.below(3) as u32;
            let now = world.now;
            world.nodes[0].remove(now, G, port, Removal::Reused);
            world.connect(G, port, server);
            if world.rng.chance(30) {
                world.step();
            }
            if world.rng.chance(5) {
                world.random_break();
            }
        }
        world.join_all();
        world.quiesce();
        world.assert_copies(G, &[1], seed);
    }
}

/// Incarnations are numbered by the node that made them: after a take-over the new life of a tuple
/// may have the lower number.
#[test]
fn a_tuple_that_is_reused_after_a_take_over_is_told_apart() {
    let mut world = World::new(3, 3);
    world.join_all();
    world.take_over(G, 0, &[0, 1, 2]);
    // Node 2 hears of them from the second holder, under the second epoch.
    world.stall(0, 2, true);
    for port in 1..=200 {
        world.connect(G, port, 1);
    }
    world.run(100);
    assert_eq!((world.nodes[1].contents(G).len(), world.nodes[2].contents(G).len()), (200, 0));
    world.cut(0, 2);
    world.join(0, 2);
    world.take_over(G, 1, &[0, 1, 2]);
    world.quiesce();
    world.run(3500);
    let now = world.now;
    for port in 100..=200 {
        assert!(world.nodes[1].remove(now, G, port, Removal::Reused));
        world.connect(G, port, 2);
    }
    world.quiesce();
    world.assert_copies(G, &[0, 2], 3);
    let node = &world.nodes[2];
    assert_eq!(node.find(G, 150).unwrap().server().0, 12);
    assert_eq!(node.find(G, 50).unwrap().state(), State::Established);
}

#[test]
fn a_group_that_is_a_small_part_of_a_large_table_is_copied_whole() {
    let mut world = World::new(1, 2);
    let (now, epoch) = (world.now, Epoch::default());
    // More than one poll looks at, and nothing of it is for the peer.
    for port in 1..=3500 {
        world.nodes[0].connect(now, H, port, 1, epoch);
    }
    // Nobody follows the group yet: the walk alone can find them.
    for port in 1..=200 {
        world.nodes[0].connect(now, G, port, 1, epoch);
    }
    world.take_over(G, 0, &[0, 1]);
    world.join_all();
    world.quiesce();
    world.assert_copies(G, &[1], 1);
    assert!(world.completeness(G, 1).is_complete());
    assert!(world.nodes[1].contents(H).is_empty());
    assert_eq!(world.nodes[1].contents(G).len(), 200);
}
