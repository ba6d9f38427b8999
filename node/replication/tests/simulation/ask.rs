//! Asking peers for connections.

use std::collections::BTreeSet;

use steadfast_model::{Epoch, GroupId};
use steadfast_replication::{
    Key,
    adapter::key_of,
    answer, take_answer,
    wire::{Ask, BATCH_BYTES_MAX},
};

use crate::{
    node::{Node, key},
    world::World,
};

const G: GroupId = GroupId(1);
const H: GroupId = GroupId(2);

fn keys(group: GroupId, ports: impl IntoIterator<Item = u16>) -> Vec<Key> {
    ports.into_iter().map(|port| key_of(&key(group, port))).collect()
}

/// What a peer says, by the epoch under which it knew the group.
fn says(peer: &Node, asker: &Node, ask: &Ask, epoch: Epoch) -> Vec<u8> {
    let slot = peer.dirty.slot(asker.id).unwrap();
    answer(&ask.encode(), &*peer.shared, slot, |group| (group == ask.group).then_some(epoch))
        .unwrap()
}

/// The first node held both groups and is dead; the second knows their connections, the third nothing.
fn survivors() -> World {
    let mut world = World::new(1, 3);
    world.join(0, 1);
    world.take_over(G, 0, &[0, 1, 2]);
    world.take_over(H, 0, &[0, 1, 2]);
    for port in 1..=40 {
        world.connect(G, port, 1 + u32::from(port) % 3);
        world.connect(H, port, 1);
    }
    world.quiesce();
    world.cut(0, 1);
    world
}

#[test]
fn a_new_holder_gets_what_a_peer_knows_and_hears_what_it_does_not() {
    let mut world = survivors();
    let before = world.epoch(G);
    world.take_over(G, 2, &[1, 2]);
    let ask = Ask { group: G, keys: keys(G, (31..=60).rev()) };
    let (asker, peer) = (&world.nodes[2], &world.nodes[1]);
    let said = says(peer, asker, &ask, before);
    assert!(said.len() < BATCH_BYTES_MAX);
    let known = take_answer(&said, &ask, &*asker.shared, &asker.dirty, world.now).unwrap();
    assert_eq!(known, keys(G, 31..=40).into_iter().collect());
    let expected = peer.contents(G).into_iter().filter(|(key, _)| key.client_port > 30);
    assert_eq!(asker.contents(G), expected.collect());
    // As donations: what the holder itself opens meanwhile is worth more.
    assert!(asker.find(G, 31).is_some_and(
        |found| found.origin() < steadfast_replication::adapter::origin_of(world.epoch(G))
    ));
}

#[test]
fn nothing_is_answered_or_taken_but_what_was_asked_for() {
    let mut world = survivors();
    let before = world.epoch(G);
    world.take_over(G, 2, &[1, 2]);
    let (asker, peer) = (&world.nodes[2], &world.nodes[1]);
    // Connections of another group, under the name of this one.
    let ask = Ask { group: G, keys: keys(H, 1..=5) };
    let said = says(peer, asker, &ask, before);
    let take = |said: &[u8], ask: &Ask| {
        take_answer(said, ask, &*asker.shared, &asker.dirty, world.now).unwrap()
    };
    assert_eq!(take(&said, &ask), BTreeSet::new());
    // An answer to another question.
    let said = says(peer, asker, &Ask { group: G, keys: keys(G, 1..=9) }, before);
    assert_eq!(take(&said, &Ask { group: G, keys: keys(G, 10..=20) }), BTreeSet::new());
    assert_eq!(take(&said, &Ask { group: H, keys: keys(G, 1..=9) }), BTreeSet::new());
    assert!(asker.contents(G).is_empty());
    // A peer that knows nothing of the group has an answer all the same.
    let nothing =
        answer(&ask.encode(), &*peer.shared, peer.dirty.slot(asker.id).unwrap(), |_| None);
    assert_eq!(take(&nothing.unwrap(), &ask), BTreeSet::new());
    let slot = peer.dirty.slot(asker.id).unwrap();
    for garbage in [&[][..], &[1, 2, 3], &[5, 1, 65]] {
        answer(garbage, &*peer.shared, slot, |_| Some(before)).unwrap_err();
        take_answer(garbage, &ask, &*asker.shared, &asker.dirty, world.now).unwrap_err();
    }
}
