//! A hashed timing wheel over small integers (Varghese and Lauck, scheme 6).
//!
//! Guarantees: a timer never fires before its deadline, and at most [`TICK_NS`] plus the time
//! between calls after it; a call does no more work than its budget; memory is reserved at start.
//! Not guaranteed: an order among timers of one tick.

use crate::lists::Lists;

/// Resolution.
pub(crate) const TICK_NS: u64 = 250_000_000;

/// One turn takes 1024 s: longer than any default time-out, so that a timer is rarely looked at
/// in a turn that is not its own.
const BUCKETS: u32 = 4096;

/// The list of timers taken from a bucket and not yet looked at.
const PENDING: u32 = BUCKETS;

/// Timers of the ids `0..ids`.
#[derive(Debug)]
pub(crate) struct TimingWheel {
    lists: Lists,
    /// Tick at which each timer is due; the last one stands for all after it, in 34 years.
    due: Vec<u32>,
    /// Tick whose bucket was taken last.
    tick: u64,
}

impl TimingWheel {
    pub(crate) fn new(ids: u32) -> Self {
        Self { lists: Lists::new(ids, BUCKETS + 1), due: vec![0; ids as usize], tick: 0 }
    }

    /// Sets the timer of `id`, in place of the one it has.
    pub(crate) fn schedule(&mut self, id: u32, deadline_ns: u64) {
        let due = deadline_ns.div_ceil(TICK_NS).max(self.tick + 1);
        self.due[id as usize] = u32::try_from(due).unwrap_or(u32::MAX);
        self.lists.push_back((due % u64::from(BUCKETS)) as u32, id);
    }

    /// Removes the timer of `id`, if it has one.
    pub(crate) fn cancel(&mut self, id: u32) {
        self.lists.unlink(id);
    }

    /// Moves timers due at `now_ns` into `fired`, looking at no more than `budget` timers and
    /// buckets. True when the budget ended first.
    pub(crate) fn advance(&mut self, now_ns: u64, budget: usize, fired: &mut Vec<u32>) -> bool {
        let target = now_ns / TICK_NS;
        for _ in 0..budget {
            if let Some(id) = self.lists.front(PENDING) {
                let due = u64::from(self.due[id as usize]);
                if due <= self.tick {
                    self.lists.unlink(id);
                    fired.push(id);
                } else {
                    self.lists.push_back((due % u64::from(BUCKETS)) as u32, id);
                }
                continue;
            }
            if self.tick >= target {
                return false;
            }
            // After a long gap one full turn finds everything that is due.
            self.tick = self.tick.max(target.saturating_sub(u64::from(BUCKETS))) + 1;
            self.lists.append((self.tick % u64::from(BUCKETS)) as u32, PENDING);
        }
        self.lists.front(PENDING).is_some() || self.tick < target
    }
}

#[cfg(test)]
mod tests {
    use std::{cmp::Reverse, collections::BinaryHeap};

    use proptest::prelude::*;

    use super::*;

    const IDS: u32 = 24;

    #[derive(Clone, Debug)]
    enum Step {
        Schedule(u32, u64),
        Cancel(u32),
        Advance(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        // Up to three turns ahead, so that rounds count.
        let ahead = 0..3 * u64::from(BUCKETS) * TICK_NS;
        let wait = prop_oneof![0..4 * TICK_NS, 0..2 * u64::from(BUCKETS) * TICK_NS];
        prop_oneof![
            (0..IDS, ahead).prop_map(|(id, ahead)| Step::Schedule(id, ahead)),
            (0..IDS).prop_map(Step::Cancel),
            (wait, prop_oneof![1..4usize, Just(100_000)])
                .prop_map(|(wait, budget)| Step::Advance(wait, budget)),
        ]
    }

    proptest! {
        /// The wheel against a heap with lazy deletion.
        #[test]
        fn fires_what_a_heap_fires(
            start in 0..u64::from(u32::MAX) * 1_000_000,
            steps in proptest::collection::vec(step(), 1..60),
        ) {
            let mut wheel = TimingWheel::new(IDS);
            let mut heap = BinaryHeap::new();
            let mut deadlines = [None; IDS as usize];
            let mut now = start;
            let mut ignored = Vec::new();
            wheel.advance(now, usize::MAX >> 1, &mut ignored);
            for step in steps {
                match step {
                    Step::Schedule(id, ahead) => {
                        wheel.schedule(id, now + ahead);
                        deadlines[id as usize] = Some(now + ahead);
                        heap.push(Reverse((now + ahead, id)));
                    }
                    Step::Cancel(id) => {
                        wheel.cancel(id);
                        deadlines[id as usize] = None;
                    }
                    Step::Advance(wait, budget) => {
                        now += wait;
                        let mut fired = Vec::new();
                        let more = wheel.advance(now, budget, &mut fired);
                        prop_assert!(fired.len() <= budget);
                        for id in &fired {
                            let deadline = deadlines[*id as usize].take();
                            prop_assert!(deadline.is_some_and(|deadline| deadline <= now), "early");
                        }
                        if more {
                            continue;
                        }
                        // What the heap says was due a tick ago has fired by now.
                        while let Some(Reverse((deadline, id))) = heap.peek().copied() {
                            if deadline + TICK_NS > now {
                                break;
                            }
                            heap.pop();
                            prop_assert!(
                                deadlines[id as usize] != Some(deadline),
                                "timer {} late", id
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_burst_is_worked_off_within_the_budget() {
        let mut wheel = TimingWheel::new(100);
        for id in 0..100 {
            wheel.schedule(id, TICK_NS);
        }
        let mut fired = Vec::new();
        assert!(wheel.advance(TICK_NS, 41, &mut fired), "one bucket and 40 timers");
        assert_eq!(fired.len(), 40);
        assert!(!wheel.advance(TICK_NS, 100, &mut fired));
        assert_eq!(fired.len(), 100);
    }
}
