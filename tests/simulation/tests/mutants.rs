//! Known bugs, one at a time: CI's seeds find them, or it is said which they do not.
//!
//! `make mutants`; `ONLY=text` for those whose description has it, `SEEDS=n` for fewer seeds.
#![cfg(feature = "known-bugs")]
#![allow(clippy::unwrap_used)]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use steadfast_known_bugs::{Bug, switch};
use steadfast_simulation::{
    CI_SEEDS, FAULTS_PER_HOUR, Options, SESSIONS, World,
    clock::{MS, SECOND},
};

/// Simulated seconds of one run, as in CI.
const SPAN_S: u64 = 3_600;
/// Bugs at a time.
const THREADS: usize = 2;
/// So many may stay unfound.
const MISSED_MAX: usize = 1;

/// The first seed that finds a bug, by which invariant and after how long.
fn hunt(bug: Bug, seeds: usize) -> Option<(u64, &'static str, u64)> {
    switch(Some(bug));
    // The small clusters are the quick ones.
    let found = CI_SEEDS.iter().rev().take(seeds).find_map(|seed| {
        let (faults_per_hour, sessions) = (FAULTS_PER_HOUR, SESSIONS);
        let span = SPAN_S * SECOND;
        let options = Options { seed: *seed, span, faults_per_hour, sessions, trace: None };
        let failure = World::new(options).run().failure?;
        Some((*seed, failure.invariant, failure.at / MS))
    });
    switch(None);
    found
}

#[test]
#[ignore = "ten minutes: make mutants"]
fn known_bugs_are_found() {
    let only = std::env::var("ONLY").unwrap_or_default();
    let bugs: Vec<Bug> = Bug::ALL.iter().copied().filter(|b| b.text().contains(&only)).collect();
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(CI_SEEDS.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut missed = Vec::new();
        while let Some(bug) = bugs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begun = Instant::now();
            let found = hunt(*bug, seeds);
            let wall = begun.elapsed().as_secs_f64();
            match found {
                Some((seed, invariant, at)) => println!(
                    "| {bug:?} | found | seed {seed} | {invariant} | {} s | {wall:.0} s |",
                    at / 1_000
                ),
                None => {
                    println!("| {bug:?} | MISSED | | | | {wall:.0} s |");
                    missed.push(*bug);
                }
            }
        }
        missed
    };
    println!("| bug | | seed | invariant | simulated | wall |\n|---|---|---|---|---|---|");
    let missed: Vec<Bug> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    println!("{} of {} found", bugs.len() - missed.len(), bugs.len());
    assert!(missed.len() <= MISSED_MAX, "not found: {missed:?}");
}
