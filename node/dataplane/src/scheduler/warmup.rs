//! Slow start: a server that came up gets a tenth of its weight, and more with time.

/// A weight that counts in full.
pub(super) const FULL: u64 = 1_000;

/// What counts of a weight at first.
const COLD: u64 = FULL / 10;

/// What counts of the weight of a server that has been up for `up_ns`, up to [`FULL`].
pub(super) fn warmth(slow_start_ns: u64, up_ns: u64) -> u64 {
    if up_ns >= slow_start_ns {
        return FULL;
    }
    let gained = u128::from(FULL - COLD) * u128::from(up_ns) / u128::from(slow_start_ns);
    COLD + gained as u64
}
