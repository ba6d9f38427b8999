//! Which flow the next packet belongs to.
//!
//! Guarantees: seeded, so that a run can be repeated; no clock.

/// xorshift64* (Vigna 2016): fast and even enough to draw flows.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// How flows are drawn.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Draw {
    /// Each as likely as any other.
    Uniform,
    /// The one of rank k with a probability in proportion to 1/k.
    Zipf,
}

/// Draws flows below `flows`.
#[derive(Clone, Debug)]
pub(crate) struct Drawer {
    draw: Draw,
    flows: u64,
    random: Random,
}

/// Spreads ranks over the flows, so that the frequent ones are not neighbours; an odd number
/// without a common divisor with the sizes that are measured.
const SPREAD: u64 = 0x9e37_79b1;

impl Drawer {
    pub(crate) fn new(draw: Draw, flows: u64, seed: u64) -> Self {
        Self { draw, flows, random: Random::new(seed) }
    }

    pub(crate) fn next(&mut self) -> u64 {
        match self.draw {
            Draw::Uniform => self.random.below(self.flows),
            Draw::Zipf => {
                // The inverse of the distribution function ln(k) / ln(n), the limit of Zipf's.
                let uniform = self.random.next() as f64 / u64::MAX as f64;
                let rank = ((self.flows + 1) as f64).powf(uniform) as u64 - 1;
                rank.min(self.flows - 1) * SPREAD % self.flows
            }
        }
    }
}
