//! An index from hashes to slots: two lines of eight entries for each hash.
//!
//! Guarantees: a look-up reads 16 entries at most (`PROBE_MAX`), in two cache lines, and takes no lock;
//! what is in the index from the beginning of a look-up to its end is found. Writers come one at a
//! time, under the table's lock. Not guaranteed: that an entry fits although there is room elsewhere;
//! at the load this is made for, about one insertion in 10^8 is refused.
//!
//! An entry is the lower half of its hash and the number of its slot plus one. Its two lines are
//! each other's mirror image (partial-key cuckoo hashing, Fan et al. 2014), so that an entry can be
//! moved from one to the other without its key.

use std::sync::atomic::{AtomicU64, Ordering, fence};

use steadfast_pages::Pages;

use crate::slab::{LINE, Line};

/// Entries that a look-up of a connection reads at most, whatever clients send.
pub const PROBE_MAX: usize = 2 * LINE;

/// Entries per line that are used when the table is full.
const LOAD: f64 = 6.0;

/// Times a look-up is repeated because entries moved while it looked.
const FIND_TRIES_MAX: usize = 64;

/// The two lines in which an entry may be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mirror {
    /// Where it is put as long as there is room.
    First,
    /// Its mirror image.
    Other,
}

/// A writer was at work all the time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Moving;

#[derive(Debug)]
pub(crate) struct Index {
    entries: Pages<Line>,
    lines: u64,
    /// Odd while entries move or a slot is being rewritten.
    moves: AtomicU64,
}

impl Index {
    pub(crate) fn new(slots: u32) -> Self {
        let lines = (f64::from(slots) / LOAD) as u64 + 2;
        Self { entries: Pages::new(lines as usize), lines, moves: AtomicU64::new(0) }
    }

    /// What `check` gives for the slot of an entry of this hash; it is asked for each of them.
    ///
    /// `Err` when a writer was at work all the time and nothing was found: ask again under the lock.
    pub(crate) fn find<T>(
        &self,
        hash: u64,
        check: impl Fn(u32) -> Option<T>,
    ) -> Result<Option<T>, Moving> {
        for _ in 0..FIND_TRIES_MAX {
            let before = self.moves.load(Ordering::Acquire);
            let first = self.first(hash);
            for line in [first, self.other(first, hash)] {
                for entry in self.line(line) {
                    let entry = entry.load(Ordering::Acquire);
                    if let Some(slot) = slot_of(entry, hash)
                        && let Some(found) = check(slot)
                    {
                        return Ok(Some(found));
                    }
                }
            }
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.moves.load(Ordering::Relaxed) == before {
                return Ok(None);
            }
            std::hint::spin_loop();
        }
        Err(Moving)
    }

    /// What a look-up that ends at `slot`, or nowhere, does: entries that it reads, and slots that it
    /// looks into because they may be the one.
    pub(crate) fn steps(&self, hash: u64, slot: Option<u32>) -> (usize, usize) {
        let (mut read, mut looked) = (0, 0);
        let first = self.first(hash);
        for line in [first, self.other(first, hash)] {
            for entry in self.line(line) {
                read += 1;
                let found = slot_of(entry.load(Ordering::Relaxed), hash);
                looked += usize::from(found.is_some());
                if found.is_some() && found == slot {
                    return (read, looked);
                }
            }
        }
        (read, looked)
    }

    /// The slot that an entry of this hash in one of its lines most likely names, for fetching it early.
    //
    // All eight are looked at: where the entry is cannot be predicted, and a wrong prediction costs
    // more than seven comparisons.
    pub(crate) fn guess(&self, hash: u64, line: Mirror) -> Option<u32> {
        let wanted = hash & 0xffff_ffff;
        let found = self.line(self.line_of(hash, line)).iter().fold(0, |found, entry| {
            let entry = entry.load(Ordering::Relaxed);
            if entry >> 32 == wanted { entry } else { found }
        });
        (found as u32).checked_sub(1)
    }

    /// Brings one of the lines of this hash near.
    pub(crate) fn fetch(&self, hash: u64, line: Mirror) {
        self.entries.prefetch(self.line_of(hash, line) as usize);
    }

    /// Adds an entry; false when there is no place for it.
    pub(crate) fn insert(&self, hash: u64, slot: u32) -> bool {
        let first = self.first(hash);
        let lines = [first, self.other(first, hash)];
        let entry = hash << 32 | u64::from(slot + 1);
        if let Some(place) = lines.iter().find_map(|line| self.vacant(*line)) {
            place.store(entry, Ordering::Release);
            return true;
        }
        for line in lines {
            for place in self.line(line) {
                let held = place.load(Ordering::Relaxed);
                if let Some(free) = self.vacant(self.other(line, held >> 32)) {
                    self.rewriting(|| {
                        free.store(held, Ordering::Release);
                        place.store(entry, Ordering::Release);
                    });
                    return true;
                }
            }
        }
        false
    }

    /// Removes the entry of this hash and slot, if it is there.
    pub(crate) fn remove(&self, hash: u64, slot: u32) {
        let first = self.first(hash);
        for line in [first, self.other(first, hash)] {
            for place in self.line(line) {
                if slot_of(place.load(Ordering::Relaxed), hash) == Some(slot) {
                    place.store(0, Ordering::Release);
                    return;
                }
            }
        }
    }

    /// Look-ups that find nothing while `change` runs look again.
    pub(crate) fn rewriting<T>(&self, change: impl FnOnce() -> T) -> T {
        let before = self.moves.load(Ordering::Relaxed);
        self.moves.store(before.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        let result = change();
        self.moves.store(before.wrapping_add(2), Ordering::Release);
        result
    }

    fn line(&self, line: u64) -> &[AtomicU64; LINE] {
        &self.entries[line as usize].0
    }

    fn line_of(&self, hash: u64, line: Mirror) -> u64 {
        let first = self.first(hash);
        match line {
            Mirror::First => first,
            Mirror::Other => self.other(first, hash),
        }
    }

    fn vacant(&self, line: u64) -> Option<&AtomicU64> {
        self.line(line).iter().find(|entry| entry.load(Ordering::Relaxed) == 0)
    }

    fn first(&self, hash: u64) -> u64 {
        ((hash >> 32) * self.lines) >> 32
    }

    /// The other line of an entry with this lower half of the hash.
    fn other(&self, line: u64, hash: u64) -> u64 {
        let mirror = ((hash & 0xffff_ffff) * self.lines) >> 32;
        let other = mirror + self.lines - line;
        if other >= self.lines { other - self.lines } else { other }
    }
}

fn slot_of(entry: u64, hash: u64) -> Option<u32> {
    (entry != 0 && entry >> 32 == hash & 0xffff_ffff).then(|| entry as u32 - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u64) -> u64 {
        let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    #[test]
    fn a_full_index_finds_everything_and_frees_everything() {
        for slots in [1, 7, 16, 100, 50_000_u32] {
            let index = Index::new(slots);
            for round in 0..3_u64 {
                let hash = |slot: u32| hash(u64::from(slot) | round << 32);
                for slot in 0..slots {
                    assert!(index.insert(hash(slot), slot), "{slot} of {slots}");
                }
                for slot in 0..slots {
                    let found = index.find(hash(slot), |found| (found == slot).then_some(found));
                    assert_eq!(found, Ok(Some(slot)));
                }
                for slot in 0..slots {
                    index.remove(hash(slot), slot);
                    let found = index.find(hash(slot), |found| (found == slot).then_some(()));
                    assert_eq!(found, Ok(None));
                }
            }
        }
    }

    #[test]
    fn a_line_of_one_hash_is_full_at_its_bound() {
        let index = Index::new(1000);
        let fit = (0..100).take_while(|slot| index.insert(0x4000_0000_f000_0009, *slot)).count();
        assert_eq!(fit, PROBE_MAX);
    }

    /// Otherwise a look-up could miss what is only being moved or rewritten.
    #[test]
    fn nothing_is_called_absent_while_a_writer_is_at_work() {
        let index = Index::new(100);
        let find = |hash: u64| index.find(hash, Some);
        assert_eq!(find(hash(1)), Ok(None));
        index.rewriting(|| assert_eq!(find(hash(1)), Err(Moving)));
        assert_eq!(find(hash(1)), Ok(None));
    }
}
