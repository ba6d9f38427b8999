//! The guard: how many commits the store acknowledged, in a file beside redb's.
//!
//! redb keeps its last two commits and opens the older one where the newer one is torn. After a
//! power cut that is right: nobody was told of the newer one. After a flipped bit it would be a
//! vote or an entry forgotten in silence. So each transaction has a number, and a commit counts
//! only when its number is in the guard, too. A store that is older than its guard is damaged.
//!
//! The file has two slots, written in turn and synced after redb's own sync. A power cut tears at
//! most the slot of the commit in flight, and then redb has that commit.

use std::io;
use std::path::Path;

use redb::StorageBackend;

use super::record;

/// Room of a slot: no sector and no page of a file system has parts of both.
const SLOT_BYTES: u64 = 4096;
const RECORD_BYTES: usize = 4 + 8 + 8;
const KEY: &[u8] = b"steadfast guard 1";

/// What a slot says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Random number of the store that it belongs to.
    instance: u64,
    /// Number of the commit.
    count: u64,
}

impl Slot {
    fn encode(self) -> Vec<u8> {
        let mut bytes = self.instance.to_le_bytes().to_vec();
        bytes.extend_from_slice(&self.count.to_le_bytes());
        record::seal(KEY, &bytes)
    }

    /// None if it was never written, is torn, or is damaged: the guard cannot tell.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = record::open(KEY, bytes.get(..RECORD_BYTES)?).ok()?;
        let (instance, count) = bytes.split_first_chunk()?;
        Some(Self {
            instance: u64::from_le_bytes(*instance),
            count: u64::from_le_bytes(count.try_into().ok()?),
        })
    }
}

/// The open file.
#[derive(Debug)]
pub(super) struct Guard {
    file: Box<dyn StorageBackend>,
    instance: u64,
}

impl Guard {
    /// Writes a guard that has seen no commit.
    pub(super) fn create(file: Box<dyn StorageBackend>, instance: u64) -> io::Result<Self> {
        let guard = Self { file, instance };
        guard.file.set_len(0)?;
        guard.file.set_len(2 * SLOT_BYTES)?;
        guard.advance(0)?;
        Ok(guard)
    }

    /// Takes an existing file. What it says is for [`judge`].
    pub(super) fn open(
        file: Box<dyn StorageBackend>,
        instance: u64,
    ) -> io::Result<(Self, [Option<Slot>; 2])> {
        let length = file.len()?;
        let mut slots = [None; 2];
        for (start, slot) in [0, SLOT_BYTES].into_iter().zip(&mut slots) {
            let mut bytes = [0; RECORD_BYTES];
            if start + RECORD_BYTES as u64 <= length {
                file.read(start, &mut bytes)?;
                *slot = Slot::decode(&bytes);
            }
        }
        Ok((Self { file, instance }, slots))
    }

    /// Records that the store has commit `count`. On disk when it returns.
    pub(super) fn advance(&self, count: u64) -> io::Result<()> {
        let slot = Slot { instance: self.instance, count };
        self.file.write(count % 2 * SLOT_BYTES, &slot.encode())?;
        self.file.sync_data()
    }
}

/// Compares the store with its guard. `count` is the number of the store's last commit: 0 of a
/// store that has none, because a version wrote it that knew no guard.
///
/// The number may be one higher than the guard's: that commit was in flight. If only one slot can
/// be read it must be, for a slot is torn only after redb has the commit that it was written for.
pub(super) fn judge(slots: [Option<Slot>; 2], instance: u64, count: u64) -> Result<(), String> {
    let mut known = slots.iter().flatten();
    if known.clone().any(|slot| slot.instance != instance) {
        return Err("its guard belongs to another store".to_owned());
    }
    let newest = known.clone().map(|slot| slot.count).max();
    let Some(newest) = newest else {
        return Err("neither slot of its guard can be read".to_owned());
    };
    if count < newest {
        return Err(format!(
            "it is at commit {count}, but commit {newest} was acknowledged: it fell back to an \
             older state"
        ));
    }
    if count > newest + 1 {
        return Err(format!(
            "it is at commit {count}, but its guard knows of {newest} alone: the disk lost what \
             it said it had written"
        ));
    }
    let torn = slots.contains(&None);
    if torn && count == newest && count > 0 {
        return Err(format!(
            "a slot of its guard cannot be read, so a commit after {count} may be lost"
        ));
    }
    if !torn && known.any(|slot| slot.count != newest && slot.count + 1 != newest) {
        return Err("the slots of its guard do not follow each other".to_owned());
    }
    Ok(())
}

/// A guard in a file.
#[derive(Debug)]
struct GuardFile(std::fs::File);

/// Opens or creates the file of a guard.
pub(super) fn file(path: &Path, create: bool) -> io::Result<Box<dyn StorageBackend>> {
    let mut options = std::fs::OpenOptions::new();
    let file = options.read(true).write(true).create(create).truncate(false).open(path)?;
    Ok(Box::new(GuardFile(file)))
}

impl StorageBackend for GuardFile {
    fn len(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.0, out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::write_all_at(&self.0, data, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn slot(count: u64) -> Option<Slot> {
        Some(Slot { instance: 7, count })
    }

    #[test]
    fn only_the_acknowledged_commit_and_the_one_in_flight_are_taken() {
        let cases: [([Option<Slot>; 2], &[u64]); 9] = [
            // New: no commit yet, or the first in flight.
            ([slot(0), None], &[0, 1]),
            ([slot(0), slot(1)], &[1, 2]),
            ([slot(8), slot(7)], &[8, 9]),
            ([slot(8), slot(9)], &[9, 10]),
            // The slot of commit 9 is torn, or was flipped.
            ([slot(8), None], &[9]),
            ([None, slot(7)], &[8]),
            ([None, None], &[]),
            ([slot(8), slot(5)], &[]),
            ([slot(8), Some(Slot { instance: 6, count: 7 })], &[]),
        ];
        for (slots, taken) in cases {
            for count in 0..12 {
                let judged = judge(slots, 7, count);
                assert_eq!(judged.is_ok(), taken.contains(&count), "{slots:?} {count}: {judged:?}");
            }
        }
    }

    #[test]
    fn each_flipped_bit_and_each_torn_byte_of_a_slot_is_found() {
        let new = Slot { instance: 7, count: 0x1_0000_0002 }.encode();
        let old = Slot { instance: 7, count: 0x1_0000_0000 }.encode();
        assert_eq!(Slot::decode(&new), Some(Slot { instance: 7, count: 0x1_0000_0002 }));
        for bit in 0..new.len() * 8 {
            let mut damaged = new.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Slot::decode(&damaged), None, "bit {bit}");
        }
        for cut in 1..new.len() {
            let torn = [&new[..cut], &old[cut..]].concat();
            if torn != new && torn != old {
                assert_eq!(Slot::decode(&torn), None, "cut {cut}");
            }
        }
    }
}
