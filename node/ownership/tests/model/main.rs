//! Exhaustive check of small clusters, driving exactly the code that runs.
//!
//! Three nodes, all voters and candidates, on a control network and a segment for each group;
//! `world.rs` says how time, frames and the log are made small, `fault.rs` what may go wrong,
//! `watch.rs` what must never happen. Before every tick the checker may inject any fault that a
//! history may still have, in every combination and order; all states up to the horizon are
//! visited. At rest one tick is like the next, so a history's first fault comes at once. Faults may
//! end at any later tick, or never.
//!
//! That every group is held again is asked of states: from one in so many, chosen by its hash, all
//! faults are healed, and after some ticks exactly one node announces. (A property of the kind
//! "eventually" would pass falsely wherever histories meet again.)
//!
//! Each search prints its bounds and how many states it visited. `MODEL_FULL=1` (`make model`) has
//! larger bounds, for a night.
//!
//! What it does not cover: more groups than a beacon carries (see `machine/strict.rs`), more faults
//! than the bounds say, clocks that drift.
#![allow(clippy::unwrap_used)]

mod fault;
mod search;
mod watch;
mod world;

use search::{Cluster, check};
use steadfast_ownership::Policy::{self, Available, Strict};

/// Every kind of fault: crash, pause, cut, isolation, loss, delay, lag, move.
const ALL: &str = "cpuildam";
/// Least states of a search for any two faults of one group, and for any one of two groups.
const TWO_FAULTS_LEAST: usize = 200_000;
const ONE_FAULT_LEAST: usize = 1_000;

fn full() -> bool {
    std::env::var_os("MODEL_FULL").is_some()
}

/// Any two faults for one group.
fn two_faults(policy: Policy, leader: usize) {
    let cluster = Cluster {
        policies: vec![policy],
        leader,
        faults: 2,
        first_within: if full() { 2 } else { 1 },
        horizon: if full() { 16 } else { 8 },
        tail: 10,
        heal_every: if full() { 10 } else { 500 },
        kinds: ALL,
    };
    check("two faults, one group", cluster, TWO_FAULTS_LEAST);
}

/// Any one fault for two groups on two segments; any two with larger bounds.
fn two_groups(policies: [Policy; 2], leader: usize) {
    let cluster = Cluster {
        policies: policies.to_vec(),
        leader,
        faults: if full() { 2 } else { 1 },
        first_within: 2,
        horizon: 12,
        tail: 10,
        heal_every: if full() { 100 } else { 5 },
        kinds: ALL,
    };
    check("two groups", cluster, ONE_FAULT_LEAST);
}

#[test]
fn two_faults_of_a_strict_group_whose_holder_leads() {
    two_faults(Strict, 0);
}

#[test]
fn two_faults_of_a_strict_group_whose_first_successor_leads() {
    two_faults(Strict, 1);
}

#[test]
fn two_faults_of_an_available_group_whose_holder_leads() {
    two_faults(Available, 0);
}

#[test]
fn two_faults_of_an_available_group_whose_first_successor_leads() {
    two_faults(Available, 1);
}

/// A majority forgets: three crashes, and three faults of crashes and one-way cuts.
fn three_faults(policy: Policy, kinds: &'static str, horizon: u64, least: usize) {
    let cluster = Cluster {
        policies: vec![policy],
        leader: 1,
        faults: 3,
        first_within: 1,
        horizon,
        tail: 10,
        heal_every: 500,
        kinds,
    };
    check("three faults", cluster, least);
}

#[test]
fn three_crashes_of_an_available_group() {
    three_faults(Available, "c", 9, 50_000);
}

/// Another leader, and what takes three faults of two kinds.
#[test]
#[ignore = "takes hours: `make model`"]
fn larger_bounds() {
    for policy in [Available, Strict] {
        two_faults(policy, 2);
        three_faults(policy, "cw", 8, TWO_FAULTS_LEAST);
    }
}

#[test]
fn one_fault_of_two_groups() {
    for leader in [0, 1, 2] {
        two_groups([Available, Strict], leader);
    }
}
