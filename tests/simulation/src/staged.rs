//! Faults that come in steps: situations that single faults hardly ever meet.

use steadfast_model::{GroupId, NodeId};

use crate::{
    clock::{MS, Ns, SECOND, US},
    cluster::GROUPS,
    faults::Fault,
    net::Plane,
    queue::Event,
    world::World,
};

/// How often it is looked whether a group has been claimed.
const LOOK: Ns = 200 * US;
/// And how many times.
const LOOKS: u32 = 10_000;
/// The step that follows the looks of [`Fault::Forgetful`].
const PROMISED: u32 = LOOKS + 2;

impl World {
    /// A step of a fault.
    pub(crate) fn step(&mut self, fault: Fault, step: u32) {
        if self.healing {
            return;
        }
        match fault {
            Fault::Forgetful(voter, a, b) => self.forget(fault, [voter, a, b], step),
            Fault::Behind(holder, behind, third) => {
                self.fall_behind(fault, [holder, behind, third], step);
            }
            Fault::Narrow(node) => {
                self.net.set_narrow(node, true);
                self.kill(node);
                let at = self.now + self.rng.between(100 * MS, SECOND);
                self.queue.put(at, Event::Start(node));
            }
            _ => {}
        }
    }

    /// What is left of such a fault ends.
    pub(crate) fn last_step(&mut self, fault: Fault) {
        match fault {
            Fault::Forgetful(voter, a, b) => {
                for (from, to) in [(a, b), (b, a), (a, voter), (b, voter)] {
                    self.mute(from, to, false);
                }
                self.start(voter);
            }
            Fault::Behind(holder, behind, third) => {
                self.rejoin(holder, behind, third);
                self.start(holder);
            }
            Fault::Narrow(node) => {
                self.net.set_narrow(node, false);
                self.start(node);
            }
            _ => {}
        }
    }

    fn next_step(&mut self, fault: Fault, step: u32, after: Ns) {
        self.queue.put(self.now + after, Event::Step(fault, step));
    }

    /// Beacons of one node do not reach another, or do again. The log gets through: it repeats what is
    /// lost.
    fn mute(&mut self, from: NodeId, to: NodeId, mute: bool) {
        let cut = self.net.is_muted(from, to);
        if cut == mute {
            return;
        }
        for plane in [Plane::Control, Plane::Segment(0), Plane::Segment(1)] {
            self.net.cut(from, to, plane, mute);
        }
        self.net.spare_log(from, to, mute);
    }

    /// Somebody other than `voter` holds a group by a claim.
    fn claimant(&self, voter: NodeId) -> Option<NodeId> {
        let claimed = |group: &GroupId| {
            self.announcers(*group).into_iter().find(|node| {
                let run = self.machines[node.0 as usize - 1].run.as_ref();
                let role = run.and_then(|run| run.roles.get(group));
                *node != voter && role.is_some_and(|now| now.epoch.claim > 0)
            })
        };
        self.groups.iter().take(GROUPS).find_map(claimed)
    }

    fn forget(&mut self, fault: Fault, [voter, a, b]: [NodeId; 3], step: u32) {
        match step {
            0 => {
                self.mute(a, b, true);
                self.mute(b, a, true);
                let after = self.rng.between(600 * MS, SECOND);
                self.next_step(fault, 1, after);
            }
            1 => {
                self.restart(voter);
                self.next_step(fault, 2, LOOK);
            }
            PROMISED => {
                let Some(claimant) = self.claimant(voter) else { return };
                self.mute(claimant, voter, true);
                self.restart(voter);
            }
            _ if self.claimant(voter).is_some() => {
                let after = self.rng.below(5 * MS);
                self.next_step(fault, PROMISED, after);
            }
            _ if step < LOOKS => self.next_step(fault, step + 1, LOOK),
            _ => {}
        }
    }

    /// It dies, and is back in some milliseconds.
    fn restart(&mut self, node: NodeId) {
        self.kill(node);
        let at = self.now + self.rng.between(MS, 15 * MS);
        self.queue.put(at, Event::Start(node));
    }

    fn fall_behind(&mut self, fault: Fault, nodes: [NodeId; 3], step: u32) {
        let [holder, behind, third] = nodes;
        match step {
            0 => {
                self.net.cut(holder, behind, Plane::Replication, true);
                self.link(third, 0, false);
                // A stream that gets nothing through for longer breaks.
                let after = self.rng.between(800 * MS, 1_900 * MS);
                self.next_step(fault, 1, after);
            }
            1 => {
                self.net.refuse(third, behind, true);
                self.break_streams(third, behind);
                self.kill(holder);
                // Before the successor lets anybody sweep.
                let after = self.rng.between(1_500 * MS, 2_500 * MS);
                self.next_step(fault, 2, after);
            }
            _ => self.rejoin(holder, behind, third),
        }
    }

    /// Everything but the holder is well.
    fn rejoin(&mut self, holder: NodeId, behind: NodeId, third: NodeId) {
        if self.net.is_refused(third, behind) {
            self.net.refuse(third, behind, false);
            self.net.cut(holder, behind, Plane::Replication, false);
            self.link(third, 0, true);
            self.release_streams();
        }
    }
}
