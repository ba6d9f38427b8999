//! Exhaustive check of small clusters: three voters, one group, exactly the code that runs.
//!
//! Time is in ticks; a beacon goes out every tick and a node is silent after four. A frame takes
//! one tick. Before every tick the checker may inject any fault that is left in the budget, in
//! every combination and order; all states up to the horizon are visited. Raft is an abstract log:
//! one grant at a time, compare-and-set on the committed epoch, applied by every node at the next
//! tick unless it lags. Each run prints its bounds and how many states it visited.
//!
//! What it does not cover: more groups than a beacon carries, several segments (see `rules.rs`),
//! more faults than the bounds say, clocks that drift.
#![allow(clippy::unwrap_used)]

use stateright::{Checker, Model, Property};
use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_ownership::*;

const NODES: usize = 3;
const G: GroupId = GroupId(1);
/// Ticks without faults before the search begins: grants, beacons and copies settle.
const WARM_UP: u64 = 16;

fn settings() -> Settings {
    Settings {
        beacon: 1,
        silent_after: 4,
        complete_within: 1_000,
        stale_delay: 2,
        empty_delay: 3,
        rank_step: 1,
        gap_beacons: 1,
        mute_gap_beacons: 3,
        mute_beacons: 2,
        announce_beacons: 3,
        strict_margin: 0,
        arp_offsets: Vec::new(),
        arp_refresh: 0,
        arp_pace: 1,
        stale_sender_after: 1_000,
        shutdown_bound: 8,
        propose_again: 4,
        regrant_after: 12,
    }
}

/// How many faults of each kind one history may have.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
struct Budget {
    crashes: u8,
    restarts: u8,
    pauses: u8,
    /// One-way, until healed.
    cuts: u8,
    heals: u8,
    /// Every frame from one node to another in one tick.
    losses: u8,
    delays: u8,
    lags: u8,
    moves: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Fault {
    Crash(usize),
    Restart(usize),
    Pause(usize),
    Resume(usize),
    Cut(usize, usize),
    Heal(usize, usize),
    Lose(usize, usize),
    Delay(usize, usize),
    Lag(usize),
    Move(usize),
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
enum Step {
    Inject(u16, Fault),
    Tick,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct Host {
    core: Option<Ownership>,
    boots: u64,
    paused: bool,
    lags: bool,
    ran: u64,
    /// Index of the last grant applied.
    applied: u64,
    inbox: Vec<Frame>,
    late: Vec<Frame>,
    /// Highest epoch this run has shown.
    epoch: Epoch,
    /// Claims that this run has asked for.
    claimed: Vec<Epoch>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct World {
    now: u64,
    hosts: Vec<Host>,
    committed: Committed,
    leader: usize,
    cuts: u16,
    budget: Budget,
    /// Faults of one tick are injected in one order only: they commute.
    injected: u16,
    epoch_went_down: bool,
    announced_without_right: bool,
    ratified: bool,
}

struct Cluster {
    budget: Budget,
    horizon: u64,
    leader: usize,
}

fn id(host: usize) -> NodeId {
    NodeId(host as u32 + 1)
}

fn boot_id(host: usize, boots: u64) -> BootId {
    BootId(host as u64 * 1_000 + boots)
}

fn link(from: usize, to: usize) -> u16 {
    1 << (from * NODES + to)
}

impl World {
    fn start(budget: Budget, leader: usize) -> Self {
        let candidates: Vec<_> = (0..NODES).map(id).collect();
        let members = candidates
            .iter()
            .map(|node| Member { node: *node, cordoned: false, known_dead: false })
            .collect();
        let group = CommittedGroup {
            id: G,
            segments: Vec::new(),
            candidates: candidates.clone(),
            grant: None,
            policy: Policy::Available,
        };
        let committed = Committed {
            generation: 1,
            applied_index: 1,
            voters: candidates,
            members,
            groups: vec![group],
        };
        let mut world = Self {
            now: 0,
            hosts: Vec::new(),
            committed,
            leader,
            cuts: 0,
            budget,
            injected: 0,
            epoch_went_down: false,
            announced_without_right: false,
            ratified: false,
        };
        world.hosts = (0..NODES).map(|host| world.new_host(host, 1)).collect();
        for _ in 0..WARM_UP {
            world.tick();
        }
        world.ratified = false;
        world
    }

    /// A run that knows nothing but the committed state.
    fn new_host(&self, host: usize, boots: u64) -> Host {
        let now = Time(self.now);
        let mut core = Ownership::new(id(host), boot_id(host, boots), settings(), now).unwrap();
        core.handle_committed(now, self.committed.clone());
        Host {
            core: Some(core),
            boots,
            paused: false,
            lags: false,
            ran: self.now,
            applied: self.committed.applied_index,
            inbox: Vec::new(),
            late: Vec::new(),
            epoch: Epoch::default(),
            claimed: Vec::new(),
        }
    }

    fn inject(&mut self, fault: Fault) {
        let budget = &mut self.budget;
        match fault {
            Fault::Crash(h) => {
                budget.crashes -= 1;
                self.hosts[h].core = None;
                self.hosts[h].inbox.clear();
                self.hosts[h].late.clear();
                if self.leader == h {
                    self.leader = (0..NODES).find(|h| self.hosts[*h].core.is_some()).unwrap_or(h);
                }
            }
            Fault::Restart(h) => {
                budget.restarts -= 1;
                self.hosts[h] = self.new_host(h, self.hosts[h].boots + 1);
            }
            Fault::Pause(h) => {
                budget.pauses -= 1;
                self.hosts[h].paused = true;
            }
            Fault::Resume(h) => self.hosts[h].paused = false,
            Fault::Cut(from, to) => {
                budget.cuts -= 1;
                self.cuts |= link(from, to);
            }
            Fault::Heal(from, to) => {
                budget.heals -= 1;
                self.cuts &= !link(from, to);
            }
            Fault::Lose(from, to) => {
                budget.losses -= 1;
                self.hosts[to].inbox.retain(|frame| frame.from != id(from));
            }
            Fault::Delay(from, to) => {
                budget.delays -= 1;
                let host = &mut self.hosts[to];
                let (late, inbox) =
                    host.inbox.drain(..).partition(|frame: &Frame| frame.from == id(from));
                (host.late, host.inbox) = (late, inbox);
            }
            Fault::Lag(h) => {
                budget.lags -= 1;
                self.hosts[h].lags = true;
            }
            Fault::Move(target) => {
                budget.moves -= 1;
                let now = Time(self.hosts[self.leader].ran);
                if let Some(core) = &mut self.hosts[self.leader].core {
                    let _ = core.handle_move(now, G, Some(id(target)));
                }
            }
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        self.injected = 0;
        let mut sent = Vec::new();
        for host in 0..NODES {
            self.run(host, &mut sent);
        }
        for host in &mut self.hosts {
            host.inbox.append(&mut host.late);
        }
        for (from, to, frame) in sent {
            let alive = self.hosts[to].core.is_some();
            if alive && self.cuts & link(from, to) == 0 {
                self.hosts[to].inbox.push(frame);
            }
        }
    }

    /// What the driver does in one round: drain, tick, act.
    fn run(&mut self, index: usize, sent: &mut Vec<(usize, usize, Frame)>) {
        let now = Time(self.now);
        let host = &mut self.hosts[index];
        let lags = std::mem::take(&mut host.lags);
        let Some(core) = &mut host.core else { return };
        if host.paused {
            return;
        }
        host.ran = self.now;
        for frame in host.inbox.drain(..) {
            core.handle_message(now, Path::Peer, frame);
        }
        core.handle_leader(now, index == self.leader);
        if !lags && host.applied < self.committed.applied_index {
            host.applied = self.committed.applied_index;
            core.handle_committed(now, self.committed.clone());
        }
        for other in (0..NODES).filter(|other| *other != index) {
            for boots in 1..=2 {
                let boot = boot_id(other, boots);
                core.handle_completeness(now, id(other), boot, Completeness::Complete);
            }
        }
        core.handle_tick(now);
        let mut proposal = None;
        while let Some(action) = host.core.as_mut().unwrap().poll_action() {
            match action {
                Action::SendPeer { node, frame } => {
                    if let Message::ClaimRequest(request) = &frame.body {
                        host.claimed.extend(request.claims.iter().map(|(_, epoch)| *epoch));
                        host.claimed.sort_unstable();
                        host.claimed.dedup();
                    }
                    sent.push((index, node.0 as usize - 1, frame));
                }
                Action::ProposeGrant { expected, holder, boot, why, .. } => {
                    proposal = Some((expected, holder, boot, why));
                }
                _ => {}
            }
        }
        self.watch(index);
        if let Some((expected, holder, boot, why)) = proposal {
            self.commit(index, expected, holder, boot, why);
        }
    }

    fn commit(
        &mut self,
        index: usize,
        expected: Option<Epoch>,
        holder: NodeId,
        boot: BootId,
        why: GrantReason,
    ) {
        let group = &mut self.committed.groups[0];
        if index != self.leader || group.grant.map(|grant| grant.epoch) != expected {
            return;
        }
        self.committed.applied_index += 1;
        let grant_index = self.committed.applied_index;
        let epoch = Epoch { generation: 1, grant_index, claim: 0, node: holder };
        group.grant = Some(Grant { epoch, holder, boot });
        self.ratified |= why == GrantReason::Ratify;
    }

    /// The properties that need memory.
    fn watch(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        let core = host.core.as_ref().unwrap();
        let epoch = core.epoch(G).unwrap();
        self.epoch_went_down |= epoch < host.epoch;
        host.epoch = epoch;
        if core.announce_valid_until(G, Time(self.now)).is_none() {
            return;
        }
        let boot = boot_id(index, host.boots);
        let grant = self.committed.groups[0].grant;
        // Only the last grant is kept here: a node that lags may stand on the one before.
        let granted = epoch.claim == 0
            && (host.applied < self.committed.applied_index
                || grant
                    .is_some_and(|g| g.epoch == epoch && g.holder == id(index) && g.boot == boot));
        let claimed = host.claimed.contains(&epoch);
        self.announced_without_right |= epoch.node != id(index) || !(granted || claimed);
    }

    /// Announces, and heard a majority of the voters within the silence time by its own clock with
    /// no gap of its loop since.
    fn firm_holder(&self, host: &Host) -> bool {
        let now = Time(self.now);
        host.core.as_ref().is_some_and(|core| {
            self.now - host.ran <= 1
                && core.announce_valid_until(G, now).is_some()
                && core.hears_majority(now)
        })
    }

    fn firm_holders(&self) -> usize {
        self.hosts.iter().filter(|host| self.firm_holder(host)).count()
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let world = World::start(self.budget, self.leader);
        assert!(world.firm_holder(&world.hosts[0]), "the first node holds before any fault");
        assert_eq!(world.firm_holders(), 1);
        vec![world]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Step>) {
        let mut faults = Vec::new();
        let budget = &world.budget;
        for h in 0..NODES {
            let alive = world.hosts[h].core.is_some();
            let running = alive && !world.hosts[h].paused;
            let mut add = |left: bool, fault| faults.push(left.then_some(fault));
            add(budget.crashes > 0 && alive, Fault::Crash(h));
            add(budget.restarts > 0 && !alive, Fault::Restart(h));
            add(budget.pauses > 0 && running, Fault::Pause(h));
            add(alive && world.hosts[h].paused, Fault::Resume(h));
            let lags = world.hosts[h].applied < world.committed.applied_index;
            add(budget.lags > 0 && running && lags, Fault::Lag(h));
            let leads = world.hosts[world.leader].core.is_some();
            add(budget.moves > 0 && leads && !world.hosts[world.leader].paused, Fault::Move(h));
            for to in (0..NODES).filter(|to| *to != h) {
                let cut = world.cuts & link(h, to) != 0;
                let pending = world.hosts[to].inbox.iter().any(|frame| frame.from == id(h));
                let mut add = |left: bool, fault| faults.push(left.then_some(fault));
                add(budget.cuts > 0 && !cut && alive, Fault::Cut(h, to));
                add(budget.heals > 0 && cut, Fault::Heal(h, to));
                add(budget.losses > 0 && pending, Fault::Lose(h, to));
                add(budget.delays > 0 && pending, Fault::Delay(h, to));
            }
        }
        for (order, fault) in faults.into_iter().enumerate() {
            let order = order as u16 + 1;
            if let Some(fault) = fault
                && order > world.injected
            {
                actions.push(Step::Inject(order, fault));
            }
        }
        actions.push(Step::Tick);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Tick => next.tick(),
            Step::Inject(order, fault) => {
                next.injected = order;
                next.inject(fault);
            }
        }
        Some(next)
    }

    fn within_boundary(&self, world: &World) -> bool {
        world.now <= WARM_UP + self.horizon
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("never two holders that hear a majority", |_, world: &World| {
                world.firm_holders() <= 1
            }),
            Property::always("the epoch of a run never goes down", |_, world: &World| {
                !world.epoch_went_down
            }),
            Property::always("announces only by a right of its present run", |_, world: &World| {
                !world.announced_without_right
            }),
            Property::sometimes("another node takes over", |_, world: &World| {
                world.hosts[1..].iter().any(|host| world.firm_holder(host))
            }),
        ]
    }
}

fn check(name: &str, budget: Budget, horizon: u64, leader: usize, least: usize) {
    let begun = std::time::Instant::now();
    let checker = Cluster { budget, horizon, leader }.checker().spawn_bfs().join();
    println!(
        "{name}: {budget:?}, horizon {horizon} ticks, leader {leader}: {} states, {} unique, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
    );
    for (property, path) in checker.discoveries() {
        if property != "another node takes over" {
            let steps = path.into_actions();
            panic!("{name}: violated \"{property}\" by {steps:?}");
        }
    }
    checker.assert_properties();
    assert!(checker.unique_state_count() >= least, "the model has become too small to mean much");
}

#[test]
fn crash_and_restart() {
    let budget = Budget { crashes: 2, restarts: 2, ..Budget::default() };
    check("crash and restart", budget, 14, 0, 150_000);
}

#[test]
fn pause_crash_and_restart() {
    let budget = Budget { pauses: 1, crashes: 1, restarts: 1, ..Budget::default() };
    check("pause, crash, restart", budget, 11, 1, 80_000);
}

#[test]
fn pause_and_one_way_cuts() {
    let budget = Budget { pauses: 1, cuts: 1, ..Budget::default() };
    check("pause and one-way cuts", budget, 11, 1, 30_000);
}

#[test]
fn one_way_cuts_and_healing() {
    let budget = Budget { cuts: 2, heals: 2, ..Budget::default() };
    check("one-way cuts and healing", budget, 10, 1, 80_000);
}

#[test]
fn one_way_cuts_and_loss() {
    let budget = Budget { cuts: 2, losses: 1, ..Budget::default() };
    check("one-way cuts and loss", budget, 10, 1, 60_000);
}

#[test]
fn crash_restart_loss_and_delay() {
    let budget = Budget { crashes: 1, restarts: 1, losses: 1, delays: 1, ..Budget::default() };
    check("crash, restart, loss, delay", budget, 8, 2, 150_000);
}

#[test]
fn planned_move_with_loss_delay_and_lag() {
    let budget = Budget { moves: 1, losses: 1, delays: 1, lags: 1, ..Budget::default() };
    check("planned move, loss, delay, lag", budget, 7, 1, 50_000);
}
