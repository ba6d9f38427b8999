//! What a copy says of itself.

use std::sync::Arc;

use steadfast_model::GroupId;
use steadfast_replication::{Completeness, DirtySet, FRESH_NS};

use crate::world::{MS, World};

const G: GroupId = GroupId(1);

#[test]
fn a_copy_is_complete_when_the_snapshot_of_every_shard_has_ended() {
    let mut world = World::new(1, 2);
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=2000 {
        world.connect(G, port, 1);
    }
    assert_eq!(world.completeness(G, 1), Completeness::Empty);
    // Three of four shards: most of the records are here, and it is not complete.
    for shard in 0..3 {
        world.stream_up(0, 1, shard);
    }
    world.run(500);
    assert!(world.nodes[1].contents(G).len() > 1000);
    assert_eq!(world.completeness(G, 1), Completeness::Stale);
    world.stream_up(0, 1, 3);
    world.run(500);
    let Completeness::Complete { since_ns, last_applied_ns } = world.completeness(G, 1) else {
        panic!("{:?}", world.completeness(G, 1));
    };
    assert!(since_ns <= last_applied_ns && last_applied_ns <= world.now);
    assert!(last_applied_ns + 60 * MS > world.now, "heartbeats keep it fresh");
}

#[test]
fn a_group_without_connections_is_complete_too() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    world.quiesce();
    assert!(world.completeness(G, 1).is_complete());
}

#[test]
fn a_copy_that_heard_nothing_for_200_ms_before_the_silence_is_stale() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    world.connect(G, 1, 1);
    world.quiesce();
    let Completeness::Complete { last_applied_ns, .. } = world.completeness(G, 1) else {
        panic!("{:?}", world.completeness(G, 1));
    };
    let (id, boot) = (world.nodes[0].id, world.nodes[0].boot);
    let copies = &world.nodes[1].copies;
    let at = |silent_since_ns| copies.completeness(G, id, boot, silent_since_ns);
    assert!(at(last_applied_ns + FRESH_NS).is_complete());
    assert_eq!(at(last_applied_ns + FRESH_NS + 1), Completeness::Stale);
    // One silent shard is enough.
    world.stream_down(0, 1, 2);
    world.run(300);
    assert_eq!(world.completeness(G, 1), Completeness::Stale);
    world.stream_up(0, 1, 2);
    world.quiesce();
    assert!(world.completeness(G, 1).is_complete());
}

#[test]
fn a_backlog_makes_a_copy_stale_although_batches_arrive() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=4000 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    assert!(world.completeness(G, 1).is_complete());
    // The peer reads nothing for a second while everything changes.
    world.stall(0, 1, true);
    for port in 1..=4000 {
        let found = world.nodes[0].find(G, port).unwrap();
        world.nodes[0].packet(world.now, &found, steadfast_dataplane::State::FinWait);
    }
    world.run(1000);
    world.stall(0, 1, false);
    world.step();
    assert_eq!(world.completeness(G, 1), Completeness::Stale);
    world.quiesce();
    assert!(world.completeness(G, 1).is_complete());
    world.assert_copies(G, &[1], 1);
}

#[test]
fn a_copy_of_another_holder_or_another_run_of_it_is_stale() {
    let mut world = World::new(1, 3);
    world.join_all();
    world.take_over(G, 0, &[0, 1, 2]);
    world.connect(G, 1, 1);
    world.quiesce();
    let copies = &world.nodes[1].copies;
    let (id, boot) = (world.nodes[0].id, world.nodes[0].boot);
    assert!(copies.completeness(G, id, boot, world.now).is_complete());
    let other_run = steadfast_model::BootId(boot.0 + 1);
    assert_eq!(copies.completeness(G, id, other_run, world.now), Completeness::Stale);
    world.take_over(G, 2, &[0, 1, 2]);
    assert_eq!(world.completeness(G, 1), Completeness::Stale);
    world.quiesce();
    assert!(world.completeness(G, 1).is_complete());
}

#[test]
fn a_copy_that_found_the_table_full_is_not_complete_until_a_new_snapshot_fits() {
    let mut world = World::new(1, 2);
    world.restart(1, 100);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=150 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    assert_eq!(world.nodes[1].contents(G).len(), 100);
    assert_eq!(world.completeness(G, 1), Completeness::Stale);
    let now = world.now;
    for port in 1..=100 {
        world.nodes[0].remove(now, G, port, steadfast_dataplane::Removal::Expired);
    }
    // It asks again, but not at once.
    world.run(12_000);
    for port in 200..=300 {
        if world.completeness(G, 1).is_complete() {
            break;
        }
        world.connect(G, port, 1);
        let now = world.now;
        world.nodes[0].remove(now, G, port, steadfast_dataplane::Removal::Expired);
        world.run(200);
    }
    world.quiesce();
    assert!(world.completeness(G, 1).is_complete());
    world.assert_copies(G, &[1], 1);
}

#[test]
fn a_copy_from_which_changes_were_forgotten_is_not_complete_before_the_next_snapshot() {
    let mut world = World::with_dirty(1, 2, || DirtySet::with_bounds(50, 50));
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=40 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    assert!(world.completeness(G, 1).is_complete());
    let changed_ns = world.now;
    for port in 1001..=4000 {
        world.connect(G, port, 2);
    }
    assert!(world.nodes[0].dirty.metrics().overflows > 0);
    // Whenever it calls itself complete as of a later time, it is.
    let mut incomplete = 0;
    for _ in 0..300 {
        world.step();
        let here = world.nodes[1].contents(G).len();
        let fresh = world.completeness(G, 1);
        if let Completeness::Complete { last_applied_ns, .. } = fresh
            && last_applied_ns > changed_ns
        {
            assert_eq!(here, 3040, "{fresh:?}");
        }
        incomplete += u32::from(!fresh.is_complete());
    }
    assert!(incomplete > 0);
    world.quiesce();
    assert!(world.completeness(G, 1).is_complete());
    world.assert_copies(G, &[1], 1);
}

#[test]
fn a_copy_that_is_further_behind_than_the_limit_is_not_complete() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    world.connect(G, 1, 1);
    world.quiesce();
    let (id, boot) = (world.nodes[0].id, world.nodes[0].boot);
    for limit_ms in [100, 1_000] {
        world.nodes[1].copies.set_lag_max(limit_ms * MS);
        world.stall(0, 1, true);
        let from = world.now;
        while world.completeness(G, 1).is_complete() {
            world.step();
            assert!(world.now < from + 5_000 * MS, "it is never behind");
        }
        let behind = world.now - from;
        let about = (limit_ms - 60) * MS..=(limit_ms + 5) * MS;
        assert!(about.contains(&behind), "{} ms of {limit_ms}", behind / MS);
        let report = world.nodes[1].copies.report(G, id, boot, world.now);
        assert_eq!((report.shards_done, report.is_full), (4, false));
        let lag_ns = report.lag_ns.unwrap();
        assert!((limit_ms * MS..(limit_ms + 5) * MS).contains(&lag_ns), "{lag_ns} ns");
        world.stall(0, 1, false);
        world.run(100);
        assert!(world.completeness(G, 1).is_complete(), "it has caught up");
    }
    let nobody = world.nodes[0].copies.report(G, id, boot, world.now);
    assert_eq!((nobody.completeness, nobody.lag_ns), (Completeness::Empty, None));
}

#[test]
fn who_left_and_returned_unnoticed_asks_for_a_snapshot() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=200 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    let begun = world.nodes[0].sum(|s| s.metrics().snapshots_begun);
    let copies = Arc::clone(&world.nodes[1].copies);
    assert_eq!(copies.set_left([G].into()), [G].into());
    assert_eq!(copies.set_left([G].into()), [].into(), "told once");
    world.run(500);
    assert_eq!(world.completeness(G, 1), Completeness::Stale, "nobody keeps it up to date");
    assert_eq!(world.nodes[0].sum(|s| s.metrics().snapshots_begun), begun);
    // The holder heard of both at once, and so of nothing.
    copies.set_left([].into());
    assert_eq!(world.completeness(G, 1), Completeness::Stale);
    world.run(500);
    assert!(world.completeness(G, 1).is_complete());
    assert_eq!(world.nodes[0].sum(|s| s.metrics().snapshots_begun), begun + 4);
}
