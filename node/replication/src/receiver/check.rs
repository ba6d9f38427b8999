//! Comparing a peer's digests with what is here.
//!
//! The table is walked a part with each frame that arrives, so that a large one holds nothing up;
//! what is applied meanwhile makes its range unknown.

use std::collections::BTreeSet;

use steadfast_dataplane::Cursor;
use steadfast_model::GroupId;

use super::Receiver;
use crate::{
    Key, Life, Table,
    digest::{Hasher64, Ranges},
    wire::{Digest, GroupHeader},
};

/// Entries looked at with each frame. A heartbeat comes every 50 ms.
const CHECK_ENTRIES_MAX: usize = 8192;
/// A copy that still differs after a snapshot asks for the next one after twice as many rounds, up to
/// so many: a difference that a snapshot does not mend must not become a stream of snapshots.
const PATIENCE_MAX: u32 = 64;

/// What was found so far on one stream.
#[derive(Debug)]
pub(super) struct Check {
    hasher: Hasher64,
    round: Option<Round>,
    /// Ranges in which the last round differed.
    differed: BTreeSet<usize>,
    /// Rounds in a row that must differ before a snapshot is asked for.
    patience: u32,
    /// Rounds that have, in the same range.
    in_a_row: u32,
}

/// A digest that is being compared.
#[derive(Debug)]
struct Round {
    digest: Digest,
    /// The snapshot generation of each of its groups here.
    generations: Vec<u64>,
    cursor: Cursor,
    here: Ranges,
    touched: BTreeSet<usize>,
}

impl Check {
    pub(super) fn new(cluster: u64) -> Self {
        let hasher = Hasher64::new(cluster);
        Self { hasher, round: None, differed: BTreeSet::new(), patience: 2, in_a_row: 0 }
    }

    /// Something of this key was applied.
    pub(super) fn touch(&mut self, key: &Key) {
        if let Some(round) = &mut self.round {
            round.touched.insert(self.hasher.range(key));
        }
    }

    /// A group begins anew, or is another's: what was counted is void.
    pub(super) fn abort(&mut self) {
        self.round = None;
    }

    /// Notes the outcome of a round; true when a snapshot is to be asked for.
    fn judge(&mut self, differs: BTreeSet<usize>) -> bool {
        let again = self.in_a_row == 0 || !differs.is_disjoint(&self.differed);
        if differs.is_empty() {
            (self.in_a_row, self.patience) = (0, 2);
        } else {
            self.in_a_row = if again { self.in_a_row + 1 } else { 1 };
        }
        self.differed = match again && !self.differed.is_empty() && !differs.is_empty() {
            true => differs.intersection(&self.differed).copied().collect(),
            false => differs,
        };
        if self.in_a_row < self.patience {
            return false;
        }
        self.patience = (self.patience * 2).min(PATIENCE_MAX);
        self.in_a_row = 0;
        self.differed.clear();
        true
    }
}

impl Receiver {
    /// A digest has arrived. It is passed over while the copy is not one to compare: a snapshot is
    /// under way, something had no room, or the group is another's by now.
    pub(super) fn begin_check(&mut self, digest: Digest) {
        let generation = |header: &GroupHeader| {
            let is_heard = !header.donated && header.epoch.node == self.from.node;
            is_heard.then(|| self.copies.comparable(header.group, header.epoch, self.from))?
        };
        let generations: Option<Vec<u64>> = digest.groups.iter().map(generation).collect();
        self.check.round = generations.map(|generations| Round {
            digest,
            generations,
            cursor: Cursor::default(),
            here: Ranges::default(),
            touched: BTreeSet::new(),
        });
    }

    /// Goes on with the comparison.
    pub(super) fn step_check<T>(&mut self, table: &T)
    where
        T: Table + ?Sized,
    {
        let hasher = self.check.hasher;
        let Some(round) = &mut self.check.round else { return };
        let Round { digest, generations, here, .. } = round;
        let belongs = |life: &Life| {
            let at = digest.groups.iter().position(|header| header.group == life.group);
            at.is_some_and(|at| life.snapshot == generations.get(at).copied())
        };
        let shard = self.from.shard;
        let next = table.walk_lives(shard, round.cursor, CHECK_ENTRIES_MAX, &mut |life: &Life| {
            if belongs(life) {
                here.add(hasher, life);
            }
        });
        if let Some(cursor) = next {
            round.cursor = cursor;
            return;
        }
        let Some(mut round) = self.check.round.take() else { return };
        let mut groups = round.digest.groups.iter().zip(&round.generations);
        let is_still = |(header, generation): (&GroupHeader, &u64)| {
            self.copies.comparable(header.group, header.epoch, self.from) == Some(*generation)
        };
        if !groups.all(is_still) {
            return;
        }
        round.touched.iter().for_each(|range| round.here.forget(*range));
        let compared = round.here.compare(&round.digest.ranges);
        let differs: BTreeSet<usize> =
            compared.filter(|(_, differs)| *differs).map(|(range, _)| range).collect();
        self.metrics.digests += 1;
        self.metrics.digests_differed += u64::from(!differs.is_empty());
        if self.check.judge(differs) {
            self.metrics.digests_refused += 1;
            let groups: Vec<GroupId> = round.digest.groups.iter().map(|h| h.group).collect();
            groups.into_iter().for_each(|group| self.copies.note_hole(group, self.from));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds rounds, each by the ranges that differ; the numbers of those that ask for a snapshot.
    fn asks(rounds: &[&[usize]]) -> Vec<usize> {
        let mut check = Check::new(1);
        let judged = rounds.iter().map(|ranges| check.judge(ranges.iter().copied().collect()));
        judged.enumerate().filter(|(_, asks)| *asks).map(|(round, _)| round).collect()
    }

    #[test]
    fn only_what_differs_twice_in_the_same_range_is_believed() {
        assert_eq!(asks(&[&[], &[3], &[], &[3], &[]]), [0; 0]);
        assert_eq!(asks(&[&[3], &[4], &[5], &[3]]), [0; 0], "each time another");
        assert_eq!(asks(&[&[3], &[4, 3]]), [1]);
        assert_eq!(asks(&[&[], &[1, 2], &[2, 9], &[]]), [2]);
    }

    #[test]
    fn what_a_snapshot_does_not_mend_is_asked_for_ever_more_rarely() {
        let stubborn: &[usize] = &[7];
        assert_eq!(asks(&[stubborn; 100]), [1, 5, 13, 29, 61]);
        let mut mended = [stubborn; 12];
        mended[6] = &[];
        assert_eq!(asks(&mended), [1, 5, 8], "once equal, as quick as ever");
    }
}
