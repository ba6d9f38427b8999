//! The clock of everything that measures silence or idleness.
//!
//! CLOCK_BOOTTIME, since CLOCK_MONOTONIC stands still while a machine is suspended, and a holder
//! that slept must know that it did.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_BOOTTIME.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Seconds since 1970, for expiry of tokens and the history of configurations only.
pub(crate) fn unix_s() -> u64 {
    u64::try_from(clock_gettime(ClockId::Realtime).tv_sec).unwrap_or(0)
}
