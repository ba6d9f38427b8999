//! Snapshots and donations of everything: one walk over the table serves all groups that want one.
//!
//! Guarantees: a group's end is written after the last of its entries, in the same stream; the
//! walk looks at no more than [`WALK_ENTRIES_MAX`] entries per poll, and is not called while the
//! budget of snapshots is spent. Groups that come to want a
//! snapshot during a walk wait for the next one.

use std::collections::{BTreeSet, VecDeque};

use steadfast_dataplane::Cursor;
use steadfast_model::GroupId;

use super::{Group, GroupRole, Phase, Sender, SweepState, WALK_ENTRIES_MAX};
use crate::{Key, Table, dirty::Pending, wire::BatchWriter};

/// A walk over the table.
#[derive(Debug)]
pub(super) struct Walk {
    /// Groups whose beginning is written.
    groups: BTreeSet<GroupId>,
    /// Groups whose beginning is not.
    begins: VecDeque<GroupId>,
    /// `None` when the end was reached.
    cursor: Option<Cursor>,
    /// Keys that were found and not written yet. Keys, not records: what is written is the state
    /// at that moment, so it never overtakes a later change.
    found: VecDeque<(Key, GroupId)>,
}

impl Sender {
    /// Goes on with the walk as far as the batch has room.
    pub(super) fn write_walk<T>(
        &mut self,
        table: &T,
        writer: &mut BatchWriter,
        items: &mut Vec<(Key, Pending)>,
    ) where
        T: Table + ?Sized,
    {
        let Some(mut walk) = self.walk.take().or_else(|| self.new_walk()) else { return };
        self.write_begins(&mut walk, writer);
        if !walk.begins.is_empty() {
            self.walk = Some(walk);
            return;
        }
        let mut budget = WALK_ENTRIES_MAX;
        while writer.has_room() {
            if let Some((key, group)) = walk.found.pop_front() {
                if self.is_walking(group) {
                    let before = writer.items();
                    self.write_key(table, &key, Pending { group, deleted: None }, writer, items);
                    self.metrics.walk_records += (writer.items() - before) as u64;
                }
                continue;
            }
            let Some(cursor) = walk.cursor.filter(|_| budget > 0) else { break };
            let step = budget.min(WALK_ENTRIES_MAX / 4);
            budget -= step;
            let (groups, found) = (&walk.groups, &mut walk.found);
            walk.cursor = table.walk(self.shard, cursor, step, &mut |key, group| {
                if groups.contains(&group) {
                    found.push_back((*key, group));
                }
            });
        }
        if walk.cursor.is_some() || !walk.found.is_empty() || !self.write_ends(&mut walk, writer) {
            self.walk = Some(walk);
        }
    }

    /// Whether a beginning, a sweep or the end of a donation is due; `held_up`: no beginning may be.
    pub(super) fn has_marks_to_write(&self, now_ns: u64, held_up: bool) -> bool {
        let due = |group: &Group| match (group.role, group.phase) {
            (_, Phase::Wanted) => !held_up,
            (_, Phase::Draining { .. }) => true,
            (GroupRole::Send { .. }, Phase::Ending { .. } | Phase::Done { .. }) => {
                group.sweep == SweepState::Due && now_ns >= group.sweep_from_ns
            }
            _ => false,
        };
        self.unsettled && self.groups.values().any(due)
    }

    /// Writes sweeps that are allowed now and ends of donations whose lane is drained.
    pub(super) fn write_marks(&mut self, now_ns: u64, writer: &mut BatchWriter) {
        if !self.unsettled {
            return;
        }
        let (_, taken) = self.dirty.progress(self.shard, self.slot);
        let seq = self.next_seq();
        let ids: Vec<GroupId> = self.groups.keys().copied().collect();
        for id in ids {
            let Some(header) = self.header(id).filter(|_| writer.has_room()) else { continue };
            let Some(group) = self.groups.get_mut(&id) else { continue };
            match group.phase {
                Phase::Draining { queued } if taken >= queued => {
                    writer.donation_end(header);
                    group.phase = Phase::Ending { snapshot: 0, seq };
                }
                Phase::Ending { snapshot, .. } | Phase::Done { snapshot }
                    if !header.donated
                        && group.sweep == SweepState::Due
                        && now_ns >= group.sweep_from_ns =>
                {
                    writer.sweep(header, snapshot);
                    group.sweep = SweepState::Sent { seq };
                }
                _ => {}
            }
        }
    }

    fn new_walk(&self) -> Option<Walk> {
        if !self.unsettled {
            return None;
        }
        let begins: VecDeque<GroupId> =
            self.groups.iter().filter(|(_, group)| group.is_wanted()).map(|(id, _)| *id).collect();
        (!begins.is_empty()).then(|| Walk {
            groups: BTreeSet::new(),
            begins,
            cursor: Some(Cursor::default()),
            found: VecDeque::new(),
        })
    }

    fn write_begins(&mut self, walk: &mut Walk, writer: &mut BatchWriter) {
        while writer.has_room() {
            let Some(id) = walk.begins.pop_front() else { return };
            let Some(header) = self.header(id) else { continue };
            let Some(group) = self.groups.get_mut(&id).filter(|g| g.is_wanted()) else { continue };
            self.snapshots += 1;
            group.phase = Phase::Walking { snapshot: self.snapshots };
            walk.groups.insert(id);
            if !header.donated {
                self.metrics.snapshots_begun += 1;
                writer.begin(header, self.snapshots);
            }
        }
    }

    /// Writes the ends; false when some did not fit.
    fn write_ends(&mut self, walk: &mut Walk, writer: &mut BatchWriter) -> bool {
        let seq = self.next_seq();
        while let Some(id) = walk.groups.first().copied() {
            if !writer.has_room() {
                return false;
            }
            walk.groups.remove(&id);
            let header = self.header(id);
            let (Some(header), Some(group)) = (header, self.groups.get_mut(&id)) else { continue };
            let Phase::Walking { snapshot } = group.phase else { continue };
            if header.donated {
                writer.donation_end(header);
            } else {
                writer.end(header, snapshot);
            }
            group.phase = Phase::Ending { snapshot, seq };
        }
        true
    }

    fn is_walking(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|g| matches!(g.phase, Phase::Walking { .. }))
    }
}
