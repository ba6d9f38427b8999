//! Integer time: the core never reads a clock.

use std::ops::{Add, Sub};

/// A point on the driver's monotone clock. `clusterd` feeds microseconds of CLOCK_BOOTTIME, the
/// model checker small ticks; spans are plain `u64` in the same unit.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Time(pub u64);

impl Time {
    /// The span from `earlier` to `self`; zero when `earlier` is later.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<u64> for Time {
    type Output = Self;

    fn add(self, span: u64) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl Sub<u64> for Time {
    type Output = Self;

    fn sub(self, span: u64) -> Self {
        Self(self.0.saturating_sub(span))
    }
}
