//! Digests over the connections of a group: whether a copy is what its holder has sent.
//!
//! Keys are divided into [`RANGES`] by their hash, and the digest of a range is the exclusive or of a
//! hash for each connection in it: of its key, its server and its incarnation. States are not in it,
//! for they change with packets that need no copying. Holder and copy walk their tables bit by bit
//! while connections come and go, so a range in which something changed meanwhile is not known, and
//! says nothing this time.
//!
//! Guarantees: copies that are equal have equal digests where both are known; copies that differ have
//! equal ones with a chance of 2^-64 for each range, whatever clients choose, for the hash has a key.
//!
//! Not guaranteed: that one difference is a fault. A connection that ends between the look at the table
//! and the mark in the dirty set makes one; only what differs twice in the same range is believed.

use std::hash::{Hash, Hasher};

use siphasher::sip::SipHasher13;
use steadfast_model::{GroupId, ServerId};

use crate::Key;

/// Ranges of keys. More of them make fewer unknown under load; each takes eight bytes of a frame.
pub const RANGES: usize = 256;
/// How far a hash is shifted to give a range.
const RANGE_SHIFT: u32 = u64::BITS - RANGES.ilog2();
const _: () = assert!(RANGES.is_power_of_two());

/// A connection, as far as it stays the same from its first record to its last.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Life {
    /// Which.
    pub key: Key,
    /// Of which group.
    pub group: GroupId,
    /// Its real server.
    pub server: ServerId,
    /// Which life of the key.
    pub incarnation: u64,
    /// The peers that were ever sent it, a bit each.
    pub sent_to: u32,
    /// The snapshot that confirmed it last, of a copy that the holder sent.
    pub snapshot: Option<u64>,
}

/// A digest for each range, or that it is not known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Ranges(Box<[Option<u64>; RANGES]>);

impl Default for Ranges {
    /// Of nothing: all are known.
    fn default() -> Self {
        Self(Box::new([Some(0); RANGES]))
    }
}

/// Hashes keys and lives. Every node of a cluster has the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher64 {
    cluster: u64,
}

impl Hasher64 {
    pub(crate) fn new(cluster: u64) -> Self {
        Self { cluster }
    }

    /// The range of a key.
    pub(crate) fn range(self, key: &Key) -> usize {
        (self.key(key) >> RANGE_SHIFT) as usize
    }

    /// The range and the hash of a life.
    fn life(self, life: &Life) -> (usize, u64) {
        let key = self.key(&life.key);
        let mut hasher = SipHasher13::new_with_keys(self.cluster, key);
        hasher.write(&life.incarnation.to_be_bytes());
        hasher.write(&life.server.0.to_be_bytes());
        ((key >> RANGE_SHIFT) as usize, hasher.finish())
    }

    fn key(self, key: &Key) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.cluster, DOMAIN);
        key.hash(&mut Words(&mut hasher));
        hasher.finish()
    }
}

/// Sets these hashes apart from others under the same key.
const DOMAIN: u64 = u64::from_be_bytes(*b"digests1");

/// Numbers in one order of octets, whatever the machine's is.
struct Words<'a>(&'a mut SipHasher13);

impl Hasher for Words<'_> {
    fn finish(&self) -> u64 {
        self.0.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    fn write_u64(&mut self, word: u64) {
        self.0.write(&word.to_be_bytes());
    }

    fn write_u128(&mut self, words: u128) {
        self.0.write(&words.to_be_bytes());
    }
}

impl Ranges {
    /// The digest of a range, if it is known.
    #[must_use]
    pub fn known(&self, range: usize) -> Option<u64> {
        self.0.get(range).copied().flatten()
    }

    /// Sets a digest.
    pub(crate) fn set(&mut self, range: usize, digest: u64) {
        if let Some(place) = self.0.get_mut(range) {
            *place = Some(digest);
        }
    }

    /// Something changed in a range.
    pub(crate) fn forget(&mut self, range: usize) {
        if let Some(place) = self.0.get_mut(range) {
            *place = None;
        }
    }

    /// Adds a connection.
    pub(crate) fn add(&mut self, hasher: Hasher64, life: &Life) {
        let (range, hash) = hasher.life(life);
        if let Some(Some(digest)) = self.0.get_mut(range) {
            *digest ^= hash;
        }
    }

    /// The ranges in which both are known, and whether they differ there.
    pub(crate) fn compare(&self, other: &Self) -> impl Iterator<Item = (usize, bool)> {
        (0..RANGES).filter_map(|range| {
            let (one, other) = (self.known(range)?, other.known(range)?);
            Some((range, one != other))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(port: u16, server: u32, incarnation: u64) -> Life {
        let vip = "198.18.0.100:80".parse().unwrap();
        let key = Key::new(6, ([198, 18, 0, 1], port).into(), vip);
        let (group, server) = (GroupId(1), ServerId(server));
        Life { key, group, server, incarnation, sent_to: 0, snapshot: None }
    }

    fn digest(hasher: Hasher64, lives: impl IntoIterator<Item = Life>) -> Ranges {
        let mut ranges = Ranges::default();
        lives.into_iter().for_each(|life| ranges.add(hasher, &life));
        ranges
    }

    #[test]
    fn the_order_does_not_matter_and_each_connection_does() {
        let hasher = Hasher64::new(7);
        let all: Vec<Life> = (0..2000).map(|port| life(port, 1 + u32::from(port) % 3, 9)).collect();
        let one = digest(hasher, all.clone());
        assert_eq!(digest(hasher, all.iter().rev().copied()), one);
        let differs = |other: &Ranges| one.compare(other).filter(|(_, differs)| *differs).count();
        for (changed, why) in [
            (Life { server: ServerId(77), ..all[5] }, "another server"),
            (Life { incarnation: 10, ..all[5] }, "another life"),
        ] {
            let others = all.iter().map(|life| if *life == all[5] { changed } else { *life });
            assert_eq!(differs(&digest(hasher, others)), 1, "{why}");
        }
        assert_eq!(differs(&digest(hasher, all[1..].iter().copied())), 1, "one is missing");
        assert!(differs(&digest(Hasher64::new(8), all)) > RANGES / 2, "another cluster");
    }

    #[test]
    fn keys_are_spread_over_all_ranges_and_what_changed_is_not_known() {
        let hasher = Hasher64::new(7);
        let mut counts = [0; RANGES];
        (0..u16::MAX).for_each(|port| counts[hasher.range(&life(port, 1, 1).key)] += 1);
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(*least > 150 && *most < 400, "{least} to {most} of 256 on average");
        let mut ranges = digest(hasher, [life(1, 1, 1)]);
        ranges.forget(hasher.range(&life(1, 1, 1).key));
        ranges.add(hasher, &life(1, 2, 1));
        assert_eq!(ranges.compare(&Ranges::default()).count(), RANGES - 1);
        assert!(ranges.compare(&Ranges::default()).all(|(_, differs)| !differs));
    }

    /// Both ends compute it, of any release and machine.
    #[test]
    fn digests_are_the_same_everywhere() {
        let hasher = Hasher64::new(0x0123_4567_89ab_cdef);
        let (range, hash) = hasher.life(&life(4711, 3, 5));
        assert_eq!((range, hash), (176, 4_135_261_093_856_418_056));
    }
}
