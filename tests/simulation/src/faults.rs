//! The faults, when they come and what they do.
//!
//! A run draws them from its seed. Those that may take copies away come only while every session
//! that is known to two nodes is known to a node that nothing is wrong with: never are all copies
//! lost at once.

use steadfast_model::{BootId, GroupId, NodeId};
use steadfast_ownership::SegmentId;

use crate::{
    clock::{DRIFT_PPM, MS, Ns, SECOND},
    cluster::{GROUPS, LISTENERS, Membership, Pools, SERVERS, document, place},
    machine::{CONNECTIONS_MAX, Part, Told},
    net::{PLANES, Plane, Quality},
    queue::Event,
    raft::RaftRole,
    world::World,
};

/// What goes wrong, or is done.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Fault {
    /// The node loses power, and comes back.
    Crash(NodeId),
    /// It dies again and again as soon as it is up; so many times more.
    CrashLoop(NodeId, u32),
    /// It stands still.
    Pause(NodeId),
    /// One of its threads stands still.
    PausePart(NodeId, u8),
    /// A worker turns no more.
    Stuck(NodeId),
    /// Its clock goes at another rate.
    Rate(NodeId, i64),
    /// Its clock leaps ahead, further than a beacon.
    Leap(NodeId, Ns),
    /// One direction of one plane is cut.
    OneWay(NodeId, NodeId, u8),
    /// One plane is cut between two nodes.
    Cut(NodeId, NodeId, u8),
    /// One plane is cut between a node and all others.
    Isolate(NodeId, u8),
    /// All planes are.
    IsolateAll(NodeId),
    /// An interface goes down.
    LinkDown(NodeId, u8),
    /// A plane loses, repeats, delays.
    Bad(u8),
    /// The leader's Raft role stops for a moment; the node does not.
    LeaderLoss(NodeId),
    /// What is committed is taken up late everywhere.
    LogLag,
    /// Writes of the log take long.
    SlowDisk(NodeId),
    /// Copies to and from a node take long.
    SlowPeer(NodeId),
    /// A server of a service gets no weight, or leaves, or comes.
    Churn(u8, u8),
    /// A planned move.
    Move(u8),
    /// A planned stop, and a start.
    Stop(NodeId),
    /// A restart with a table that is too small.
    SmallTable(NodeId),
    /// A node consents but holds nothing new.
    Cordon(NodeId),
    /// The group that nobody uses leaves the document, and comes back.
    GroupGone,
    /// The node that a group moves to is hit that moment: it stands still, or its link goes down.
    Struck(u8),
    /// Of three nodes one is cut off, and the second hears the third, which does not hear it: its
    /// claims stay without an answer.
    Unanswered(NodeId, NodeId, NodeId),
    /// The first of three holds a group, and is restarted; of the others, which do not hear each
    /// other, it promises the group to one; then it is restarted again and does not hear that one.
    Forgetful(NodeId, NodeId, NodeId),
    /// The first of three dies while the second lags behind it, which takes over nevertheless, for the
    /// third has no link; and the third cannot tell the second what it knows, for a while.
    Behind(NodeId, NodeId, NodeId),
    /// The node is restarted, and streams to it let little out for a while.
    Narrow(NodeId),
}

impl Fault {
    /// A short name for the report.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crash(_) => "crash",
            Self::CrashLoop(..) => "crash loop",
            Self::Pause(_) => "pause",
            Self::PausePart(..) => "pause of a thread",
            Self::Stuck(_) => "stuck worker",
            Self::Rate(..) => "clock rate",
            Self::Leap(..) => "clock leap",
            Self::OneWay(..) => "one-way cut",
            Self::Cut(..) => "cut of two",
            Self::Isolate(..) => "isolation on a plane",
            Self::IsolateAll(_) => "isolation",
            Self::LinkDown(..) => "link down",
            Self::Bad(_) => "bad plane",
            Self::LeaderLoss(_) => "leader loss",
            Self::LogLag => "log lag",
            Self::SlowDisk(_) => "slow disk",
            Self::SlowPeer(_) => "slow peer",
            Self::Churn(..) => "server churn",
            Self::Move(_) => "planned move",
            Self::Stop(_) => "planned stop",
            Self::SmallTable(_) => "small table",
            Self::Cordon(_) => "cordon",
            Self::GroupGone => "group removed",
            Self::Struck(_) => "hit while taking",
            Self::Unanswered(..) => "claims unanswered",
            Self::Forgetful(..) => "restarts of who promised",
            Self::Behind(..) => "successor behind",
            Self::Narrow(_) => "narrow streams",
        }
    }

    /// The node whose copies cannot be counted on meanwhile.
    fn victim(self) -> Option<NodeId> {
        match self {
            Self::Crash(n)
            | Self::CrashLoop(n, _)
            | Self::Pause(n)
            | Self::PausePart(n, _)
            | Self::Stuck(n)
            | Self::Leap(n, _)
            | Self::Isolate(n, _)
            | Self::IsolateAll(n)
            | Self::LinkDown(n, _)
            | Self::SlowPeer(n)
            | Self::Stop(n)
            | Self::OneWay(n, ..)
            | Self::Cut(n, ..)
            | Self::Unanswered(n, ..)
            | Self::Forgetful(n, ..)
            | Self::Behind(n, ..)
            | Self::Narrow(n)
            | Self::SmallTable(n) => Some(n),
            _ => None,
        }
    }

    /// What happens to the log alone must not be seen in who announces.
    #[must_use]
    pub(crate) fn is_of_the_log(self) -> bool {
        matches!(self, Self::LeaderLoss(_) | Self::LogLag | Self::SlowDisk(_))
    }
}

/// How long the cluster takes to be well after a fault.
const SETTLE: Ns = 4 * SECOND;
/// A fault that would lose the last copies waits so long.
const WAIT: Ns = 3 * SECOND;

impl World {
    /// Draws when faults come.
    pub(crate) fn plan_faults(&mut self, until: Ns, count: usize) {
        for number in 0..count {
            let at = self.now + 15 * SECOND + self.rng.below(until - 45 * SECOND);
            self.queue.put(at, Event::Begin(number));
        }
    }

    fn draw_fault(&mut self) -> Fault {
        let members = self.members.clone();
        let node = members[self.rng.index(members.len())];
        let mut other = members[self.rng.index(members.len())];
        if other == node {
            other = members[(self.rng.index(members.len() - 1) + node.0 as usize) % members.len()];
        }
        let plane = self.rng.below(PLANES.len() as u64) as u8;
        match self.rng.below(134) {
            0..=13 => Fault::Crash(node),
            14..=15 => Fault::CrashLoop(node, 2 + self.rng.below(3) as u32),
            16..=26 => Fault::Pause(node),
            27..=31 => Fault::PausePart(node, self.rng.below(3) as u8),
            32..=33 => Fault::Stuck(node),
            34..=36 => {
                let ppm = self.rng.below(2 * DRIFT_PPM as u64 + 1) as i64 - DRIFT_PPM;
                Fault::Rate(node, ppm)
            }
            37..=40 => Fault::Leap(node, self.rng.between(60 * MS, 3 * SECOND)),
            41..=46 => Fault::OneWay(node, other, plane),
            47..=50 => Fault::Cut(node, other, plane),
            51..=56 => Fault::Isolate(node, plane),
            57..=59 => Fault::IsolateAll(node),
            60..=62 => Fault::LinkDown(node, self.rng.below(2) as u8),
            63..=68 => Fault::Bad(plane),
            69..=73 => Fault::LeaderLoss(self.present_leader().unwrap_or(node)),
            74..=75 => Fault::LogLag,
            76..=77 => Fault::SlowDisk(node),
            78..=79 => Fault::SlowPeer(node),
            80..=86 => {
                let listener = self.rng.index(LISTENERS.len()) as u8;
                Fault::Churn(listener, self.rng.below(u64::from(SERVERS)) as u8)
            }
            87..=91 => Fault::Move(self.rng.index(GROUPS) as u8),
            92..=95 => Fault::Stop(node),
            96..=97 => Fault::SmallTable(node),
            98..=99 => Fault::Cordon(node),
            100..=103 => Fault::GroupGone,
            104..=113 => Fault::Struck(self.rng.below(2) as u8),
            130..=133 => Fault::Narrow(node),
            _ if members.len() > 3 => Fault::GroupGone,
            122..=129 => {
                // Who holds a group of services has something to lose.
                let group = self.groups[self.rng.index(GROUPS)];
                let first = self.announcers(group).first().copied().unwrap_or(node);
                let mut rest = members.iter().copied().filter(|n| *n != first);
                let (Some(a), Some(b)) = (rest.next(), rest.next()) else {
                    return Fault::GroupGone;
                };
                let (a, b) = if self.rng.permille(500) { (a, b) } else { (b, a) };
                if self.rng.permille(500) {
                    Fault::Forgetful(first, a, b)
                } else {
                    Fault::Behind(first, a, b)
                }
            }
            _ => {
                // The leader claims in vain, and may grant the group to itself meanwhile.
                let leader = self.present_leader().filter(|leader| *leader != node);
                let others = members.iter().copied().filter(|n| *n != node);
                let mut others: Vec<NodeId> = others.collect();
                others.sort_by_key(|n| Some(*n) != leader);
                Fault::Unanswered(node, others[0], others[1])
            }
        }
    }

    /// A fault is due.
    pub(crate) fn begin(&mut self, number: usize) {
        if self.healing {
            self.figures.skipped += 1;
            return;
        }
        let fault = self.draw_fault();
        let now = self.now;
        if let Some(node) = fault.victim()
            && !self.can_do_without(node)
        {
            self.figures.waited += 1;
            let at = now + WAIT;
            if at < self.faults_until {
                self.queue.put(at, Event::Begin(number));
            } else {
                self.figures.skipped += 1;
            }
            return;
        }
        let lasts = self.how_long(fault);
        self.note(format_args!("fault: {fault:?} for {} ms", lasts / MS));
        *self.figures.faults.entry(fault.name()).or_default() += 1;
        if !fault.is_of_the_log() {
            self.checks.troubled_until = self.checks.troubled_until.max(now + lasts + SETTLE);
        } else {
            self.checks.log_troubled_until = self.checks.log_troubled_until.max(now + lasts);
        }
        self.disturb(fault, now + lasts + SETTLE);
        self.start_fault(fault);
        if lasts > 0 {
            self.queue.put(now + lasts, Event::End(fault));
        }
    }

    fn how_long(&mut self, fault: Fault) -> Ns {
        match fault {
            Fault::Crash(_) | Fault::SmallTable(_) => self.rng.between(200 * MS, 20 * SECOND),
            Fault::CrashLoop(..) => self.rng.between(MS, 800 * MS),
            Fault::Pause(_) | Fault::PausePart(..) => {
                let longest = [150 * MS, 400 * MS, 2 * SECOND, 10 * SECOND];
                let longest = longest[self.rng.index(longest.len())];
                self.rng.between(100 * MS, longest)
            }
            Fault::Stuck(_) => self.rng.between(100 * MS, 3 * SECOND),
            Fault::Rate(..) | Fault::Leap(..) | Fault::Move(_) => 0,
            Fault::OneWay(..) | Fault::Cut(..) | Fault::Isolate(..) | Fault::IsolateAll(_) => {
                self.rng.between(50 * MS, 15 * SECOND)
            }
            Fault::LinkDown(..) => self.rng.between(20 * MS, 5 * SECOND),
            Fault::Bad(_) | Fault::SlowPeer(_) | Fault::SlowDisk(_) => {
                self.rng.between(SECOND, 15 * SECOND)
            }
            Fault::LeaderLoss(_) | Fault::LogLag => self.rng.between(SECOND, 3 * SECOND),
            Fault::Churn(..) => self.rng.between(20 * SECOND, 60 * SECOND),
            Fault::Stop(_) => self.rng.between(4 * SECOND, 20 * SECOND),
            Fault::GroupGone => self.rng.between(500 * MS, 8 * SECOND),
            Fault::Struck(_) => self.rng.between(100 * MS, SECOND),
            Fault::Unanswered(..) => self.rng.between(2_200 * MS, 5 * SECOND),
            Fault::Cordon(_) => self.rng.between(5 * SECOND, 20 * SECOND),
            Fault::Forgetful(..) => self.rng.between(3 * SECOND, 5 * SECOND),
            Fault::Behind(..) => self.rng.between(7 * SECOND, 12 * SECOND),
            Fault::Narrow(_) => self.rng.between(5 * SECOND, 10 * SECOND),
        }
    }

    fn disturb(&mut self, fault: Fault, until: Ns) {
        let all = matches!(
            fault,
            Fault::Bad(_)
                | Fault::LogLag
                | Fault::Struck(_)
                | Fault::Unanswered(..)
                | Fault::Forgetful(..)
                | Fault::Behind(..)
                | Fault::GroupGone
        );
        let mut nodes: Vec<NodeId> = fault.victim().into_iter().collect();
        match fault {
            Fault::OneWay(a, b, _) | Fault::Cut(a, b, _) => nodes.extend([a, b]),
            Fault::Cordon(n) | Fault::SlowDisk(n) | Fault::LeaderLoss(n) => nodes.push(n),
            _ => {}
        }
        for machine in &mut self.machines {
            if all || nodes.contains(&machine.id) {
                machine.disturbed_until = machine.disturbed_until.max(until);
            }
        }
    }

    fn start_fault(&mut self, fault: Fault) {
        let now = self.now;
        match fault {
            Fault::Crash(node) | Fault::CrashLoop(node, _) => self.kill(node),
            Fault::Pause(node) => {
                for part in [Part::Owner, Part::Plane, Part::Rest] {
                    self.stop_part(node, part);
                }
            }
            Fault::PausePart(node, part) => self.stop_part(node, part_of(part)),
            Fault::Stuck(node) => {
                if let Some(run) = self.machine(node).run.as_mut() {
                    run.stuck_since = Some(now);
                }
            }
            Fault::Rate(node, ppm) => {
                let machine = self.machine(node);
                machine.clock.set_rate(now, ppm);
            }
            Fault::Leap(node, by) => {
                let machine = self.machine(node);
                machine.clock.leap(now, by);
                self.checks.leapt_at = now;
                self.worker_woke(node, by);
                self.rearm(node);
            }
            Fault::SlowDisk(node) => self.machine(node).disk.slow = 300 * MS,
            Fault::SlowPeer(node) => self.net.set_slow(node, 300 * MS),
            Fault::LogLag => self.log_lag = 500 * MS,
            Fault::Bad(plane) => {
                let loss = [10, 50, 200][self.rng.index(3)];
                let quality = Quality { loss, twice: 50, delay: 10 * MS };
                self.net.set_quality(PLANES[usize::from(plane)], quality);
            }
            Fault::LeaderLoss(node) => {
                let mut rng = self.rng.clone();
                let machine = self.machine(node);
                let local = machine.local(now);
                if let Some(run) = machine.run.as_mut() {
                    run.raft.step_down(local, &mut rng);
                }
                self.rng = rng;
                self.after_raft(node);
            }
            Fault::LinkDown(node, port) => self.link(node, u16::from(port), false),
            Fault::Churn(listener, server) => {
                self.churn(usize::from(listener), usize::from(server))
            }
            Fault::Move(group) => {
                let group = self.groups[usize::from(group)];
                self.move_by_operator(group);
            }
            Fault::Stop(node) => self.stop_as_planned(node),
            Fault::SmallTable(node) => {
                self.kill(node);
                self.machine(node).connections_max = 40;
            }
            Fault::Cordon(node) => self.cordon(node, true),
            Fault::GroupGone => {
                self.document.spare = false;
                self.configure();
            }
            Fault::Struck(how) => self.strike(how),
            Fault::Forgetful(..) | Fault::Behind(..) | Fault::Narrow(_) => self.step(fault, 0),
            _ => self.cut(fault, true),
        }
    }

    /// A fault is over.
    pub(crate) fn end(&mut self, fault: Fault) {
        self.trace.event(self.now, format_args!("over: {fault:?}"));
        match fault {
            Fault::Crash(node) | Fault::Stop(node) => self.start(node),
            Fault::CrashLoop(node, left) => {
                self.start(node);
                if left > 0 && !self.healing {
                    let lives = self.rng.between(100 * MS, 3 * SECOND);
                    let dead = self.rng.between(MS, 800 * MS);
                    let until = self.now + lives + dead + SETTLE;
                    self.disturb(fault, until);
                    self.checks.troubled_until = self.checks.troubled_until.max(until);
                    self.queue.put(self.now + lives, Event::DieAgain(node));
                    let fault = Fault::CrashLoop(node, left - 1);
                    self.queue.put(self.now + lives + dead, Event::End(fault));
                }
            }
            Fault::Pause(node) => {
                for part in [Part::Plane, Part::Owner, Part::Rest] {
                    self.go_on(node, part);
                }
            }
            Fault::PausePart(node, part) => self.go_on(node, part_of(part)),
            Fault::Stuck(node) => {
                let now = self.now;
                let run = self.machine(node).run.as_mut();
                let since = run.and_then(|run| run.stuck_since.take());
                if let Some(since) = since {
                    self.worker_woke(node, now - since);
                }
            }
            Fault::SlowDisk(node) => self.machine(node).disk.slow = 0,
            Fault::SlowPeer(node) => self.net.set_slow(node, 0),
            Fault::LogLag => self.log_lag = 0,
            Fault::Bad(plane) => {
                self.net.set_quality(PLANES[usize::from(plane)], Quality::default());
            }
            Fault::LinkDown(node, port) => self.link(node, u16::from(port), true),
            Fault::SmallTable(node) => {
                self.start(node);
                self.machine(node).connections_max = CONNECTIONS_MAX;
                // It runs so for a while, then with one that is large enough.
                let until = self.now + 20 * SECOND + 2 * SETTLE;
                self.disturb(fault, until);
                self.checks.troubled_until = self.checks.troubled_until.max(until);
                self.queue.put(self.now + 20 * SECOND, Event::DieAgain(node));
                let at = self.now + 20 * SECOND + 100 * MS;
                self.queue.put(at, Event::End(Fault::Crash(node)));
            }
            Fault::Cordon(node) => self.cordon(node, false),
            Fault::GroupGone => {
                self.document.spare = true;
                self.configure();
            }
            Fault::Struck(_) => {}
            Fault::Forgetful(..) | Fault::Behind(..) | Fault::Narrow(_) => self.last_step(fault),
            Fault::Churn(listener, server) => {
                self.churn_back(usize::from(listener), usize::from(server));
            }
            Fault::Rate(..) | Fault::Leap(..) | Fault::LeaderLoss(_) | Fault::Move(_) => {}
            _ => self.cut(fault, false),
        }
    }

    fn cut(&mut self, fault: Fault, cut: bool) {
        let beacons = [Plane::Control, Plane::Segment(0), Plane::Segment(1)];
        if let Fault::Unanswered(_, from, to) = fault {
            // What is granted meanwhile comes late, into the middle of a claim.
            self.log_lag = if cut { 150 * MS } else { 0 };
            for plane in beacons {
                self.net.cut(from, to, plane, cut);
            }
            // The log is streams, which repeat what is lost.
            self.net.spare_log(from, to, cut);
        }
        let others = |node: NodeId| self.members.iter().copied().filter(move |n| *n != node);
        let both = |a: NodeId, b: NodeId| [(a, b), (b, a)];
        let (pairs, planes): (Vec<_>, Vec<Plane>) = match fault {
            Fault::OneWay(a, b, plane) => (vec![(a, b)], vec![PLANES[usize::from(plane)]]),
            Fault::Cut(a, b, plane) => (both(a, b).to_vec(), vec![PLANES[usize::from(plane)]]),
            Fault::Isolate(a, plane) => {
                (others(a).flat_map(|b| both(a, b)).collect(), vec![PLANES[usize::from(plane)]])
            }
            Fault::Unanswered(a, ..) => {
                (others(a).flat_map(|b| both(a, b)).collect(), beacons.to_vec())
            }
            Fault::IsolateAll(a) => (others(a).flat_map(|b| both(a, b)).collect(), PLANES.to_vec()),
            _ => return,
        };
        for (from, to) in pairs {
            for plane in &planes {
                self.net.cut(from, to, *plane, cut);
            }
        }
        self.release_streams();
    }

    pub(crate) fn link(&mut self, node: NodeId, port: u16, up: bool) {
        self.net.set_down(node, port, !up);
        self.tell(node, Told::Link(SegmentId(port + 1), up));
    }

    /// Moves the group that nobody uses, and hits its new holder before it announces.
    fn strike(&mut self, how: u8) {
        let Some(leader) = self.present_leader() else { return };
        let Some(run) = self.machine(leader).run.as_ref() else { return };
        let spare = run.state.groups.keys().find(|group| place(**group) == GROUPS).copied();
        let Some(group) = spare else { return };
        let holder = run.roles.get(&group).map(|now| now.epoch.node);
        let targets: Vec<NodeId> =
            self.members.iter().copied().filter(|n| Some(*n) != holder).collect();
        let target = targets[self.rng.index(targets.len())];
        self.tell(leader, Told::Move(group, Some(target)));
        // A grant is committed in some milliseconds; the way may be clear less than one later.
        let at = self.now + MS;
        self.queue.put(at, Event::Strike(target, group, how, 400));
    }

    /// Waits for the node to take the group up, and hits it.
    pub(crate) fn struck(&mut self, node: NodeId, group: GroupId, how: u8, looks: u32) {
        let now = self.now;
        let machine = self.machine(node);
        let local = machine.time(now);
        let Some(run) = machine.run.as_ref() else { return };
        let status = run.core.status(local);
        let taking = status
            .groups
            .iter()
            .any(|g| g.group == group && g.state == steadfast_ownership::GroupState::Taking);
        if !taking {
            if looks > 0 {
                self.queue.put(now + 200_000, Event::Strike(node, group, how, looks - 1));
            }
            return;
        }
        let lasts = self.rng.between(300 * MS, 2 * SECOND);
        let fault = if how == 0 { Fault::PausePart(node, 0) } else { Fault::LinkDown(node, 0) };
        self.note(format_args!("fault: {fault:?} while it takes group {group}"));
        self.checks.troubled_until = self.checks.troubled_until.max(now + lasts + SETTLE);
        self.disturb(fault, now + lasts + SETTLE);
        self.start_fault(fault);
        self.queue.put(now + lasts, Event::End(fault));
    }

    /// Nobody's last copy is at this node, as far as sessions go that two nodes know.
    fn can_do_without(&mut self, node: NodeId) -> bool {
        let now = self.now;
        let others: Vec<usize> = (0..self.machines.len())
            .filter(|index| {
                let machine = &self.machines[*index];
                machine.id != node && machine.is_well() && machine.disturbed_until <= now
            })
            .collect();
        // A majority stays well.
        let voters = self.voters.clone();
        let well = others.iter().filter(|i| voters.contains(&self.machines[**i].id)).count();
        if well < voters.len() / 2 + 1 {
            return false;
        }
        let open = self.open_sessions();
        open.into_iter().all(|index| {
            let session = &self.traffic.sessions[index];
            session.safe.is_none()
                || others.iter().any(|at| self.knows(&self.machines[*at], session))
        })
    }

    /// Changes what the document says of a server.
    fn churn(&mut self, listener: usize, server: usize) {
        let pool = &self.pools[listener];
        let takers = pool.iter().filter(|m| **m == Membership::In).count();
        let was = pool[server];
        let new = match (was, self.rng.below(3)) {
            (Membership::In, _) if takers <= 2 => return,
            (Membership::In, 0) => Membership::Out,
            (Membership::In, _) => Membership::Weightless,
            _ => return,
        };
        self.pools[listener][server] = new;
        if new == Membership::Out {
            // What is open until it is applied everywhere may still be of the one that leaves.
            self.gone.insert((listener, server as u16), self.now + 3 * SECOND);
        }
        self.configure();
    }

    fn churn_back(&mut self, listener: usize, server: usize) {
        if self.pools[listener][server] != Membership::In {
            self.pools[listener][server] = Membership::In;
            self.configure();
        }
    }

    fn configure(&mut self) {
        let pools: Pools = self.pools;
        self.note(format_args!("configuration: {pools:?}"));
        let text = document(&pools, self.document);
        self.wanted = Some(text);
        self.queue.put(self.now, Event::Operate);
    }

    /// The node that leads and is heard by a majority.
    pub(crate) fn present_leader(&self) -> Option<NodeId> {
        let leads = |machine: &&crate::machine::Machine| {
            machine.is_well()
                && machine.run.as_ref().is_some_and(|run| run.raft.role() == RaftRole::Leader)
        };
        // Of two, the one of the higher term leads in fact.
        let term = |machine: &&crate::machine::Machine| {
            machine.run.as_ref().map(|run| run.raft.memory().term)
        };
        self.machines.iter().filter(leads).max_by_key(term).map(|machine| machine.id)
    }

    /// A node that dies again.
    pub(crate) fn die_again(&mut self, node: NodeId) {
        self.kill(node);
    }

    /// A node that stops looks whether it may go.
    pub(crate) fn leave(&mut self, node: NodeId, boot: BootId, looks: u32) {
        let now = self.now;
        let Some(run) = self.machine(node).run_of(boot) else { return };
        let quiet = now.saturating_sub(run.frame_at) > SECOND;
        if run.core.holds_nothing() && (quiet || looks > 100) || looks > 140 {
            self.note(format_args!("node {node} has stopped"));
            self.figures.stops += 1;
            self.end_run(node, true);
            return;
        }
        self.queue.put(now + 100 * MS, Event::Leave(node, boot, looks + 1));
    }
}

fn part_of(part: u8) -> Part {
    match part {
        0 => Part::Owner,
        1 => Part::Plane,
        _ => Part::Rest,
    }
}
