//! Two announcers at once: never of a strict group, never two that each hear a majority; of others
//! only while the lower of the two cannot hear the higher (I1, I2, I3).

use std::collections::{BTreeMap, BTreeSet};

use steadfast_model::{BootId, Epoch, GroupId, NodeId, document::Policy};

use crate::{
    clock::Ns,
    machine::{Machine, Part},
    net::{Plane, Quality},
    world::World,
};

/// What beacons travel on.
const BEACONS: [Plane; 3] = [Plane::Control, Plane::Segment(0), Plane::Segment(1)];
/// The lower of two obeys at the latest so many beacons after it could hear the higher.
const OBEYS_AFTER: u64 = 3;

/// What is remembered of two announcers at once.
#[derive(Debug, Default)]
pub(crate) struct Overlaps {
    /// Who announces each group, and until when that was published.
    announcers: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// Since when two announce a group at once.
    since: BTreeMap<GroupId, Ns>,
    /// When that was last seen.
    last: BTreeMap<GroupId, Ns>,
    /// Since when the lower of two could have heard the higher.
    audible: BTreeMap<(GroupId, NodeId, NodeId), Ns>,
}

impl Overlaps {
    /// Two announce the group.
    pub(crate) fn is_dual(&self, group: GroupId) -> bool {
        self.since.contains_key(&group)
    }

    /// Whether the node announced the group when it last published.
    pub(crate) fn announces(&self, group: GroupId, node: NodeId) -> bool {
        self.announcers.get(&group).is_some_and(|nodes| nodes.contains(&node))
    }

    /// When two were last seen to announce the group.
    pub(crate) fn last(&self, group: GroupId) -> Option<Ns> {
        self.last.get(&group).copied()
    }
}

/// An announcer with its epoch and run.
#[derive(Clone, Copy, Debug)]
struct Announcer {
    node: NodeId,
    epoch: Epoch,
    boot: BootId,
}

impl World {
    /// A node has published until when it announces a group.
    pub(crate) fn check_announcing(
        &mut self,
        node: NodeId,
        group: GroupId,
        announces: bool,
        heard: Option<Epoch>,
    ) {
        let announcers = self.checks.overlaps.announcers.entry(group).or_default();
        let changed = if announces { announcers.insert(node) } else { announcers.remove(&node) };
        if !announces {
            return;
        }
        // The lower of two obeys with the first message of the higher.
        let own = self.machine(node).run.as_ref().and_then(|r| r.roles.get(&group).copied());
        if let (Some(own), Some(heard)) = (own, heard)
            && heard > own.epoch
            && heard.node != node
        {
            let own = own.epoch;
            let what = format!("node {node} announces group {group} under {own}, heard {heard}");
            self.fail("I3", &what);
        }
        if changed || self.checks.overlaps.announcers[&group].len() > 1 {
            self.check_alone(group);
        }
    }

    /// Workers of this machine were told to answer for the group until later than now.
    fn is_told(&self, machine: &Machine, group: GroupId) -> bool {
        let local = machine.local(self.now);
        machine.run.as_ref().is_some_and(|run| {
            let state = run.shared.groups.get(steadfast_dataplane::GroupId(group.0));
            state.is_some_and(|state| state.may_announce(local))
        })
    }

    /// Who can answer ARP for the group this very moment.
    pub(crate) fn announcers(&self, group: GroupId) -> Vec<NodeId> {
        let answers = |machine: &&Machine| {
            !machine.is_stopped(Part::Plane)
                && machine.run.as_ref().is_some_and(|run| run.stuck_since.is_none())
                && self.is_told(machine, group)
        };
        self.machines.iter().filter(answers).map(|machine| machine.id).collect()
    }

    /// Looks whether two announce the group.
    pub(crate) fn check_alone(&mut self, group: GroupId) {
        self.check_strict(group);
        let now = self.now;
        let announcers = self.announcers(group);
        if announcers.len() < 2 {
            self.checks.overlaps.since.remove(&group);
            self.checks.overlaps.audible.retain(|(g, ..), _| *g != group);
            return;
        }
        // Never two that each hear a majority.
        let sure: Vec<NodeId> = announcers
            .iter()
            .copied()
            .filter(|node| {
                let machine = self.machine(*node);
                let time = machine.time(now);
                let stopped = machine.is_stopped(Part::Owner);
                machine.run.as_ref().is_some_and(|run| !stopped && run.core.hears_majority(time))
            })
            .collect();
        if sure.len() > 1 {
            self.fail("I1", &format!("nodes {sure:?} announce group {group} at once"));
        }
        self.checks.overlaps.last.insert(group, now);
        if self.checks.overlaps.since.insert(group, now).is_none() {
            self.figures.duals += 1;
            self.note(format_args!("nodes {announcers:?} announce group {group} at once"));
        }
        self.check_heard(group, &announcers);
    }

    /// Of a strict group two were never told to announce at once, whether they stand still or not.
    fn check_strict(&mut self, group: GroupId) {
        let told = self.machines.iter().filter(|machine| self.is_told(machine, group));
        let told: Vec<&Machine> = told.collect();
        let strict = |machine: &&Machine| {
            let state = machine.run.as_ref().and_then(|run| run.state.groups.get(&group));
            state.is_some_and(|state| state.spec.policy == Policy::Strict)
        };
        if told.len() > 1 && told.iter().any(strict) {
            let told: Vec<NodeId> = told.iter().map(|machine| machine.id).collect();
            self.fail("I2", &format!("nodes {told:?} announce the strict group {group} at once"));
        }
    }

    /// The lower of two announcers has obeyed as soon as it could hear the higher.
    fn check_heard(&mut self, group: GroupId, announcers: &[NodeId]) {
        let now = self.now;
        let most = OBEYS_AFTER * self.settings.beacon * 1_000;
        let run_of = |node: &NodeId| {
            let run = self.machines.get(node.0 as usize - 1)?.run.as_ref()?;
            let epoch = run.roles.get(&group)?.epoch;
            Some(Announcer { node: *node, epoch, boot: run.boot })
        };
        let mut all: Vec<Announcer> = announcers.iter().filter_map(run_of).collect();
        all.sort_by_key(|announcer| announcer.epoch);
        for (at, low) in all.iter().enumerate() {
            for high in &all[at + 1..] {
                let key = (group, low.node, high.node);
                if !self.can_hear(low, high) {
                    self.checks.overlaps.audible.remove(&key);
                    continue;
                }
                let since = *self.checks.overlaps.audible.entry(key).or_insert(now);
                if now - since > most {
                    let (low, high) = (low.node, high.node);
                    let what = format!("node {low} announces group {group} beside node {high}");
                    self.fail("I3", &what);
                }
            }
        }
    }

    /// Whether beacons of `high` reach `low`, and are believed: those of a run that is new to it are
    /// only once it is answered. Who stands still hears nothing, and stops by what it was told.
    fn can_hear(&mut self, low: &Announcer, high: &Announcer) -> bool {
        let now = self.now;
        let open = |from: NodeId, to: NodeId| {
            BEACONS.iter().any(|plane| {
                !self.net.is_cut(from, to, *plane) && self.net.quality(*plane) == Quality::default()
            })
        };
        let (there, back) = (open(high.node, low.node), open(low.node, high.node));
        if !there || self.machine(high.node).is_stopped(Part::Owner) {
            return false;
        }
        let machine = self.machine(low.node);
        let time = machine.time(now);
        let known = machine.run.as_ref().and_then(|run| {
            let status = run.core.status(time);
            status.peers.iter().find(|peer| peer.node == high.node)?.boot
        });
        back || known == Some(high.boot)
    }
}
