//! How old the news in a batch is, although the two clocks have nothing to do with each other.
//!
//! The difference between the receiver's clock and the time written in a batch is the offset of the
//! clocks plus the time on the way. The least difference of the last while stands for a batch that
//! was not held up; what a batch takes more than that, it was held up.
//!
//! Guarantees: a batch that waited in a full stream, or for a receiver that was paused, does not
//! pass for fresh. Not guaranteed: a delay that lasts longer than two windows comes to look normal.

use crate::wire::Batch;

const NS_PER_MS: u64 = 1_000_000;

/// The least difference is taken over one to two windows: long enough to outlast a stall, short
/// enough that clocks 500 ppm apart drift by 30 ms at most.
const WINDOW_NS: u64 = 30_000_000_000;

/// The least differences seen on one stream.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Transit {
    window_from_ns: u64,
    this: Option<i128>,
    last: Option<i128>,
}

impl Transit {
    /// As of when, by the receiver's clock, everything the sender knew is applied.
    pub(crate) fn fresh_ns(&mut self, now_ns: u64, batch: &Batch) -> u64 {
        let sent_ns = i128::from(batch.sent_ms) * i128::from(NS_PER_MS);
        let difference = i128::from(now_ns) - sent_ns;
        let windows = now_ns.saturating_sub(self.window_from_ns) / WINDOW_NS;
        if windows > 0 {
            self.last = self.this.filter(|_| windows == 1);
            self.this = None;
            self.window_from_ns = now_ns;
        }
        let this = self.this.map_or(difference, |least| least.min(difference));
        self.this = Some(this);
        let offset = self.last.map_or(this, |least| least.min(this));
        let age_ns = i128::from(batch.age_ms) * i128::from(NS_PER_MS);
        let fresh_ns = (sent_ns - age_ns + offset).clamp(0, i128::from(now_ns));
        u64::try_from(fresh_ns).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = NS_PER_MS;

    fn batch(sent_ms: u64, age_ms: u64) -> Batch {
        Batch { seq: 1, sent_ms, age_ms, ..Batch::default() }
    }

    #[test]
    fn what_was_held_up_is_old() {
        // The sender's clock is far behind; 2 ms on the way are normal.
        let mut transit = Transit::default();
        let at = |ms: u64| (5_000_000 + ms) * MS;
        assert_eq!(transit.fresh_ns(at(2), &batch(100, 0)), at(2));
        assert_eq!(transit.fresh_ns(at(52), &batch(150, 0)), at(52));
        assert_eq!(transit.fresh_ns(at(1052), &batch(200, 0)), at(102), "held up for 950 ms");
        assert_eq!(transit.fresh_ns(at(1053), &batch(1151, 30)), at(1023), "30 ms of backlog");
    }

    #[test]
    fn the_clocks_may_drift() {
        // The sender's clock runs 500 ppm fast, then slow: freshness follows within 35 ms.
        for drift in [2001, 1999] {
            let mut transit = Transit::default();
            for step in 0..20_000 {
                let now = (7_000 + step * 50) * MS;
                let fresh = transit.fresh_ns(now, &batch(900 + step * 50 * drift / 2000, 0));
                assert!(now - fresh <= 35 * MS, "{} ms at step {step}", (now - fresh) / MS);
            }
        }
    }

    #[test]
    fn absurd_times_do_no_harm() {
        let mut transit = Transit::default();
        for (now, sent, age) in [(0, u64::MAX, 0), (u64::MAX, 0, u64::MAX), (5, u64::MAX, u64::MAX)]
        {
            assert!(transit.fresh_ns(now, &batch(sent, age)) <= now);
        }
    }
}
