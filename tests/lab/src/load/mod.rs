//! Load: the real server, the client, and how a session is judged.

pub mod client;
pub mod decapsulate;
pub mod judge;
pub mod probe;
pub mod record;
pub mod server;
pub mod session;
pub mod wire;

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds in a millisecond.
pub const MS: u64 = 1_000_000;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000 * MS;

/// Now, in nanoseconds of `CLOCK_BOOTTIME`: one clock for every process on the machine, so times
/// taken by the client and by the orchestrator can be compared.
#[must_use]
pub fn now_ns() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    u64::try_from(t.tv_sec).unwrap_or(0) * SECOND + u64::try_from(t.tv_nsec).unwrap_or(0)
}
