//! A whole cluster in virtual time: the crates' own cores of ownership, data plane and replication,
//! driven as the daemon drives them, under faults that are drawn from a seed.
//!
//! Guarantees: no clock, no thread, no chance but the seed: equal seeds give equal traces, byte for
//! byte. Raft is an ordered log with elections, majorities and disks ([`raft`]); QUIC is ordered
//! streams that break; hosts are state machines that send and judge real frames.
//!
//! Not simulated: sealed beacons, AF_XDP, the kernel, health checks, gRPC, changes of membership,
//! announcing alone.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod asking;
mod checks;
pub mod clock;
mod cluster;
mod ether;
mod faults;
mod figures;
mod knowledge;
mod log;
mod machine;
mod net;
mod overlap;
mod owner;
mod plane;
mod queue;
mod raft;
mod rng;
mod staged;
mod streams;
mod trace;
mod traffic;
mod world;

pub use figures::{Failure, Figures};
pub use world::{Options, Outcome, World};

/// Faults in a simulated hour, unless said otherwise.
pub const FAULTS_PER_HOUR: u64 = 70;
/// Places for sessions, unless said otherwise: more than 100 are open all the time.
pub const SESSIONS: u32 = 170;
/// The seeds that CI runs, an hour each: eight clusters of three nodes, one of five, one of four of
/// which three vote.
pub const CI_SEEDS: [u64; 10] = [3, 17, 1, 2, 6, 7, 8, 10, 13, 15];
