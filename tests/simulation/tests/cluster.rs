//! The runs of CI: fixed seeds, an hour each, and what must be seen in them together.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs::File,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use steadfast_ownership::{GroupEvent, GroupState};
use steadfast_simulation::{
    CI_SEEDS, FAULTS_PER_HOUR, Options, Outcome, SESSIONS, World,
    clock::{MS, SECOND},
};

/// Simulated seconds of one run.
const SPAN_S: u64 = 3_600;
/// Runs at a time.
const THREADS: usize = 2;

fn run(seed: u64, span_s: u64, trace: Option<File>) -> Outcome {
    let (span, faults_per_hour, sessions) = (span_s * SECOND, FAULTS_PER_HOUR, SESSIONS);
    World::new(Options { seed, span, faults_per_hour, sessions, trace }).run()
}

fn report(seed: u64, outcome: &Outcome) -> Option<String> {
    let failure = outcome.failure.as_ref()?;
    let last = outcome.last.join("\n");
    Some(format!(
        "{last}\nseed {seed}: VIOLATED {}: {} at {} ms\nreplay: cargo run -p steadfast-simulation -- \
         --seed {seed} --hours 1 --trace FILE",
        failure.invariant,
        failure.what,
        failure.at / MS
    ))
}

/// Every step of the table, as (state, event).
fn table() -> BTreeSet<(GroupState, GroupEvent)> {
    let all = GroupState::ALL.into_iter().flat_map(|s| GroupEvent::ALL.map(|e| (s, e)));
    all.filter(|(state, event)| state.next(*event).is_some()).collect()
}

/// What nobody asks for: a node that holds is not told again that it does, and no node leaves the
/// simulated cluster, which alone removes groups with their state. Nor does anybody look who answers for
/// an address, as in the daemon, so that nobody announces alone.
fn never_asked_for((state, event): (GroupState, GroupEvent)) -> bool {
    event == GroupEvent::Removed
        || event == GroupEvent::NamedHere && state.holds()
        || matches!(state, GroupState::Probing | GroupState::Shadow)
}

#[test]
fn fixed_seeds_find_nothing() {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut outcomes = Vec::new();
        while let Some(seed) = CI_SEEDS.get(next.fetch_add(1, Ordering::Relaxed)) {
            outcomes.push((*seed, run(*seed, SPAN_S, None)));
        }
        outcomes
    };
    let outcomes: Vec<(u64, Outcome)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let failures: Vec<String> = outcomes.iter().filter_map(|(seed, o)| report(*seed, o)).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    for (seed, outcome) in &outcomes {
        assert!(outcome.figures.faults_all() >= 60, "seed {seed}: {}", outcome.figures);
        assert!(outcome.figures.open_min >= Some(100), "seed {seed}: {}", outcome.figures);
    }
    let taken: BTreeSet<_> =
        outcomes.iter().flat_map(|(_, outcome)| outcome.transitions.keys().copied()).collect();
    let missed: Vec<_> =
        table().into_iter().filter(|s| !never_asked_for(*s) && !taken.contains(s)).collect();
    assert!(missed.is_empty(), "steps of the ownership table that were never taken: {missed:?}");
}

#[test]
fn one_seed_gives_one_trace() {
    let path = |n: u32| PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("trace-{n}"));
    let outcomes: Vec<Outcome> =
        (0..2).map(|n| run(3, 300, Some(File::create(path(n)).unwrap()))).collect();
    let [first, second] = [0, 1].map(|n| std::fs::read(path(n)).unwrap());
    assert!(first.len() > 1_000_000, "{} octets", first.len());
    assert!(first == second, "two runs of one seed differ");
    assert_eq!(outcomes[0].hash, outcomes[1].hash);
    let other = run(4, 300, None);
    assert_ne!(other.hash, outcomes[0].hash, "the seed decides");
}
