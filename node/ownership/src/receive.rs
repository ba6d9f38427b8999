//! Frames in: what is believed, and what it changes.

use steadfast_model::NodeId;

use crate::ownership::Ownership;
use crate::peer::{Heard, View};
use crate::{Beacon, Frame, Message, Path, RejectReason, Resign, Time};

impl Ownership {
    /// A frame that [`crate::Seal::decode`] accepted, and the path it came in on.
    pub fn handle_message(&mut self, now: Time, path: Path, frame: Frame) {
        self.observe(now);
        if let Err(reason) = self.try_message(now, path, frame) {
            self.handle_rejected(reason);
        }
    }

    /// A frame that [`crate::Seal::decode`] refused: counted.
    pub fn handle_rejected(&mut self, reason: RejectReason) {
        *self.counters.0.rejected.entry(reason).or_default() += 1;
    }

    fn try_message(&mut self, now: Time, path: Path, frame: Frame) -> Result<(), RejectReason> {
        if frame.from == self.node {
            return Err(RejectReason::Own);
        }
        if frame.path != path {
            return Err(RejectReason::Path);
        }
        if frame.to.is_some_and(|to| to != self.node) {
            return Err(RejectReason::NotForMe);
        }
        let proof = self.proves_freshness(now, &frame.body);
        let peer = self.peers.get_mut(&frame.from).ok_or(RejectReason::NotMember)?;
        let heard = peer.accept(now, &frame, proof);
        if heard == Err(RejectReason::Unproven) {
            // Answered at once, so that a restarted peer is believed one round trip later.
            self.answer_unproven(now);
        }
        match heard? {
            Heard::Again => {}
            Heard::Back => self.dirty = true,
            Heard::NewRun => {
                self.end_run_of(now, frame.from);
                self.dirty = true;
            }
        }
        self.paths_up.get_or_insert(now);
        match frame.body {
            Message::Beacon(beacon) => {
                *self.counters.0.beacons_received.entry(path).or_default() += 1;
                self.take_beacon(now, frame.from, beacon);
            }
            Message::ClaimRequest(request) => {
                self.answer_claims(now, frame.from, frame.sequence, &request);
            }
            Message::ClaimAnswer(answer) => self.take_answer(now, frame.from, answer),
            Message::Resign(resign) => self.take_resign(now, frame.from, &resign),
            Message::StaleSenders(senders) => self.tell_stale_senders(&senders),
        }
        Ok(())
    }

    /// A frame that echoes what this run sent a moment ago was made a moment ago: a recorded one
    /// cannot.
    fn proves_freshness(&self, now: Time, body: &Message) -> bool {
        let Message::Beacon(beacon) = body else { return false };
        let own = beacon.peers.iter().find(|report| report.node == self.node);
        own.is_some_and(|report| {
            report.boot == self.boot && self.sent_at(now, report.echo).is_some()
        })
    }

    /// When the frame with this sequence was sent, if that was a moment ago.
    pub(crate) fn sent_at(&self, now: Time, echo: u32) -> Option<Time> {
        let horizon = self.settings.silence().saturating_mul(2);
        self.sent
            .iter()
            .rev()
            .find(|(sequence, _)| *sequence as u32 == echo)
            .map(|(_, at)| *at)
            .filter(|at| now.since(*at) < horizon)
    }

    fn take_beacon(&mut self, now: Time, from: NodeId, beacon: Beacon) {
        for report in &beacon.groups {
            self.learn_report(now, from, *report);
        }
        let own = beacon.peers.iter().find(|report| report.node == self.node);
        let echoed = own
            .filter(|report| report.boot == self.boot && report.age.is_some() && !beacon.more)
            .and_then(|report| self.sent_at(now, report.echo));
        // A voter that abstains does not know what an earlier run of it has promised.
        let strict = !beacon.abstains && own.is_some_and(|report| !report.owes);
        if let Some(at) = echoed.filter(|_| !beacon.abstains) {
            self.confirm(from, at, strict);
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.view = Some(View {
            at: now,
            cordoned: beacon.cordoned,
            leaving: beacon.leaving,
            abstains: beacon.abstains,
            segments: beacon.segments,
            paths: beacon.paths,
            peers: beacon.peers.into_iter().map(|report| (report.node, report)).collect(),
        });
    }

    /// `from` heard what this node sent at `at`: it will not consent against this node for one
    /// silence time after that, which is no earlier on its clock than on this one. `strict`: it has
    /// told this node of every strict group that others got.
    pub(crate) fn confirm(&mut self, from: NodeId, at: Time, strict: bool) {
        let until = at + self.settings.silence();
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.confirmed_until = peer.confirmed_until.max(until);
            if strict {
                peer.strict_until = peer.strict_until.max(until);
            }
        }
    }

    fn take_resign(&mut self, now: Time, from: NodeId, resign: &Resign) {
        for (id, epoch) in &resign.groups {
            if epoch.node != from {
                continue;
            }
            self.learn_rumor(now, *id, *epoch);
            let Some(group) = self.groups.get_mut(id) else { continue };
            if group.epoch == *epoch {
                self.mark_gone(now, *id);
            } else if group.epoch > *epoch {
                group.lingering.remove(&from);
                group.owed.remove(&from);
            }
        }
    }
}
