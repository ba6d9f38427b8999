//! Drives the log, and does what the daemon's follower, steward and proposer do with it.

use std::rc::Rc;

use steadfast_dataplane::Config;
use steadfast_model::{BootId, ClusterState, Command, Epoch, GroupId, NodeId, Response};

use crate::{
    clock::{MS, Ns},
    cluster::{committed, config_spec},
    machine::{Part, Proposal, Told, Write},
    net::Plane,
    queue::Event,
    raft::{RaftMessage, RaftOutput, RaftRole},
    world::World,
};

/// A write is answered within so long; as in the daemon.
const PROPOSE_WITHIN: Ns = 900 * MS;

impl World {
    /// A message of the log has arrived.
    pub(crate) fn raft_message(&mut self, from: NodeId, to: NodeId, message: &RaftMessage) {
        let now = self.now;
        self.serial += 1;
        let serial = self.serial;
        let mut rng = self.rng.clone();
        let machine = self.machine(to);
        let local = machine.local(now);
        let Some(run) = machine.run.as_mut() else { return };
        run.raft.handle_message(local, from, message, serial, &mut rng);
        self.rng = rng;
        self.after_raft(to);
    }

    /// Timers of the log.
    pub(crate) fn raft_timer(&mut self, node: NodeId, boot: BootId) {
        let now = self.now;
        let mut rng = self.rng.clone();
        let machine = self.machine(node);
        let local = machine.local(now);
        let Some(run) = machine.run_of(boot).filter(|run| run.raft_at <= now) else { return };
        run.raft_at = Ns::MAX;
        run.raft.handle_timer(local, &mut rng);
        self.rng = rng;
        self.after_raft(node);
    }

    /// Does what the log asks for.
    pub(crate) fn after_raft(&mut self, node: NodeId) {
        let now = self.now;
        let Some(run) = self.machine(node).run.as_mut() else { return };
        for output in run.raft.take_outputs() {
            match output {
                RaftOutput::Send(to, message) => self.send_raft(node, to, message),
                RaftOutput::Persist(then) => self.persist(node, then),
            }
        }
        let machine = self.machine(node);
        let clock = machine.clock;
        let Some(run) = machine.run.as_mut() else { return };
        let at = clock.at(run.raft.deadline()).max(now + 1);
        let (boot, leads) = (run.boot, run.raft.role() == RaftRole::Leader);
        let due = at < run.raft_at;
        if due {
            run.raft_at = at;
        }
        let leader_news = run.told_leader.is_some_and(|told| told != leads);
        if due {
            self.queue.put(at, Event::RaftTimer(node, boot));
        }
        if leader_news {
            let after = self.rng.between(0, 2 * MS);
            self.queue.put(now + after, Event::Follow(node, boot));
        }
        self.apply(node);
    }

    fn send_raft(&mut self, from: NodeId, to: NodeId, message: RaftMessage) {
        if self.net.is_cut(from, to, Plane::Log) {
            return;
        }
        let message = Rc::new(message);
        for delay in self.net.carry(&mut self.rng, Plane::Log).into_iter().flatten() {
            let at = self.now + delay;
            self.queue.put(at, Event::Raft(from, to, Rc::clone(&message)));
        }
    }

    fn persist(&mut self, node: NodeId, then: Vec<(NodeId, RaftMessage)>) {
        self.serial += 1;
        let (now, serial) = (self.now, self.serial);
        let takes = self.rng.between(300_000, 4 * MS);
        let machine = self.machine(node);
        let slow = machine.disk.slow;
        let Some(run) = machine.run.as_mut() else { return };
        let durable = run.raft.memory().clone();
        run.writes.push_back(Write { serial, durable, then });
        run.disk_free_at = run.disk_free_at.max(now) + takes + slow;
        let (at, boot) = (run.disk_free_at, run.boot);
        self.queue.put(at, Event::Synced(node, boot, serial));
    }

    /// A write is on the disk.
    pub(crate) fn synced(&mut self, node: NodeId, boot: BootId, serial: u64) {
        let machine = self.machine(node);
        let Some(run) = machine.run.as_mut().filter(|run| run.boot == boot) else { return };
        if run.writes.front().is_none_or(|write| write.serial != serial) {
            return;
        }
        let Some(write) = run.writes.pop_front() else { return };
        let committed = machine.disk.durable.committed;
        let length = write.durable.log.len() as u64;
        run.synced = length;
        run.raft.handle_synced(length, write.durable.term);
        machine.disk.durable = write.durable;
        machine.disk.durable.committed = committed;
        for (to, message) in write.then {
            self.send_raft(node, to, message);
        }
        self.after_raft(node);
    }

    /// Applies what is committed and on the disk here.
    fn apply(&mut self, node: NodeId) {
        let now = self.now;
        loop {
            let machine = self.machine(node);
            let Some(run) = machine.run.as_mut() else { return };
            let until = run.raft.memory().committed.min(run.synced);
            if run.applied >= until {
                break;
            }
            let index = run.applied + 1;
            let Some(entry) = run.raft.memory().entry(index).map(Rc::clone) else { return };
            run.applied = index;
            let saw = entry.command.as_ref().is_none_or(|command| saw_it(&run.state, command));
            let response = entry.command.clone().map(|command| run.state.apply(index, command));
            let blind = !saw && matches!(response, Some(Response::Granted(_)));
            machine.disk.durable.committed = machine.disk.durable.committed.max(index);
            self.check_applied(node, index, entry.serial);
            if blind {
                self.fail("log", &format!("entry {index} replaced a grant that nobody saw"));
            }
            self.answer(node, index, entry.term, response);
            let after = self.rng.between(0, 2 * MS);
            let Some(run) = self.machine(node).run.as_ref() else { return };
            let boot = run.boot;
            self.queue.put(now + after + self.log_lag, Event::Follow(node, boot));
        }
    }

    /// A proposal of this node was applied, or another entry stands in its place.
    fn answer(&mut self, node: NodeId, index: u64, term: u64, response: Option<Response>) {
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let done: Vec<u64> = run
            .proposals
            .iter()
            .filter(|(_, p)| p.at.is_some_and(|(at, _)| at == index))
            .map(|(serial, _)| *serial)
            .collect();
        for serial in done {
            let Some(run) = self.machine(node).run.as_mut() else { return };
            let Some(proposal) = run.proposals.remove(&serial) else { continue };
            let same = proposal.at == Some((index, term));
            let granted = same && !matches!(response, Some(Response::Rejected(_)));
            self.figures.commits += u64::from(granted);
            if same && let Some(Response::Rejected(why)) = &response {
                self.figures.refused += 1;
                self.note(format_args!("node {node} is refused: {why}"));
            }
            if let (Some(group), false) = (proposal.group, granted) {
                self.tell(node, Told::ProposalFailed(group));
            }
        }
    }

    /// Proposes from a node; the leader takes it, others wait for their time to pass.
    pub(crate) fn propose(&mut self, node: NodeId, group: Option<GroupId>, command: Command) {
        self.serial += 2;
        let (now, serial) = (self.now, self.serial - 1);
        let (lost, twice) = (self.rng.permille(20), self.rng.permille(100));
        let again = command.clone();
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let at = if lost { None } else { run.raft.propose(serial, command) };
        // Who lost sight of the leader while it waited asks again: the first may still be committed.
        if at.is_some() && twice {
            run.raft.propose(serial + 1, again);
        }
        let at = at.map(|index| (index, run.raft.memory().term));
        let boot = run.boot;
        run.proposals.insert(serial, Proposal { group, at });
        self.queue.put(now + PROPOSE_WITHIN, Event::ProposalTimeout(node, boot, serial));
        self.after_raft(node);
    }

    /// A proposal was not confirmed in time: it may still take effect.
    pub(crate) fn proposal_timeout(&mut self, node: NodeId, boot: BootId, serial: u64) {
        let Some(run) = self.machine(node).run_of(boot) else { return };
        let Some(proposal) = run.proposals.remove(&serial) else { return };
        if let Some(group) = proposal.group {
            self.tell(node, Told::ProposalFailed(group));
        }
    }

    /// A stopping node asks the leader to move a group.
    pub(crate) fn ask_move(&mut self, node: NodeId, group: GroupId) {
        let Some(leader) = self.machine(node).run.as_ref().and_then(|run| run.raft.leader()) else {
            return;
        };
        if leader != node && self.net.is_cut(node, leader, Plane::Log) {
            return;
        }
        let after = self.rng.between(100_000, MS);
        self.queue.put(self.now + after, Event::AskMove(leader, group));
    }

    /// It arrives at the leader, or at who was it.
    pub(crate) fn asked_to_move(&mut self, leader: NodeId, group: GroupId) {
        if !self.machine(leader).is_stopped(Part::Rest) {
            self.tell(leader, Told::Move(group, None));
        }
    }

    /// Tells the parts what is new in the applied state.
    pub(crate) fn follow(&mut self, node: NodeId, boot: BootId) {
        let (now, voters) = (self.now, self.voters.clone());
        let machine = self.machine(node);
        let local = machine.local(now);
        let Some(run) = machine.run_of(boot) else { return };
        let mut news = Vec::new();
        if run.told_revision != Some(run.state.config.revision) {
            run.told_revision = Some(run.state.config.revision);
            run.generation += 1;
            let spec = config_spec(&run.state, node, 1, run.generation, local);
            let current = run.shared.config.load_full();
            match Config::compile(spec, Some(&current)) {
                Ok(config) => run.shared.set_config(config),
                Err(error) => return self.fail("config", &error.to_string()),
            }
        }
        let Some(run) = self.machine(node).run_of(boot) else { return };
        let new = committed(&run.state, run.applied, &voters);
        let same = run.told_committed.as_ref().is_some_and(|old| {
            (&old.voters, &old.members, &old.groups, old.generation)
                == (&new.voters, &new.members, &new.groups, new.generation)
        });
        if !same {
            run.told_committed = Some(new.clone());
            news.push(Told::Committed(Box::new(new)));
        }
        let leads = run.raft.role() == RaftRole::Leader;
        if run.told_leader != Some(leads) {
            run.told_leader = Some(leads);
            news.push(Told::Leader(leads));
        }
        for told in news {
            if let Told::Leader(leads) = told {
                self.note(format_args!("node {node} leads: {leads}"));
            }
            self.tell(node, told);
        }
    }
}

/// Whether who proposed a grant saw the one that it would replace.
fn saw_it(state: &ClusterState, command: &Command) -> bool {
    let Command::Grant { group, expected, .. } = command else { return true };
    let current = state.groups.get(group).and_then(|g| g.grant.as_ref()).map(|g| g.epoch);
    let base = |epoch: Epoch| (epoch.generation, epoch.grant_index);
    expected.map(base) == current.map(base)
}
