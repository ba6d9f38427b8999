//! Frames out: the beacon, and how every frame is numbered and sent.

use std::collections::BTreeSet;
use std::ops::Bound;

use steadfast_model::{BootId, GroupId, NodeId};

use crate::group::Group;
use crate::ownership::Ownership;
use crate::peer::Peer;
use crate::{
    Action, Beacon, Completeness, Frame, GROUPS_PER_BEACON, GroupReport, Message, PATHS_MAX,
    PEERS_MAX, Path, PeerReport, SEGMENTS_MAX, SegmentId, Stance, Time,
};

/// Frames whose time is remembered for echoes. Older ones confirm nothing.
const SENT_MAX: usize = 256;
/// Changed pairs go out at once, but not more often than so many times per interval.
const CHANGES_PER_INTERVAL_MAX: u64 = 25;
/// New runs are answered out of turn, but not more often than so many times per interval: recorded
/// frames ask for it too.
const ANSWERS_PER_INTERVAL_MAX: u64 = 5;
/// Age of a path that was never heard, or not for so many beacons.
const AGE_NEVER: u8 = u8::MAX;

impl Ownership {
    /// Sends a beacon when one is due or an epoch has changed.
    pub(crate) fn send_beacon(&mut self, now: Time) {
        let interval = self.settings.beacon;
        let fresh = self.changed.values().any(|left| *left == self.settings.silent_after);
        if fresh {
            self.beacon_at = self.beacon_at.min(now);
        }
        self.beacon_at = self.beacon_at.max(self.beacon_sent + interval / CHANGES_PER_INTERVAL_MAX);
        if now >= self.beacon_at && !self.committed.members.is_empty() {
            let beacon = self.make_beacon(now);
            self.broadcast(now, Message::Beacon(beacon));
            self.beacon_sent = now;
            // The series keeps its pace; after a gap it starts anew instead of catching up.
            let next = self.beacon_at + interval;
            self.beacon_at = if next > now { next } else { now + interval };
        }
        self.wake_at(self.beacon_at.max(now + 1));
    }

    /// Answers a run that has to be echoed before it is believed.
    pub(crate) fn answer_unproven(&mut self, now: Time) {
        let earliest = self.beacon_sent + self.settings.beacon / ANSWERS_PER_INTERVAL_MAX;
        self.beacon_at = self.beacon_at.min(earliest.max(now));
        self.dirty = true;
    }

    /// Sends to everybody on every path. Segments get nothing while a worker is stuck: a node that
    /// beats must also serve.
    fn broadcast(&mut self, now: Time, body: Message) {
        let sequence = self.number(now);
        let peers: Vec<_> = self.peers.keys().copied().collect();
        for node in peers {
            self.send_to_peer(sequence, node, body.clone());
        }
        if self.workers_ok {
            self.send_to_segments(sequence, None, &body);
        }
    }

    /// Sends to one peer on every path.
    pub(crate) fn send_to(&mut self, now: Time, node: NodeId, body: Message) {
        let sequence = self.number(now);
        self.send_to_segments(sequence, Some(node), &body);
        self.send_to_peer(sequence, node, body);
    }

    /// Sends to some peers, and to all on the segments.
    pub(crate) fn send_to_some(&mut self, now: Time, nodes: &BTreeSet<NodeId>, body: Message) {
        let sequence = self.number(now);
        self.send_to_segments(sequence, None, &body);
        for node in nodes {
            self.send_to_peer(sequence, *node, body.clone());
        }
    }

    /// Like a beacon, but on the segments too when a worker is stuck: it says that this node does
    /// not serve.
    pub(crate) fn send_to_all(&mut self, now: Time, body: Message) {
        let sequence = self.number(now);
        let peers: Vec<_> = self.peers.keys().copied().collect();
        self.send_to_segments(sequence, None, &body);
        for node in peers {
            self.send_to_peer(sequence, node, body.clone());
        }
    }

    fn number(&mut self, now: Time) -> u64 {
        self.sequence += 1;
        if self.sent.len() == SENT_MAX {
            self.sent.pop_front();
        }
        let horizon = self.settings.silence().saturating_mul(2);
        while self.sent.front().is_some_and(|(_, at)| now.since(*at) >= horizon) {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        self.sequence
    }

    fn send_to_peer(&mut self, sequence: u64, node: NodeId, body: Message) {
        self.count_beacon(Path::Peer, &body);
        let frame = self.frame(sequence, Path::Peer, Some(node), body);
        self.actions.push_back(Action::SendPeer { node, frame });
    }

    fn send_to_segments(&mut self, sequence: u64, to: Option<NodeId>, body: &Message) {
        let up: Vec<SegmentId> =
            self.links.iter().filter(|(_, link)| link.up).map(|(segment, _)| *segment).collect();
        for segment in up {
            let path = Path::Segment(segment);
            self.count_beacon(path, body);
            let frame = self.frame(sequence, path, to, body.clone());
            self.actions.push_back(Action::SendSegment { segment, frame });
        }
    }

    fn frame(&self, sequence: u64, path: Path, to: Option<NodeId>, body: Message) -> Frame {
        Frame { from: self.node, boot: self.boot, sequence, path, to, body }
    }

    fn count_beacon(&mut self, path: Path, body: &Message) {
        if matches!(body, Message::Beacon(_)) {
            *self.counters.0.beacons_sent.entry(path).or_default() += 1;
        }
    }

    fn make_beacon(&mut self, now: Time) -> Beacon {
        let segments: Vec<_> = self
            .links
            .keys()
            .copied()
            .filter(|segment| self.segment_works(now, *segment))
            .collect();
        let mut paths = vec![Path::Peer];
        paths.extend(self.links.keys().take(PATHS_MAX - 1).map(|segment| Path::Segment(*segment)));
        let unsent = self.changed.values().filter(|left| **left == self.settings.silent_after);
        let more = unsent.count() > GROUPS_PER_BEACON;
        let groups = self.group_reports(now);
        let owed = self.owed_beside(&groups);
        let peers = self
            .peers
            .iter()
            .filter_map(|(node, peer)| {
                let report = self.peer_report(now, *node, peer, &paths)?;
                Some(PeerReport { owes: owed.contains(node), ..report })
            })
            .take(PEERS_MAX)
            .collect();
        Beacon {
            cordoned: self.cordoned(self.node),
            leaving: self.shutdown.is_some() || !self.workers_ok,
            abstains: self.abstains_until(now).is_some(),
            more,
            segments: segments.into_iter().take(SEGMENTS_MAX).collect(),
            paths,
            peers,
            groups,
        }
    }

    fn peer_report(
        &self,
        now: Time,
        node: NodeId,
        peer: &Peer,
        paths: &[Path],
    ) -> Option<PeerReport> {
        // A new run has to be answered to become believed, but a recorded frame of an old one must
        // not suppress the confirmation of a live one: take turns while both are heard, and forget
        // what is not repeated.
        let silence = self.settings.silence();
        let turn = peer.silent(now, silence) || self.sequence.is_multiple_of(2);
        let unproven = peer
            .unproven
            .filter(|(_, _, at)| peer.boot.is_none() || (turn && now.since(*at) < silence));
        let (boot, sequence, proven) = match (unproven, peer.boot) {
            (Some((boot, sequence, _)), _) => (boot, sequence, false),
            (None, Some(boot)) => (boot, peer.newest, true),
            (None, None) => return None,
        };
        let age = proven.then(|| u32::try_from(now.since(peer.quiet_from)).unwrap_or(u32::MAX));
        let path_ages = paths
            .iter()
            .map(|path| {
                let at = peer.paths.get(path).filter(|_| proven).map(|(_, at)| *at);
                at.map_or(AGE_NEVER, |at| {
                    let beacons = now.since(at) / self.settings.beacon;
                    u8::try_from(beacons).unwrap_or(AGE_NEVER)
                })
            })
            .collect();
        let copy = self.own_copy(now, node);
        let echo = sequence as u32;
        Some(PeerReport { node, boot, echo, age, copy, owes: false, path_ages })
    }

    /// Nodes that may not know yet that they have lost a strict group, and do not read it in a
    /// beacon with these reports.
    fn owed_beside(&self, reports: &[GroupReport]) -> BTreeSet<NodeId> {
        let told = |id: &GroupId| reports.iter().any(|report| report.group == *id);
        self.groups
            .iter()
            .filter(|(id, group)| group.strict() && !group.owed.is_empty() && !told(id))
            .flat_map(|(_, group)| group.owed.iter().copied())
            .collect()
    }

    /// Changed pairs first, then the rotation, within the bound of one beacon.
    fn group_reports(&mut self, now: Time) -> Vec<GroupReport> {
        // Those never sent before those that are repeated.
        let mut ranked: Vec<_> = self.changed.iter().map(|(id, left)| (*left, *id)).collect();
        ranked.sort_unstable_by(|(a, a_id), (b, b_id)| b.cmp(a).then(a_id.cmp(b_id)));
        let mut ids: Vec<GroupId> =
            ranked.into_iter().take(GROUPS_PER_BEACON).map(|(_, id)| id).collect();
        for id in &ids {
            if let Some(left) = self.changed.get_mut(id) {
                *left -= 1;
            }
        }
        self.changed.retain(|_, left| *left > 0);
        let after = (Bound::Excluded(self.rotation), Bound::Unbounded);
        let rest: Vec<_> =
            self.groups.range(after).chain(self.groups.iter()).map(|(id, _)| *id).collect();
        for id in rest {
            if ids.len() == GROUPS_PER_BEACON {
                break;
            }
            if !ids.contains(&id) {
                ids.push(id);
                self.rotation = id;
            }
        }
        ids.sort_unstable();
        ids.iter()
            .filter_map(|id| self.groups.get(id).map(|group| (*id, group)))
            .filter(|(_, group)| group.owned())
            .map(|(id, group)| GroupReport {
                group: id,
                epoch: group.epoch,
                stance: self.stance(group),
                clear: self.clear_here(now, group),
            })
            .collect()
    }

    pub(crate) fn stance(&self, group: &Group) -> Stance {
        if group.state == crate::GroupState::Shadow {
            return Stance::Shadows;
        }
        if group.epoch.node != self.node {
            return Stance::Obeys;
        }
        match group.state {
            crate::GroupState::Holding | crate::GroupState::Muted => Stance::Holds,
            _ if group.gone_at.is_some() => Stance::Gone,
            _ => Stance::Pending,
        }
    }

    /// This node's copy of the connections of `node`, as good as it was when that fell silent.
    pub(crate) fn own_copy(&self, now: Time, node: NodeId) -> Completeness {
        let held = self.groups.values().filter_map(|group| group.source);
        let boot = held.filter(|(source, _)| *source == node).map(|(_, boot)| boot).next_back();
        let judged = match self.peers.get(&node) {
            Some(peer) if peer.silent(now, self.settings.silence()) => peer.quiet_from,
            _ => now,
        };
        self.copy_at(node, boot, judged)
    }

    /// The copy of what `node` held in its run `boot`, as it was at `judged`.
    pub(crate) fn copy_at(&self, node: NodeId, boot: Option<BootId>, judged: Time) -> Completeness {
        if node == self.node {
            // What an earlier run of this node had is gone with it.
            let own = boot.is_none_or(|boot| boot == self.boot);
            return if own { Completeness::Complete } else { Completeness::Empty };
        }
        let copies = self.copies.get(&node).map_or(&[][..], Vec::as_slice);
        let copy = match boot {
            Some(boot) => copies.iter().find(|copy| copy.boot == boot),
            None => copies.last(),
        };
        match copy {
            None => Completeness::Empty,
            Some(copy)
                if copy.state == Completeness::Complete
                    && judged.since(copy.at) > self.settings.complete_within =>
            {
                Completeness::Stale
            }
            Some(copy) => copy.state,
        }
    }
}
