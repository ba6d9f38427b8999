//! The search: which faults may come when, and what is asked of every state.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    time::Instant,
};

use stateright::{Checker, HasDiscoveries, Model, Property};
use steadfast_ownership::Policy;

use super::{
    fault::{Fault, Which},
    watch::Broken,
    world::{NODES, WARM_UP, World},
};

/// Ticks without faults after which every group must be held again.
const HEALED_AFTER: u64 = 40;

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Step {
    Inject(u16, Fault),
    Tick,
    /// No choice is left: everything up to the horizon at once.
    Settle,
}

/// The bounds of one search.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    /// One group each.
    pub(crate) policies: Vec<Policy>,
    /// Which node leads at the start.
    pub(crate) leader: usize,
    /// Faults of one history.
    pub(crate) faults: u8,
    /// Ticks in which a history's first fault may come; at rest one tick is like the next.
    pub(crate) first_within: u64,
    /// Ticks after which no further fault comes, or ends.
    pub(crate) horizon: u64,
    /// Ticks after that.
    pub(crate) tail: u64,
    /// Healing is tried from one state in so many, chosen by its hash.
    pub(crate) heal_every: u64,
    /// Histories may crash, pause, cut, isolate, lose, delay, lag, move, cut all ways of a
    /// direction: a letter each.
    pub(crate) kinds: &'static str,
}

impl Cluster {
    fn end(&self) -> u64 {
        WARM_UP + self.policies.len() as u64 + self.horizon
    }

    fn start_of_faults(&self) -> u64 {
        WARM_UP + self.policies.len() as u64
    }

    fn may(&self, fault: Fault) -> bool {
        let kind = match fault {
            Fault::Crash(_) => 'c',
            Fault::Pause(_) => 'p',
            Fault::Cut(_, _, Which::All) if self.kinds.contains('w') => 'w',
            Fault::Cut(..) => 'u',
            Fault::Isolate(_) => 'i',
            Fault::Lose(..) => 'l',
            Fault::Delay(..) => 'd',
            Fault::Lag(_) => 'a',
            Fault::Move(..) => 'm',
            Fault::Restart(_) | Fault::Resume(_) | Fault::Heal(..) | Fault::Rejoin(_) => {
                return true;
            }
        };
        self.kinds.contains(kind)
    }

    /// Every fault there is, in a fixed order, with whether it is possible now.
    fn faults(&self, world: &World) -> Vec<(Fault, bool)> {
        let mut faults = Vec::new();
        let ways: Vec<_> = std::iter::once(Which::Peer)
            .chain((0..self.policies.len()).map(Which::Segment))
            .chain([Which::All])
            .collect();
        for h in 0..NODES {
            let host = &world.hosts[h];
            let alive = host.core.is_some();
            faults.push((Fault::Crash(h), alive));
            faults.push((Fault::Restart(h), !alive));
            faults.push((Fault::Pause(h), host.runs()));
            faults.push((Fault::Resume(h), alive && host.paused));
            faults.push((Fault::Isolate(h), alive && !host.isolated));
            faults.push((Fault::Rejoin(h), host.isolated));
            let behind = host.applied < world.committed.applied_index;
            faults.push((Fault::Lag(h), host.runs() && behind && !host.lags));
            for group in 0..self.policies.len() {
                faults.push((Fault::Move(group, h), world.hosts[world.leader].runs()));
            }
            for to in (0..NODES).filter(|to| *to != h) {
                for which in &ways {
                    let cut = world.cuts.contains(&(h, to, *which));
                    faults.push((Fault::Cut(h, to, *which), alive && !cut));
                    faults.push((Fault::Heal(h, to, *which), cut));
                }
                let inbox = &world.hosts[to].inbox;
                let pending = inbox.iter().any(|mail| mail.frame.from == super::world::id(h));
                faults.push((Fault::Lose(h, to), pending));
                for which in &ways[1..] {
                    faults.push((Fault::Delay(h, to, *which), pending));
                }
            }
        }
        faults
    }
}

impl Model for Cluster {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let world = World::start(&self.policies, self.leader, self.faults);
        assert_eq!(world.now, self.start_of_faults());
        for group in 0..self.policies.len() {
            assert!(world.hosts[0].published[group] > world.now, "node 0 holds before any fault");
            assert_eq!(world.announcers(group), 1);
        }
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.now >= self.end() {
            return;
        }
        let late = world.now >= self.start_of_faults() + self.first_within;
        let over = world.left == self.faults && late;
        let mut later = false;
        for (order, (fault, possible)) in self.faults(world).into_iter().enumerate() {
            let order = order as u16 + 1;
            let affordable = if fault.counts() { world.left > 0 && !over } else { true };
            if !affordable || !self.may(fault) {
                continue;
            }
            later |= fault.counts() || possible;
            if possible && order > world.injected {
                steps.push(Step::Inject(order, fault));
            }
        }
        if !over {
            steps.push(if later { Step::Tick } else { Step::Settle });
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Tick if next.now + 1 < self.end() => next.tick(),
            Step::Tick | Step::Settle => {
                while next.now < self.end() + self.tail {
                    next.tick();
                }
            }
            Step::Inject(order, fault) => {
                next.injected = order;
                next.inject(fault);
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("a strict group never has two announcers", |_, world: &World| {
                !world.broken.strict_overlap
            }),
            Property::always(
                "one message of a higher epoch ends announcing",
                |_, world: &World| !world.broken.announced_in_spite,
            ),
            Property::always(
                "never two announcers that a majority confirms",
                |_, world: &World| !world.broken.two_confirmed,
            ),
            Property::always("the epoch of a run never goes down", |_, world: &World| {
                !world.broken.epoch_went_down
            }),
            Property::always("no epoch is announced by two runs", |_, world: &World| {
                !world.broken.epoch_repeated
            }),
            Property::always("announces only by a right of its present run", |_, world: &World| {
                !world.broken.announced_without_right
            }),
            Property::always("nobody takes from a holder that serves", |_, world: &World| {
                !world.broken.taken_from_serving
            }),
            Property::always(
                "healed, every group has one announcer",
                |cluster: &Self, world: &World| {
                    let mut hasher = DefaultHasher::new();
                    world.hash(&mut hasher);
                    if !hasher.finish().is_multiple_of(cluster.heal_every) {
                        return true;
                    }
                    let mut healed = world.clone();
                    healed.heal();
                    for _ in 0..HEALED_AFTER {
                        healed.tick();
                    }
                    healed.broken == Broken::default()
                        && (0..healed.groups()).all(|group| healed.announcers(group) == 1)
                },
            ),
            Property::sometimes(ALONE, |cluster: &Self, world: &World| {
                world.shadowed
                    || cluster.faults < 2
                    || !cluster.policies.contains(&Policy::Available)
            }),
            Property::sometimes(TAKES_OVER, |_, world: &World| world.taken_over),
        ]
    }
}

const ALONE: &str = "a node announces alone";
const TAKES_OVER: &str = "another node takes over";

/// Visits every state within the bounds, prints them, and fails when a property is violated or the
/// search has become too small to mean much.
pub(crate) fn check(name: &str, cluster: Cluster, least: usize) {
    let begun = Instant::now();
    let checker =
        cluster.clone().checker().finish_when(HasDiscoveries::AnyFailures).spawn_dfs().join();
    println!(
        "{name}: {cluster:?}: {} states, {} unique, depth {}, {:.1} s",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        begun.elapsed().as_secs_f64(),
    );
    for (property, path) in checker.discoveries() {
        if ![ALONE, TAKES_OVER].contains(&property) {
            let steps = path.into_actions();
            panic!("{name}: violated \"{property}\" by {steps:?}");
        }
    }
    checker.assert_properties();
    assert!(checker.unique_state_count() >= least, "the search has become too small");
}
