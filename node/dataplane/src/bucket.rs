//! Token buckets: how often what a stranger can provoke is done.

use std::sync::atomic::{AtomicU64, Ordering};

const SECOND_NS: u64 = 1_000_000_000;

/// Lets `rate` events per second pass, and `burst` at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TokenBucket {
    /// Time that one event takes.
    cost_ns: u64,
    /// Time that may be saved up.
    burst_ns: u64,
    /// Events up to this time are paid for.
    paid_until_ns: u64,
}

impl TokenBucket {
    pub(crate) fn new(rate: u64, burst: u64) -> Self {
        let cost_ns = SECOND_NS / rate.max(1);
        Self { cost_ns, burst_ns: cost_ns * burst, paid_until_ns: 0 }
    }

    /// One event, if it may pass.
    pub(crate) fn take(&mut self, now_ns: u64) -> bool {
        let from = self.paid_until_ns.max(now_ns.saturating_sub(self.burst_ns));
        let paid_until = from.saturating_add(self.cost_ns);
        if paid_until > now_ns {
            return false;
        }
        self.paid_until_ns = paid_until;
        true
    }
}

/// A [`TokenBucket`] that all workers share.
#[derive(Debug)]
pub(crate) struct SharedBucket {
    bucket: TokenBucket,
    paid_until_ns: AtomicU64,
}

/// Times it is tried again when another worker takes at the same moment.
const TAKE_TRIES_MAX: usize = 8;

impl SharedBucket {
    pub(crate) fn new(rate: u64, burst: u64) -> Self {
        Self { bucket: TokenBucket::new(rate, burst), paid_until_ns: AtomicU64::new(0) }
    }

    /// One of its own that stands where this one stands.
    pub(crate) fn copy(&self) -> Self {
        let paid_until_ns = AtomicU64::new(self.paid_until_ns.load(Ordering::Relaxed));
        Self { bucket: self.bucket, paid_until_ns }
    }

    /// One event, if it may pass.
    pub(crate) fn take(&self, now_ns: u64) -> bool {
        let mut paid = self.paid_until_ns.load(Ordering::Relaxed);
        for _ in 0..TAKE_TRIES_MAX {
            let mut bucket = TokenBucket { paid_until_ns: paid, ..self.bucket };
            if !bucket.take(now_ns) {
                return false;
            }
            let (next, relaxed) = (bucket.paid_until_ns, Ordering::Relaxed);
            match self.paid_until_ns.compare_exchange_weak(paid, next, relaxed, relaxed) {
                Ok(_) => return true,
                Err(other) => paid = other,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn burst_then_rate() {
        let mut bucket = TokenBucket::new(10, 3);
        let start = 100 * SECOND_NS;
        let taken = |bucket: &mut TokenBucket, now| (0..9).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 3, "the burst");
        assert_eq!(taken(&mut bucket, start + SECOND_NS / 20), 0);
        assert_eq!(taken(&mut bucket, start + SECOND_NS / 10), 1, "one each 100 ms");
        assert_eq!(taken(&mut bucket, start + 60 * SECOND_NS), 3, "no more is saved up");
    }

    #[test]
    fn threads_that_share_one_get_no_more_together() {
        let bucket = SharedBucket::new(1, 1000);
        let taken = std::thread::scope(|scope| {
            let take = || (0..1000).filter(|_| bucket.take(1_000_000 * SECOND_NS)).count();
            let threads = [scope.spawn(take), scope.spawn(take)];
            threads.into_iter().map(|t| t.join().unwrap()).sum::<usize>()
        });
        // A thread that always loses gives up, so a few may be left.
        assert!((900..=1000).contains(&taken), "{taken}");
    }
}
