//! Claims by consent: when to claim, when to promise, when a claim is won.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{BootId, Epoch, GroupId, NodeId};

use crate::group::{Attempt, Group, claim_order};
use crate::ownership::Ownership;
use crate::state::{GroupEvent, GroupState};
use crate::{CLAIMS_MAX, ClaimAnswer, ClaimRequest, Completeness, Message, Refusal, Time};

/// How often a candidate whose turn has come looks whether the voters agree, per beacon interval.
const LOOKS_PER_INTERVAL: u64 = 10;
/// Claim numbers that a run may skip: many enough that two runs hardly skip as many, few enough
/// that thousands of restarts without a grant between them do not exhaust the numbers.
const OWN_NUMBERS: u64 = 1 << 20;

impl Ownership {
    /// Whether a holder has gone, come back, or may be succeeded.
    pub(crate) fn judge_groups(&mut self, now: Time) {
        let ids: Vec<_> = self.groups.keys().copied().collect();
        for id in ids {
            let group = &self.groups[&id];
            if group.state.holds() || !group.owned() {
                continue;
            }
            if group.state == GroupState::Shadow {
                self.judge_shadow(now, id);
                continue;
            }
            let gone = self.holder_gone(now, group);
            match gone {
                None => {
                    if let Some(peer) = self.peers.get(&group.epoch.node) {
                        let silent_at = peer.quiet_from + self.settings.silence();
                        self.wake_at(silent_at.max(now + 1));
                    }
                    self.transit(now, id, GroupEvent::HolderBack);
                }
                Some(gone_at) => {
                    self.transit(now, id, GroupEvent::HolderGone);
                    self.judge_claim(now, id, gone_at);
                    self.judge_alone(now, id, gone_at);
                }
            }
        }
    }

    fn judge_claim(&mut self, now: Time, id: GroupId, gone_at: Time) {
        let group = &self.groups[&id];
        if group.state == GroupState::Suspect {
            if !self.may_claim(now, group) {
                return;
            }
            let mut due = (gone_at + self.claim_delay(now, group, gone_at)).max(group.retry_at);
            if self.shadow_heard(now, group).is_some() {
                // Who already announces claims first.
                due = due.max(self.majority_from + self.settings.empty_delay);
            }
            if now < due {
                self.wake_at(due);
                return;
            }
            if !self.voters_agree(now, group) {
                self.wake_at(now + (self.settings.beacon / LOOKS_PER_INTERVAL).max(1));
                return;
            }
            self.begin_claim(now, id);
        }
        let majority = self.committed.majority();
        let group = &self.groups[&id];
        let Some(attempt) = &group.attempt else { return };
        if attempt.consents.len() >= majority {
            self.win_claim(now, id);
        } else if now.since(attempt.begun) >= self.settings.silence() {
            self.give_up_claim(now, id, gone_at);
        } else {
            let give_up_at = attempt.begun + self.settings.silence();
            let send_at = attempt.send_at;
            self.wake_at(give_up_at.min(send_at).max(now + 1));
        }
    }

    fn begin_claim(&mut self, now: Time, id: GroupId) {
        self.transit(now, id, GroupEvent::ClaimDue);
        self.ask(now, id);
    }

    /// Asks the voters for the next claim.
    pub(crate) fn ask(&mut self, now: Time, id: GroupId) {
        let voter = self.committed.voters.contains(&self.node);
        let consents = voter.then_some(self.node).into_iter().collect();
        let node = self.node;
        let generation = self.committed.generation;
        let skip = self.numbers_skipped(&self.groups[&id]);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let epoch = Epoch {
            generation: group.epoch.generation.max(generation),
            claim: group.epoch.claim.saturating_add(1).saturating_add(skip),
            node,
            ..group.epoch
        };
        group.attempt = Some(Attempt { epoch, begun: now, consents, send_at: now });
        self.counters.0.claims += 1;
    }

    /// An earlier run of this node may have claimed on a grant that this run did not see come, and
    /// every voter that promised it may have restarted since: then a number of this run's own
    /// follows, so that no epoch is held twice.
    fn numbers_skipped(&self, group: &Group) -> u32 {
        let applied = group.spec.grant.map(|grant| grant.epoch.grant_index);
        let base = group.epoch.grant_index;
        if applied == Some(base) && self.inherited_index.is_some_and(|index| base > index) {
            return 0;
        }
        (self.boot.0 % OWN_NUMBERS) as u32
    }

    pub(crate) fn win_claim(&mut self, now: Time, id: GroupId) {
        let Some(epoch) = self.groups[&id].attempt.as_ref().map(|attempt| attempt.epoch) else {
            return;
        };
        self.raise(now, id, epoch, true);
        self.transit(now, id, GroupEvent::Won);
        self.counters.0.claims_won += 1;
    }

    fn give_up_claim(&mut self, now: Time, id: GroupId, gone_at: Time) {
        self.transit(now, id, GroupEvent::Lost);
        // What others said meanwhile, below the claim.
        let heard = self.peers.values().filter_map(|peer| Some(peer.reports.get(&id)?.epoch));
        if let Some(highest) = heard.max() {
            self.learn_rumor(now, id, highest);
        }
        let group = &self.groups[&id];
        let rank = self.claim_delay(now, group, gone_at);
        let retry_at = now + self.settings.beacon + rank;
        if let Some(group) = self.groups.get_mut(&id) {
            group.retry_at = retry_at;
        }
    }

    /// Whether this node may hold the group at all. Order, not veto: how good its copy is only
    /// delays it.
    pub(crate) fn may_claim(&self, now: Time, group: &Group) -> bool {
        group.spec.candidates.contains(&self.node)
            && !self.committed.witness(self.node)
            && !self.cordoned(self.node)
            && self.shutdown.is_none()
            && self.unfit(now, group).is_none()
            && self.abstains_until(now).is_none()
    }

    /// Complete copies at once, stale and empty ones later, and each rank a step apart; who is held
    /// down after all of them.
    pub(crate) fn claim_delay(&self, now: Time, group: &Group, gone_at: Time) -> u64 {
        let (source, _) = Self::source_of(group);
        // A holder that resigned was alive until then; a silent one was when last heard.
        let judged = match self.peers.get(&source) {
            Some(peer) if group.gone_at.is_none() => peer.quiet_from,
            _ => gone_at,
        };
        let copy = self.group_copy(group, self.node, judged);
        let class = match copy {
            Completeness::Complete => 0,
            Completeness::Stale => self.settings.stale_delay,
            Completeness::Empty => self.settings.empty_delay,
        };
        let order = |node: NodeId, copy: Completeness| {
            let place = group.spec.candidates.iter().position(|c| *c == node);
            (self.committed.held_down(node), copy, place)
        };
        let own = order(self.node, copy);
        let trust = if own.0 { self.settings.held_down_delay } else { 0 };
        let ahead = group.spec.candidates.iter().filter(|candidate| {
            self.may_take(now, group, **candidate) && {
                let copy = self.group_copy(group, **candidate, judged);
                order(**candidate, copy) < own
            }
        });
        let rank = u64::try_from(ahead.count()).unwrap_or(u64::MAX);
        let steps = self.settings.rank_step.saturating_mul(rank);
        class.saturating_add(trust).saturating_add(steps)
    }

    /// Whether a peer could take the group now, as far as this node sees.
    pub(crate) fn may_take(&self, now: Time, group: &Group, node: NodeId) -> bool {
        let known_dead = self.committed.member(node).is_none_or(|member| member.known_dead);
        let gone = node == group.epoch.node && group.owned();
        let Some(peer) = self.peers.get(&node) else { return false };
        let Some(view) = &peer.view else { return false };
        !known_dead
            && !self.committed.witness(node)
            && !gone
            && !self.cordoned(node)
            && !view.leaving
            && peer.heard_within(now, self.settings.silence())
            && group.spec.segments.iter().all(|segment| view.segments.contains(segment))
    }

    /// A node's copy of the connections of a group, as it was at `judged`. Copies are told of peer by
    /// peer, over the groups of which a node keeps any: of the others it has none.
    pub(crate) fn group_copy(&self, group: &Group, node: NodeId, judged: Time) -> Completeness {
        let (source, boot) = Self::source_of(group);
        if node != source && !group.spec.keeps_copies(node) {
            return Completeness::Empty;
        }
        if node == self.node {
            return self.copy_at(source, boot, judged);
        }
        self.peer_copy(node, (source, boot))
    }

    fn peer_copy(&self, node: NodeId, (source, boot): (NodeId, Option<BootId>)) -> Completeness {
        let Some(peer) = self.peers.get(&node) else { return Completeness::Empty };
        if node == source {
            // Its own connections, unless it has lost them with an earlier run.
            let own = boot.is_none() || boot == peer.boot;
            return if own { Completeness::Complete } else { Completeness::Empty };
        }
        peer.copy_of(source)
    }

    /// Whose connections matter for the group: those of the node that last really held it.
    pub(crate) fn source_of(group: &Group) -> (NodeId, Option<BootId>) {
        match (group.source, group.spec.grant) {
            (Some((node, boot)), _) => (node, Some(boot)),
            (None, Some(grant)) if grant.epoch == group.epoch => (grant.holder, Some(grant.boot)),
            (None, _) => (group.epoch.node, None),
        }
    }

    pub(crate) fn cordoned(&self, node: NodeId) -> bool {
        let said = self.peers.get(&node).and_then(|peer| peer.view.as_ref());
        self.committed.member(node).is_none_or(|member| member.cordoned)
            || said.is_some_and(|view| view.cordoned)
    }

    /// Until when this run neither consents nor claims: its promises of an earlier run are
    /// forgotten, and whoever won by them must get the time to be heard.
    pub(crate) fn abstains_until(&self, now: Time) -> Option<Time> {
        let alone = self.committed.voters.iter().all(|voter| *voter == self.node);
        if alone || is_on(Bug::NoAbstention) {
            return None;
        }
        let until = self.paths_up.map_or(Time(u64::MAX), |at| at + self.settings.silence());
        (now < until).then_some(until)
    }

    /// The ages in the beacons tell before anybody is asked. Not needed for safety: every voter
    /// judges for itself. It keeps a candidate with a bad link from disturbing a live holder.
    pub(crate) fn voters_agree(&self, now: Time, group: &Group) -> bool {
        let silence = self.settings.silence();
        let holder = group.epoch.node;
        let agree = self.committed.voters.iter().filter(|voter| {
            if **voter == self.node {
                return true;
            }
            let Some(peer) = self.peers.get(*voter) else { return false };
            let Some(view) = &peer.view else { return false };
            if !peer.heard_within(now, silence) || view.abstains {
                return false;
            }
            let report = view.peers.get(&holder);
            let age = report.map_or(Some(u32::MAX), |report| report.age);
            let age = u64::from(age.unwrap_or(u32::MAX)).saturating_add(now.since(view.at));
            group.gone_at.is_some() || age >= silence || is_on(Bug::ConsentWithoutSilence)
        });
        agree.count() >= self.committed.majority()
    }

    /// Sends the requests that are due: one batch per dead node, to every voter, on every path.
    pub(crate) fn send_claims(&mut self, now: Time) {
        let mut batches: BTreeMap<NodeId, Vec<(GroupId, Epoch)>> = BTreeMap::new();
        let again = now + self.settings.beacon;
        for (id, group) in &mut self.groups {
            let holder = group.epoch.node;
            let Some(attempt) = &mut group.attempt else { continue };
            if attempt.send_at <= now {
                attempt.send_at = again;
                batches.entry(holder).or_default().push((*id, attempt.epoch));
            }
        }
        let others = self.committed.voters.iter().copied().filter(|voter| *voter != self.node);
        let voters: BTreeSet<_> = others.collect();
        for (holder, claims) in batches {
            for claims in claims.chunks(CLAIMS_MAX) {
                let request = ClaimRequest { holder, claims: claims.to_vec() };
                self.send_to_some(now, &voters, Message::ClaimRequest(request));
            }
        }
    }

    /// A candidate asks for promises.
    pub(crate) fn answer_claims(
        &mut self,
        now: Time,
        from: NodeId,
        sequence: u64,
        request: &ClaimRequest,
    ) {
        if !self.committed.voters.contains(&self.node) {
            return;
        }
        let mut answer =
            ClaimAnswer { echo: sequence as u32, consents: Vec::new(), refusals: Vec::new() };
        for (id, epoch) in request.claims.iter().take(CLAIMS_MAX) {
            match self.consent(now, from, *id, *epoch) {
                Ok(()) => {
                    self.counters.0.consents += 1;
                    answer.consents.push((*id, *epoch));
                }
                Err(refusal) => {
                    self.counters.0.refusals += 1;
                    answer.refusals.push((*id, refusal));
                }
            }
        }
        self.send_to(now, from, Message::ClaimAnswer(answer));
    }

    /// Promises `epoch` to `from`, or says why not. The promise is the epoch itself: this node
    /// obeys it from now on, reports it in every beacon, and promises nothing at or below it.
    fn consent(
        &mut self,
        now: Time,
        from: NodeId,
        id: GroupId,
        epoch: Epoch,
    ) -> Result<(), Refusal> {
        if let Some(until) = self.abstains_until(now) {
            return Err(Refusal::Abstains(span(until.since(now))));
        }
        let group = self.groups.get(&id).ok_or(Refusal::Unknown)?;
        let candidate = group.spec.candidates.contains(&from) && !self.committed.witness(from);
        if epoch.node != from || epoch.claim == 0 || !candidate {
            return Err(Refusal::Unknown);
        }
        if let Some(own) = group.attempt.as_ref().map(|attempt| attempt.epoch)
            && claim_order(epoch) <= claim_order(own)
            && epoch < own
        {
            return Err(Refusal::Promised(own));
        }
        if epoch != group.epoch {
            if group.same_claim(epoch) {
                return Err(Refusal::Promised(group.epoch));
            }
            if !Self::above_all(group, epoch) {
                return Err(Refusal::Behind(group.epoch));
            }
            self.holder_is_silent(now, group)?;
        }
        self.lingering_are_silent(now, group)?;
        if epoch != group.epoch {
            self.raise(now, id, epoch, false);
        }
        if let Some(group) = self.groups.get_mut(&id) {
            group.vouched = true;
        }
        Ok(())
    }

    fn holder_is_silent(&self, now: Time, group: &Group) -> Result<(), Refusal> {
        let consents = is_on(Bug::ConsentWithoutSilence);
        if !group.owned() || self.holder_gone(now, group).is_some() || consents {
            return Ok(());
        }
        let silence = self.settings.silence();
        let peer = self.peers.get(&group.epoch.node);
        let wait = peer.map_or(silence, |peer| (peer.quiet_from + silence).since(now));
        Err(Refusal::NotSilent(span(wait)))
    }

    /// Earlier holders that this node confirmed before it learned the highest epoch.
    fn lingering_are_silent(&self, now: Time, group: &Group) -> Result<(), Refusal> {
        let silence = self.settings.silence();
        let audible = group
            .lingering
            .iter()
            .any(|node| self.peers.get(node).is_some_and(|peer| !peer.silent(now, silence)));
        if group.clear(now, silence) || !audible {
            return Ok(());
        }
        Err(Refusal::NotSilent(span((group.known_at + silence).since(now))))
    }

    /// A voter has answered.
    pub(crate) fn take_answer(&mut self, now: Time, from: NodeId, answer: ClaimAnswer) {
        let Some(sent_at) = self.sent_at(now, answer.echo) else { return };
        let voter = self.committed.voters.contains(&from);
        for (id, epoch) in answer.consents {
            let Some(group) = self.groups.get_mut(&id) else { continue };
            let Some(attempt) = &mut group.attempt else { continue };
            // A promise for an earlier attempt may rest on a silence that has ended since.
            if voter && attempt.epoch == epoch && sent_at >= attempt.begun {
                attempt.consents.insert(from);
                self.dirty = true;
                // For strict groups its next beacon does: it may owe word of another one.
                self.confirm(from, sent_at, false);
            }
        }
        for (id, refusal) in answer.refusals {
            match refusal {
                Refusal::Behind(epoch) | Refusal::Promised(epoch) => {
                    self.learn_rumor(now, id, epoch);
                }
                Refusal::NotSilent(wait) | Refusal::Abstains(wait) => {
                    let again = now + u64::from(wait).max(1);
                    let group = self.groups.get_mut(&id);
                    if let Some(attempt) = group.and_then(|group| group.attempt.as_mut()) {
                        attempt.send_at = attempt.send_at.min(again);
                        self.wake_at(again);
                    }
                }
                Refusal::Unknown => {}
            }
        }
    }
}

fn span(ticks: u64) -> u32 {
    u32::try_from(ticks).unwrap_or(u32::MAX)
}
