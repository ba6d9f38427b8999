//! Saying by digests what the peer should have by now.
//!
//! A round walks the table beside the sending: what is written or ends meanwhile makes its range
//! unknown. Then one frame says the digests of what was sent, after all of that.

use std::collections::BTreeSet;

use steadfast_dataplane::Cursor;
use steadfast_model::GroupId;

use super::{Sender, WALK_ENTRIES_MAX, group::Phase};
use crate::{
    GroupRole, Key, Life, Table,
    digest::{Hasher64, Ranges},
    wire::{DIGEST_VERSION, Digest, GROUPS_PER_BATCH_MAX},
};

/// Between the rounds of one sender, at least.
pub const DIGEST_INTERVAL_NS: u64 = 10_000_000_000;
/// And so much for each entry of the table, which costs two nodes some 50 ns to look at: one in two
/// hundred of a processor.
const DIGEST_INTERVAL_PER_ENTRY_NS: u64 = 10_000;

/// A round under way.
#[derive(Debug)]
pub(super) struct Round {
    groups: BTreeSet<GroupId>,
    cursor: Cursor,
    ranges: Ranges,
    touched: BTreeSet<usize>,
}

/// When, and over which groups, the next round goes.
#[derive(Debug, Default)]
pub(super) struct Verify {
    round: Option<Round>,
    next_ns: u64,
    /// The last group of the round before: with many groups, they take turns.
    after: Option<GroupId>,
}

impl Verify {
    /// What was counted so far is void.
    pub(super) fn abort(&mut self) {
        self.round = None;
    }

    /// A stream is up: its first round waits like any other.
    pub(super) fn begin(&mut self, now_ns: u64) {
        self.round = None;
        self.next_ns = now_ns.saturating_add(DIGEST_INTERVAL_NS);
    }

    /// Something is told of this key.
    pub(super) fn touch(&mut self, hasher: Hasher64, key: &Key) {
        if let Some(round) = &mut self.round {
            round.touched.insert(hasher.range(key));
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        self.round.is_some()
    }
}

impl Sender {
    /// Goes on with the round; the frame when it is over.
    pub(super) fn poll_digest<T>(&mut self, now_ns: u64, table: &T) -> Option<Vec<u8>>
    where
        T: Table + ?Sized,
    {
        if self.version < DIGEST_VERSION {
            return None;
        }
        if self.verify.round.is_none() {
            self.begin_round(now_ns, table);
        }
        let bit = self.slot.bit();
        let hasher = self.hasher();
        let round = self.verify.round.as_mut()?;
        let next =
            table.walk_lives(self.shard, round.cursor, WALK_ENTRIES_MAX, &mut |life: &Life| {
                if life.sent_to & bit != 0 && round.groups.contains(&life.group) {
                    round.ranges.add(hasher, life);
                }
            });
        if let Some(cursor) = next {
            round.cursor = cursor;
            return None;
        }
        let mut round = self.verify.round.take()?;
        self.dirty.each_deleted(self.shard, self.slot, |key| {
            round.touched.insert(hasher.range(key));
        });
        round.touched.iter().for_each(|range| round.ranges.forget(*range));
        let seq = self.stream.as_ref()?.seq;
        let groups: Vec<_> = round.groups.iter().filter_map(|group| self.header(*group)).collect();
        let frame = Digest { seq, groups, ranges: round.ranges }.encode();
        self.metrics.digests += 1;
        self.metrics.bytes += frame.len() as u64;
        Some(frame)
    }

    pub(super) fn hasher(&self) -> Hasher64 {
        Hasher64::new(self.local.cluster)
    }

    fn begin_round<T>(&mut self, now_ns: u64, table: &T)
    where
        T: Table + ?Sized,
    {
        if now_ns < self.verify.next_ns || self.walk.is_some() || self.wants_walk() {
            return;
        }
        let apt = |group: &super::Group| {
            matches!((group.role, group.phase), (GroupRole::Send { .. }, Phase::Done { .. }))
                && !group.fenced
        };
        let all: Vec<GroupId> =
            self.groups.iter().filter(|(_, group)| apt(group)).map(|(id, _)| *id).collect();
        let from = self.verify.after.map_or(0, |last| all.partition_point(|id| *id <= last));
        let turn = all[from..].iter().chain(&all[..from]).take(GROUPS_PER_BATCH_MAX);
        let turn: Vec<GroupId> = turn.copied().collect();
        let entries = u64::try_from(table.entries()).unwrap_or(u64::MAX);
        let pause = DIGEST_INTERVAL_PER_ENTRY_NS.saturating_mul(entries).max(DIGEST_INTERVAL_NS);
        self.verify.next_ns = now_ns.saturating_add(pause);
        self.verify.after = turn.last().copied();
        if turn.is_empty() {
            return;
        }
        self.verify.round = Some(Round {
            groups: turn.into_iter().collect(),
            cursor: Cursor::default(),
            ranges: Ranges::default(),
            touched: BTreeSet::new(),
        });
    }
}
