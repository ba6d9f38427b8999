//! Packets in parts: where the first fragment went, so that the others follow it.
//!
//! Only the first fragment shows ports. A forwarded one leaves an entry here under addresses,
//! protocol and identification (RFC 791 section 3.2, RFC 8200 section 4.5); the others take the
//! same connection. One table for all workers of a node: a NIC may spread packets with ports by
//! their ports and later fragments by their addresses, so the parts of one packet can come on
//! different queues. Fragments are rare, a lock per set of eight costs them little.
//!
//! A later fragment that overtakes the first waits for it, see [`crate::early`], in the set of its
//! packet: one lock guards both, so none can come to wait after the first has looked who does.
//!
//! Guarantees: memory is bounded, that of entries fixed at start ([`FRAGMENTED_MAX`] packets at once;
//! the oldest of a set gives way, and which set a packet falls into needs the seed to know); no part
//! of a packet passes twice or over another one (RFC 1858, RFC 5722), so who puts it together has no
//! choice of what to believe; nothing passes before the first.

use std::{
    hash::{Hash as _, Hasher as _},
    net::IpAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use siphasher::sip::SipHasher13;
use steadfast_packet::{Fragment, Packet};

use crate::{
    Connection, Reason,
    cache::Way,
    early::{Early, Waiting},
    frame::Frame,
};

/// Packets whose fragments are under way at once, per node; half a megabyte of entries.
pub const FRAGMENTED_MAX: usize = SETS * WAYS;

/// How long after a fragment the next one is waited for. Fragments follow each other at the speed
/// of the slowest link; IPv4 identifications come round, at 13,000 fragmented packets a second
/// between two hosts within this time (RFC 4963). The kernel waits 30 s, but for the whole packet.
pub const FRAGMENT_TIMEOUT_NS: u64 = 5_000_000_000;

const SETS: usize = 512;
const WAYS: usize = 8;

/// Separate runs of a packet that have passed. In order there is one; with more gaps than this at
/// once a fragment is refused.
const RUNS_MAX: usize = 8;

/// Where the fragments of packets under way go.
#[derive(Debug)]
pub(crate) struct Fragments {
    hasher: SipHasher13,
    sets: Box<[Mutex<Set>]>,
    /// A fragment may wait somewhere: without it there is nothing to forget.
    waits: AtomicBool,
}

#[derive(Debug, Default)]
struct Set {
    entries: [Option<Entry>; WAYS],
    waiting: Waiting,
}

/// What the fragments of one packet have in common.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Key {
    src: IpAddr,
    dst: IpAddr,
    id: u32,
    protocol: u8,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    until_ns: u64,
    connection: Connection,
    way: Way,
    passed: Passed,
}

/// Which octets of a packet have passed.
#[derive(Debug, Default)]
struct Passed {
    /// Start and end of each run, in order, not touching each other.
    runs: [(u32, u32); RUNS_MAX],
    count: usize,
    /// Where the packet ends, once its last fragment has passed.
    end: Option<u32>,
}

impl Fragments {
    /// An empty table; who does not know the seed cannot aim at a set.
    pub(crate) fn new(seed: [u64; 2]) -> Self {
        let hasher = SipHasher13::new_with_keys(seed[0], seed[1]);
        let sets = (0..SETS).map(|_| Mutex::default()).collect();
        Self { hasher, sets, waits: AtomicBool::new(false) }
    }

    /// Notes where the first fragment of a packet goes; gives those that waited for it.
    ///
    /// # Errors
    /// Why it may not pass: it came before.
    pub(crate) fn open(
        &self,
        now_ns: u64,
        packet: &Packet,
        fragment: &Fragment,
        connection: &Connection,
        way: Way,
    ) -> Result<Vec<Early>, Reason> {
        let key = Key::of(packet, fragment);
        let mut set = self.set(&key);
        if let Some(entry) = find(&mut set.entries, now_ns, &key) {
            return entry.passed.add(fragment).map(|()| Vec::new());
        }
        let mut passed = Passed::default();
        passed.add(fragment)?;
        let (connection, until_ns) = (connection.clone(), now_ns + FRAGMENT_TIMEOUT_NS);
        let entry = Entry { key, until_ns, connection, way, passed };
        let age = |place: &&mut Option<Entry>| place.as_ref().map_or(0, |entry| entry.until_ns);
        if let Some(place) = set.entries.iter_mut().min_by_key(age) {
            *place = Some(entry);
        }
        Ok(set.waiting.take(now_ns, &key))
    }

    /// Where a later fragment goes: where the first one went. If that is not known, a copy of the
    /// frame waits for it, where it may.
    ///
    /// # Errors
    /// Why it may not pass, or not now: the first is not known, or what it brings has passed.
    pub(crate) fn follow(
        &self,
        frame: &Frame<'_>,
        packet: &Packet,
        fragment: &Fragment,
        may_wait: bool,
    ) -> Result<(Connection, Way), Reason> {
        let (now_ns, key) = (frame.now_ns, Key::of(packet, fragment));
        let mut set = self.set(&key);
        let Set { entries, waiting } = &mut *set;
        let Some(entry) = find(entries, now_ns, &key) else {
            let waits = may_wait && waiting.add(frame, key);
            if waits {
                self.waits.store(true, Ordering::Release);
            }
            return Err(if waits { Reason::FragmentEarly } else { Reason::FragmentUnknown });
        };
        entry.passed.add(fragment)?;
        entry.until_ns = now_ns + FRAGMENT_TIMEOUT_NS;
        let found = (entry.connection.clone(), entry.way);
        if entry.passed.is_whole() {
            // The identification may come again at once.
            let whole = |place: &&mut Option<Entry>| place.as_ref().is_some_and(|e| e.key == key);
            if let Some(place) = entries.iter_mut().find(whole) {
                *place = None;
            }
        }
        Ok(found)
    }

    /// Forgets what has waited for too long.
    pub(crate) fn advance(&self, now_ns: u64) {
        if !self.waits.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut waits = false;
        for set in &self.sets {
            // Who holds the lock forgets by itself what is in its way.
            waits |= set.try_lock().map_or(true, |mut set| {
                set.waiting.forget(now_ns);
                !set.waiting.is_empty()
            });
        }
        if waits {
            self.waits.store(true, Ordering::Release);
        }
    }

    fn set(&self, key: &Key) -> std::sync::MutexGuard<'_, Set> {
        let mut hasher = self.hasher;
        key.hash(&mut hasher);
        let set = &self.sets[hasher.finish() as usize % SETS];
        set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find<'a>(
    entries: &'a mut [Option<Entry>; WAYS],
    now_ns: u64,
    key: &Key,
) -> Option<&'a mut Entry> {
    entries.iter_mut().flatten().find(|entry| entry.key == *key && now_ns < entry.until_ns)
}

impl Key {
    fn of(packet: &Packet, fragment: &Fragment) -> Self {
        let Packet { src, dst, .. } = *packet;
        // In IPv6 the protocol is no part of it, and is not the same in all fragments (RFC 8200
        // section 4.5: only that of the first is used).
        let protocol = if packet.is_ipv6() { 0 } else { fragment.protocol };
        Self { src, dst, id: fragment.id, protocol }
    }
}

impl Passed {
    /// Adds a fragment if no octet of it has passed.
    fn add(&mut self, fragment: &Fragment) -> Result<(), Reason> {
        let (start, end) = (fragment.offset, fragment.offset + fragment.len);
        let runs = &self.runs[..self.count];
        let furthest = runs.last().map_or(0, |run| run.1);
        let overlaps = runs.iter().any(|run| run.0 < end && start < run.1);
        let beyond = self.end.is_some_and(|last| last < end);
        let too_short = !fragment.more && end < furthest;
        if overlaps || beyond || too_short {
            return Err(Reason::FragmentOverlap);
        }
        let before = runs.iter().position(|run| start < run.0).unwrap_or(self.count);
        let joins_left = before > 0 && runs[before - 1].1 == start;
        let joins_right = before < self.count && runs[before].0 == end;
        match (joins_left, joins_right) {
            (true, true) => {
                self.runs[before - 1].1 = self.runs[before].1;
                self.runs.copy_within(before + 1..self.count, before);
                self.count -= 1;
            }
            (true, false) => self.runs[before - 1].1 = end,
            (false, true) => self.runs[before].0 = start,
            (false, false) if self.count == RUNS_MAX => return Err(Reason::FragmentOverlap),
            (false, false) => {
                self.runs.copy_within(before..self.count, before + 1);
                self.runs[before] = (start, end);
                self.count += 1;
            }
        }
        if !fragment.more {
            self.end = Some(end);
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.end.is_some_and(|end| self.runs[..self.count] == [(0, end)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(offset: u32, len: u32, more: bool) -> Fragment {
        Fragment { id: 1, protocol: 17, offset, len, more }
    }

    /// (description, fragments with whether they may pass, whether the packet is whole then)
    type Case = (&'static str, &'static [(u32, u32, bool, bool)], bool);

    #[test]
    fn no_octet_passes_twice() {
        let cases: [Case; 10] = [
            ("in order", &[(0, 8, true, true), (8, 8, true, true), (16, 5, false, true)], true),
            (
                "last before middle",
                &[(0, 8, true, true), (16, 5, false, true), (8, 8, true, true)],
                true,
            ),
            ("a hole", &[(0, 8, true, true), (16, 5, false, true)], false),
            ("no end", &[(0, 8, true, true), (8, 8, true, true)], false),
            ("the same again", &[(0, 8, true, true), (0, 8, true, false)], false),
            ("over the first", &[(0, 24, true, true), (16, 16, true, false)], false),
            (
                "around another",
                &[(0, 8, true, true), (16, 8, true, true), (8, 24, true, false)],
                false,
            ),
            (
                "beyond the end",
                &[(0, 8, true, true), (16, 5, false, true), (24, 8, true, false)],
                false,
            ),
            (
                "an end before what passed",
                &[(0, 8, true, true), (24, 8, true, true), (8, 8, false, false)],
                false,
            ),
            (
                "a refused one leaves no trace",
                &[(0, 8, true, true), (0, 16, true, false), (8, 8, false, true)],
                true,
            ),
        ];
        for (description, fragments, whole) in cases {
            let mut passed = Passed::default();
            for (offset, len, more, passes) in fragments {
                let result = passed.add(&part(*offset, *len, *more));
                assert_eq!(result.is_ok(), *passes, "{description}: {offset}");
            }
            assert_eq!(passed.is_whole(), whole, "{description}: {passed:?}");
        }
    }

    #[test]
    fn gaps_are_bounded() {
        let mut passed = Passed::default();
        for run in 0..RUNS_MAX as u32 {
            assert_eq!(passed.add(&part(run * 16, 8, true)), Ok(()));
        }
        let far = RUNS_MAX as u32 * 16;
        assert_eq!(passed.add(&part(far, 8, true)), Err(Reason::FragmentOverlap));
        // What fills a gap always has room.
        for run in (0..RUNS_MAX as u32 - 1).rev() {
            assert_eq!(passed.add(&part(run * 16 + 8, 8, true)), Ok(()));
        }
        assert_eq!(passed.count, 1);
        assert_eq!(passed.add(&part(far, 8, false)), Ok(()), "room again");
    }

    /// Any order of any cut passes wholly and once, as long as the gaps are few.
    #[test]
    fn any_order_of_few_parts_is_whole_in_the_end() {
        let parts: Vec<Fragment> = (0..6).map(|n| part(n * 8, 8, n < 5)).collect();
        let mut order: Vec<usize> = (0..6).collect();
        // Heap's algorithm over all 720 orders.
        let (mut counters, mut at) = ([0; 6], 0);
        let check = |order: &[usize]| {
            let mut passed = Passed::default();
            for index in order {
                assert!(!passed.is_whole());
                assert_eq!(passed.add(&parts[*index]), Ok(()), "{order:?}");
                assert_eq!(passed.add(&parts[*index]), Err(Reason::FragmentOverlap));
            }
            assert!(passed.is_whole(), "{order:?}");
        };
        check(&order);
        while at < 6 {
            if counters[at] < at {
                order.swap(if at % 2 == 0 { 0 } else { counters[at] }, at);
                check(&order);
                counters[at] += 1;
                at = 0;
            } else {
                counters[at] = 0;
                at += 1;
            }
        }
    }

    /// The memory is what it is at the start.
    #[test]
    fn entries_are_small() {
        const { assert!(size_of::<Option<Entry>>() <= 160) };
        const { assert!(FRAGMENTED_MAX * size_of::<Option<Entry>>() <= 640 << 10) };
    }
}
