//! Sending: one [`Sender`] per peer and shard.
//!
//! The driver calls [`Sender::handle_role`] whenever the ownership of a group changes, opens a
//! stream and writes [`Sender::hello`], reads the peer's hello and then calls
//! [`Sender::handle_stream_up`]; from then on it writes what [`Sender::poll_transmit`] returns (as
//! one frame) whenever the stream has room, until it returns `None`, and passes on what it reads to
//! [`Sender::handle_ack`]. It polls again at [`Sender::next_deadline`], and every
//! [`BATCH_INTERVAL_NS`] while keys wait. Time is monotone.
//!
//! Guarantees: what a peer is sent is the state at the time of writing, in one order; at most
//! [`WINDOW_BATCHES`] batches are unacknowledged; one poll looks at a bounded number of entries;
//! after a break everything that was not acknowledged is sent again. Deletes and sweeps go out
//! only for groups that this node holds. Snapshots wait for the [`SnapshotBudget`]; changes and
//! donations never do.

mod group;
#[cfg(test)]
mod tests;
mod verify;
mod walk;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

pub use group::GroupRole;
use group::{Group, Phase, SweepState};
use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{BootId, GroupId};
use thiserror::Error;
pub use verify::DIGEST_INTERVAL_NS;
use verify::Verify;

use crate::{
    DirtySet, Key, SHARDS, SenderMetrics, Slot, SnapshotBudget, Table,
    dirty::{Feed, Pending},
    receiver::Local,
    sender::walk::Walk,
    wire::{
        Ack, BATCH_BYTES_MAX, BatchWriter, DIGEST_BYTES_MAX, GroupHeader, Hello, Message,
        OLDEST_VERSION, WireError,
    },
};

/// A batch is written at the latest after this.
pub const BATCH_INTERVAL_NS: u64 = 1_000_000;
/// Records in a batch, and the number of waiting keys that is worth a batch at once.
pub const BATCH_RECORDS_MAX: usize = 512;
/// An empty batch goes out when nothing else did for so long, so that the peer can judge how
/// fresh its copy is.
pub const HEARTBEAT_NS: u64 = 50_000_000;
/// Batches on their way. Beyond it keys wait in the dirty set, where they take no more room.
pub const WINDOW_BATCHES: usize = 64;
/// A new holder does not let its peers sweep before this, unless all donations are in.
pub const SWEEP_DELAY_NS: u64 = 3_000_000_000;
/// Table entries that one poll looks at for a snapshot.
pub const WALK_ENTRIES_MAX: usize = 2048;

const NS_PER_MS: u64 = 1_000_000;

/// Why an acknowledgement is refused; the stream is to be closed.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum AckError {
    /// The frame cannot be read.
    #[error("unreadable acknowledgement: {0}")]
    Wire(#[from] WireError),
    /// It is something else.
    #[error("a frame that is no acknowledgement")]
    Unexpected,
    /// It names a batch that was never sent.
    #[error("acknowledgement of batch {got}, but {sent} were sent")]
    Ahead {
        /// Acknowledged.
        got: u64,
        /// Sent.
        sent: u64,
    },
}

/// A batch on its way.
#[derive(Debug)]
struct Flight {
    seq: u64,
    sent_ns: u64,
    items: Vec<(Key, Pending)>,
}

/// The stream while it is up.
#[derive(Debug)]
struct Stream {
    seq: u64,
    last_sent_ns: Option<u64>,
    flights: VecDeque<Flight>,
}

/// Sends the records of one shard to one peer.
#[derive(Debug)]
pub struct Sender {
    local: Local,
    shard: u8,
    slot: Slot,
    dirty: Arc<DirtySet>,
    groups: BTreeMap<GroupId, Group>,
    /// Some group has a snapshot, a donation or a sweep to come: without this, thousands of groups
    /// would be looked at on every poll for nothing.
    unsettled: bool,
    walk: Option<Walk>,
    snapshots: u64,
    stream: Option<Stream>,
    peer_boot: Option<BootId>,
    /// Since when changes wait that did not fit into a batch.
    behind_since_ns: Option<u64>,
    /// Spoken on the stream.
    version: u8,
    verify: Verify,
    budget: Arc<SnapshotBudget>,
    /// Since when a snapshot waits for the budget.
    held_up_since_ns: Option<u64>,
    metrics: SenderMetrics,
}

impl Sender {
    /// A sender to the peer in `slot`, without a stream and without groups.
    #[must_use]
    pub fn new(local: Local, slot: Slot, shard: u8, dirty: Arc<DirtySet>) -> Self {
        Self {
            local,
            shard: shard % SHARDS,
            slot,
            dirty,
            groups: BTreeMap::new(),
            unsettled: false,
            walk: None,
            snapshots: 0,
            stream: None,
            peer_boot: None,
            behind_since_ns: None,
            version: OLDEST_VERSION,
            verify: Verify::default(),
            budget: Arc::default(),
            held_up_since_ns: None,
            metrics: SenderMetrics::default(),
        }
    }

    /// Snapshots take no more than this, which all senders of the node share.
    #[must_use]
    pub fn limited_by(mut self, budget: Arc<SnapshotBudget>) -> Self {
        self.budget = budget;
        self
    }

    /// The stream is up and the peer has said hello.
    pub fn handle_stream_up(&mut self, now_ns: u64, hello: &Hello) {
        let peer_boot = hello.boot;
        self.handle_stream_down(now_ns);
        self.version = hello.agreed();
        self.verify.begin(now_ns);
        self.unsettled = true;
        let restarted = self.peer_boot.is_some_and(|boot| boot != peer_boot)
            && !is_on(Bug::RestartedPeerForgotten);
        if restarted {
            // Memory is all a peer has of us, and it has lost it.
            for group in self.groups.values_mut() {
                group.want_again();
            }
        }
        for group in self.groups.values_mut() {
            group.older_until_seq = 0;
        }
        self.peer_boot = Some(peer_boot);
        self.metrics.lag_max_ns = 0;
        self.stream = Some(Stream { seq: 0, last_sent_ns: None, flights: VecDeque::new() });
    }

    /// The stream is gone: what was not acknowledged is marked again.
    pub fn handle_stream_down(&mut self, now_ns: u64) {
        let Some(stream) = self.stream.take() else { return };
        // What comes after the break is behind since the first batch that may be lost.
        let lost_ns = stream.flights.front().map_or(now_ns, |flight| flight.sent_ns);
        self.behind_since_ns.get_or_insert(lost_ns);
        self.metrics.breaks += 1;
        self.unsettled = true;
        self.walk = None;
        self.verify.abort();
        for group in self.groups.values_mut() {
            if !matches!(group.phase, Phase::Done { .. }) {
                group.want_again();
            } else if matches!(group.sweep, SweepState::Sent { .. }) {
                group.sweep = SweepState::Due;
            }
        }
        for (key, pending) in stream.flights.iter().flat_map(|flight| &flight.items) {
            self.remark(key, *pending);
        }
    }

    /// What this node is to a group, towards this peer, has changed. When this node takes a group
    /// over it is [`GroupRole::Send`] towards every candidate; when it loses one, or follows it from
    /// one holder to the next, [`GroupRole::Donate`] towards the new holder and
    /// [`GroupRole::Idle`] towards all others.
    pub fn handle_role(&mut self, now_ns: u64, group: GroupId, role: GroupRole) {
        let old = self.groups.get(&group).copied();
        if old.is_some_and(|old| old.role == role) {
            return;
        }
        let feed = match role {
            GroupRole::Idle => Feed::None,
            GroupRole::Send { .. } => Feed::Deltas,
            GroupRole::Donate { .. } => Feed::Donations,
        };
        self.verify.abort();
        // First, so that no change falls between the walk and the deltas.
        self.dirty.set_feed(self.shard, self.slot, group, feed);
        let phase = match (role, old) {
            (GroupRole::Idle, _) => {
                self.groups.remove(&group);
                return;
            }
            // A claim that was ratified, or a grant to the node that holds: the copy stays good,
            // unless another held the group in between.
            (
                GroupRole::Send { .. },
                Some(Group { role: GroupRole::Send { .. }, fenced: false, .. }),
            ) => {
                let seq = self.stream.as_ref().map_or(0, |stream| stream.seq);
                if let Some(known) = self.groups.get_mut(&group) {
                    known.role = role;
                    known.older_until_seq = seq;
                }
                return;
            }
            (GroupRole::Donate { everything: false, .. }, Some(old))
                if matches!(old.phase, Phase::Done { .. })
                    && matches!(old.role, GroupRole::Send { .. })
                    && !old.fenced =>
            {
                self.remark_group(group);
                let (queued, _) = self.dirty.progress(self.shard, self.slot);
                Phase::Draining { queued }
            }
            _ => Phase::Wanted,
        };
        let delay_ns = if is_on(Bug::SweepBeforeDonations) { 0 } else { SWEEP_DELAY_NS };
        let sweep_from_ns = now_ns.saturating_add(delay_ns);
        let sweep = SweepState::Due;
        self.unsettled = true;
        let (fenced, older_until_seq) = (false, 0);
        let entry = Group { role, phase, sweep_from_ns, sweep, fenced, older_until_seq };
        self.groups.insert(group, entry);
    }

    /// A frame from the peer.
    ///
    /// # Errors
    ///
    /// When the stream is to be closed.
    pub fn handle_ack(&mut self, now_ns: u64, frame: &[u8]) -> Result<(), AckError> {
        let Message::Ack(Ack { seq, resync, fenced }) = Message::decode(frame)? else {
            return Err(AckError::Unexpected);
        };
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if seq > stream.seq {
            return Err(AckError::Ahead { got: seq, sent: stream.seq });
        }
        while stream.flights.front().is_some_and(|flight| flight.seq <= seq) {
            let Some(flight) = stream.flights.pop_front() else { break };
            self.metrics.lag_ns = now_ns.saturating_sub(flight.sent_ns);
            self.metrics.lag_max_ns = self.metrics.lag_max_ns.max(self.metrics.lag_ns);
        }
        if self.unsettled {
            self.settle(seq);
        }
        if !fenced.is_empty() || !resync.is_empty() {
            self.verify.abort();
        }
        for group in fenced {
            let Some(group) = self.groups.get_mut(&group) else { continue };
            if seq <= group.older_until_seq {
                // The claim was ratified, and the peer heard of it first: once more, under the
                // epoch that both know now.
                group.want_again();
                self.unsettled = true;
            } else {
                group.fenced = true;
            }
        }
        for group in resync {
            if let Some(group) = self.groups.get_mut(&group)
                && matches!(group.phase, Phase::Ending { .. } | Phase::Done { .. })
            {
                group.want_again();
                self.unsettled = true;
            }
        }
        Ok(())
    }

    /// The next frame to write, `None` when there is nothing to say now. `room` is what the stream
    /// takes; less than a batch needs is as good as none.
    pub fn poll_transmit<T>(&mut self, now_ns: u64, table: &T, room: usize) -> Option<Vec<u8>>
    where
        T: Table + ?Sized,
    {
        let waiting = self.dirty.waiting(self.shard, self.slot);
        if waiting > 0 {
            self.behind_since_ns.get_or_insert(now_ns);
        }
        let (last_sent_ns, unacked) = match &self.stream {
            Some(stream) => (stream.last_sent_ns, stream.flights.len()),
            None => return None,
        };
        if unacked >= WINDOW_BATCHES {
            return None;
        }
        if self.dirty.take_overflow(self.shard, self.slot) {
            self.groups.values_mut().for_each(Group::want_again);
            self.unsettled = true;
            self.walk = None;
            self.verify.abort();
        }
        let held_up = self.note_held_up(now_ns);
        let idle_ns = last_sent_ns.map(|at| now_ns.saturating_sub(at));
        let work = waiting > 0 || self.has_marks_to_write(now_ns, held_up);
        let walks = self.walk.is_some() && !held_up;
        let due = match idle_ns {
            None => true,
            Some(idle_ns) if work || walks => {
                idle_ns >= BATCH_INTERVAL_NS || waiting >= BATCH_RECORDS_MAX || walks
            }
            Some(idle_ns) => idle_ns >= HEARTBEAT_NS,
        };
        let mut writer = BatchWriter::new(room.min(BATCH_BYTES_MAX));
        if !due || !writer.has_room() {
            return if room < DIGEST_BYTES_MAX { None } else { self.poll_digest(now_ns, table) };
        }
        let mut items = Vec::new();
        self.write_deltas(table, held_up, &mut writer, &mut items);
        if !held_up {
            let before = writer.bytes();
            self.write_walk(table, &mut writer, &mut items);
            let bytes = writer.bytes() - before;
            self.metrics.walk_bytes += bytes as u64;
            self.budget.spend(now_ns, bytes);
        }
        self.write_marks(now_ns, &mut writer);
        Some(self.finish(now_ns, writer, items))
    }

    /// When to poll although nothing happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let stream = self.stream.as_ref()?;
        if stream.flights.len() >= WINDOW_BATCHES {
            return None;
        }
        let last_ns = stream.last_sent_ns.unwrap_or(0);
        let heartbeat = last_ns.saturating_add(HEARTBEAT_NS);
        let soon = last_ns.saturating_add(BATCH_INTERVAL_NS);
        if self.verify.is_under_way() || self.dirty.waiting(self.shard, self.slot) > 0 {
            return Some(soon);
        }
        if !self.walks_or_wants() {
            return Some(heartbeat);
        }
        let free_at_ns = if self.is_urgent() { 0 } else { self.budget.free_at_ns() };
        Some(soon.max(free_at_ns).min(heartbeat.max(soon)))
    }

    /// The first frame of a stream.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let Local { cluster, node, boot } = self.local;
        Hello::new(cluster, node, boot, self.shard).encode()
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> u8 {
        self.shard
    }

    /// Whether the peer has acknowledged a whole snapshot of the group (or, for a donation,
    /// everything that was to be donated). What changed since then is in the metrics.
    #[must_use]
    pub fn is_done(&self, group: GroupId) -> bool {
        self.groups.get(&group).is_some_and(|g| matches!(g.phase, Phase::Done { .. }))
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> SenderMetrics {
        let flights = self.stream.iter().flat_map(|stream| &stream.flights);
        let pending = self.groups.values().filter(|g| !matches!(g.phase, Phase::Done { .. }));
        SenderMetrics {
            connected: self.stream.is_some(),
            waiting: self.dirty.waiting(self.shard, self.slot) as u64,
            unacked_batches: flights.clone().count() as u64,
            unacked_records: flights.map(|flight| flight.items.len() as u64).sum(),
            snapshots_pending: pending.count() as u64,
            ..self.metrics
        }
    }

    /// Writes what stands in the lane, as it is now.
    fn write_deltas<T>(
        &mut self,
        table: &T,
        held_up: bool,
        writer: &mut BatchWriter,
        items: &mut Vec<(Key, Pending)>,
    ) where
        T: Table + ?Sized,
    {
        // A walk gets half of each batch, so that neither starves the other.
        let walking = self.walks_or_wants() && !held_up;
        let most = if walking { BATCH_RECORDS_MAX / 2 } else { BATCH_RECORDS_MAX };
        let mut taken = Vec::new();
        while writer.has_room() && writer.items() < most {
            taken.clear();
            self.dirty.take(self.shard, self.slot, 1, &mut taken);
            let Some((key, pending)) = taken.pop() else { break };
            if walking && is_on(Bug::DeltaBeforeSnapshotLost) {
                continue;
            }
            self.write_key(table, &key, pending, writer, items);
        }
        if self.dirty.waiting(self.shard, self.slot) == 0 {
            self.behind_since_ns = None;
        }
    }

    /// Writes one key: the life that ended, if any, and what the table has now.
    fn write_key<T>(
        &mut self,
        table: &T,
        key: &Key,
        pending: Pending,
        writer: &mut BatchWriter,
        items: &mut Vec<(Key, Pending)>,
    ) where
        T: Table + ?Sized,
    {
        let Some(header) = self.header(pending.group) else {
            self.metrics.dropped += 1;
            return;
        };
        let before = writer.items();
        // The end of the old life goes first, also when there is a new one: incarnations are
        // numbered by the node that made them, so the new number may be the lower one.
        if let Some(incarnation) = pending.deleted
            && !header.donated
        {
            writer.delete(header, key, incarnation);
            self.metrics.deletes += 1;
        }
        if let Some(record) = table.get(key, self.slot).filter(|r| r.group == pending.group) {
            writer.record(header, &record);
            self.metrics.records += 1;
            self.metrics.donated += u64::from(header.donated);
        }
        if writer.items() > before {
            items.push((*key, pending));
            self.verify.touch(self.hasher(), key);
        }
    }

    /// Notes which ends and sweeps have been acknowledged.
    fn settle(&mut self, acked: u64) {
        for group in self.groups.values_mut() {
            match group.phase {
                Phase::Ending { snapshot, seq } if seq <= acked => {
                    group.phase = Phase::Done { snapshot };
                    let sent = matches!(group.role, GroupRole::Send { .. });
                    self.metrics.snapshots_done += u64::from(sent);
                }
                _ => {}
            }
            if matches!(group.sweep, SweepState::Sent { seq } if seq <= acked) {
                group.sweep = SweepState::Done;
            }
        }
        self.unsettled = !self.groups.values().all(Group::is_settled);
    }

    /// Marks what is on its way for one group again.
    fn remark_group(&mut self, group: GroupId) {
        let Some(stream) = &self.stream else { return };
        let lost: Vec<(Key, Pending)> = stream
            .flights
            .iter()
            .flat_map(|flight| &flight.items)
            .filter(|(_, pending)| pending.group == group)
            .copied()
            .collect();
        for (key, pending) in lost {
            self.remark(&key, pending);
        }
    }

    fn remark(&mut self, key: &Key, pending: Pending) {
        // A group that is walked again needs no details.
        let known = self.groups.get(&pending.group);
        let forgotten = is_on(Bug::RemarkForgotten);
        if known.is_none_or(|group| group.phase == Phase::Wanted) || forgotten {
            return;
        }
        self.metrics.remarked += 1;
        self.dirty.put_back(self.shard, self.slot, key, pending);
    }

    fn header(&self, group: GroupId) -> Option<GroupHeader> {
        let (epoch, donated) = match self.groups.get(&group)?.role {
            GroupRole::Idle => return None,
            GroupRole::Send { epoch } => (epoch, false),
            GroupRole::Donate { epoch, .. } => (epoch, true),
        };
        Some(GroupHeader { group, epoch, donated })
    }

    fn finish(&mut self, now_ns: u64, writer: BatchWriter, items: Vec<(Key, Pending)>) -> Vec<u8> {
        let age_ns = self.behind_since_ns.map_or(0, |since| now_ns.saturating_sub(since));
        let seq = self.next_seq();
        let frame = writer.finish(seq, now_ns / NS_PER_MS, age_ns.div_ceil(NS_PER_MS));
        if let Some(stream) = &mut self.stream {
            stream.seq = seq;
            stream.last_sent_ns = Some(now_ns);
            stream.flights.push_back(Flight { seq, sent_ns: now_ns, items });
        }
        self.metrics.batches += 1;
        self.metrics.bytes += frame.len() as u64;
        frame
    }

    fn wants_walk(&self) -> bool {
        self.unsettled && self.groups.values().any(Group::is_wanted)
    }

    fn walks_or_wants(&self) -> bool {
        self.walk.is_some() || self.wants_walk()
    }

    /// The walk, which serves all groups that want one, has a donation among them: a new holder
    /// waits for it.
    fn is_urgent(&self) -> bool {
        let donated = |group: &Group| {
            matches!(group.role, GroupRole::Donate { .. })
                && matches!(group.phase, Phase::Wanted | Phase::Walking { .. })
        };
        self.unsettled && self.groups.values().any(donated)
    }

    /// Whether the budget lets no snapshot go on now; keeps account of how long.
    fn note_held_up(&mut self, now_ns: u64) -> bool {
        let held_up =
            self.budget.free_at_ns() > now_ns && self.walks_or_wants() && !self.is_urgent();
        if held_up {
            self.held_up_since_ns.get_or_insert(now_ns);
        } else if let Some(since_ns) = self.held_up_since_ns.take() {
            self.metrics.held_up_ns += now_ns.saturating_sub(since_ns);
        }
        held_up
    }

    /// The number that the batch in the making will have.
    fn next_seq(&self) -> u64 {
        self.stream.as_ref().map_or(0, |stream| stream.seq) + 1
    }
}
