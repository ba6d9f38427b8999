//! Time of the world and of each node.

/// Virtual time, nanoseconds since the world began.
pub type Ns = u64;

/// A microsecond.
pub const US: Ns = 1_000;
/// A millisecond.
pub const MS: Ns = 1_000_000;
/// A second.
pub const SECOND: Ns = 1_000_000_000;
/// The greatest difference of rates that the design allows, parts per million.
pub const DRIFT_PPM: i64 = 500;

/// A node's clock: monotone, at its own rate, with its own origin. It runs on while its node does
/// not, as CLOCK_BOOTTIME does.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    from: Ns,
    base: Ns,
    ppm: i64,
}

impl Clock {
    /// A clock that shows `base` at `now`.
    #[must_use]
    pub fn new(now: Ns, base: Ns, ppm: i64) -> Self {
        Self { from: now, base, ppm: ppm.clamp(-DRIFT_PPM, DRIFT_PPM) }
    }

    /// What it shows.
    #[must_use]
    pub fn local(&self, now: Ns) -> Ns {
        let passed = now.saturating_sub(self.from);
        // Days fit into 64 bits, and are quicker so.
        if let Ok(short) = i64::try_from(passed)
            && let Some(product) = short.checked_mul(self.ppm)
        {
            return self.base + u64::try_from(short + product / 1_000_000).unwrap_or(0);
        }
        let error = i128::from(passed) * i128::from(self.ppm) / 1_000_000;
        self.base + u64::try_from(i128::from(passed) + error).unwrap_or(0)
    }

    /// When it will show `local`, at the earliest.
    #[must_use]
    pub fn at(&self, local: Ns) -> Ns {
        let ahead = local.saturating_sub(self.base);
        let rate = u64::try_from(1_000_000 + self.ppm).unwrap_or(1_000_000);
        if let Some(product) = ahead.checked_mul(1_000_000) {
            return self.from.saturating_add(product / rate + 1);
        }
        let ahead = i128::from(ahead);
        let passed = ahead * 1_000_000 / (1_000_000 + i128::from(self.ppm));
        self.from.saturating_add(u64::try_from(passed + 1).unwrap_or(u64::MAX))
    }

    /// Goes at another rate from `now` on.
    pub fn set_rate(&mut self, now: Ns, ppm: i64) {
        *self = Self::new(now, self.local(now), ppm);
    }

    /// Leaps ahead; it never goes back.
    pub fn leap(&mut self, now: Ns, by: Ns) {
        *self = Self { from: now, base: self.local(now) + by, ppm: self.ppm };
    }

    /// Its rate.
    #[must_use]
    pub fn ppm(&self) -> i64 {
        self.ppm
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_time_and_back() {
        for ppm in [-500, -1, 0, 7, 500] {
            let mut clock = Clock::new(5 * SECOND, 1000 * SECOND, ppm);
            for ahead in [0, 1, MS, 3 * SECOND, 3_600 * SECOND, 40 * 24 * 3_600 * SECOND] {
                let local = 1000 * SECOND + ahead;
                let at = clock.at(local);
                assert!(clock.local(at) >= local, "{ppm} {ahead}");
                assert!(clock.local(at) <= local + 3, "{ppm} {ahead}");
            }
            let before = clock.local(9 * SECOND);
            clock.leap(9 * SECOND, MS);
            assert_eq!(clock.local(9 * SECOND), before + MS);
        }
    }
}
