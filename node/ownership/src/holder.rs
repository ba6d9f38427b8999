//! What a holder does: announce, go mute in doubt, resign when it cannot serve.

use std::collections::BTreeSet;

use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{Epoch, GroupId, NodeId};

use crate::group::{ArpSchedule, Group};
use crate::ownership::Ownership;
use crate::peer::Peer;
use crate::state::{GroupEvent, GroupState};
use crate::{Action, CLAIMS_MAX, Message, Resign, Role, StopReason, Time};

impl Ownership {
    /// Until when workers may answer ARP for the group; `None`: not at all. Publish it after every
    /// run of the loop.
    ///
    /// It is counted from the last run of the loop, and ends with what a majority of voters has
    /// confirmed: a loop that is stuck extends nothing, and workers stop before anybody consents to
    /// a successor. Of a strict group it ends [`crate::Settings::strict_margin`] earlier, and there
    /// is none without a confirmation.
    pub fn announce_valid_until(&self, group: GroupId, now: Time) -> Option<Time> {
        let group = self.groups.get(&group)?;
        if !group.announcing {
            return None;
        }
        let run = self.ran + self.settings.beacons(self.settings.announce_beacons);
        if is_on(Bug::WorkersGoOn) {
            return Some(run + self.settings.silence().saturating_mul(100));
        }
        let confirmed = self.confirmed_until();
        let until = if group.strict() {
            run.min(self.strict_until(group))
        } else if confirmed > self.ran {
            run.min(confirmed)
        } else {
            run
        };
        (until > now).then_some(until)
    }

    /// Whether no group is held here any more: a stopping daemon may go on to drain.
    pub fn holds_nothing(&self) -> bool {
        !self.groups.values().any(|group| group.state.holds())
    }

    /// Whether a majority of the voters, this node included if it is one, was heard within the
    /// silence time with no gap of the own loop since.
    pub fn hears_majority(&self, now: Time) -> bool {
        self.voters_heard(now) >= self.committed.majority()
    }

    pub(crate) fn voters_heard(&self, now: Time) -> usize {
        self.committed.voters.iter().filter(|voter| self.hears_voter(now, **voter)).count()
    }

    fn hears_voter(&self, now: Time, voter: NodeId) -> bool {
        let silence = self.settings.silence();
        // What is no beacon says nothing of what was granted while the voter was not heard.
        let by_beacon = |peer: &Peer| {
            peer.view.as_ref().is_some_and(|view| now.since(view.at) < silence)
                && peer.heard_within(now, silence)
        };
        voter == self.node || self.peers.get(&voter).is_some_and(by_beacon)
    }

    /// Until when a majority of the voters cannot have consented against this node.
    pub(crate) fn confirmed_until(&self) -> Time {
        self.majority_until(|peer| peer.confirmed_until)
    }

    /// Until when this node may announce a strict group. Only a voter counts that knows the epoch
    /// under which this run began to hold, for only that one makes a successor wait; and only while
    /// the epoch is a right of this run: a grant that others speak of may name an earlier one.
    pub(crate) fn strict_until(&self, group: &Group) -> Time {
        if group.epoch.claim == 0 && !group.granted_to(self.node, self.boot) {
            return Time(0);
        }
        let until = self.majority_until(|peer| {
            let report = peer.reports.get(&group.spec.id);
            let knows = report.is_some_and(|report| report.epoch >= group.held_from);
            if knows { peer.strict_until } else { Time(0) }
        });
        until - self.settings.strict_margin
    }

    /// The latest time that a majority of the voters reaches by `until`; this node has no end.
    fn majority_until(&self, until: impl Fn(&Peer) -> Time) -> Time {
        let mut times: Vec<Time> = self
            .committed
            .voters
            .iter()
            .map(|voter| match self.peers.get(voter) {
                _ if *voter == self.node => Time(u64::MAX),
                Some(peer) => until(peer),
                None => Time(0),
            })
            .collect();
        times.sort_unstable_by(|a, b| b.cmp(a));
        times.get(self.committed.majority() - 1).copied().unwrap_or_default()
    }

    /// A majority is heard, but has not confirmed hearing this node: it may be consenting to a
    /// successor, so stay mute. A node that hears no majority is alone and keeps announcing
    /// (`available`). Voters that abstain say nothing about it, and consent to nobody.
    fn unconfirmed(&self, now: Time) -> bool {
        let speaks = |voter: &&NodeId| {
            let view = self.peers.get(*voter).and_then(|peer| peer.view.as_ref());
            self.hears_voter(now, **voter) && !view.is_some_and(|view| view.abstains)
        };
        let speaking = self.committed.voters.iter().filter(speaks).count();
        !is_on(Bug::UnconfirmedGoesOn)
            && self.confirmed_until() <= now
            && speaking >= self.committed.majority()
    }

    pub(crate) fn judge_announcing(&mut self, now: Time) {
        let ids: Vec<_> = self
            .groups
            .iter()
            .filter(|(_, group)| group.state.holds())
            .map(|(id, _)| *id)
            .collect();
        if ids.is_empty() {
            return;
        }
        self.resign_unfit(now, &ids);
        let unconfirmed = self.unconfirmed(now);
        let confirmed_until = self.confirmed_until();
        if confirmed_until > now {
            self.wake_at(confirmed_until);
        }
        for id in ids {
            let group = &self.groups[&id];
            if !group.strict() {
                self.judge_holder(now, id, unconfirmed);
                continue;
            }
            let until = self.strict_until(group);
            if until > now {
                self.wake_at(until);
            }
            self.judge_holder(now, id, until <= now);
        }
    }

    fn judge_holder(&mut self, now: Time, id: GroupId, unconfirmed: bool) {
        if self.groups[&id].state == GroupState::Taking && self.cleared(now, &self.groups[&id]) {
            self.transit(now, id, GroupEvent::Cleared);
        }
        let (state, mute_until) = (self.groups[&id].state, self.groups[&id].mute_until);
        match state {
            GroupState::Holding if unconfirmed => {
                self.doubt(now, id, now, StopReason::NotConfirmed)
            }
            GroupState::Muted if !unconfirmed && now >= mute_until => {
                self.transit(now, id, GroupEvent::Sure);
            }
            GroupState::Muted if now < mute_until => self.wake_at(mute_until),
            _ => {}
        }
        if self.groups[&id].state == GroupState::Holding {
            self.announce(now, id);
        }
    }

    /// Whether a committed grant that names this run may be taken up: no holder under a lower epoch
    /// can still announce. The voters know, because they confirmed or promised whoever that is; any
    /// two majorities share one of them.
    fn cleared(&self, now: Time, group: &Group) -> bool {
        let silence = self.settings.silence();
        let clear = self.committed.voters.iter().filter(|voter| {
            if **voter == self.node {
                return self.clear_here(now, group);
            }
            self.peers.get(*voter).is_some_and(|peer| {
                peer.heard_within(now, silence)
                    && peer
                        .reports
                        .get(&group.spec.id)
                        .is_some_and(|report| report.epoch == group.epoch && report.clear)
            })
        });
        if clear.count() >= self.committed.majority() || is_on(Bug::TakenUpAtOnce) {
            return true;
        }
        // Alone for good: nobody is there to say so.
        !group.strict()
            && !self.hears_majority(now)
            && now.since(group.known_at) >= silence.saturating_mul(2)
            && group.clear(now, silence)
    }

    /// Whether nobody can still announce under a lower epoch by the word of this node. A voter that
    /// abstains has forgotten whom it confirmed.
    pub(crate) fn clear_here(&self, now: Time, group: &Group) -> bool {
        group.clear(now, self.settings.silence()) && self.abstains_until(now).is_none()
    }

    pub(crate) fn announce(&mut self, now: Time, id: GroupId) {
        let (node, boot) = (self.node, self.boot);
        let Some(group) = self.groups.get_mut(&id) else { return };
        group.source = Some((node, boot));
        if !group.announcing {
            group.announcing = true;
            group.arp = ArpSchedule { started: now, next: 0, last: Time(0) };
            let epoch = group.epoch;
            self.actions.push_back(Action::StartAnnouncing { group: id, epoch });
            self.changed.entry(id).or_insert(self.settings.silent_after);
        }
        self.send_due_arp(now, id);
    }

    /// RFC 5227 section 3 wants no more; the offsets are for switches and hosts that lose the first
    /// ones, the refresh is for hosts that had them wrong from elsewhere.
    fn send_due_arp(&mut self, now: Time, id: GroupId) {
        let settings = &self.settings;
        let Some(group) = self.groups.get_mut(&id) else { return };
        let arp = &mut group.arp;
        let due = match settings.arp_offsets.get(arp.next) {
            Some(offset) => arp.started + *offset,
            None if settings.arp_refresh == 0 => return,
            None => arp.last.max(arp.started) + settings.arp_refresh,
        };
        if now < due {
            self.wake_at(due);
            return;
        }
        // A late loop sends one for all that are overdue.
        while settings.arp_offsets.get(arp.next).is_some_and(|o| arp.started + *o <= now) {
            arp.next += 1;
        }
        arp.last = now;
        let next = settings.arp_offsets.get(arp.next).map(|offset| arp.started + *offset);
        self.counters.0.gratuitous_arps += 1;
        self.actions.push_back(Action::SendGratuitousArp { group: id });
        if let Some(next) = next {
            self.wake_at(next);
        }
    }

    /// A peer holds on under a lower epoch: say so again, and win back who believed it.
    pub(crate) fn answer_stale(&mut self, now: Time, id: GroupId, from: NodeId) {
        let pace = self.settings.arp_pace;
        // One less than a fresh change, so that it waits for the next beacon.
        self.changed.entry(id).or_insert(self.settings.silent_after - 1);
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !group.announcing || now.since(group.arp.last) < pace {
            return;
        }
        group.arp.last = now;
        let epoch = group.epoch;
        self.counters.0.gratuitous_arps += 1;
        self.actions.push_back(Action::TellStale { node: from, group: id, epoch });
        self.actions.push_back(Action::SendGratuitousArp { group: id });
    }

    /// Holds on, but does not announce at least until `mute_until`.
    pub(crate) fn doubt(&mut self, now: Time, id: GroupId, mute_until: Time, why: StopReason) {
        self.stop(id, why);
        if self.transit(now, id, GroupEvent::Doubt) {
            self.counters.0.mutes += 1;
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.mute_until = group.mute_until.max(mute_until);
        }
    }

    /// Stops announcing, if this node does.
    pub(crate) fn stop(&mut self, id: GroupId, why: StopReason) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        if !std::mem::take(&mut group.announcing) {
            return;
        }
        self.actions.retain(
            |action| !matches!(action, Action::SendGratuitousArp { group } if *group == id),
        );
        self.actions.push_back(Action::StopAnnouncing { group: id, why });
    }

    fn resign_unfit(&mut self, now: Time, ids: &[GroupId]) {
        let bound = self.shutdown.is_some_and(|shutdown| now >= shutdown.resign_at);
        let unfit: Vec<_> = ids
            .iter()
            .filter_map(|id| {
                let why = bound.then_some(StopReason::Shutdown);
                Some((*id, why.or_else(|| self.unfit(now, &self.groups[id]))?))
            })
            .collect();
        self.resign(now, &unfit);
    }

    /// Instant silence plus a message.
    fn resign(&mut self, now: Time, unfit: &[(GroupId, StopReason)]) {
        let silence = self.settings.silence();
        let mut given_up: BTreeSet<(GroupId, Epoch)> = BTreeSet::new();
        for (id, why) in unfit {
            if !is_on(Bug::ResignedHeldOn) {
                self.stop(*id, *why);
                self.transit(now, *id, GroupEvent::Resigned);
            }
            let Some(group) = self.groups.get_mut(id) else { continue };
            group.resigned = Some(group.epoch);
            // Others first: whoever resigns is no better a moment later.
            group.retry_at = now + silence;
            given_up.insert((*id, group.epoch));
            self.counters.0.resignations += 1;
            self.mark_gone(now, *id);
        }
        let given_up: Vec<_> = given_up.into_iter().collect();
        for groups in given_up.chunks(CLAIMS_MAX) {
            self.send_to_all(now, Message::Resign(Resign { groups: groups.to_vec() }));
        }
    }

    /// Tells the data plane what has changed.
    pub(crate) fn publish_roles(&mut self) {
        let node = self.node;
        for (id, group) in &mut self.groups {
            let role = group.role(node);
            if group.published != (role, group.epoch) {
                group.published = (role, group.epoch);
                let epoch = group.epoch;
                self.actions.push_back(Action::RoleChanged { group: *id, role, epoch });
            }
        }
        debug_assert!(self.groups.values().all(|group| {
            !group.announcing
                || (matches!(group.state, GroupState::Holding | GroupState::Shadow)
                    && group.published.0 == Role::Holder)
        }));
    }
}
