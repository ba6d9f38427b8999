//! Priority of threads that must not wait for others.
//!
//! SCHED_FIFO would starve the kernel's own threads when a thread runs wild; a low nice value
//! only makes the others wait first.

use tracing::warn;

/// Evidence of life goes before everything else.
pub(crate) const OWNERSHIP: i32 = -20;
/// Packets go before builds, backups and whatever else the machine does.
pub(crate) const WORKER: i32 = -10;

/// Gives the calling thread this nice value; without the right to it (CAP_SYS_NICE) the thread
/// runs like the others.
pub(crate) fn raise(nice: i32) {
    let thread = rustix::thread::gettid();
    if let Err(error) = rustix::process::setpriority_process(Some(thread), nice) {
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        warn!(thread = name, "runs with normal priority, give CAP_SYS_NICE: {error}");
    }
}
