//! Pauses of the machine: how long it kept threads waiting that should have run.
//!
//! A shared machine takes its processors away now and then, from the cluster under test too. What a
//! node does in its share of such a pause is right (it falls silent, another one takes over), but a
//! run that was to show that nothing moves then shows nothing. Guarantees: a thread for each
//! processor, of a high priority; notes are bounded. Not seen: a pause shorter than [`STEP`].

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle, sleep},
    time::{Duration, Instant},
};

use rustix::{
    process::setpriority_process,
    thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity},
};

/// A thread looks so often.
const STEP: Duration = Duration::from_millis(2);

/// As the daemon's own threads that send beacons.
const NICE: i32 = -20;

/// Threads, each on a processor of its own, that note the longest pause since they were started.
#[derive(Debug)]
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    longest: Arc<Mutex<Duration>>,
    threads: Vec<JoinHandle<()>>,
}

impl Watchdog {
    /// Starts one. Where threads cannot be pinned or raised, it sees what it can.
    #[must_use]
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let all = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
        let cpus = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu));
        let threads = cpus.filter_map(|cpu| {
            let (stop, longest) = (Arc::clone(&stop), Arc::clone(&longest));
            let watch = move || {
                let mut own = CpuSet::new();
                own.set(cpu);
                let _ = sched_setaffinity(None, &own);
                let _ = setpriority_process(Some(gettid()), NICE);
                watch(&stop, &longest);
            };
            Builder::new().name(format!("watchdog-{cpu}")).spawn(watch).ok()
        });
        let threads = threads.collect();
        Self { stop, longest, threads }
    }

    /// The longest pause so far.
    #[must_use]
    pub fn longest(&self) -> Duration {
        *self.longest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn watch(stop: &AtomicBool, longest: &Mutex<Duration>) {
    let mut before = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        sleep(STEP);
        let now = Instant::now();
        let pause = (now - before).saturating_sub(STEP);
        before = now;
        let mut longest = longest.lock().unwrap_or_else(PoisonError::into_inner);
        *longest = pause.max(*longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_is_kept_waiting_is_seen() {
        let (stop, longest) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));
        std::thread::scope(|scope| {
            scope.spawn(|| watch(&stop, &longest));
            // It waits for this lock as it would for its processor.
            let held = longest.lock().unwrap();
            sleep(Duration::from_millis(60));
            drop(held);
            let seen = || *longest.lock().unwrap() >= Duration::from_millis(40);
            let in_time = (0..1000).any(|_| {
                sleep(STEP);
                seen()
            });
            stop.store(true, Ordering::Relaxed);
            assert!(in_time);
        });
    }

    #[test]
    fn there_is_a_thread_for_each_processor_and_none_is_left() {
        let watchdog = Watchdog::start();
        assert_eq!(watchdog.threads.len(), std::thread::available_parallelism().unwrap().get());
        drop(watchdog);
    }
}
