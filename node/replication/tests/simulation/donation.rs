//! What happens to connections when a group changes hands.

use steadfast_dataplane::{Removal, State};
use steadfast_model::GroupId;

use crate::world::{World, seeds};

const G: GroupId = GroupId(1);

#[test]
fn nothing_of_a_deposed_holder_is_lost() {
    for seed in seeds(20) {
        let mut world = World::new(seed, 3);
        world.join_all();
        world.take_over(G, 0, &[0, 1, 2]);
        for port in 1..=200 {
            world.connect(G, port, 1);
        }
        world.quiesce();
        // Nothing arrives any more: some of it stays on its way, the rest in the dirty set.
        world.stall(0, 1, true);
        world.stall(0, 2, true);
        for port in 201..=260 {
            world.connect(G, port, 2);
        }
        world.run(20);
        for port in 261..=300 {
            world.connect(G, port, 3);
        }
        assert!(world.nodes[0].sum(|s| s.metrics().unacked_records) > 0, "SEED={seed}");
        let before = world.nodes[0].contents(G);
        let old = world.holders[&G];
        world.take_over(G, 1, &[1, 2]);
        world.run(5);
        // The old holder is still there, hears of it, and the streams move again.
        world.inform(G, 0, Some(old));
        world.stall(0, 1, false);
        world.stall(0, 2, false);
        world.quiesce();
        let after = world.nodes[1].contents(G);
        assert_eq!(before.len(), 300);
        for (key, value) in &before {
            assert_eq!(after.get(key), Some(value), "SEED={seed}: {key:?}");
        }
        world.assert_copies(G, &[2], seed);
        assert!(world.nodes[1].donations_ended.contains(&(0, G)), "SEED={seed}");
    }
}

#[test]
fn nothing_is_lost_when_the_streams_of_the_deposed_holder_had_broken() {
    let mut world = World::new(5, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    for port in 1..=100 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    world.cut(0, 1);
    for port in 101..=150 {
        world.connect(G, port, 2);
    }
    let old = world.holders[&G];
    world.take_over(G, 1, &[1]);
    world.inform(G, 0, Some(old));
    world.join(0, 1);
    world.quiesce();
    assert_eq!(world.nodes[1].contents(G).len(), 150);
}

#[test]
fn a_connection_that_a_deposed_holder_completes_is_donated() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    let (now, epoch) = (world.now, world.epoch(G));
    let half_open = world.nodes[0].open(now, G, 7, 2, epoch);
    world.quiesce();
    let old = world.holders[&G];
    world.take_over(G, 1, &[1]);
    world.inform(G, 0, Some(old));
    world.quiesce();
    assert!(world.nodes[1].find(G, 7).is_none());
    world.nodes[0].packet(world.now, &half_open, State::Established);
    world.quiesce();
    assert_eq!(world.nodes[1].find(G, 7).unwrap().server().0, 12);
}

#[test]
fn a_deposed_holder_changes_nothing() {
    let mut world = World::new(1, 3);
    world.join_all();
    world.take_over(G, 0, &[0, 1, 2]);
    for port in 1..=50 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    // Node 1 takes over; node 0 was paused and goes on as before: it ends connections, moves
    // others, and makes new ones.
    let old = world.holders[&G];
    world.take_over(G, 1, &[1, 2]);
    world.quiesce_without(0);
    let before = world.nodes[1].contents(G);
    let (now, epoch) = (world.now, old.1);
    for port in 1..=10 {
        world.nodes[0].remove(now, G, port, Removal::Expired);
    }
    for port in 11..=20 {
        let found = world.nodes[0].find(G, port).unwrap();
        world.nodes[0].packet(now, &found, State::Close);
    }
    for port in 60..=70 {
        world.nodes[0].connect(now, G, port, 3, epoch);
    }
    world.run(200);
    assert_eq!(world.nodes[1].contents(G), before);
    world.assert_copies(G, &[2], 1);
    let rejected: u64 = world.nodes[1].receivers.values().map(|r| r.metrics().rejected_epoch).sum();
    assert!(rejected >= 31, "{rejected}");
    // Once it knows, its new connections are donated; what it ended lives on.
    world.inform(G, 0, Some(old));
    world.quiesce();
    let after = world.nodes[1].contents(G);
    assert_eq!(after.len(), before.len() + 11);
    assert!(before.iter().all(|(key, value)| after.get(key) == Some(value)));
}

/// A claim is ratified while its snapshot is on the way: a peer that hears of the grant before the
/// holder does refuses the rest of the snapshot, and must get it all the same.
#[test]
fn a_snapshot_refused_by_a_peer_that_knew_of_the_grant_first_is_sent_again() {
    let mut refused = 0;
    for (before, between) in (0..12).flat_map(|a| (0..6).map(move |b| (a, b))) {
        let mut world = World::new(1, 2);
        world.join_all();
        world.take_over(G, 0, &[0, 1]);
        for port in 1..=50 {
            world.connect(G, port, 1);
        }
        world.run(before);
        let old = world.holders[&G];
        world.take_over(G, 0, &[1]);
        world.run(between);
        world.inform(G, 0, Some(old));
        world.quiesce();
        world.run(100);
        let place = format!("ratified after {before} ms, {between} ms apart");
        assert!(world.completeness(G, 1).is_complete(), "{place}");
        world.assert_copies(G, &[1], 1);
        refused +=
            world.nodes[1].receivers.values().map(|r| r.metrics().rejected_epoch).sum::<u64>();
    }
    assert!(refused > 0, "the race did not happen");
}

#[test]
fn survivors_donate_what_the_dead_holder_had_told_them() {
    let mut world = World::new(1, 3);
    world.join_all();
    world.take_over(G, 0, &[0, 1, 2]);
    for port in 1..=50 {
        world.connect(G, port, 1);
    }
    world.quiesce();
    // The last connections reach node 2 alone, then the holder dies.
    world.stall(0, 1, true);
    for port in 51..=90 {
        world.connect(G, port, 2);
    }
    world.run(100);
    assert_eq!((world.nodes[1].contents(G).len(), world.nodes[2].contents(G).len()), (50, 90));
    world.cut(0, 1);
    world.cut(0, 2);
    world.take_over(G, 1, &[1, 2]);
    world.quiesce();
    assert_eq!(world.nodes[1].contents(G).len(), 90);
    world.assert_copies(G, &[2], 1);
    world.run(3500);
    world.assert_copies(G, &[2], 1);
    assert!(world.nodes[1].donations_ended.contains(&(2, G)));
}

#[test]
fn no_copy_is_swept_before_the_donations_are_in() {
    let mut world = World::new(1, 3);
    world.join_all();
    world.take_over(G, 0, &[0, 1, 2]);
    world.quiesce();
    world.stall(0, 1, true);
    for port in 1..=40 {
        world.connect(G, port, 2);
    }
    world.run(100);
    world.cut(0, 1);
    world.cut(0, 2);
    // What node 2 donates is held up for a while.
    world.stall(2, 1, true);
    world.take_over(G, 1, &[1, 2]);
    world.run(2500);
    assert!(world.completeness(G, 2).is_complete());
    assert_eq!(world.nodes[2].contents(G).len(), 40);
    world.stall(2, 1, false);
    world.run(2000);
    assert_eq!(world.nodes[1].contents(G).len(), 40);
    assert_eq!(world.nodes[2].contents(G).len(), 40);
}

#[test]
fn the_new_holders_own_connection_stands_against_a_donation() {
    let mut world = World::new(1, 2);
    world.join_all();
    world.take_over(G, 0, &[0, 1]);
    world.stall(0, 1, true);
    world.connect(G, 9, 1);
    world.run(5);
    let old = world.holders[&G];
    world.take_over(G, 1, &[1]);
    // The client has come back with the same port and got another server.
    world.connect(G, 9, 3);
    world.inform(G, 0, Some(old));
    world.stall(0, 1, false);
    world.quiesce();
    assert_eq!(world.nodes[1].find(G, 9).unwrap().server().0, 13);
    world.assert_copies(G, &[0], 1);
}
