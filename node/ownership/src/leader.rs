//! What the Raft leader proposes: first grants, ratification of claims, planned moves, and a new
//! holder when nobody claimed.

use std::collections::BTreeMap;

use steadfast_model::{BootId, GroupId, NodeId};
use thiserror::Error;

use crate::group::Group;
use crate::ownership::Ownership;
use crate::{Action, Completeness, GrantReason, GroupState, MOVES_MAX, Stance, Time};

/// How often a stopping node asks for its groups to be moved, within the bound of the stop.
const ASKS_PER_SHUTDOWN: u64 = 12;

impl Ownership {
    /// Only at the leader: plan a move of `group` to `target`, or to the best candidate. On `Ok` an
    /// [`Action::ProposeGrant`] follows. It never goes to a copy that is not complete, or too far behind.
    pub fn handle_move(
        &mut self,
        now: Time,
        group: GroupId,
        target: Option<NodeId>,
    ) -> Result<NodeId, MoveError> {
        self.observe(now);
        let known = self.movable(now, group)?;
        let target = match target {
            Some(target) if self.committed.held_down(target) => {
                return Err(MoveError::HeldDown(target));
            }
            Some(target) => {
                self.check_target(now, known, target)?;
                target
            }
            None => {
                let able = |node: &NodeId| self.check_target(now, known, *node).is_ok();
                let able = known.spec.candidates.iter().copied().filter(able);
                // Better there than nowhere.
                able.min_by_key(|node| self.committed.held_down(*node))
                    .ok_or(MoveError::NoCandidate)?
            }
        };
        self.plan(now, group, target)
    }

    /// As [`Self::handle_move`], but the copy at `target` may be any: what it has not got breaks.
    pub fn handle_forced_move(
        &mut self,
        now: Time,
        group: GroupId,
        target: NodeId,
    ) -> Result<NodeId, MoveError> {
        self.observe(now);
        let known = self.movable(now, group)?;
        if self.committed.held_down(target) {
            return Err(MoveError::HeldDown(target));
        }
        match self.check_target(now, known, target) {
            Ok(()) | Err(MoveError::NotComplete(_)) => self.plan(now, group, target),
            Err(error) => Err(error),
        }
    }

    /// The group, when this node may plan a move of it now.
    fn movable(&self, now: Time, group: GroupId) -> Result<&Group, MoveError> {
        if self.leader.is_none() {
            return Err(MoveError::NotLeader);
        }
        let known = self.groups.get(&group).ok_or(MoveError::UnknownGroup(group))?;
        if self.proposal_pending(now, known) || !self.settled(known) {
            return Err(MoveError::Busy);
        }
        Ok(known)
    }

    fn plan(&mut self, now: Time, group: GroupId, target: NodeId) -> Result<NodeId, MoveError> {
        let boot = self.boot_of(target).ok_or(MoveError::Silent(target))?;
        self.propose(now, group, target, boot, GrantReason::Move);
        Ok(target)
    }

    pub(crate) fn check_target(
        &self,
        now: Time,
        group: &Group,
        target: NodeId,
    ) -> Result<(), MoveError> {
        if !group.spec.candidates.contains(&target) || self.committed.witness(target) {
            return Err(MoveError::NotCandidate(target));
        }
        if group.epoch.node == target && group.gone_at.is_none() {
            return Err(MoveError::AlreadyThere(target));
        }
        if target == self.node {
            if self.cordoned(target) || self.shutdown.is_some() {
                return Err(MoveError::Cordoned(target));
            }
            if self.unfit(now, group).is_some() {
                return Err(MoveError::SegmentDown(target));
            }
            if self.group_copy(group, target, now) != Completeness::Complete {
                return Err(MoveError::NotComplete(target));
            }
            return Ok(());
        }
        let peer = self.peers.get(&target).ok_or(MoveError::Silent(target))?;
        let view = peer.view.as_ref().ok_or(MoveError::Silent(target))?;
        if !peer.heard_within(now, self.settings.silence()) {
            return Err(MoveError::Silent(target));
        }
        if self.cordoned(target) || view.leaving {
            return Err(MoveError::Cordoned(target));
        }
        if !group.spec.segments.iter().all(|segment| view.segments.contains(segment)) {
            return Err(MoveError::SegmentDown(target));
        }
        if self.group_copy(group, target, now) != Completeness::Complete {
            return Err(MoveError::NotComplete(target));
        }
        Ok(())
    }

    /// What the leader has to propose without being asked.
    pub(crate) fn judge_leading(&mut self, now: Time) {
        let Some(since) = self.leader else { return };
        // A new leader, or one that paused, first listens who is there.
        let listened = now.since(since.max(self.timers_from)) >= self.settings.silence();
        if !listened || self.abstains_until(now).is_some() {
            return;
        }
        let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
        for group in self.groups.values().filter(|group| group.owned()) {
            *held.entry(group.epoch.node).or_default() += 1;
        }
        let ids: Vec<_> = self.groups.keys().copied().collect();
        for id in ids {
            let group = &self.groups[&id];
            if self.proposal_pending(now, group) {
                continue;
            }
            let Some((holder, why)) = self.wanted(now, group, &held) else { continue };
            let Some(boot) = self.boot_of(holder) else { continue };
            *held.entry(holder).or_default() += 1;
            self.propose(now, id, holder, boot, why);
        }
    }

    fn wanted(
        &self,
        now: Time,
        group: &Group,
        held: &BTreeMap<NodeId, usize>,
    ) -> Option<(NodeId, GrantReason)> {
        if !group.owned() {
            let spread = |node: &NodeId| {
                let other = !group.spec.keeps_copies(*node);
                (self.committed.held_down(*node), other, held.get(node).copied().unwrap_or(0))
            };
            let holder = self.eligible(now, group).min_by_key(spread)?;
            return Some((holder, GrantReason::Initial));
        }
        if group.epoch.claim > 0 && self.held_by_claimant(now, group) {
            return Some((group.epoch.node, GrantReason::Ratify));
        }
        let gone_at = self.holder_gone(now, group)?;
        if group.state != GroupState::Suspect
            || now.since(gone_at.max(group.known_at)) < self.settings.regrant_after
            || !self.voters_agree(now, group)
        {
            return None;
        }
        let copy = |node: &NodeId| {
            (self.committed.held_down(*node), self.group_copy(group, *node, gone_at))
        };
        Some((self.eligible(now, group).min_by_key(copy)?, GrantReason::HolderGone))
    }

    /// Candidates that could hold the group now, best first.
    fn eligible(&self, now: Time, group: &Group) -> impl Iterator<Item = NodeId> {
        group.spec.candidates.iter().copied().filter(move |node| {
            if *node == self.node {
                self.may_claim(now, group)
            } else {
                self.may_take(now, group, *node)
            }
        })
    }

    /// Whether the claimant that the highest epoch names really took the group.
    fn held_by_claimant(&self, now: Time, group: &Group) -> bool {
        let claimant = group.epoch.node;
        if claimant == self.node {
            return group.state.holds();
        }
        let Some(peer) = self.peers.get(&claimant) else { return false };
        let report = peer.reports.get(&group.spec.id);
        peer.heard_within(now, self.settings.silence())
            && report.is_some_and(|r| r.epoch == group.epoch && r.stance == Stance::Holds)
    }

    /// Whether the highest epoch is a committed grant that its holder has taken up: nothing else is
    /// granted while a claim waits for ratification.
    pub(crate) fn settled(&self, group: &Group) -> bool {
        let committed = group.spec.grant.is_some_and(|grant| grant.epoch == group.epoch);
        let taken = if group.epoch.node == self.node {
            matches!(group.state, GroupState::Holding | GroupState::Muted)
        } else {
            let peer = self.peers.get(&group.epoch.node);
            let report = peer.and_then(|peer| peer.reports.get(&group.spec.id));
            report.is_some_and(|r| r.epoch == group.epoch && r.stance == Stance::Holds)
        };
        committed && taken
    }

    fn boot_of(&self, node: NodeId) -> Option<BootId> {
        if node == self.node {
            return Some(self.boot);
        }
        self.peers.get(&node)?.boot
    }

    pub(crate) fn proposal_pending(&self, now: Time, group: &Group) -> bool {
        group.proposed_at.is_some_and(|at| now.since(at) < self.settings.propose_again)
    }

    fn propose(&mut self, now: Time, id: GroupId, holder: NodeId, boot: BootId, why: GrantReason) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.proposed_at = Some(now);
        let others = group.spec.candidates.iter().copied().filter(|node| *node != holder);
        let candidates = std::iter::once(holder).chain(others).collect();
        let expected = group.spec.grant.map(|grant| grant.epoch);
        self.counters.0.proposals += 1;
        self.actions.push_back(Action::ProposeGrant {
            group: id,
            expected,
            holder,
            boot,
            candidates,
            why,
        });
    }

    /// A stopping node asks for what it holds to be moved away; a leader does so itself.
    pub(crate) fn judge_shutdown(&mut self, now: Time) {
        let Some(shutdown) = self.shutdown else { return };
        self.wake_at(shutdown.resign_at.max(now + 1));
        if now < shutdown.ask_at {
            self.wake_at(shutdown.ask_at);
            return;
        }
        let again = now + (self.settings.shutdown_bound / ASKS_PER_SHUTDOWN).max(1);
        self.shutdown = Some(crate::ownership::Shutdown { ask_at: again, ..shutdown });
        self.wake_at(again);
        let held: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| group.state.holds())
            .map(|(id, _)| *id)
            .collect();
        if self.leader.is_some() {
            for id in held {
                // Refused for now: asked again, and resigned at the bound.
                let _ = self.handle_move(now, id, None);
            }
            return;
        }
        for groups in held.chunks(MOVES_MAX) {
            self.actions.push_back(Action::RequestMove { groups: groups.to_vec() });
        }
    }
}

/// Why a planned move is refused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum MoveError {
    /// Only the leader plans moves.
    #[error("this node is not the leader; ask the leader")]
    NotLeader,
    /// No such group.
    #[error("there is no group {0}; `clusterctl status` lists them")]
    UnknownGroup(GroupId),
    /// The target may not hold this group.
    #[error("node {0} is no candidate of the group; add it to the group's candidates")]
    NotCandidate(NodeId),
    /// The target holds it.
    #[error("node {0} already holds the group")]
    AlreadyThere(NodeId),
    /// The target is silent.
    #[error("node {0} is not heard; wait until it is back")]
    Silent(NodeId),
    /// The target is cordoned or stopping.
    #[error("node {0} is cordoned or stopping; uncordon it first")]
    Cordoned(NodeId),
    /// The target is not trusted now.
    #[error(
        "node {0} is held down, for it failed again and again; wait until it has been stable \
         (`clusterctl get nodes` shows how long), or trust it: clusterctl node uncordon {0}"
    )]
    HeldDown(NodeId),
    /// The target misses a segment of the group.
    #[error("node {0} does not have every segment of the group; repair its link")]
    SegmentDown(NodeId),
    /// The target's copy of the connections would break sessions.
    #[error("node {0} has no complete copy of the holder's connections; wait for it")]
    NotComplete(NodeId),
    /// Another grant for this group is under way.
    #[error("another grant for this group is under way; try again in a second")]
    Busy,
    /// No candidate may take it.
    #[error("no other candidate is live, complete and uncordoned")]
    NoCandidate,
}
