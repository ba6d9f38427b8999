//! All checks of a node: which probe is due, and what its result means.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use steadfast_model::NodeId;

use crate::{CheckState, Opinion, Outcome, Settings, Target};

/// Probes under way at the same time. Further ones wait their turn; with the default timeout of
/// a second, 512 dead targets a second can be waited for.
pub const PROBES_MAX: usize = 512;

/// Targets at most; further ones are not checked, so they count as up.
pub const TARGETS_MAX: usize = 65_536;

/// A probe to be made now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Probe {
    /// What to probe.
    pub target: Target,
    /// Give up after this.
    pub timeout: Duration,
    /// Tells the result of this probe from one that was started before the target was taken out
    /// and put in again.
    run: u64,
}

/// This node's opinion of a target has changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// Of which.
    pub target: Target,
    /// To what.
    pub opinion: Opinion,
}

/// The checks of one node. Pure: the driver tells the time (nanoseconds, monotone) and makes the
/// probes.
///
/// Call [`Checks::poll_probes`] after every `set_` and `handle_` and at [`Checks::next_due`]; give
/// every probe it returns back to [`Checks::handle_result`], once.
#[derive(Clone, Debug)]
pub struct Checks {
    node: NodeId,
    checks: BTreeMap<Target, Check>,
    /// Idle checks by the time they are due.
    due: BTreeSet<(u64, Target)>,
    under_way: usize,
    next_run: u64,
}

#[derive(Clone, Debug)]
struct Check {
    settings: Settings,
    state: CheckState,
    due_ns: u64,
    started_ns: Option<u64>,
    run: u64,
}

impl Checks {
    /// No checks yet. The node's id only shifts the times of its probes against other nodes'.
    pub fn new(node: NodeId) -> Self {
        Self { node, checks: BTreeMap::new(), due: BTreeSet::new(), under_way: 0, next_run: 0 }
    }

    /// Checks exactly these targets. A target that was there before keeps its opinion.
    ///
    /// The first probes are spread over the interval, so that they do not all go out together
    /// then and ever after; the place within it follows from target and node alone.
    pub fn set_targets(&mut self, now_ns: u64, targets: &BTreeMap<Target, Settings>) {
        let gone: Vec<_> =
            self.checks.keys().filter(|target| !targets.contains_key(target)).copied().collect();
        for target in gone {
            if let Some(check) = self.checks.remove(&target) {
                self.due.remove(&(check.due_ns, target));
            }
        }
        for (target, settings) in targets {
            if let Some(check) = self.checks.get_mut(target) {
                if check.settings != *settings {
                    self.due.remove(&(check.due_ns, *target));
                    check.due_ns = check.due_ns.min(now_ns + nanos(settings.interval));
                    check.settings = *settings;
                    if check.started_ns.is_none() {
                        self.due.insert((check.due_ns, *target));
                    }
                }
                continue;
            }
            if self.checks.len() >= TARGETS_MAX {
                continue;
            }
            let due_ns = now_ns + spread(self.node, target) % nanos(settings.interval).max(1);
            self.next_run += 1;
            let check = Check {
                settings: *settings,
                state: CheckState::new(),
                due_ns,
                started_ns: None,
                run: self.next_run,
            };
            self.checks.insert(*target, check);
            self.due.insert((due_ns, *target));
        }
    }

    /// Takes a probe's result in.
    pub fn handle_result(&mut self, now_ns: u64, probe: Probe, outcome: Outcome) -> Option<Change> {
        self.under_way = self.under_way.saturating_sub(1);
        let check = self.checks.get_mut(&probe.target).filter(|check| check.run == probe.run)?;
        let started_ns = check.started_ns.take()?;
        // A probe that took longer than the interval is followed by the next one at once.
        check.due_ns = (started_ns + nanos(check.settings.interval)).max(now_ns);
        self.due.insert((check.due_ns, probe.target));
        let changed = check.state.handle_result(&check.settings, outcome);
        changed.then(|| Change { target: probe.target, opinion: check.state.opinion().clone() })
    }

    /// The probes to make now, longest overdue first.
    pub fn poll_probes(&mut self, now_ns: u64) -> Vec<Probe> {
        let mut probes = Vec::new();
        while self.under_way < PROBES_MAX {
            let Some(&(due_ns, target)) = self.due.first() else { break };
            if due_ns > now_ns {
                break;
            }
            self.due.pop_first();
            let Some(check) = self.checks.get_mut(&target) else { continue };
            check.started_ns = Some(now_ns);
            self.under_way += 1;
            probes.push(Probe { target, timeout: check.settings.timeout, run: check.run });
        }
        probes
    }

    /// When [`Checks::poll_probes`] will have something; `None` while it waits for results or has
    /// nothing to do.
    pub fn next_due(&self) -> Option<u64> {
        if self.under_way >= PROBES_MAX {
            return None;
        }
        self.due.first().map(|(due_ns, _)| *due_ns)
    }

    /// What this node thinks of every target.
    pub fn opinions(&self) -> impl Iterator<Item = (Target, &Opinion)> {
        self.checks.iter().map(|(target, check)| (*target, check.state.opinion()))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

/// FNV-1a over what names the probe (<https://datatracker.ietf.org/doc/html/rfc9923>): any even
/// spread will do.
fn spread(node: NodeId, target: &Target) -> u64 {
    let ip = match target.addr {
        std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        std::net::IpAddr::V6(ip) => ip,
    };
    let bytes =
        ip.octets().into_iter().chain(target.port.to_be_bytes()).chain(node.0.to_be_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use steadfast_model::document::CheckKind;

    use super::*;

    const MS: u64 = 1_000_000;

    fn target(n: u16) -> Target {
        Target { addr: IpAddr::from([192, 0, 2, 1]), port: n, kind: CheckKind::Tcp }
    }

    fn settings(interval_ms: u64) -> Settings {
        Settings {
            interval: Duration::from_millis(interval_ms),
            timeout: Duration::from_millis(100),
            rise: 1,
            fall: 2,
        }
    }

    fn targets(
        ports: impl IntoIterator<Item = u16>,
        interval_ms: u64,
    ) -> BTreeMap<Target, Settings> {
        ports.into_iter().map(|n| (target(n), settings(interval_ms))).collect()
    }

    #[test]
    fn first_probes_are_spread_and_later_ones_keep_their_distance() {
        let mut checks = Checks::new(NodeId(1));
        checks.set_targets(0, &targets(0..400, 1000));
        let mut per_tenth = [0; 20];
        for tick in 1..=2000_u64 {
            let now = tick * MS;
            for probe in checks.poll_probes(now) {
                per_tenth[(tick as usize - 1) / 100] += 1;
                checks.handle_result(now + MS / 2, probe, Outcome::Up);
            }
        }
        assert_eq!(per_tenth.iter().sum::<usize>(), 800, "each twice in two intervals");
        assert!(per_tenth.iter().all(|n| (10..=90).contains(n)), "{per_tenth:?}");
        assert_eq!(per_tenth[..10], per_tenth[10..]);
        assert_ne!(spread(NodeId(1), &target(1)), spread(NodeId(2), &target(1)));
    }

    #[test]
    fn probes_under_way_are_bounded_and_every_target_gets_its_turn() {
        let count = 3 * PROBES_MAX as u16;
        let mut checks = Checks::new(NodeId(1));
        checks.set_targets(0, &targets(0..count, 1000));
        let late = 10_000 * MS;
        let mut seen = BTreeSet::new();
        for round in 0..3 {
            let probes = checks.poll_probes(late);
            assert_eq!(probes.len(), PROBES_MAX, "round {round}");
            assert!(checks.poll_probes(late).is_empty());
            assert_eq!(checks.next_due(), None, "nothing can be started before a result");
            for probe in probes {
                assert!(seen.insert(probe.target), "twice before others had their turn");
                checks.handle_result(late, probe, Outcome::Up);
            }
        }
        assert_eq!(checks.next_due(), Some(late + 1000 * MS));
    }

    #[test]
    fn a_slow_probe_does_not_pile_up() {
        let mut checks = Checks::new(NodeId(1));
        checks.set_targets(0, &targets([80], 1000));
        let now = checks.next_due().unwrap();
        let probe = checks.poll_probes(now)[0];
        assert_eq!(checks.next_due(), None);
        assert!(checks.poll_probes(now + 5000 * MS).is_empty());
        let done = now + 5000 * MS;
        checks.handle_result(done, probe, Outcome::Up);
        assert_eq!(checks.next_due(), Some(done));
    }

    #[test]
    fn changes_are_told_once_and_survive_a_new_configuration() {
        let mut checks = Checks::new(NodeId(1));
        checks.set_targets(0, &targets([80], 1000));
        let down = || Outcome::Down { why: "refused".into() };
        let probe = |checks: &mut Checks, outcome| {
            let now = checks.next_due().unwrap();
            let probe = checks.poll_probes(now)[0];
            checks.handle_result(now, probe, outcome)
        };
        assert_eq!(probe(&mut checks, Outcome::Up).unwrap().opinion, Opinion::Up);
        assert_eq!(probe(&mut checks, Outcome::Up), None);
        assert_eq!(probe(&mut checks, down()), None);
        let change = probe(&mut checks, down()).unwrap();
        let opinion = Opinion::Down { why: "refused".into() };
        assert_eq!(change, Change { target: target(80), opinion: opinion.clone() });
        // Another target comes, and the interval changes: the opinion stays.
        let due = checks.next_due().unwrap();
        checks.set_targets(due - 900 * MS, &targets([80, 81], 100));
        assert_eq!(checks.opinions().next().unwrap(), (target(80), &opinion));
        assert!(checks.next_due().unwrap() <= due - 800 * MS, "the shorter interval counts now");
        checks.set_targets(due, &targets([], 100));
        assert_eq!((checks.opinions().count(), checks.next_due()), (0, None));
    }

    #[test]
    fn a_result_from_before_a_target_was_put_in_anew_does_not_count() {
        let mut checks = Checks::new(NodeId(1));
        checks.set_targets(0, &targets([80], 1000));
        let now = checks.next_due().unwrap();
        let old = checks.poll_probes(now)[0];
        checks.set_targets(now, &BTreeMap::new());
        checks.set_targets(now, &targets([80], 1000));
        assert_eq!(checks.handle_result(now, old, Outcome::Up), None);
        assert_eq!(checks.opinions().next().unwrap().1, &Opinion::Unknown);
        let due = checks.next_due().unwrap();
        assert_eq!(checks.poll_probes(due).len(), 1);
    }
}
