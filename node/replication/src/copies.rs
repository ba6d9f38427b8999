//! What this node knows about its copies of the groups that others hold.
//!
//! Guarantees: a copy is complete only when the end of a snapshot of the present run of its holder
//! was applied in every shard, nothing was refused for want of room since that snapshot began, and
//! every stream of the holder was up to date shortly before the silence. Kept in memory only.
//!
//! Not guaranteed: that the holder had nothing left to say when it fell silent; that is the
//! exposure, which the sender's metrics show.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{BootId, Epoch, GroupId, NodeId};

use crate::SHARDS;

/// The latest batch before a silence must not be older than this for the copy to be complete, unless
/// [`Copies::set_lag_max`] says otherwise.
pub const FRESH_NS: u64 = 200_000_000;

const ALL_SHARDS: usize = SHARDS as usize;

/// How good a copy is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Completeness {
    /// Everything the holder had is here, but for the last moments.
    Complete {
        /// When the last shard's snapshot ended.
        since_ns: u64,
        /// Until when every shard is known to be up to date.
        last_applied_ns: u64,
    },
    /// Something is here.
    Stale,
    /// Nothing was ever applied.
    Empty,
}

impl Completeness {
    /// Whether it is [`Self::Complete`].
    #[must_use]
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Complete { .. })
    }
}

/// What there is to say about the copy of a group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct CopyReport {
    /// How good it is.
    pub completeness: Completeness,
    /// How far it is behind its holder: since when the oldest shard was not known to be up to date.
    /// `None`: this run of the holder has sent nothing yet.
    pub lag_ns: Option<u64>,
    /// Shards, of [`SHARDS`], whose snapshot was applied to its end.
    pub shards_done: u8,
    /// A record found no room in the table.
    pub is_full: bool,
}

/// The copies of all groups, shared by all receivers and the ownership driver.
#[derive(Debug)]
pub struct Copies {
    inner: Mutex<Inner>,
    lag_max_ns: AtomicU64,
}

impl Default for Copies {
    fn default() -> Self {
        Self { inner: Mutex::default(), lag_max_ns: AtomicU64::new(FRESH_NS) }
    }
}

#[derive(Debug, Default)]
struct Inner {
    epochs: HashMap<GroupId, Epoch>,
    copies: HashMap<GroupId, Copy>,
    streams: HashMap<(NodeId, BootId), [u64; ALL_SHARDS]>,
    generation: u64,
    /// Where a record found no room, or may have been missed. Empty but for tables that are too
    /// small, and for groups that this node has begun to keep copies of again.
    holes: BTreeSet<(NodeId, u8, GroupId)>,
    /// Groups of which this node keeps no copies.
    left: BTreeSet<GroupId>,
}

/// The copy of one group.
#[derive(Debug)]
struct Copy {
    holder: NodeId,
    boot: BootId,
    shards: [ShardCopy; ALL_SHARDS],
    /// Something was applied, from this holder or one before.
    touched: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct ShardCopy {
    /// Stamp for what is applied now.
    generation: u64,
    /// The snapshot under way or applied last.
    snapshot: u64,
    /// When its end was applied; `None` before the first one.
    ended_ns: Option<u64>,
    /// A record found no room since the snapshot began.
    hole: bool,
    /// This node left the sync group since the snapshot began, and may have missed something.
    missed: bool,
    /// When the holder was last asked for a new snapshot.
    asked_ns: Option<u64>,
}

impl Copies {
    /// No copies.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A copy that is further behind than this is not complete.
    pub fn set_lag_max(&self, lag_max_ns: u64) {
        self.lag_max_ns.store(lag_max_ns, Ordering::Relaxed);
    }

    /// The ownership core has committed, heard or made a claim: from now on records of lower
    /// epochs are applied only as donations.
    pub fn handle_epoch(&self, group: GroupId, epoch: Epoch) {
        let mut inner = self.lock();
        let known = inner.epochs.entry(group).or_default();
        *known = (*known).max(epoch);
    }

    /// Of these groups this node keeps no copies from now on; of all others it does. Answers those
    /// for which that is new. A copy that was left is not complete before a whole snapshot has come
    /// again, and asks for it: the holder may not have noticed that this node was away.
    pub fn set_left(&self, left: BTreeSet<GroupId>) -> BTreeSet<GroupId> {
        let mut inner = self.lock();
        let new: BTreeSet<GroupId> = left.difference(&inner.left).copied().collect();
        let mut holes = BTreeSet::new();
        for group in &new {
            let Some(copy) = inner.copies.get_mut(group) else { continue };
            for (shard, number) in copy.shards.iter_mut().zip(0..) {
                shard.missed = true;
                holes.insert((copy.holder, number, *group));
            }
        }
        inner.holes.append(&mut holes);
        inner.left = left;
        new
    }

    /// A group left the configuration.
    pub fn forget_group(&self, group: GroupId) {
        let mut inner = self.lock();
        inner.epochs.remove(&group);
        inner.copies.remove(&group);
    }

    /// How good the copy of `group` is, as made by the given run of `holder`, which has been
    /// silent since `silent_since_ns` (now, when it is not).
    #[must_use]
    pub fn completeness(
        &self,
        group: GroupId,
        holder: NodeId,
        boot: BootId,
        silent_since_ns: u64,
    ) -> Completeness {
        self.report(group, holder, boot, silent_since_ns).completeness
    }

    /// The same with the reasons, for whoever is refused for it.
    #[must_use]
    pub fn report(
        &self,
        group: GroupId,
        holder: NodeId,
        boot: BootId,
        silent_since_ns: u64,
    ) -> CopyReport {
        let lag_max_ns = self.lag_max_ns.load(Ordering::Relaxed);
        let inner = self.lock();
        let last_applied_ns =
            inner.streams.get(&(holder, boot)).and_then(|fresh| fresh.iter().copied().min());
        let last_applied_ns = last_applied_ns.filter(|at| *at > 0);
        let lag_ns = last_applied_ns.map(|at| silent_since_ns.saturating_sub(at));
        let nothing = CopyReport {
            completeness: Completeness::Empty,
            lag_ns,
            shards_done: 0,
            is_full: false,
        };
        let Some(copy) = inner.copies.get(&group) else { return nothing };
        let poor = if copy.touched { Completeness::Stale } else { Completeness::Empty };
        if !copy.is_by(holder, boot) || inner.left.contains(&group) {
            return CopyReport { completeness: poor, ..nothing };
        }
        let whole = |shard: &&ShardCopy| !shard.hole && !shard.missed;
        let ends = copy.shards.iter().filter(whole).filter_map(|shard| shard.ended_ns);
        let shards_done = ends.clone().count();
        let completeness = match (ends.max(), last_applied_ns, lag_ns) {
            (Some(since_ns), Some(last_applied_ns), Some(lag_ns))
                if shards_done == ALL_SHARDS && lag_ns <= lag_max_ns =>
            {
                Completeness::Complete { since_ns, last_applied_ns }
            }
            _ => poor,
        };
        CopyReport {
            completeness,
            lag_ns,
            shards_done: u8::try_from(shards_done).unwrap_or(SHARDS),
            is_full: copy.shards.iter().any(|shard| shard.hole),
        }
    }

    /// Whether an item under `epoch` is to be applied as the holder's word; raises the group's
    /// epoch when it is higher.
    pub(crate) fn admit(&self, group: GroupId, epoch: Epoch) -> bool {
        let mut inner = self.lock();
        let known = inner.epochs.entry(group).or_default();
        if epoch < *known && !is_on(Bug::LowerEpochTaken) {
            return false;
        }
        *known = epoch.max(*known);
        true
    }

    /// The stamp for records of a group now.
    pub(crate) fn generation(&self, group: GroupId, from: Stream) -> u64 {
        let mut inner = self.lock();
        inner.copy(group, from).shard(from).generation
    }

    pub(crate) fn note_applied(&self, group: GroupId, from: Stream) {
        self.lock().copy(group, from).touched = true;
    }

    /// A record found no room.
    pub(crate) fn note_hole(&self, group: GroupId, from: Stream) {
        let mut inner = self.lock();
        inner.copy(group, from).shard(from).hole = true;
        inner.holes.insert((from.node, from.shard, group));
    }

    /// The stamp of what belongs to this copy, when it can be compared with what its holder has: the
    /// end of a snapshot was applied, nothing is missing, and `epoch` is the group's.
    pub(crate) fn comparable(&self, group: GroupId, epoch: Epoch, from: Stream) -> Option<u64> {
        let inner = self.lock();
        if inner.epochs.get(&group) != Some(&epoch) {
            return None;
        }
        let copy = inner.copies.get(&group).filter(|copy| copy.is_of(from))?;
        let shard = copy.shards.get(usize::from(from.shard))?;
        let is_whole = !shard.hole && !shard.missed && !inner.left.contains(&group);
        (shard.ended_ns.is_some() && is_whole).then_some(shard.generation)
    }

    /// Groups with a hole, for which the holder is to be asked for a new snapshot now. Asked for
    /// with any batch, because room may come without a record that tries it.
    pub(crate) fn due_resyncs(&self, from: Stream, now_ns: u64, most: usize) -> Vec<GroupId> {
        let mut inner = self.lock();
        let range =
            (from.node, from.shard, GroupId(0))..=(from.node, from.shard, GroupId(u32::MAX));
        let holes: Vec<GroupId> = inner.holes.range(range).map(|(_, _, group)| *group).collect();
        let mut due = Vec::new();
        for group in holes {
            if inner.left.contains(&group) {
                continue;
            }
            let shard = inner.copies.get_mut(&group).filter(|copy| copy.is_of(from));
            match shard.map(|copy| copy.shard(from)) {
                Some(shard) if shard.hole || shard.missed => {
                    let last = shard.asked_ns.map(|at| at.saturating_add(RESYNC_PAUSE_NS));
                    if due.len() < most && last.is_none_or(|at| now_ns >= at) {
                        shard.asked_ns = Some(now_ns);
                        due.push(group);
                    }
                }
                _ => drop(inner.holes.remove(&(from.node, from.shard, group))),
            }
        }
        due
    }

    pub(crate) fn begin(&self, group: GroupId, from: Stream, snapshot: u64) {
        let mut inner = self.lock();
        inner.generation += 1;
        let generation = inner.generation;
        let shard = inner.copy(group, from).shard(from);
        // A new snapshot comes because something may be missing: not complete before its end.
        shard.ended_ns = None;
        shard.generation = generation;
        shard.snapshot = snapshot;
        shard.hole = false;
        shard.missed = false;
    }

    /// True when it is the snapshot that began last, so that this copy has all of it.
    pub(crate) fn end(&self, group: GroupId, from: Stream, snapshot: u64, now_ns: u64) -> bool {
        let mut inner = self.lock();
        let copy = inner.copy(group, from);
        let shard = copy.shard(from);
        if shard.snapshot != snapshot || snapshot == 0 {
            return false;
        }
        shard.ended_ns = Some(now_ns);
        copy.touched = true;
        true
    }

    /// Whether that snapshot is the one whose end was applied: only then may a sweep follow.
    pub(crate) fn may_sweep(&self, group: GroupId, from: Stream, snapshot: u64) -> bool {
        let mut inner = self.lock();
        let shard = inner.copy(group, from).shard(from);
        shard.snapshot == snapshot && shard.ended_ns.is_some()
    }

    /// A batch was applied: this shard is up to date as of `fresh_ns`.
    pub(crate) fn note_batch(&self, from: Stream, fresh_ns: u64) {
        let mut inner = self.lock();
        let fresh = inner.streams.entry((from.node, from.boot)).or_default();
        let at = &mut fresh[usize::from(from.shard)];
        *at = (*at).max(fresh_ns);
    }

    /// Drops what is known of earlier runs of a node.
    pub(crate) fn note_boot(&self, node: NodeId, boot: BootId) {
        self.lock().streams.retain(|(n, b), _| *n != node || *b == boot);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere must not end replication: the maps are valid between two statements.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which stream something arrived on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Stream {
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    pub(crate) shard: u8,
}

impl Inner {
    fn copy(&mut self, group: GroupId, from: Stream) -> &mut Copy {
        let copy = self.copies.entry(group).or_insert_with(|| Copy::new(from, false));
        if !copy.is_of(from) {
            *copy = Copy::new(from, copy.touched);
        }
        copy
    }
}

impl Copy {
    fn new(from: Stream, touched: bool) -> Self {
        Self { holder: from.node, boot: from.boot, shards: Default::default(), touched }
    }

    fn is_of(&self, from: Stream) -> bool {
        self.is_by(from.node, from.boot)
    }

    fn is_by(&self, holder: NodeId, boot: BootId) -> bool {
        (self.holder, self.boot) == (holder, boot)
    }

    fn shard(&mut self, from: Stream) -> &mut ShardCopy {
        &mut self.shards[usize::from(from.shard % SHARDS)]
    }
}

/// Between two requests for a snapshot of the same group: a full table stays full for a while.
const RESYNC_PAUSE_NS: u64 = 10_000_000_000;
