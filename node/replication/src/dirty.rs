//! The dirty set: which keys changed since each peer was last told.
//!
//! Guarantees: a key stands at most once per peer however often it changes; marking takes one
//! short lock and never waits for a peer; memory is bounded by [`LANE_KEYS_MAX`] per peer and
//! shard. Beyond a bound the lane forgets what it has and asks for a snapshot with a sweep, so
//! nothing is lost silently. Not guaranteed: the order of changes to different keys.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map},
    fmt,
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{GroupId, NodeId};

use crate::{Key, SHARDS, Slot, shard_of};

/// Peers a node can replicate to: one bit each.
pub const PEERS_MAX: usize = 32;
/// Keys that wait for one peer in one shard.
pub const LANE_KEYS_MAX: usize = 65_536;
/// Deletes among them: unlike a changed key, a gone one takes memory that the table has freed.
pub const LANE_DELETES_MAX: usize = 16_384;

/// How changes of a group reach a peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Feed {
    /// Not at all.
    None,
    /// Changes and deletes.
    Deltas,
    /// Changes alone, as donations.
    Donations,
}

/// What a peer is to be told about a key.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Pending {
    pub(crate) group: GroupId,
    /// The life that is gone; what the table holds now is looked up when it is sent.
    pub(crate) deleted: Option<u64>,
}

/// Counters of a [`DirtySet`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct DirtyMetrics {
    /// Keys that wait, over all peers and shards.
    pub waiting: u64,
    /// Times a lane forgot what it had and asked for a snapshot.
    pub overflows: u64,
}

#[derive(Debug, Default)]
struct Lane {
    order: VecDeque<Key>,
    pending: HashMap<Key, Pending>,
    deletes: usize,
    overflowed: bool,
    queued: u64,
    taken: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Targets {
    deltas: u32,
    donations: u32,
}

#[derive(Debug, Default)]
struct Shard {
    targets: HashMap<GroupId, Targets>,
    lanes: BTreeMap<Slot, Lane>,
}

/// Called with the number of a shard.
struct Waker(Box<dyn Fn(u8) + Send + Sync>);

/// The dirty set of a node, shared by its workers (mark) and its senders (take).
#[derive(Debug)]
pub struct DirtySet {
    shards: Vec<Mutex<Shard>>,
    slots: Mutex<BTreeMap<NodeId, Slot>>,
    overflows: AtomicU64,
    waker: OnceLock<Waker>,
    lane_keys_max: usize,
    lane_deletes_max: usize,
}

impl Default for DirtySet {
    fn default() -> Self {
        Self::new()
    }
}

impl DirtySet {
    /// An empty set with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::with_bounds(LANE_KEYS_MAX, LANE_DELETES_MAX)
    }

    /// An empty set with bounds of its own.
    #[must_use]
    pub fn with_bounds(lane_keys_max: usize, lane_deletes_max: usize) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            slots: Mutex::default(),
            overflows: AtomicU64::new(0),
            waker: OnceLock::new(),
            lane_keys_max,
            lane_deletes_max,
        }
    }

    /// Has `wake` called with a shard whenever the first key comes to wait for a peer there, so that
    /// its sender is polled. Called on the packet path, without a lock: it must not block. Only the
    /// first call counts.
    pub fn set_waker(&self, wake: impl Fn(u8) + Send + Sync + 'static) {
        let _ = self.waker.set(Waker(Box::new(wake)));
    }

    /// The place of a peer, handed out when it has none; `None` when [`PEERS_MAX`] are taken.
    pub fn slot(&self, peer: NodeId) -> Option<Slot> {
        let mut slots = lock(&self.slots);
        if let Some(slot) = slots.get(&peer) {
            return Some(*slot);
        }
        let free =
            (0..PEERS_MAX as u8).map(Slot).find(|s| !slots.values().any(|used| used == s))?;
        slots.insert(peer, free);
        Some(free)
    }

    /// Forgets a peer that left the cluster. Its [`crate::Sender`]s must be gone.
    pub fn release(&self, peer: NodeId) {
        let Some(slot) = lock(&self.slots).remove(&peer) else { return };
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.lanes.remove(&slot);
            shard.targets.retain(|_, targets| {
                targets.deltas &= !slot.bit();
                targets.donations &= !slot.bit();
                targets.deltas | targets.donations != 0
            });
        }
    }

    /// A connection changed and the policy wants it copied: every peer that follows its group is
    /// to get its state.
    pub fn mark(&self, key: &Key, group: GroupId) {
        let pending = Pending { group, deleted: None };
        self.put_for(key, pending, |targets| targets.deltas | targets.donations);
    }

    /// A connection is gone. Only the peers in `sent_to` are told: the others never heard of it.
    ///
    /// Donations carry no deletes: a paused node that wakes up finds its connections expired, and
    /// must not end them at the node that has carried them on.
    pub fn mark_deleted(&self, key: &Key, group: GroupId, incarnation: u64, sent_to: u32) {
        if sent_to == 0 || is_on(Bug::DeletesNotSent) {
            return;
        }
        let pending = Pending { group, deleted: Some(incarnation) };
        self.put_for(key, pending, |targets| targets.deltas & sent_to);
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> DirtyMetrics {
        let waiting = self
            .shards
            .iter()
            .map(|shard| {
                lock(shard).lanes.values().map(|lane| lane.order.len() as u64).sum::<u64>()
            })
            .sum();
        DirtyMetrics { waiting, overflows: self.overflows.load(Ordering::Relaxed) }
    }

    pub(crate) fn set_feed(&self, shard: u8, slot: Slot, group: GroupId, feed: Feed) {
        let mut shard = self.shard_at(shard);
        let targets = shard.targets.entry(group).or_default();
        targets.deltas &= !slot.bit();
        targets.donations &= !slot.bit();
        match feed {
            Feed::None => {}
            Feed::Deltas => targets.deltas |= slot.bit(),
            Feed::Donations => targets.donations |= slot.bit(),
        }
        if targets.deltas | targets.donations == 0 {
            shard.targets.remove(&group);
        }
    }

    /// Marks a key for one peer again: what it was sent may not have arrived.
    pub(crate) fn put_back(&self, shard: u8, slot: Slot, key: &Key, pending: Pending) {
        let mut shard = self.shard_at(shard);
        self.put(&mut shard, slot.bit(), key, pending);
    }

    /// Takes up to `count` keys, oldest first.
    pub(crate) fn take(&self, shard: u8, slot: Slot, count: usize, out: &mut Vec<(Key, Pending)>) {
        let mut shard = self.shard_at(shard);
        let Some(lane) = shard.lanes.get_mut(&slot) else { return };
        for _ in 0..count {
            let Some(key) = lane.order.pop_front() else { break };
            lane.taken += 1;
            let Some(pending) = lane.pending.remove(&key) else { continue };
            lane.deletes -= usize::from(pending.deleted.is_some());
            out.push((key, pending));
        }
    }

    /// Whether the lane has forgotten something since it was last asked. From now on it collects
    /// again, so the snapshot that follows misses nothing.
    pub(crate) fn take_overflow(&self, shard: u8, slot: Slot) -> bool {
        let mut shard = self.shard_at(shard);
        shard.lanes.get_mut(&slot).is_some_and(|lane| std::mem::take(&mut lane.overflowed))
    }

    /// Keys that wait for a peer.
    pub(crate) fn waiting(&self, shard: u8, slot: Slot) -> usize {
        self.shard_at(shard).lanes.get(&slot).map_or(0, |lane| lane.order.len())
    }

    /// Calls `visit` for the keys whose end a peer is still to be told.
    pub(crate) fn each_deleted(&self, shard: u8, slot: Slot, mut visit: impl FnMut(&Key)) {
        let shard = self.shard_at(shard);
        let Some(lane) = shard.lanes.get(&slot).filter(|lane| lane.deletes > 0) else { return };
        let deleted = lane.pending.iter().filter(|(_, pending)| pending.deleted.is_some());
        deleted.for_each(|(key, _)| visit(key));
    }

    /// How many keys were ever queued and taken: what stands in the lane now has been taken when
    /// the second number reaches the present first one.
    pub(crate) fn progress(&self, shard: u8, slot: Slot) -> (u64, u64) {
        self.shard_at(shard).lanes.get(&slot).map_or((0, 0), |lane| (lane.queued, lane.taken))
    }

    fn put_for(&self, key: &Key, pending: Pending, slots: impl FnOnce(Targets) -> u32) {
        let number = shard_of(key);
        let mut shard = self.shard_at(number);
        let Some(targets) = shard.targets.get(&pending.group).copied() else { return };
        let first = self.put(&mut shard, slots(targets), key, pending);
        drop(shard);
        if first && let Some(Waker(wake)) = self.waker.get() {
            wake(number);
        }
    }

    /// True when a lane was empty before.
    fn put(&self, shard: &mut Shard, mut slots: u32, key: &Key, pending: Pending) -> bool {
        let mut first = false;
        while slots != 0 {
            let slot = Slot(slots.trailing_zeros() as u8);
            slots &= slots - 1;
            let lane = shard.lanes.entry(slot).or_default();
            first |= lane.order.is_empty();
            lane.put(key, pending);
            if lane.order.len() > self.lane_keys_max || lane.deletes > self.lane_deletes_max {
                lane.overflow();
                self.overflows.fetch_add(1, Ordering::Relaxed);
            }
        }
        first
    }

    fn shard_at(&self, shard: u8) -> MutexGuard<'_, Shard> {
        lock(&self.shards[usize::from(shard % SHARDS)])
    }
}

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

impl Lane {
    fn put(&mut self, key: &Key, new: Pending) {
        // A lane that waits for a snapshot needs no details.
        if self.overflowed {
            return;
        }
        match self.pending.entry(*key) {
            hash_map::Entry::Vacant(place) => {
                place.insert(new);
                self.order.push_back(*key);
                self.queued += 1;
                self.deletes += usize::from(new.deleted.is_some());
            }
            hash_map::Entry::Occupied(mut place) => {
                let old = place.get_mut();
                self.deletes += usize::from(old.deleted.is_none() && new.deleted.is_some());
                // Lives of a key end in order: the later one is the one that the peer may have.
                old.deleted = old.deleted.max(new.deleted);
                old.group = new.group;
            }
        }
    }

    fn overflow(&mut self) {
        self.taken += self.order.len() as u64;
        self.order = VecDeque::new();
        self.pending = HashMap::new();
        self.deletes = 0;
        self.overflowed = true;
    }
}

/// A panic elsewhere must not end replication: the maps are valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
