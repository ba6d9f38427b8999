//! The state machine: its inputs and outputs.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{Hash, Hasher};

use steadfast_model::{BootId, GroupId, NodeId};

use crate::group::Group;
use crate::peer::Peer;
use crate::state::{GroupEvent, GroupState};
use crate::{
    Action, Committed, Completeness, Counters, Path, SegmentId, Settings, SettingsError,
    StopReason, Time,
};

/// Runs of one node whose connections this node may have copies of.
const COPIES_PER_NODE: usize = 2;

/// Decides which node announces a VIP group: time, facts and messages in, actions out.
///
/// Methods are of three kinds. `handle_*` feed it; `poll_action`, `next_deadline` and
/// `announce_valid_until` say what to do; the rest only look. The driver's loop is: take
/// *everything* that has arrived and feed it, then [`Self::handle_tick`], then execute every
/// polled action, then sleep until [`Self::next_deadline`] or input. Draining before
/// `handle_tick` is part of the protocol: after a pause, evidence of life may lie in the socket,
/// and a deadline must not be judged before it was read. `now` never goes back. Gaps of the loop
/// are seen here, from `now`.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Ownership {
    pub(crate) node: NodeId,
    pub(crate) boot: BootId,
    pub(crate) settings: Settings,
    pub(crate) committed: Committed,
    /// What was applied when this run began.
    pub(crate) inherited_index: Option<u64>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) peers: BTreeMap<NodeId, Peer>,
    pub(crate) links: BTreeMap<SegmentId, Link>,
    pub(crate) copies: BTreeMap<NodeId, Vec<Copy>>,
    pub(crate) workers_ok: bool,
    pub(crate) shutdown: Option<Shutdown>,
    /// Since when this node is the leader.
    pub(crate) leader: Option<Time>,
    /// Since when no majority of the voters is heard.
    pub(crate) minority: Option<Time>,
    /// When a majority was last heard again.
    pub(crate) majority_from: Time,
    /// Since when any path works.
    pub(crate) paths_up: Option<Time>,
    pub(crate) sequence: u64,
    /// Frames sent of late, for echoes: sequence and time.
    pub(crate) sent: VecDeque<(u64, Time)>,
    pub(crate) beacon_at: Time,
    pub(crate) beacon_sent: Time,
    /// Where the rotation over the groups goes on.
    pub(crate) rotation: GroupId,
    /// Groups whose epoch changed, with how many beacons still carry it first.
    pub(crate) changed: BTreeMap<GroupId, u32>,
    /// The start, or the last gap of the own loop: what was heard before proves nothing.
    pub(crate) timers_from: Time,
    /// When the loop last ran.
    pub(crate) ran: Time,
    pub(crate) deadline: Time,
    /// Something happened that may not wait for the deadline.
    pub(crate) dirty: bool,
    pub(crate) actions: VecDeque<Action>,
    pub(crate) counters: Unhashed<Counters>,
}

/// An interface on a segment.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Link {
    pub(crate) up: bool,
    pub(crate) since: Time,
}

/// A fact from replication.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Copy {
    pub(crate) boot: BootId,
    pub(crate) state: Completeness,
    pub(crate) at: Time,
}

/// A planned stop.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Shutdown {
    pub(crate) resign_at: Time,
    pub(crate) ask_at: Time,
}

/// Observations, not state: two values that differ only here behave the same, so they compare and
/// hash the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unhashed<T>(pub(crate) T);

impl<T> PartialEq for Unhashed<T> {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl<T> Eq for Unhashed<T> {}

impl<T> Hash for Unhashed<T> {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

impl Ownership {
    /// A node that knows nothing yet. `boot` must be random and new: no earlier run of this node
    /// had it.
    pub fn new(
        node: NodeId,
        boot: BootId,
        settings: Settings,
        now: Time,
    ) -> Result<Self, SettingsError> {
        settings.validate()?;
        Ok(Self {
            node,
            boot,
            settings,
            committed: Committed::default(),
            inherited_index: None,
            groups: BTreeMap::new(),
            peers: BTreeMap::new(),
            links: BTreeMap::new(),
            copies: BTreeMap::new(),
            workers_ok: true,
            shutdown: None,
            leader: None,
            minority: None,
            majority_from: now,
            paths_up: None,
            sequence: 0,
            sent: VecDeque::new(),
            beacon_at: now,
            beacon_sent: Time(0),
            rotation: GroupId(0),
            changed: BTreeMap::new(),
            timers_from: now,
            ran: now,
            deadline: now,
            dirty: true,
            actions: VecDeque::new(),
            counters: Unhashed::default(),
        })
    }

    /// The replicated state after an entry or snapshot was applied. Call it at the start and after
    /// every change of voters, members, groups or grants. A state with a lower `applied_index` than
    /// the last one is ignored. The first one has everything that an earlier run of this node had
    /// applied.
    pub fn handle_committed(&mut self, now: Time, committed: Committed) {
        self.observe(now);
        if committed.applied_index < self.committed.applied_index {
            return;
        }
        self.dirty = true;
        self.inherited_index.get_or_insert(committed.applied_index);
        self.committed = committed;
        self.peers.retain(|node, _| self.committed.member(*node).is_some());
        for node in self.committed.members.iter().map(|member| member.node) {
            if node != self.node {
                self.peers.entry(node).or_insert_with(|| Peer::new(now));
            }
        }
        let specs = self.committed.groups.clone();
        let named: BTreeSet<GroupId> = specs.iter().map(|group| group.id).collect();
        let gone: Vec<_> = self.groups.keys().copied().filter(|id| !named.contains(id)).collect();
        for id in gone {
            self.stop(id, StopReason::Removed);
            self.groups.remove(&id);
            self.changed.remove(&id);
        }
        let member = self.committed.member(self.node).is_some();
        for spec in specs {
            let (id, grant) = (spec.id, spec.grant);
            let group = self.groups.entry(id).or_insert_with(|| Group::new(now, spec.clone()));
            if group.spec.grant != grant {
                group.proposed_at = None;
            }
            group.spec = spec;
            if !member {
                self.stop(id, StopReason::Removed);
                self.transit(now, id, GroupEvent::Removed);
            } else if let Some(grant) = grant {
                self.learn_committed(now, id, grant);
            }
        }
    }

    /// An interface came up or went down. Segments never reported are down.
    pub fn handle_link(&mut self, now: Time, segment: SegmentId, up: bool) {
        self.observe(now);
        if self.links.get(&segment).is_some_and(|link| link.up == up) {
            return;
        }
        self.links.insert(segment, Link { up, since: now });
        self.dirty = true;
        if up {
            self.paths_up.get_or_insert(now);
        }
    }

    /// A segment that no group uses any more: nothing is sent on it, and what was heard there counts
    /// no longer.
    pub fn handle_segment_gone(&mut self, now: Time, segment: SegmentId) {
        self.observe(now);
        self.links.remove(&segment);
        for peer in self.peers.values_mut() {
            peer.paths.remove(&Path::Segment(segment));
        }
        self.dirty = true;
    }

    /// Whether every worker has made progress since the last call; a change takes effect at once.
    pub fn handle_worker_progress(&mut self, now: Time, all_ok: bool) {
        self.observe(now);
        self.dirty |= self.workers_ok != all_ok;
        self.workers_ok = all_ok;
    }

    /// The state of this node's copy of the connections of `holder` in its run `boot`. Repeat it
    /// while it is complete, at least every half of [`Settings::complete_within`]: a fact that is
    /// older when the holder falls silent counts as stale.
    pub fn handle_completeness(
        &mut self,
        now: Time,
        holder: NodeId,
        boot: BootId,
        copy: Completeness,
    ) {
        self.observe(now);
        let copies = self.copies.entry(holder).or_default();
        copies.retain(|known| known.boot != boot);
        if copies.len() == COPIES_PER_NODE {
            copies.remove(0);
        }
        copies.push(Copy { boot, state: copy, at: now });
    }

    /// SIGTERM: move every group away as planned, resign what is left after the bound.
    pub fn handle_shutdown(&mut self, now: Time) {
        self.observe(now);
        let resign_at = now + self.settings.shutdown_bound;
        self.shutdown.get_or_insert(Shutdown { resign_at, ask_at: now });
        self.beacon_at = now;
        self.dirty = true;
    }

    /// Whether this node is the Raft leader.
    pub fn handle_leader(&mut self, now: Time, leader: bool) {
        self.observe(now);
        match (leader, self.leader) {
            (true, None) => self.leader = Some(now),
            (false, Some(_)) => self.leader = None,
            _ => return,
        }
        self.dirty = true;
        for group in self.groups.values_mut() {
            group.proposed_at = None;
        }
    }

    /// A proposal was refused or could not be committed: it may be repeated at once if it still
    /// makes sense.
    pub fn handle_proposal_failed(&mut self, now: Time, group: GroupId) {
        self.observe(now);
        if let Some(group) = self.groups.get_mut(&group) {
            group.proposed_at = None;
        }
    }

    /// Judges deadlines. Feed all pending input first.
    pub fn handle_tick(&mut self, now: Time) {
        self.observe(now);
        if !self.dirty && now < self.deadline {
            return;
        }
        self.dirty = false;
        self.deadline = now + self.settings.wake();
        self.judge_majority(now);
        self.judge_leading(now);
        self.judge_groups(now);
        self.judge_shutdown(now);
        self.judge_announcing(now);
        self.send_claims(now);
        self.send_beacon(now);
        self.publish_roles();
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Self::handle_tick`] again at the latest.
    pub fn next_deadline(&self) -> Time {
        if self.dirty { self.ran } else { self.deadline }
    }

    /// Sees gaps of the own loop before anything is judged by stale timers.
    pub(crate) fn observe(&mut self, now: Time) {
        debug_assert!(now >= self.ran, "time went back");
        let gap = now.since(self.ran);
        self.ran = self.ran.max(now);
        if gap <= self.settings.beacons(self.settings.gap_beacons) {
            return;
        }
        self.counters.0.gaps += 1;
        self.dirty = true;
        self.timers_from = now;
        for peer in self.peers.values_mut() {
            peer.restart_timer(now);
        }
        let mute = gap >= self.settings.beacons(self.settings.mute_gap_beacons);
        let mute_until = now + self.settings.beacons(self.settings.mute_beacons);
        let ids: Vec<_> = self.groups.keys().copied().collect();
        for id in ids {
            // A claim that was under way rests on what was seen before the gap.
            self.transit(now, id, GroupEvent::Lost);
            self.shadow_after_gap(now, id, mute);
            if mute && self.groups[&id].state.holds() {
                self.doubt(now, id, mute_until, StopReason::LoopGap);
            }
        }
        if mute {
            self.discard_unsent();
        }
    }

    /// Announcements that were asked for before the gap must not go out after it.
    fn discard_unsent(&mut self) {
        self.actions.retain(|action| {
            !matches!(
                action,
                Action::SendGratuitousArp { .. }
                    | Action::AnnounceTo { .. }
                    | Action::StartAnnouncing { .. }
                    | Action::SendSegment { .. }
                    | Action::SendPeer { .. }
            )
        });
    }

    /// Applies an event of the table to a group.
    pub(crate) fn transit(&mut self, now: Time, id: GroupId, event: GroupEvent) -> bool {
        let Some(group) = self.groups.get_mut(&id) else { return false };
        let before = group.state;
        let changed = group.apply(now, event);
        let state = group.state;
        if before.next(event).is_some() {
            *self.counters.0.transitions.entry((before, event)).or_default() += 1;
        }
        self.dirty |= changed;
        if changed && [before, state].contains(&GroupState::Shadow) {
            if before == GroupState::Shadow && state != GroupState::Holding {
                self.stop(id, StopReason::ShadowEnded);
            }
            // What this node is has changed, under the same epoch.
            self.changed.insert(id, self.settings.silent_after);
        }
        changed
    }

    /// Asks to be called at `at`, if that is earlier than planned.
    pub(crate) fn wake_at(&mut self, at: Time) {
        self.deadline = self.deadline.min(at);
    }
}
