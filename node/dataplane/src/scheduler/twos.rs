//! The power of two choices (`twos`): two servers at random by weight, the one that carries less.
//!
//! Pseudo-random, from a counter that all workers share: no clock and no seed from outside. Nobody
//! gains by guessing it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Pool, least::least_overhead};

/// The state of the generator.
#[derive(Debug, Default)]
pub(super) struct Twos(AtomicU64);

impl Twos {
    /// One that draws the same next.
    pub(super) fn copy(&self) -> Self {
        Self(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }

    //= Linux net/netfilter/ipvs/ip_vs_twos.c, ip_vs_twos_schedule()
    pub(super) fn pick(&self, pool: &Pool<'_>) -> Option<usize> {
        let total: u64 = pool.available().map(|index| pool.weight(index)).sum();
        if total == 0 {
            return None;
        }
        let (first, second) = (self.draw(pool, total)?, self.draw(pool, total)?);
        let (low, high) = (first.min(second), first.max(second));
        least_overhead(pool, [low, high].into_iter())
    }

    fn draw(&self, pool: &Pool<'_>, total: u64) -> Option<usize> {
        let mut left = self.next() % total;
        pool.available().find(|index| {
            let weight = pool.weight(*index);
            let here = left < weight;
            left = left.saturating_sub(weight);
            here
        })
    }

    /// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
    fn next(&self) -> u64 {
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
