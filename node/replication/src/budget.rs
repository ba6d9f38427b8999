//! How many bytes a second a node spends on snapshots.
//!
//! Guarantees: over any time the senders that share a [`SnapshotBudget`] write no more than its rate
//! allows, what [`BURST_NS`] allows, and a batch for each of them. Integers only; one atomic word, so
//! that no sender waits for another. Not limited: changes, deletes, heartbeats and donations.

use std::sync::atomic::{AtomicU64, Ordering};

/// What was not spent is kept for so long: senders wake late on a busy machine.
pub const BURST_NS: u64 = 50_000_000;

const NS_PER_S: u128 = 1_000_000_000;

/// A token bucket that all senders of a node share. It counts time instead of tokens: each byte
/// takes its share of a second, and whoever finds the present past `free_at_ns` may write.
#[derive(Debug, Default)]
pub struct SnapshotBudget {
    bytes_per_s: AtomicU64,
    free_at_ns: AtomicU64,
}

impl SnapshotBudget {
    /// Without a limit.
    #[must_use]
    pub fn unlimited() -> Self {
        Self::default()
    }

    /// From now on so many bytes a second; 0: no limit.
    pub fn set_rate(&self, bytes_per_s: u64) {
        if self.bytes_per_s.swap(bytes_per_s, Ordering::Relaxed) != bytes_per_s {
            // What was owed at the old rate may be hours at the new one.
            self.free_at_ns.store(0, Ordering::Relaxed);
        }
    }

    /// When something may be written, in the past when it may be now.
    pub(crate) fn free_at_ns(&self) -> u64 {
        match self.bytes_per_s.load(Ordering::Relaxed) {
            0 => 0,
            _ => self.free_at_ns.load(Ordering::Relaxed),
        }
    }

    /// So many bytes were written.
    pub(crate) fn spend(&self, now_ns: u64, bytes: usize) {
        let rate = u128::from(self.bytes_per_s.load(Ordering::Relaxed));
        if rate == 0 || bytes == 0 {
            return;
        }
        let cost = (bytes as u128 * NS_PER_S).div_ceil(rate);
        let cost_ns = u64::try_from(cost).unwrap_or(u64::MAX);
        let since_ns = now_ns.saturating_sub(BURST_NS);
        let later = |free_at_ns: u64| Some(free_at_ns.max(since_ns).saturating_add(cost_ns));
        // It always has a value to write.
        let _ = self.free_at_ns.fetch_update(Ordering::Relaxed, Ordering::Relaxed, later);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const RATE: u64 = 1_000_000;
    const BATCH: usize = 10_000;

    /// Bytes that several senders, which look every `every_ns`, write in a span.
    fn written(budget: &SnapshotBudget, from_ns: u64, span_ns: u64, every_ns: u64) -> u64 {
        let mut bytes = 0;
        for now_ns in (from_ns..from_ns + span_ns).step_by(usize::try_from(every_ns).unwrap()) {
            for _sender in 0..8 {
                while budget.free_at_ns() <= now_ns {
                    budget.spend(now_ns, BATCH);
                    bytes += BATCH as u64;
                }
            }
        }
        bytes
    }

    #[test]
    fn over_time_the_rate_holds_however_often_senders_look() {
        for every_ns in [MS / 7, MS, 9 * MS, 49 * MS] {
            let budget = SnapshotBudget::unlimited();
            budget.set_rate(RATE);
            let bytes = written(&budget, 1_000 * MS, 10_000 * MS, every_ns);
            let most = 10 * RATE + RATE / 20 + BATCH as u64;
            assert!((10 * RATE - RATE / 20..=most).contains(&bytes), "{every_ns}: {bytes}");
        }
    }

    #[test]
    fn what_was_not_spent_is_kept_for_a_moment_only() {
        let budget = SnapshotBudget::unlimited();
        budget.set_rate(RATE);
        written(&budget, 1_000 * MS, 100 * MS, MS);
        let at_once = written(&budget, 3_600_000 * MS, 1, 1);
        assert_eq!(
            at_once,
            RATE / 20 + BATCH as u64,
            "what 50 ms allow, and the batch that ends it"
        );
    }

    #[test]
    fn another_rate_holds_at_once_and_none_is_no_limit() {
        let budget = SnapshotBudget::unlimited();
        budget.spend(MS, usize::MAX);
        assert_eq!(budget.free_at_ns(), 0);
        budget.set_rate(1);
        budget.spend(MS, BATCH);
        assert!(budget.free_at_ns() > 9_000 * 1_000 * MS);
        budget.set_rate(RATE);
        assert!(budget.free_at_ns() <= MS, "an hour is not waited for any more");
        budget.spend(u64::MAX, usize::MAX);
        assert_eq!(budget.free_at_ns(), u64::MAX, "no overflow");
        budget.set_rate(0);
        assert_eq!(budget.free_at_ns(), 0);
    }
}
