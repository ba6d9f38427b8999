//! The view for operators.

use steadfast_model::{Epoch, GroupId};

use crate::ownership::Ownership;
use crate::{Counters, GroupState, GroupStatus, PeerStatus, Status, Time};

impl Ownership {
    /// Everything an operator may ask.
    pub fn status(&self, now: Time) -> Status {
        let groups = self.groups.iter().map(|(id, group)| GroupStatus {
            group: *id,
            state: group.state,
            role: group.role(self.node),
            epoch: group.epoch,
            holder: group.owned().then_some(group.epoch.node),
            announcing: self.announce_valid_until(*id, now).is_some(),
            since: group.known_at,
            copy: (group.owned() && !group.state.holds()).then(|| {
                let (source, _) = Self::source_of(group);
                let peer = self.peers.get(&source);
                let silent = peer.filter(|peer| peer.silent(now, self.settings.silence()));
                self.group_copy(group, self.node, silent.map_or(now, |peer| peer.quiet_from))
            }),
        });
        let peers = self.peers.iter().map(|(node, peer)| PeerStatus {
            node: *node,
            boot: peer.boot,
            silent: peer.silent(now, self.settings.silence()),
            paths: peer.paths.iter().map(|(path, (_, at))| (*path, now.since(*at))).collect(),
            confirmed_for: peer.confirmed_until.since(now),
            cordoned: self.cordoned(*node),
            leaving: peer.view.as_ref().is_some_and(|view| view.leaving),
            copies: peer.view.as_ref().map_or_else(Vec::new, |view| {
                view.peers.values().map(|report| (report.node, report.copy)).collect()
            }),
        });
        Status {
            node: self.node,
            boot: self.boot,
            leader: self.leader.is_some(),
            abstains: self.abstains_until(now).is_some(),
            voters_heard: self.voters_heard(now),
            majority_heard: self.hears_majority(now),
            groups: groups.collect(),
            peers: peers.collect(),
            counters: self.counters.0.clone(),
        }
    }

    /// The highest epoch known of a group.
    pub fn epoch(&self, group: GroupId) -> Option<Epoch> {
        self.groups.get(&group).map(|group| group.epoch)
    }

    /// What this node is for a group.
    pub fn state(&self, group: GroupId) -> Option<GroupState> {
        self.groups.get(&group).map(|group| group.state)
    }

    /// Since the start.
    pub fn counters(&self) -> &Counters {
        &self.counters.0
    }
}
