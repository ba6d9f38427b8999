//! Marks, deletes and bounds.

use steadfast_model::{GroupId, NodeId};

use super::*;
use crate::PROTOCOL_TCP;

const G: GroupId = GroupId(1);

fn key(port: u16) -> Key {
    Key {
        protocol: PROTOCOL_TCP,
        client: [198, 18, 0, 1].into(),
        client_port: port,
        vip: [198, 18, 0, 100].into(),
        vip_port: 80,
    }
}

/// Keys of one shard.
fn keys(shard: u8, count: usize) -> Vec<Key> {
    (0..=u16::MAX).map(key).filter(|key| shard_of(key) == shard).take(count).collect()
}

fn followed(peers: u32) -> (DirtySet, Vec<Slot>) {
    let dirty = DirtySet::with_bounds(100, 10);
    let slots: Vec<Slot> = (1..=peers).map(|n| dirty.slot(NodeId(n)).unwrap()).collect();
    for slot in &slots {
        (0..SHARDS).for_each(|shard| dirty.set_feed(shard, *slot, G, Feed::Deltas));
    }
    (dirty, slots)
}

fn take(dirty: &DirtySet, shard: u8, slot: Slot) -> Vec<(Key, Option<u64>)> {
    let mut out = Vec::new();
    dirty.take(shard, slot, usize::MAX, &mut out);
    out.into_iter().map(|(key, pending)| (key, pending.deleted)).collect()
}

#[test]
fn keys_spread_over_the_shards() {
    let mut counts = [0; SHARDS as usize];
    (0..10_000).for_each(|port| counts[usize::from(shard_of(&key(port)))] += 1);
    assert!(counts.iter().all(|n| (2300..2700).contains(n)), "{counts:?}");
}

/// The division of keys is part of the protocol: a change of it needs a new version.
#[test]
fn the_shard_of_a_key_is_fixed() {
    let v6 = Key { client: [0x20; 16].into(), vip: [0xfe; 16].into(), ..key(7) };
    let shards: Vec<u8> =
        [key(1), key(2), key(3), key(4), key(5), v6].iter().map(shard_of).collect();
    assert_eq!(shards, SHARDS_OF_VERSION_1);
}

const SHARDS_OF_VERSION_1: [u8; 6] = [3, 2, 2, 2, 2, 1];

#[test]
fn a_key_waits_once_per_peer_however_often_it_changes() {
    let (dirty, slots) = followed(2);
    let keys = keys(1, 3);
    for _ in 0..1000 {
        keys.iter().for_each(|key| dirty.mark(key, G));
    }
    for slot in slots {
        let taken: Vec<Key> = take(&dirty, 1, slot).into_iter().map(|(key, _)| key).collect();
        assert_eq!(taken, keys, "oldest first");
        assert!(take(&dirty, 1, slot).is_empty());
    }
}

#[test]
fn only_peers_that_follow_the_group_are_told() {
    let (dirty, slots) = followed(2);
    let k = keys(0, 1)[0];
    dirty.mark(&k, GroupId(2));
    dirty.set_feed(0, slots[1], G, Feed::None);
    dirty.mark(&k, G);
    assert_eq!(take(&dirty, 0, slots[0]), [(k, None)]);
    assert_eq!(take(&dirty, 0, slots[1]), []);
}

#[test]
fn a_delete_goes_to_those_who_were_sent_the_connection_and_never_as_a_donation() {
    let (dirty, slots) = followed(3);
    let k = keys(0, 1)[0];
    dirty.set_feed(0, slots[2], G, Feed::Donations);
    dirty.mark_deleted(&k, G, 7, slots[1].bit() | slots[2].bit());
    assert_eq!(take(&dirty, 0, slots[0]), []);
    assert_eq!(take(&dirty, 0, slots[1]), [(k, Some(7))]);
    assert_eq!(take(&dirty, 0, slots[2]), []);
    dirty.mark(&k, G);
    assert_eq!(take(&dirty, 0, slots[2]), [(k, None)], "what lives is donated");
}

#[test]
fn a_key_that_is_gone_and_back_keeps_both() {
    let (dirty, slots) = followed(1);
    let k = keys(0, 1)[0];
    dirty.mark_deleted(&k, G, 7, slots[0].bit());
    dirty.mark(&k, G);
    assert_eq!(take(&dirty, 0, slots[0]), [(k, Some(7))]);
    dirty.mark(&k, G);
    dirty.mark_deleted(&k, G, 7, slots[0].bit());
    dirty.mark_deleted(&k, G, 9, slots[0].bit());
    assert_eq!(take(&dirty, 0, slots[0]), [(k, Some(9))]);
}

#[test]
fn beyond_a_bound_the_lane_forgets_and_says_so_once() {
    let (dirty, slots) = followed(2);
    // 101 changes where 100 fit, 11 deletes where 10 fit.
    for (shard, deletes, count) in [(0, false, 101), (1, true, 11)] {
        let keys = keys(shard, count + 1);
        for key in &keys[..count - 1] {
            if deletes {
                dirty.mark_deleted(key, G, 1, slots[0].bit());
            } else {
                dirty.mark(key, G);
            }
        }
        assert_eq!(dirty.waiting(shard, slots[0]), count - 1);
        assert!(!dirty.take_overflow(shard, slots[0]));
        if deletes {
            dirty.mark_deleted(&keys[count - 1], G, 1, slots[0].bit());
        } else {
            dirty.mark(&keys[count - 1], G);
        }
        dirty.mark(&keys[count], G);
        assert_eq!(dirty.waiting(shard, slots[0]), 0, "nothing is kept until the snapshot");
        assert!(dirty.take_overflow(shard, slots[0]));
        assert!(!dirty.take_overflow(shard, slots[0]));
        dirty.mark(&keys[count], G);
        assert_eq!(dirty.waiting(shard, slots[0]), 1, "from here on it collects again");
    }
    assert_eq!(dirty.metrics().overflows, 3, "both peers in shard 0, one in shard 1");
}

#[test]
fn the_first_key_that_waits_wakes_its_shard() {
    let (dirty, slots) = followed(2);
    let woken = std::sync::Arc::new(Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&woken);
    dirty.set_waker(move |shard| seen.lock().unwrap().push(shard));
    let [two, three] = [keys(2, 3), keys(3, 1)];
    two.iter().for_each(|key| dirty.mark(key, G));
    dirty.mark(&three[0], G);
    dirty.mark(&three[0], GroupId(9));
    assert_eq!(*woken.lock().unwrap(), [2, 3]);
    take(&dirty, 2, slots[1]);
    dirty.mark(&two[0], G);
    assert_eq!(*woken.lock().unwrap(), [2, 3, 2], "one of the two peers has taken all");
}

#[test]
fn a_peers_place_is_kept_until_it_is_released() {
    let dirty = DirtySet::new();
    let slots: Vec<Slot> = (0..32).map(|n| dirty.slot(NodeId(n)).unwrap()).collect();
    assert_eq!(dirty.slot(NodeId(5)), Some(slots[5]));
    assert_eq!(dirty.slot(NodeId(99)), None);
    dirty.set_feed(0, slots[5], G, Feed::Deltas);
    dirty.release(NodeId(5));
    assert_eq!(dirty.slot(NodeId(99)), Some(slots[5]));
    dirty.mark(&keys(0, 1)[0], G);
    assert_eq!(dirty.metrics().waiting, 0);
}
