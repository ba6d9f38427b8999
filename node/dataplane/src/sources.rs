//! How many connections each source has, in a fixed number of counters.
//!
//! A source counts in two counters, chosen by a hash with a secret key, and the lower one is
//! believed (a count-min sketch, Cormode and Muthukrishnan 2005). A connection that goes is taken
//! out of both.
//!
//! Guarantees: fixed memory, made when the first service wants it; never fewer than a source has;
//! without the key nobody can choose whom to share a counter with. Not guaranteed: never more. With
//! as many connections as there are slots, a counter is shared with a quarter of another connection
//! on average, so that one source in 30 is taken to have one more than it has, if all the others
//! have one each.

use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering},
};

use steadfast_pages::Pages;

/// Counters of a row for each slot of the table.
const PER_SLOT: usize = 4;

/// The most counters of a row: 64 MiB for both.
const WIDTH_MAX: usize = 1 << 23;

/// Rows.
const ROWS: usize = 2;

#[derive(Debug)]
pub(crate) struct Sources {
    width: usize,
    rows: OnceLock<Pages<AtomicU32>>,
}

impl Sources {
    pub(crate) fn new(slots: usize) -> Self {
        let width = slots.saturating_mul(PER_SLOT).next_power_of_two().min(WIDTH_MAX);
        Self { width, rows: OnceLock::new() }
    }

    /// One connection more is of the source with this hash.
    pub(crate) fn add(&self, hash: u64) {
        for cell in self.cells(hash) {
            cell.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// So many more, in a copy.
    pub(crate) fn add_many(&self, hash: u64, count: u32) {
        for cell in self.cells(hash) {
            cell.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// One connection less.
    pub(crate) fn take(&self, hash: u64) {
        for cell in self.cells(hash) {
            cell.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many a source has, at least.
    pub(crate) fn count(&self, hash: u64) -> u32 {
        if self.rows.get().is_none() {
            return 0;
        }
        self.cells(hash).into_iter().map(|cell| cell.load(Ordering::Relaxed)).min().unwrap_or(0)
    }

    fn cells(&self, hash: u64) -> [&AtomicU32; ROWS] {
        let all = self.rows.get_or_init(|| Pages::new(ROWS * self.width));
        let within = self.width - 1;
        let (first, second) = ((hash >> 32) as usize & within, hash as usize & within);
        [&all[first], &all[self.width + second]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mixer of numbers, as good as a hash.
    fn hash(number: u64) -> u64 {
        let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn a_source_is_never_taken_to_have_fewer_and_hardly_ever_more() {
        const SLOTS: usize = 50_000;
        let sources = Sources::new(SLOTS);
        assert_eq!(sources.count(hash(1)), 0, "nobody has any, and no memory is taken");
        assert!(sources.rows.get().is_none());
        let each = |number: u64| number % 3 + 1;
        let all = SLOTS as u64 / 2;
        for source in 0..all {
            (0..each(source)).for_each(|_| sources.add(hash(source)));
        }
        let more = (0..all).filter(|source| {
            let (count, has) = (u64::from(sources.count(hash(*source))), each(*source));
            assert!(count >= has, "{source} has {has}, not {count}");
            count > has
        });
        let more = more.count();
        assert!(more < SLOTS / 40, "{more} sources are taken to have more");
        for source in 0..all {
            (0..each(source)).for_each(|_| sources.take(hash(source)));
        }
        assert!((0..all).all(|source| sources.count(hash(source)) == 0));
    }
}
