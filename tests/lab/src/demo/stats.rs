//! Summaries of samples.

use serde::{Deserialize, Serialize};

/// Below this many samples there is no 99th percentile worth the name.
pub const P99_SAMPLES_MIN: usize = 100;

/// How samples are spread, in the unit of the samples.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Summary {
    /// How many.
    pub n: usize,
    /// The median; absent without samples.
    pub p50: Option<f64>,
    /// The 99th percentile; only from [`P99_SAMPLES_MIN`] samples on.
    pub p99: Option<f64>,
    /// The largest; absent without samples.
    pub max: Option<f64>,
}

impl Summary {
    /// Sums up `samples`.
    #[must_use]
    pub fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        sorted.sort_by(f64::total_cmp);
        let p99 = (sorted.len() >= P99_SAMPLES_MIN).then(|| percentile(&sorted, 99)).flatten();
        Self { n: sorted.len(), p50: percentile(&sorted, 50), p99, max: sorted.last().copied() }
    }
}

/// Nearest rank: the smallest sample that `percent` per cent of all do not exceed.
fn percentile(sorted: &[f64], percent: usize) -> Option<f64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// Nanoseconds as milliseconds, to the hundredth.
#[must_use]
pub fn ms(ns: u64) -> f64 {
    (ns as f64 / 10_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let up_to = |n: u32| -> Vec<f64> { (1..=n).rev().map(f64::from).collect() };
        // (samples, p50, p99, max)
        let table = [
            (0, None, None, None),
            (1, Some(1.0), None, Some(1.0)),
            (2, Some(1.0), None, Some(2.0)),
            (3, Some(2.0), None, Some(3.0)),
            (20, Some(10.0), None, Some(20.0)),
            (99, Some(50.0), None, Some(99.0)),
            (100, Some(50.0), Some(99.0), Some(100.0)),
            (200, Some(100.0), Some(198.0), Some(200.0)),
        ];
        for (n, p50, p99, max) in table {
            let expected = Summary { n: n as usize, p50, p99, max };
            assert_eq!(Summary::of(&up_to(n)), expected, "{n} samples");
        }
    }

    #[test]
    fn milliseconds_keep_two_decimals() {
        assert_eq!(ms(148_263_000), 148.26);
        assert_eq!(ms(0), 0.0);
    }
}
