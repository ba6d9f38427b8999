//! Who sees a higher epoch obeys it.

use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{Epoch, GroupId, NodeId};

use crate::group::{Group, claim_order};
use crate::ownership::Ownership;
use crate::state::GroupEvent;
use crate::{Grant, GroupReport, StopReason, Time};

impl Ownership {
    /// A committed grant.
    pub(crate) fn learn_committed(&mut self, now: Time, id: GroupId, grant: Grant) {
        let Some(group) = self.groups.get(&id) else { return };
        let (known, held) = (group.epoch, group.state.holds());
        if grant.epoch < known {
            return;
        }
        let any_run = is_on(Bug::GrantNotBoundToRun);
        let here = grant.holder == self.node && (grant.boot == self.boot || any_run);
        if grant.epoch > known {
            self.raise(now, id, grant.epoch, here || (held && grant.holder == self.node));
        }
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.granted_to(self.node, self.boot) || here && any_run {
            group.gone_at = None;
            if !group.state.holds() {
                self.transit(now, id, GroupEvent::NamedHere);
            }
            return;
        }
        if grant.holder == self.node {
            // The grant is for an earlier run, or for what this run has given up.
            if held {
                self.stop(id, StopReason::HigherEpoch(grant.epoch));
                self.transit(now, id, GroupEvent::NamedElse);
            }
            self.mark_gone(now, id);
            return;
        }
        // A run that has ended cannot take up the grant that names it.
        let ended = self.peers.get(&grant.holder).is_some_and(|peer| peer.ended(grant.boot));
        if ended {
            self.mark_gone(now, id);
        }
    }

    /// An epoch that a peer reports, promised or committed somewhere. A claim of this node that is
    /// under way and above it goes on: else two candidates that ask at once, each of whom one voter
    /// has promised its claim, would end each other's without end.
    pub(crate) fn learn_rumor(&mut self, now: Time, id: GroupId, epoch: Epoch) {
        let Some(group) = self.groups.get(&id) else { return };
        let asked = group.attempt.as_ref().is_some_and(|attempt| attempt.epoch >= epoch);
        let base = |epoch: Epoch| (epoch.generation, epoch.grant_index);
        let lower = is_on(Bug::ClaimNotCompared) && base(epoch) <= base(group.epoch);
        if epoch <= group.epoch || asked || lower {
            return;
        }
        let held = group.state.holds();
        self.raise(now, id, epoch, held && epoch.node == self.node && epoch.claim == 0);
        // A claim of this node that is not under way here was given up, or made by an earlier run.
        if epoch.node == self.node && epoch.claim > 0 {
            self.mark_gone(now, id);
        }
    }

    /// What a peer says about a group.
    pub(crate) fn learn_report(&mut self, now: Time, from: NodeId, report: GroupReport) {
        use crate::Stance;
        if !self.groups.contains_key(&report.group) {
            return;
        }
        self.learn_rumor(now, report.group, report.epoch);
        let boot = self.peers.get(&from).and_then(|peer| peer.boot);
        let Some(group) = self.groups.get_mut(&report.group) else { return };
        if report.epoch >= group.epoch {
            group.lingering.remove(&from);
            group.owed.remove(&from);
        }
        if report.epoch.node == from && report.epoch == group.epoch {
            group.vouched = true;
            match report.stance {
                Stance::Holds => {
                    self.dirty |= group.gone_at.take().is_some();
                    group.source = boot.map(|boot| (from, boot));
                }
                // Who shadows its own epoch is a later run than it names.
                Stance::Gone | Stance::Shadows => self.mark_gone(now, report.group),
                Stance::Obeys | Stance::Pending => {}
            }
        } else if (report.stance == Stance::Holds && report.epoch < group.epoch)
            || (report.stance == Stance::Shadows && group.state.holds())
        {
            self.answer_stale(now, report.group, from);
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            let before = peer.reports.insert(report.group, report);
            self.dirty |= before != Some(report);
        }
    }

    /// The run that the highest epoch names will not announce under it (any more).
    pub(crate) fn mark_gone(&mut self, now: Time, id: GroupId) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.gone_at.is_none() {
            group.gone_at = Some(now);
            self.dirty = true;
            self.changed.insert(id, self.settings.silent_after);
        }
    }

    /// A peer runs anew: what its earlier run held is given up.
    pub(crate) fn end_run_of(&mut self, now: Time, node: NodeId) {
        let ids: Vec<_> = self.groups.keys().copied().collect();
        let boot = self.peers.get(&node).and_then(|peer| peer.boot);
        for id in ids {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            group.lingering.remove(&node);
            group.owed.remove(&node);
            if group.epoch.node != node {
                continue;
            }
            // Others spoke of this claim: it may be one of the new run, which says so itself.
            let unsure = group.strict() && group.epoch.claim > 0 && !group.vouched;
            group.vouched = false;
            let renewed = group
                .spec
                .grant
                .is_some_and(|grant| grant.epoch == group.epoch && Some(grant.boot) == boot);
            if !renewed && !unsure {
                self.mark_gone(now, id);
            }
        }
    }

    /// Takes up a higher epoch. `keep`: this node holds on, under the new epoch.
    pub(crate) fn raise(&mut self, now: Time, id: GroupId, epoch: Epoch, keep: bool) {
        let silence = self.settings.silence();
        let Some(group) = self.groups.get_mut(&id) else { return };
        let before = group.epoch;
        let may_announce = group.owned()
            && before.node != epoch.node
            && before.node != self.node
            && group.gone_at.is_none()
            && !self.peers.get(&before.node).is_some_and(|peer| peer.silent(now, silence));
        if may_announce {
            group.lingering.insert(before.node);
        }
        group.lingering.remove(&epoch.node);
        if before.node != self.node {
            group.owed.insert(before.node);
        }
        group.owed.remove(&epoch.node);
        group.owed.retain(|node| self.peers.contains_key(node));
        group.vouched = false;
        group.epoch = epoch;
        group.known_at = now;
        group.gone_at = None;
        let held = group.state.holds();
        self.changed.insert(id, self.settings.silent_after);
        self.dirty = true;
        if keep {
            return;
        }
        if held {
            self.counters.0.deposed += 1;
        }
        self.stop(id, StopReason::HigherEpoch(epoch));
        self.transit(now, id, GroupEvent::NamedElse);
    }

    /// Whether nobody holds under the highest epoch, and since when.
    pub(crate) fn holder_gone(&self, now: Time, group: &Group) -> Option<Time> {
        if group.gone_at.is_some() {
            return group.gone_at;
        }
        let silence = self.settings.silence();
        if group.epoch.node == self.node || !group.owned() {
            return None;
        }
        let Some(peer) = self.peers.get(&group.epoch.node) else {
            // It is no member any more, and was told so.
            return Some(group.known_at + silence).filter(|at| *at <= now);
        };
        peer.silent(now, silence).then(|| peer.quiet_from + silence)
    }

    /// Whether `epoch` would be a claim above everything known.
    pub(crate) fn above_all(group: &Group, epoch: Epoch) -> bool {
        claim_order(epoch) > claim_order(group.epoch)
    }
}
