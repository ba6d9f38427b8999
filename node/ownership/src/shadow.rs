//! Announcing without a majority: nobody can consent, and nobody is there who holds.
//!
//! A shadow has no right. It goes by the epoch that it shadows, so whoever holds under that epoch or
//! a higher one is above it, and it ends with the first sign of such a node. Between two shadows the
//! better rank among the candidates goes on. With a majority back a shadow claims like any candidate,
//! and announces meanwhile; by itself it never raises an epoch.

use steadfast_model::{GroupId, NodeId};

use crate::group::Group;
use crate::ownership::Ownership;
use crate::state::{GroupEvent, GroupState};
use crate::{Action, Alone, Stance, Time};

impl Ownership {
    /// The answer to an [`Action::ProbeAddresses`]: whether somebody answers for an address of the
    /// group. One that comes too late changes nothing.
    pub fn handle_probed(&mut self, now: Time, group: GroupId, answered: bool) {
        self.observe(now);
        let majority = self.hears_majority(now);
        let Some(known) = self.groups.get_mut(&group) else { return };
        if known.state != GroupState::Probing {
            return;
        }
        if answered {
            known.answered_at = Some(now);
            self.transit(now, group, GroupEvent::Yield);
        } else if majority {
            // It came back meanwhile, and can give a right.
            self.transit(now, group, GroupEvent::Yield);
        } else {
            self.transit(now, group, GroupEvent::Unanswered);
        }
    }

    /// Since when no majority is heard, or one is again.
    pub(crate) fn judge_majority(&mut self, now: Time) {
        if self.hears_majority(now) {
            if self.minority.take().is_some() {
                self.majority_from = now;
            }
        } else {
            self.minority.get_or_insert(now);
        }
    }

    /// A group whose holder is gone since `gone_at`, and that this node does not announce.
    pub(crate) fn judge_alone(&mut self, now: Time, id: GroupId, gone_at: Time) {
        let Some(group) = self.groups.get(&id) else { return };
        if !matches!(group.state, GroupState::Suspect | GroupState::Probing) {
            return;
        }
        let again = self.settings.alone_after;
        let Some(from) = self.alone_from(now, group, gone_at) else {
            self.transit(now, id, GroupEvent::Yield);
            return;
        };
        if group.state == GroupState::Probing {
            // No report: asked again.
            if now.since(group.since) >= again {
                self.transit(now, id, GroupEvent::Yield);
            } else {
                self.wake_at(group.since + again);
            }
            return;
        }
        let due = from + again + self.claim_delay(now, group, gone_at);
        if now < due {
            self.wake_at(due);
            return;
        }
        self.transit(now, id, GroupEvent::AloneDue);
        self.actions.push_back(Action::ProbeAddresses { group: id });
    }

    /// Since when this node could have announced the group alone; `None`: it may not now.
    fn alone_from(&self, now: Time, group: &Group, gone_at: Time) -> Option<Time> {
        let minority = self.minority?;
        let may = group.spec.alone == Alone::Claim
            && !group.strict()
            && self.may_claim(now, group)
            && self.shadow_heard(now, group).is_none();
        may.then(|| gone_at.max(minority).max(group.answered_at.unwrap_or_default()))
    }

    /// Goes on, claims, or yields.
    pub(crate) fn judge_shadow(&mut self, now: Time, id: GroupId) {
        let silence = self.settings.silence();
        let Some(group) = self.groups.get(&id) else { return };
        let named = self.peers.get(&group.epoch.node);
        let heard = named.is_some_and(|peer| peer.heard_within(now, silence));
        if heard && group.gone_at.is_none() {
            self.transit(now, id, GroupEvent::HolderBack);
            return;
        }
        let may = group.spec.alone == Alone::Claim && !group.strict() && self.may_claim(now, group);
        if !may || self.shadow_heard(now, group).is_some_and(|node| self.outranks(group, node)) {
            self.transit(now, id, GroupEvent::Yield);
            return;
        }
        self.claim_as_shadow(now, id);
        let Some(group) = self.groups.get(&id) else { return };
        if group.state == GroupState::Shadow {
            self.announce(now, id);
        }
    }

    fn claim_as_shadow(&mut self, now: Time, id: GroupId) {
        let majority = self.committed.majority();
        let Some(group) = self.groups.get(&id) else { return };
        match &group.attempt {
            Some(attempt) if attempt.consents.len() >= majority => self.win_claim(now, id),
            Some(attempt) if now.since(attempt.begun) < self.settings.silence() => {
                let next = attempt.send_at.min(attempt.begun + self.settings.silence());
                self.wake_at(next.max(now + 1));
            }
            Some(_) => {
                let retry_at = now + self.settings.beacon;
                if let Some(group) = self.groups.get_mut(&id) {
                    group.attempt = None;
                    group.retry_at = retry_at;
                }
            }
            None if now >= group.retry_at
                && self.hears_majority(now)
                && self.voters_agree(now, group) =>
            {
                self.ask(now, id);
            }
            None => {}
        }
    }

    /// A shadow after a gap of the own loop: what it asked for rests on what was seen before, and
    /// after a long one somebody else may have begun.
    pub(crate) fn shadow_after_gap(&mut self, now: Time, id: GroupId, long: bool) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if group.state != GroupState::Shadow {
            return;
        }
        group.attempt = None;
        if long {
            group.answered_at = Some(now);
            self.transit(now, id, GroupEvent::Yield);
        }
    }

    /// The best shadow of the group that is heard.
    pub(crate) fn shadow_heard(&self, now: Time, group: &Group) -> Option<NodeId> {
        let silence = self.settings.silence();
        let shadows = self.peers.iter().filter(|(_, peer)| {
            let report = peer.reports.get(&group.spec.id);
            peer.heard_within(now, silence)
                && report.is_some_and(|report| {
                    report.stance == Stance::Shadows && report.epoch >= group.epoch
                })
        });
        shadows.map(|(node, _)| *node).min_by_key(|node| place(group, *node))
    }

    fn outranks(&self, group: &Group, node: NodeId) -> bool {
        place(group, node) < place(group, self.node)
    }
}

/// Rank among the candidates; nodes that are none come last, by number.
fn place(group: &Group, node: NodeId) -> (usize, NodeId) {
    let found = group.spec.candidates.iter().position(|candidate| *candidate == node);
    (found.unwrap_or(usize::MAX), node)
}
