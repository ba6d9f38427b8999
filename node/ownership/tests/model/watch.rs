//! What must never happen, judged after every round of every node.

use steadfast_model::{Epoch, NodeId};
use steadfast_ownership::*;

use super::world::{HOLDS, NODES, World, boot_id, group_id, id, standing};

/// What has happened although it must not.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct Broken {
    /// Two nodes' workers might answer for a strict group in one instant.
    pub(crate) strict_overlap: bool,
    /// A node announced although a message told it of a higher epoch, or a shadow of a holder or
    /// a better shadow.
    pub(crate) announced_in_spite: bool,
    /// Two nodes announced, both confirmed by a majority of the voters.
    pub(crate) two_confirmed: bool,
    /// A run showed a lower epoch than before.
    pub(crate) epoch_went_down: bool,
    /// Two runs announced under one epoch.
    pub(crate) epoch_repeated: bool,
    /// A node announced under no grant or claim of its present run, or alone where it may not.
    pub(crate) announced_without_right: bool,
    /// A claim, or a grant for a holder that was thought gone, took a group from one that serves.
    pub(crate) taken_from_serving: bool,
}

impl World {
    /// After a round of `index`. `before`: what workers everywhere were told up to the last tick;
    /// nodes run at once, so it holds until each has run. `told`: the highest epochs that messages
    /// of this round's senders knew.
    pub(crate) fn watch(&mut self, index: usize, before: &[Vec<u64>], told: &[(Epoch, u8)]) {
        for (group, told) in told.iter().enumerate() {
            let (epoch, standing) = self.standing_of(index, group);
            let host = &mut self.hosts[index];
            self.broken.epoch_went_down |= epoch < host.epochs[group];
            host.epochs[group] = epoch;
            if standing == HOLDS || host.published[group] <= self.now {
                host.shadowed[group] = false;
            }
            if host.published[group] <= self.now {
                continue;
            }
            self.broken.announced_in_spite |= (epoch, standing) < *told;
            if standing < HOLDS {
                self.watch_shadow(index, group);
                continue;
            }
            let run = (group, epoch, host.boots);
            if !host.announced.contains(&run) {
                let twice = host.announced.iter().any(|(g, e, _)| (*g, *e) == (group, epoch));
                self.broken.epoch_repeated |= twice;
                host.announced.push(run);
                self.taken_over |= index > 0;
                self.watch_start(index, group, epoch, before);
            }
            self.watch_right(index, group, epoch);
            self.watch_others(index, group, before);
        }
    }

    fn standing_of(&self, index: usize, group: usize) -> (Epoch, u8) {
        let core = self.hosts[index].core.as_ref();
        core.map_or_else(Default::default, |core| standing(core, index, group))
    }

    /// A node announces without a right: only of an available group; and it began without a
    /// majority.
    fn watch_shadow(&mut self, index: usize, group: usize) {
        let host = &self.hosts[index];
        let Some(core) = &host.core else { return };
        let shadows = core.state(group_id(group)) == Some(GroupState::Shadow);
        let may = self.committed.groups[group].alone == Alone::Claim;
        let begins = !host.shadowed[group];
        let majority = core.hears_majority(Time(self.now));
        self.broken.announced_without_right |= !shadows || !may || (begins && majority);
        self.hosts[index].shadowed[group] = true;
        self.shadowed = true;
    }

    fn watch_right(&mut self, index: usize, group: usize, epoch: Epoch) {
        let host = &self.hosts[index];
        let boot = boot_id(index, host.boots);
        let granted = self.grants.contains(&(group, epoch, boot));
        let claimed = host.claimed.contains(&(group, epoch));
        self.broken.announced_without_right |= epoch.node != id(index) || !(granted || claimed);
    }

    /// Another node that may answer in this instant.
    fn watch_others(&mut self, index: usize, group: usize, before: &[Vec<u64>]) {
        let strict = self.committed.groups[group].policy == Policy::Strict;
        for other in (0..NODES).filter(|other| *other != index) {
            let alive = self.hosts[other].core.is_some();
            let until = before[other][group].max(self.hosts[other].published[group]);
            if !alive || until <= self.now {
                continue;
            }
            self.broken.strict_overlap |= strict;
            self.broken.two_confirmed |= self.hosts[other].published[group] > self.now
                && self.confirmed(index)
                && self.confirmed(other);
        }
    }

    /// A node begins to announce under an epoch.
    fn watch_start(&mut self, index: usize, group: usize, epoch: Epoch, before: &[Vec<u64>]) {
        if epoch.claim == 0 {
            return;
        }
        let others = (0..NODES).filter(|other| *other != index);
        let mut serving = others.filter(|other| before[*other][group] > self.now);
        self.broken.taken_from_serving |= serving.any(|other| self.serves(other, group));
    }

    /// The leader's grant is about to be committed.
    pub(crate) fn watch_grant(&mut self, group: usize, holder: NodeId, why: GrantReason) {
        if why == GrantReason::HolderGone {
            let mut others = (0..NODES).filter(|other| id(*other) != holder);
            self.broken.taken_from_serving |= others.any(|other| self.serves(other, group));
        }
    }

    /// Its loop runs, its workers may answer, and a majority of the voters has confirmed hearing it.
    fn serves(&self, index: usize, group: usize) -> bool {
        let host = &self.hosts[index];
        host.runs() && host.published[group] > self.now && self.confirmed(index)
    }

    /// Whether the confirmation of a majority lies ahead: with its own vote, that of one other.
    pub(crate) fn confirmed(&self, index: usize) -> bool {
        let Some(core) = &self.hosts[index].core else { return false };
        let status = core.status(Time(self.now));
        status.peers.iter().any(|peer| peer.confirmed_for > 0)
    }

    /// Nodes whose workers may answer for a group.
    pub(crate) fn announcers(&self, group: usize) -> usize {
        self.hosts.iter().filter(|host| host.published[group] > self.now).count()
    }
}
