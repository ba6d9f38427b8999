//! Times, windows and acknowledgements. What arrives at the other end: `tests/simulation`.

use std::cell::RefCell;

use steadfast_dataplane::Cursor;
use steadfast_model::{Epoch, NodeId, ServerId, ServiceId};

use super::*;
use crate::{
    Applied, Authority, Deleted, Life, PROTOCOL_TCP, Ranges, Record, shard_of, wire::Item,
};

const G: GroupId = GroupId(1);
const MS: u64 = NS_PER_MS;
const EPOCH: Epoch = Epoch { generation: 1, grant_index: 2, claim: 3, node: NodeId(1) };

/// Holds keys, and those that the peer was not sent; a walk looks at all of them in one step.
#[derive(Default)]
struct Keys(RefCell<Vec<Key>>, RefCell<Vec<Key>>);

impl Table for Keys {
    fn get(&self, key: &Key, _: Slot) -> Option<Record> {
        let (service, server) = (ServiceId(1), ServerId(1));
        self.0.borrow().contains(key).then_some(Record {
            key: *key,
            group: G,
            service,
            server,
            incarnation: 1,
            state: 1,
            flags: 0,
            local: None,
            deltas: None,
        })
    }

    fn walk(
        &self,
        _: u8,
        _: Cursor,
        _: usize,
        visit: &mut dyn FnMut(&Key, GroupId),
    ) -> Option<Cursor> {
        self.0.borrow().iter().for_each(|key| visit(key, G));
        None
    }

    fn walk_lives(
        &self,
        _: u8,
        _: Cursor,
        _: usize,
        visit: &mut dyn FnMut(&Life),
    ) -> Option<Cursor> {
        let life = |key: &Key| Life {
            key: *key,
            group: G,
            server: ServerId(1),
            incarnation: 1,
            sent_to: u32::MAX,
            snapshot: None,
        };
        self.0.borrow().iter().for_each(|key| visit(&life(key)));
        let unsent = |key: &Key| Life { sent_to: 0, ..life(key) };
        self.1.borrow().iter().for_each(|key| visit(&unsent(key)));
        None
    }

    fn entries(&self) -> usize {
        self.0.borrow().len()
    }

    fn apply(&self, _: &Record, _: &Authority) -> Applied {
        Applied::Kept
    }

    fn delete(&self, _: &Key, _: u64, _: &Authority) -> Deleted {
        Deleted::Kept
    }

    fn sweep(&self, _: GroupId, _: u8, _: &Authority) -> usize {
        0
    }
}

fn peer_hello() -> Hello {
    Hello::new(1, NodeId(2), BootId(9), 0)
}

fn keys(count: usize) -> Vec<Key> {
    let key = |port| Key {
        protocol: PROTOCOL_TCP,
        client: [198, 18, 0, 1].into(),
        client_port: port,
        vip: [198, 18, 0, 100].into(),
        vip_port: 80,
    };
    (0..=u16::MAX).map(key).filter(|key| shard_of(key) == 0).take(count).collect()
}

struct Rig {
    now: u64,
    table: Keys,
    dirty: Arc<DirtySet>,
    sender: Sender,
}

impl Rig {
    fn new() -> Self {
        let dirty = Arc::new(DirtySet::new());
        let slot = dirty.slot(NodeId(2)).unwrap();
        let local = Local { cluster: 1, node: NodeId(1), boot: BootId(1) };
        let sender = Sender::new(local, slot, 0, Arc::clone(&dirty));
        Self { now: 1000 * MS, table: Keys::default(), dirty, sender }
    }

    /// With an acknowledged snapshot of an empty group.
    fn settled() -> Self {
        let mut rig = Self::new();
        rig.sender.handle_role(rig.now, G, GroupRole::Send { epoch: EPOCH });
        rig.now += SWEEP_DELAY_NS;
        rig.sender.handle_stream_up(rig.now, &peer_hello());
        let (frame, _) = rig.poll().unwrap();
        assert_eq!(rig.names(&frame), ["begin", "end", "sweep"]);
        rig.ack(1).unwrap();
        assert!(rig.sender.is_done(G));
        rig
    }

    fn poll(&mut self) -> Option<(Vec<u8>, u64)> {
        let frame = self.sender.poll_transmit(self.now, &self.table, BATCH_BYTES_MAX)?;
        let seq = self.batch(&frame).seq;
        Some((frame, seq))
    }

    fn ack(&mut self, seq: u64) -> Result<(), AckError> {
        let ack = Ack { seq, ..Ack::default() };
        self.sender.handle_ack(self.now, &ack.encode())
    }

    fn change(&self, key: &Key) {
        self.table.0.borrow_mut().push(*key);
        self.dirty.mark(key, G);
    }

    fn batch(&self, frame: &[u8]) -> crate::wire::Batch {
        let Ok(Message::Batch(batch)) = Message::decode(frame) else { panic!("{frame:?}") };
        batch
    }

    fn names(&self, frame: &[u8]) -> Vec<&'static str> {
        let name = |item: &Item| match item {
            Item::Record { .. } => "record",
            Item::Delete { .. } => "delete",
            Item::Begin { .. } => "begin",
            Item::End { .. } => "end",
            Item::Sweep { .. } => "sweep",
            Item::DonationEnd { .. } => "donation end",
        };
        self.batch(frame).items.iter().map(name).collect()
    }
}

#[test]
fn an_idle_stream_beats_every_50_ms() {
    let mut rig = Rig::settled();
    let beats = (0..1000).filter(|_| {
        rig.now += MS;
        let beat = rig.poll();
        if let Some((frame, seq)) = &beat {
            assert!(rig.names(frame).is_empty());
            rig.ack(*seq).unwrap();
        }
        beat.is_some()
    });
    assert_eq!(beats.count(), 20);
}

#[test]
fn a_change_goes_out_within_a_millisecond_and_changes_share_a_batch() {
    let mut rig = Rig::settled();
    let keys = keys(3);
    rig.now += 10 * MS;
    rig.change(&keys[0]);
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame), ["record"]);
    rig.now += MS / 2;
    rig.change(&keys[1]);
    rig.change(&keys[2]);
    assert!(rig.poll().is_none());
    assert_eq!(rig.sender.next_deadline(), Some(rig.now + MS / 2));
    rig.now += MS / 2;
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame), ["record", "record"]);
}

#[test]
fn a_full_batch_does_not_wait() {
    let mut rig = Rig::settled();
    keys(2 * BATCH_RECORDS_MAX).iter().for_each(|key| rig.change(key));
    rig.now += 2 * MS;
    let first = rig.poll().unwrap().0;
    let second = rig.poll().unwrap().0;
    assert_eq!(rig.names(&first).len(), BATCH_RECORDS_MAX);
    assert_eq!(rig.names(&second).len(), BATCH_RECORDS_MAX);
    assert!(rig.poll().is_none());
}

#[test]
fn nothing_is_written_without_room_or_beyond_the_window() {
    let mut rig = Rig::settled();
    let keys = keys(100);
    rig.change(&keys[0]);
    rig.now += 5 * MS;
    assert!(rig.sender.poll_transmit(rig.now, &rig.table, 100).is_none());
    let mut written = 0;
    for key in &keys {
        rig.change(key);
        rig.now += 2 * MS;
        written += usize::from(rig.poll().is_some());
    }
    assert_eq!(written, WINDOW_BATCHES);
    assert_eq!(rig.sender.next_deadline(), None);
    assert_eq!(rig.sender.metrics().unacked_records, WINDOW_BATCHES as u64);
    assert_eq!(rig.sender.metrics().waiting, 36);
    rig.ack(2).unwrap();
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame).len(), 36);
    assert_eq!(rig.batch(&frame).age_ms, 0, "all that waited is in this batch");
}

#[test]
fn the_batch_says_how_long_what_is_not_in_it_has_waited() {
    let mut rig = Rig::settled();
    keys(2 * BATCH_RECORDS_MAX).iter().for_each(|key| rig.change(key));
    rig.now += MS;
    assert!(rig.sender.poll_transmit(rig.now, &rig.table, 0).is_none());
    rig.now += 30 * MS;
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.batch(&frame).age_ms, 30);
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.batch(&frame).age_ms, 0);
}

#[test]
fn the_lag_is_the_time_to_the_acknowledgement() {
    let mut rig = Rig::settled();
    rig.change(&keys(1)[0]);
    rig.now += 2 * MS;
    let (_, seq) = rig.poll().unwrap();
    rig.now += 7 * MS;
    assert_eq!(rig.sender.metrics().unacked_batches, 1);
    rig.ack(seq).unwrap();
    let metrics = rig.sender.metrics();
    assert_eq!((metrics.lag_ns, metrics.unacked_batches, metrics.unacked_records), (7 * MS, 0, 0));
    assert_eq!(rig.ack(seq + 1), Err(AckError::Ahead { got: seq + 1, sent: seq }));
    assert!(matches!(rig.sender.handle_ack(rig.now, &[9]), Err(AckError::Wire(_))));
    let hello = rig.sender.hello();
    assert_eq!(rig.sender.handle_ack(rig.now, &hello), Err(AckError::Unexpected));
}

#[test]
fn a_raised_epoch_of_the_same_holder_needs_no_new_snapshot() {
    let mut rig = Rig::settled();
    let higher = Epoch { claim: 4, ..EPOCH };
    rig.sender.handle_role(rig.now, G, GroupRole::Send { epoch: higher });
    rig.change(&keys(1)[0]);
    rig.now += 2 * MS;
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame), ["record"]);
    assert_eq!(rig.batch(&frame).groups[0].epoch, higher);
}

#[test]
fn a_stream_that_breaks_within_a_snapshot_begins_it_anew() {
    let mut rig = Rig::new();
    keys(2000).iter().for_each(|key| rig.change(key));
    rig.sender.handle_role(rig.now, G, GroupRole::Send { epoch: EPOCH });
    rig.sender.handle_stream_up(rig.now, &peer_hello());
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame)[0], "begin");
    rig.sender.handle_stream_down(rig.now);
    rig.sender.handle_stream_up(rig.now, &peer_hello());
    let (frame, seq) = rig.poll().unwrap();
    assert_eq!((rig.names(&frame)[0], seq), ("begin", 1));
    let mut last = frame;
    while let Some((frame, seq)) = rig.poll() {
        rig.ack(seq).unwrap();
        last = frame;
        assert!(seq < 20, "a snapshot of 2000 connections");
    }
    assert_eq!(rig.names(&last).last(), Some(&"end"));
    assert!(rig.sender.is_done(G));
    assert_eq!(rig.sender.metrics().snapshots_done, 1);
}

#[test]
fn what_waited_through_a_break_is_as_old_as_the_first_batch_that_was_lost() {
    let mut rig = Rig::settled();
    let keys = keys(2 * BATCH_RECORDS_MAX);
    rig.change(&keys[0]);
    rig.now += 2 * MS;
    rig.poll().unwrap();
    rig.now += 40 * MS;
    rig.sender.handle_stream_down(rig.now);
    keys[1..].iter().for_each(|key| rig.change(key));
    rig.now += 500 * MS;
    rig.sender.handle_stream_up(rig.now, &peer_hello());
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.batch(&frame).age_ms, 540);
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.batch(&frame).age_ms, 0);
    assert_eq!(rig.sender.metrics().remarked, 1);
}

#[test]
fn who_was_fenced_and_holds_again_sends_a_new_snapshot() {
    let mut rig = Rig::settled();
    rig.change(&keys(1)[0]);
    rig.now += 2 * MS;
    let (_, seq) = rig.poll().unwrap();
    let ack = Ack { seq, fenced: vec![G], ..Ack::default() };
    rig.sender.handle_ack(rig.now, &ack.encode()).unwrap();
    assert!(rig.sender.is_done(G));
    let higher = Epoch { grant_index: 9, ..EPOCH };
    rig.sender.handle_role(rig.now, G, GroupRole::Send { epoch: higher });
    rig.now += 2 * MS;
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame), ["begin", "record", "end"]);
}

#[test]
fn a_digest_is_of_what_was_sent_and_knows_not_what_ends_meanwhile() {
    let mut rig = Rig::settled();
    let keys = keys(20);
    rig.table.0.borrow_mut().extend_from_slice(&keys[..10]);
    rig.table.1.borrow_mut().extend_from_slice(&keys[10..]);
    rig.now += DIGEST_INTERVAL_NS;
    assert!(rig.poll().is_some(), "a heartbeat");
    // It ends after the last batch: the peer has it, the table has not.
    let ended = rig.table.0.borrow_mut().remove(3);
    rig.dirty.mark_deleted(&ended, G, 1, u32::MAX);
    let frame = rig.sender.poll_transmit(rig.now, &rig.table, BATCH_BYTES_MAX).unwrap();
    let Ok(Message::Digest(digest)) = Message::decode(&frame) else { panic!("{frame:?}") };
    let hasher = rig.sender.hasher();
    let mut expected = Ranges::default();
    rig.table.walk_lives(0, Cursor::default(), 0, &mut |life: &Life| {
        if life.sent_to != 0 {
            expected.add(hasher, life);
        }
    });
    expected.forget(hasher.range(&ended));
    assert_eq!(digest.ranges, expected);
    let header = GroupHeader { group: G, epoch: EPOCH, donated: false };
    assert_eq!((digest.seq, digest.groups), (2, vec![header]));
    assert!(rig.sender.poll_transmit(rig.now, &rig.table, BATCH_BYTES_MAX).is_none(), "once");
}

#[test]
fn a_spent_budget_holds_up_snapshots_and_nothing_else() {
    let mut rig = Rig::settled();
    let budget = Arc::new(SnapshotBudget::unlimited());
    rig.sender =
        std::mem::replace(&mut rig.sender, Rig::new().sender).limited_by(Arc::clone(&budget));
    budget.set_rate(1_000);
    budget.spend(rig.now, 10_000);
    let keys = keys(10);
    rig.table.0.borrow_mut().extend_from_slice(&keys[1..]);
    let other = GroupId(2);
    rig.sender.handle_role(rig.now, other, GroupRole::Send { epoch: EPOCH });
    for _ in 0..5 {
        rig.now += HEARTBEAT_NS;
        let (frame, _) = rig.poll().unwrap();
        assert!(rig.names(&frame).is_empty(), "a heartbeat");
        assert!(rig.poll().is_none(), "and no work that cannot be done");
        assert_eq!(rig.sender.next_deadline(), Some(rig.now + HEARTBEAT_NS));
    }
    rig.change(&keys[0]);
    rig.now += 2 * MS;
    let (frame, seq) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame), ["record"]);
    rig.ack(seq).unwrap();
    assert_eq!(rig.sender.metrics().snapshots_pending, 1);
    rig.now += 10_000 * MS;
    let (frame, seq) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame), ["begin", "end", "sweep"]);
    rig.ack(seq).unwrap();
    assert!(rig.sender.is_done(other));
    let held_up_ms = rig.sender.metrics().held_up_ns / MS;
    assert!((10_000..11_000).contains(&held_up_ms), "{held_up_ms}");
}

#[test]
fn a_donation_waits_for_no_budget() {
    let mut rig = Rig::new();
    let budget = Arc::new(SnapshotBudget::unlimited());
    rig.sender =
        std::mem::replace(&mut rig.sender, Rig::new().sender).limited_by(Arc::clone(&budget));
    budget.set_rate(1);
    budget.spend(rig.now, 10_000);
    rig.table.0.borrow_mut().extend_from_slice(&keys(3));
    let role = GroupRole::Donate { epoch: EPOCH, everything: true };
    rig.sender.handle_role(rig.now, G, role);
    rig.sender.handle_stream_up(rig.now, &peer_hello());
    let (frame, _) = rig.poll().unwrap();
    assert_eq!(rig.names(&frame), ["record", "record", "record", "donation end"]);
}
