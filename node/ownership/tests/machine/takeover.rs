//! How long a take-over takes, in virtual time, over many seeded instants of death.
//!
//! `STEADFAST_SEED=n` replays one run.

use crate::common::*;
use steadfast_ownership::*;

const RUNS: u64 = 500;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

fn take_over(seed: u64) -> u64 {
    let mut random = Seeded(seed);
    let mut net = Net::running(3);
    net.latency = 50 + random.below(1_000);
    net.lead(1 + random.below(3) as u32);
    net.run(300 * MS + random.below(200 * MS));
    assert_eq!(net.holders(G), vec![node(1)], "seed {seed}");
    let killed = net.now;
    net.kill(1);
    assert!(net.run_until(1_000 * MS, |net| !net.holders(G).is_empty()), "seed {seed}");
    let took = net.now.since(killed);
    // It stays with exactly one, whoever leads and ratifies.
    for _ in 0..200 {
        assert_eq!(net.holders(G).len(), 1, "seed {seed}, {} us on", net.now.since(killed));
        net.run(5 * MS);
    }
    assert_eq!(net.holders(G), vec![node(2)], "seed {seed}");
    let roles: Vec<GroupState> = [2, 3].map(|n| net.state(n, G)).to_vec();
    assert_eq!(roles, [GroupState::Holding, GroupState::Following], "seed {seed}");
    took
}

#[test]
fn five_hundred_deaths_have_one_successor_each() {
    if let Ok(seed) = std::env::var("STEADFAST_SEED") {
        println!("seed {seed}: {} us", take_over(seed.parse().unwrap()));
        return;
    }
    println!("seeds 0..{RUNS}; replay one with STEADFAST_SEED=n");
    let mut took: Vec<u64> = (0..RUNS).map(take_over).collect();
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100] as f64 / MS as f64;
    println!(
        "take-over after {RUNS} deaths: min {:.1} ms, p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        at(0),
        at(50),
        at(99),
        at(100),
    );
    assert!(at(0) >= 75.0, "nobody claims before a holder has been silent for three beacons");
    assert!(at(100) <= 130.0, "four beacons and a round trip");
}
