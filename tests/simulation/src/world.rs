//! The world: machines, networks, clients, servers, and the loop over its events.

use std::{collections::BTreeMap, fs::File};

use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{BootId, ClusterState, Command, GroupId, NodeId};
use steadfast_ownership::{SegmentId, Settings};

use crate::{
    checks::{self, Checks},
    clock::{Clock, DRIFT_PPM, MS, Ns, SECOND},
    cluster::{Groups, LISTENERS, Membership, Pools, SERVERS, founding},
    figures::{Failure, Figures},
    machine::{Machine, Part, Run, Start, Told},
    net::Net,
    queue::{Device, Event, Queue, StreamKey},
    raft::{Durable, Entry, Raft},
    rng::Rng,
    streams::Stream,
    trace::Trace,
    traffic::Traffic,
};

/// What a part that stands still has room for.
const BACKLOG_MAX: usize = 4096;

/// How a run is made.
#[derive(Debug, Default)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Simulated time.
    pub span: Ns,
    /// Faults in an hour.
    pub faults_per_hour: u64,
    /// Sessions at a time.
    pub sessions: u32,
    /// Where the trace is written, if anywhere.
    pub trace: Option<File>,
}

/// A simulated cluster.
#[derive(Debug)]
pub struct World {
    pub(crate) options: Options,
    pub(crate) now: Ns,
    pub(crate) rng: Rng,
    pub(crate) queue: Queue,
    pub(crate) trace: Trace,
    pub(crate) net: Net,
    pub(crate) members: Vec<NodeId>,
    pub(crate) voters: Vec<NodeId>,
    pub(crate) machines: Vec<Machine>,
    pub(crate) groups: Vec<GroupId>,
    pub(crate) settings: Settings,
    pub(crate) streams: BTreeMap<StreamKey, Stream>,
    pub(crate) stream_number: u64,
    pub(crate) serial: u64,
    pub(crate) log_lag: Ns,
    pub(crate) traffic: Traffic,
    pub(crate) checks: Checks,
    pub(crate) figures: Figures,
    pub(crate) buffer: Vec<u8>,
    pub(crate) pools: Pools,
    /// Which groups the document has.
    pub(crate) document: Groups,
    pub(crate) gone: BTreeMap<(usize, u16), Ns>,
    /// A document that the operator wants committed.
    pub(crate) wanted: Option<String>,
    pub(crate) cordons: BTreeMap<NodeId, bool>,
    pub(crate) healing: bool,
    pub(crate) faults_until: Ns,
    pub(crate) failure: Option<Failure>,
}

impl World {
    /// A cluster whose daemons are about to start.
    #[must_use]
    pub fn new(mut options: Options) -> Self {
        let mut rng = Rng::new(options.seed);
        let nodes = [3, 3, 3, 5, 4][rng.index(5)];
        let members: Vec<NodeId> = (1..=nodes).map(NodeId).collect();
        // Four nodes: three vote, one learns.
        let voters = if nodes == 5 { members.clone() } else { members[..3].to_vec() };
        let settings = if rng.permille(500) { Settings::default() } else { Settings::noisy_host() };
        let strict = rng.permille(500);
        let trace = Trace::new(options.trace.take());
        let pools = [[Membership::In; SERVERS as usize]; LISTENERS.len()];
        let mut world = Self {
            now: 0,
            queue: Queue::default(),
            trace,
            net: Net::default(),
            machines: Vec::new(),
            groups: Vec::new(),
            settings,
            streams: BTreeMap::new(),
            stream_number: 0,
            serial: 1_000,
            log_lag: 0,
            traffic: Traffic::default(),
            checks: Checks::default(),
            figures: Figures::default(),
            buffer: Vec::new(),
            pools,
            document: Groups { spare: true, strict },
            gone: BTreeMap::new(),
            wanted: None,
            cordons: BTreeMap::new(),
            healing: false,
            faults_until: 0,
            failure: None,
            options,
            rng,
            members,
            voters,
        };
        world.found();
        world
    }

    /// Machines with the cluster's first entries on their disks.
    fn found(&mut self) {
        let commands = founding(self.members.len() as u32, &self.pools, self.document);
        let mut state = ClusterState::default();
        for (index, command) in (1..).zip(commands.iter().cloned()) {
            state.apply(index, command);
        }
        self.groups = state.groups.keys().copied().collect();
        for serial in 1..=commands.len() as u64 {
            self.checks.founded(serial);
        }
        let log: Vec<_> = (1..)
            .zip(commands)
            .map(|(serial, command)| {
                std::rc::Rc::new(Entry { term: 1, serial, command: Some(command) })
            })
            .collect();
        for id in self.members.clone() {
            let ppm = self.rng.below(2 * DRIFT_PPM as u64 + 1) as i64 - DRIFT_PPM;
            let base = self.rng.between(100, 1_000_000) * SECOND;
            let mut machine = Machine::new(id, Clock::new(0, base, ppm));
            let committed = log.len() as u64;
            machine.disk.durable = Durable { term: 1, voted: None, log: log.clone(), committed };
            self.machines.push(machine);
            let at = self.rng.below(300 * MS);
            self.queue.put(at, Event::Start(id));
        }
    }

    /// A machine.
    ///
    /// # Panics
    /// When there is none with this id: ids come from the members alone.
    pub(crate) fn machine(&mut self, node: NodeId) -> &mut Machine {
        &mut self.machines[node.0 as usize - 1]
    }

    /// Writes something down that a reader wants to know.
    pub(crate) fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now, &what.to_string());
    }

    /// An invariant does not hold: the run ends.
    pub(crate) fn fail(&mut self, invariant: &'static str, what: &str) {
        self.trace.note(self.now, &format!("VIOLATED {invariant}: {what}"));
        if self.failure.is_none() {
            let what = what.to_owned();
            self.failure = Some(Failure { invariant, what, at: self.now });
        }
    }

    /// Runs the whole course: start, faults, healing, rest. Says what was seen.
    pub fn run(mut self) -> Outcome {
        let span = self.options.span;
        self.start_traffic();
        self.queue.put(SECOND, Event::Check);
        self.faults_until = span.saturating_sub(90 * SECOND);
        let hours = span as u128 * u128::from(self.options.faults_per_hour);
        let count = (hours / u128::from(3_600 * SECOND)) as usize + 1;
        self.plan_faults(self.faults_until, count);
        self.go(span.saturating_sub(60 * SECOND));
        self.heal();
        self.go(span.saturating_sub(20 * SECOND));
        if self.failure.is_none()
            && let Some(what) = self.not_ready()
        {
            self.fail("I9", &what);
        }
        self.traffic.quiet = true;
        self.go(span);
        if self.failure.is_none() {
            self.check_equal();
        }
        for node in self.members.clone() {
            self.count_transitions(node);
        }
        self.trace.flush();
        let flowed = self.figures.judge(span, self.options.sessions, count);
        if self.failure.is_none()
            && let Err(what) = flowed
        {
            self.fail("coverage", &what);
        }
        Outcome {
            hash: self.trace.hash(),
            lines: self.trace.lines(),
            last: self.trace.kept().map(str::to_owned).collect(),
            transitions: std::mem::take(&mut self.checks.transitions),
            nodes: self.members.len(),
            failure: self.failure,
            figures: self.figures,
        }
    }

    fn go(&mut self, until: Ns) {
        while self.failure.is_none() {
            let Some((at, event)) = self.queue.take(until) else { break };
            self.now = self.now.max(at);
            self.figures.events += 1;
            self.dispatch(event);
        }
        self.now = self.now.max(until);
    }

    /// The part of a node that an event is for.
    fn part(event: &Event) -> Option<(NodeId, Part)> {
        Some(match event {
            Event::OwnerTurn(node, _) | Event::Owner { to: node, .. } => (*node, Part::Owner),
            Event::Ether(Device::Node(node, _), _) => (*node, Part::Plane),
            Event::Expire(node, _)
            | Event::Follow(node, _)
            | Event::Sender(node, ..)
            | Event::Open((node, ..), _)
            | Event::Broken((node, ..), _)
            | Event::Ack((node, ..), ..)
            | Event::Copy((_, node, _), ..)
            | Event::Raft(_, node, _)
            | Event::RaftTimer(node, _)
            | Event::Synced(node, ..)
            | Event::ProposalTimeout(node, ..)
            | Event::AskMove(node, _)
            | Event::Leave(node, ..) => (*node, Part::Rest),
            _ => return Self::asking_part(event),
        })
    }

    fn dispatch(&mut self, event: Event) {
        if let Some((node, part)) = Self::part(&event) {
            let machine = self.machine(node);
            if machine.is_stopped(part) {
                if machine.backlog.len() < BACKLOG_MAX {
                    machine.backlog.push(event);
                }
                return;
            }
        }
        match event {
            Event::OwnerTurn(node, boot) => self.owner_turn(node, boot),
            Event::Owner { to, path, frame, sent } => self.owner_frame(to, path, frame, sent),
            Event::Ether(Device::Node(node, port), frame) => self.worker_frame(node, port, &frame),
            Event::Ether(Device::Client(client), frame) => self.client_frame(client, &frame),
            Event::Ether(Device::Server(server), frame) => self.server_frame(server, &frame),
            Event::Expire(node, boot) => self.expire(node, boot),
            Event::Follow(node, boot) => self.follow(node, boot),
            Event::Sender(node, boot, peer, shard) => self.sender_turn(node, boot, peer, shard),
            Event::Copy(key, number, frame) => self.copy_frame(key, number, &frame),
            Event::Ack(key, number, frame) => self.ack_frame(key, number, &frame),
            Event::Gather(node, boot) => self.gather(node, boot),
            Event::Asked { from, boot, to, number, frame } => {
                self.asked((from, boot), to, number, &frame);
            }
            Event::Answered { by, to, boot, number, frame } => {
                self.take_answered(by, (to, boot), number, &frame);
            }
            Event::Unanswered(node, boot, number) => self.unanswered(node, boot, number),
            Event::Open(key, boot) => self.open_stream(key, boot),
            Event::Broken(key, number) => self.broken(key, number),
            Event::Raft(from, to, message) => self.raft_message(from, to, &message),
            Event::RaftTimer(node, boot) => self.raft_timer(node, boot),
            Event::Synced(node, boot, serial) => self.synced(node, boot, serial),
            Event::ProposalTimeout(node, boot, serial) => self.proposal_timeout(node, boot, serial),
            Event::AskMove(leader, group) => self.asked_to_move(leader, group),
            Event::Session(index) => self.session_turn(index),
            Event::Handshake(server, frame, tries) => self.handshake_again(server, &frame, tries),
            Event::Begin(number) => self.begin(number),
            Event::End(fault) => self.end(fault),
            Event::Start(node) => self.start(node),
            Event::Strike(node, group, how, looks) => self.struck(node, group, how, looks),
            Event::Step(fault, step) => self.step(fault, step),
            Event::DieAgain(node) => self.die_again(node),
            Event::Leave(node, boot, looks) => self.leave(node, boot, looks),
            Event::Check => {
                self.check();
                self.queue.put(self.now + checks::EVERY, Event::Check);
            }
            Event::Operate => self.operate(),
        }
    }

    /// Starts the daemon of a machine that is down.
    pub(crate) fn start(&mut self, node: NodeId) {
        let (now, members, voters) = (self.now, self.members.clone(), self.voters.clone());
        let settings = self.settings.clone();
        let seed = [self.rng.draw(), self.rng.draw()];
        let random = self.rng.draw();
        let mut rng = self.rng.clone();
        let machine = self.machine(node);
        if machine.run.is_some() {
            if machine.run.as_ref().is_some_and(|run| run.leaving) {
                self.queue.put(now + 500 * MS, Event::Start(node));
            }
            return;
        }
        machine.boots += 1;
        machine.stopped = [0; 3];
        machine.backlog.clear();
        machine.down = false;
        let local = machine.local(now);
        let disk = machine.disk.durable.clone();
        let boot = BootId(random << 8 | machine.boots);
        let synced = disk.log.len() as u64;
        let committed = disk.committed;
        let raft = Raft::new(node, voters, &members, disk.clone(), local, &mut rng);
        let start = Start {
            node,
            boot,
            members: &members,
            settings: &settings,
            connections_max: machine.connections_max,
            local,
            now,
            seed,
            raft,
            synced,
        };
        match Run::new(start) {
            Ok(run) => machine.run = Some(run),
            Err(error) => return self.fail("start", &error.to_string()),
        }
        self.rng = rng;
        self.note(format_args!("node {node} starts as {boot}"));
        self.figures.starts += 1;
        // What was committed is applied again from the disk.
        let back = u64::from(is_on(Bug::CommittedGoesBack));
        for index in 1..=committed.min(synced).saturating_sub(back) {
            let Some(entry) = disk.entry(index) else { break };
            let Some(run) = self.machine(node).run.as_mut() else { return };
            let lost = is_on(Bug::AppliedToNothing) && index == committed;
            if let Some(command) = entry.command.clone().filter(|_| !lost) {
                run.state.apply(index, command);
            }
            run.applied = index;
        }
        let Some(applied) = self.machine(node).run.as_ref().map(|run| run.applied) else { return };
        self.check_started(node, applied);
        for port in 0..2 {
            let up = !self.net.is_down(node, port);
            self.tell(node, Told::Link(SegmentId(port + 1), up));
        }
        self.start_senders(node);
        self.follow(node, boot);
        self.queue.put(now + 50 * MS, Event::Expire(node, boot));
        self.after_raft(node);
    }

    /// A machine loses power: all that is in memory is gone, and what was not on the disk yet.
    pub(crate) fn kill(&mut self, node: NodeId) {
        if self.machine(node).run.is_some() {
            self.note(format_args!("node {node} dies"));
            self.figures.kills += 1;
        }
        let at_once = self.rng.permille(500);
        self.end_run(node, at_once);
    }

    /// A run is over; peers notice at once where the machine lives on.
    pub(crate) fn end_run(&mut self, node: NodeId, at_once: bool) {
        self.count_transitions(node);
        self.end_streams(node, at_once);
        let machine = self.machine(node);
        machine.run = None;
        machine.down = true;
        machine.stopped = [0; 3];
        machine.backlog.clear();
    }

    /// A part of a node stands still.
    pub(crate) fn stop_part(&mut self, node: NodeId, part: Part) {
        self.figures.pauses += 1;
        let now = self.now;
        let machine = self.machine(node);
        machine.stopped[part as usize] += 1;
        machine.well_since = now;
    }

    /// It goes on: what waited for it comes first, in order.
    pub(crate) fn go_on(&mut self, node: NodeId, part: Part) {
        let now = self.now;
        let machine = self.machine(node);
        let Some(left) = machine.stopped[part as usize].checked_sub(1) else { return };
        machine.stopped[part as usize] = left;
        if left > 0 || machine.run.is_none() {
            return;
        }
        let gap = now.saturating_sub(machine.well_since);
        let (mine, others): (Vec<Event>, Vec<Event>) = std::mem::take(&mut machine.backlog)
            .into_iter()
            .partition(|event| Self::part(event).is_some_and(|(_, p)| p == part));
        machine.backlog = others;
        for event in mine {
            self.queue.put(now, event);
        }
        if part == Part::Plane {
            self.worker_woke(node, gap);
        }
    }

    /// A clock has leapt: what waits for a local time comes now.
    pub(crate) fn rearm(&mut self, node: NodeId) {
        let now = self.now;
        let Some(run) = self.machine(node).run.as_mut() else { return };
        let boot = run.boot;
        run.owner_at = now;
        run.raft_at = now;
        let senders: Vec<_> = run.senders.keys().copied().collect();
        self.queue.put(now, Event::OwnerTurn(node, boot));
        self.queue.put(now, Event::RaftTimer(node, boot));
        for (peer, shard) in senders {
            self.sender_at(node, peer, shard, now);
        }
    }

    /// All faults end, and what was down comes up.
    fn heal(&mut self) {
        self.note(format_args!("everything heals"));
        self.healing = true;
        self.net.heal();
        self.log_lag = 0;
        self.pools = [[Membership::In; SERVERS as usize]; LISTENERS.len()];
        self.document.spare = true;
        self.wanted = Some(crate::cluster::document(&self.pools, self.document));
        for node in self.members.clone() {
            for part in [Part::Plane, Part::Owner, Part::Rest] {
                while self.machine(node).is_stopped(part) {
                    self.go_on(node, part);
                }
            }
            let machine = self.machine(node);
            machine.disk.slow = 0;
            machine.connections_max = crate::machine::CONNECTIONS_MAX;
            if let Some(run) = machine.run.as_mut() {
                run.stuck_since = None;
            }
            self.cordons.insert(node, false);
            for port in 0..2 {
                self.tell(node, Told::Link(SegmentId(port + 1), true));
            }
            self.start(node);
        }
        self.release_streams();
        self.queue.put(self.now, Event::Operate);
    }

    /// A planned stop begins.
    pub(crate) fn stop_as_planned(&mut self, node: NodeId) {
        let now = self.now;
        let Some(run) = self.machine(node).run.as_mut() else { return };
        run.leaving = true;
        let boot = run.boot;
        self.tell(node, Told::Shutdown);
        self.queue.put(now + 100 * MS, Event::Leave(node, boot, 0));
    }

    /// An operator moves a group to the best candidate.
    pub(crate) fn move_by_operator(&mut self, group: GroupId) {
        if let Some(leader) = self.present_leader() {
            self.tell(leader, Told::Move(group, None));
        }
    }

    /// An operator cordons a node, or no more.
    pub(crate) fn cordon(&mut self, node: NodeId, cordoned: bool) {
        self.cordons.insert(node, cordoned);
        self.queue.put(self.now, Event::Operate);
    }

    /// An operator wants things committed, and tries until they are.
    fn operate(&mut self) {
        let Some(leader) = self.present_leader() else {
            self.queue.put(self.now + 300 * MS, Event::Operate);
            return;
        };
        let Some(run) = self.machine(leader).run.as_ref() else { return };
        let text = run.state.config.text.clone();
        let cordoned: BTreeMap<NodeId, bool> =
            run.state.nodes.values().map(|n| (n.id, n.cordoned)).collect();
        let mut open = false;
        if let Some(wanted) = self.wanted.clone() {
            if wanted == text {
                self.wanted = None;
            } else {
                open = true;
                let source = "the simulator".to_owned();
                let apply =
                    Command::Apply { text: wanted, expected_revision: None, source, now_unix_s: 1 };
                self.propose(leader, None, apply);
            }
        }
        for (node, cordoned_wanted) in self.cordons.clone() {
            if cordoned.get(&node) != Some(&cordoned_wanted) {
                open = true;
                self.propose(leader, None, Command::Cordon { node, cordoned: cordoned_wanted });
            }
        }
        if open {
            self.queue.put(self.now + 300 * MS, Event::Operate);
        }
    }
}

/// What a run has led to.
#[derive(Debug)]
pub struct Outcome {
    /// Hash of the trace.
    pub hash: u64,
    /// Its lines.
    pub lines: u64,
    /// The last lines worth reading.
    pub last: Vec<String>,
    /// Steps of the ownership table that were taken.
    pub transitions:
        BTreeMap<(steadfast_ownership::GroupState, steadfast_ownership::GroupEvent), u64>,
    /// Nodes.
    pub nodes: usize,
    /// The first violation.
    pub failure: Option<Failure>,
    /// Counts.
    pub figures: Figures,
}
