//! Room in the connection table: who comes in, and who has to go.
//!
//! Half-open connections have places of their own (`half_open_max`), beside those of connections
//! (`connections_max`), and an order of their own. So a flood of SYNs, or of forged datagrams, takes
//! a fixed part of memory, and no place from a connection, nor from a peer's copy of one. A
//! connection moves to the others when it is established; it stays where it is in memory.
//!
//! Guarantees: a half-open connection pushes out only the oldest half-open one, and that one had
//! about [`HALF_OPEN_KEEP_S`]: a handshake that is under way has its time, however many others come.
//! A connection that is established pushes out only the oldest closing one. Established ones stay.
//! Not guaranteed: that `connections_max` is never exceeded. Handshakes that were let in while there
//! was room may end after it has gone, at most `half_open_max` of them; nothing new comes in then.

use std::sync::atomic::Ordering;

use crate::{
    Class, Connection, ConnectionTable, Gone, InsertError, NewConnection, Timeouts,
    bucket::TokenBucket, ledger::Ledger,
};

/// Seconds that a half-open connection is kept at least, an eighth less at worst, when more come
/// than there are places for: the first time-out of a SYN (RFC 6298 section 2).
pub const HALF_OPEN_KEEP_S: u64 = 1;

/// The part of the places that may change hands at once.
const BURST_PART: u64 = 8;

/// For how long half-open connections count as crowded after one found no free place: the time that
/// each has, and long enough that a flood pauses in vain.
const CROWDED_FOR_NS: u64 = HALF_OPEN_KEEP_S * 1_000_000_000;

/// Connections that turn out to be in another class than the ledger knows, while room is made.
const EVICT_TRIES_MAX: usize = 16;

/// The bound of half-open connections, and how fast the oldest give way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HalfOpen {
    max: usize,
    /// In a copy: those that were left out of it.
    absent: usize,
    /// In a copy: no new connection would find a place once it is established.
    refuses: bool,
    turnover: TokenBucket,
}

impl HalfOpen {
    pub(crate) fn new(max: usize) -> Self {
        let each = max as u64 / HALF_OPEN_KEEP_S;
        Self {
            max,
            absent: 0,
            refuses: false,
            turnover: TokenBucket::new(each, (each / BURST_PART).max(1)),
        }
    }

    fn is_full(&self, len: usize) -> bool {
        len + self.absent >= self.max
    }
}

impl ConnectionTable {
    /// As [`Self::insert`]; a finished connection that the server could not tell from the new one
    /// gives way, but only if the new one gets its place. Gives what it was.
    pub(crate) fn insert_over(
        &self,
        new: NewConnection,
        timeouts: &Timeouts,
        evicted: &mut Vec<Gone>,
    ) -> Result<(Connection, Option<Gone>), InsertError> {
        let mut ledger = self.ledger();
        if let Some(existing) = self.find(&new.record.key) {
            return Err(InsertError::Exists(existing));
        }
        let finished = match self.check_reply(&new) {
            Err(InsertError::ReplyTaken(held)) if held.state().is_reusable() => Some(held),
            checked => {
                checked?;
                None
            }
        };
        let slot = self.make_room(&mut ledger, &new, evicted)?;
        let new = self.put(&mut ledger, slot, new, timeouts)?;
        // Room may have been made by that one.
        let held = finished.filter(|held| !held.is_dead());
        Ok((new, held.map(|held| self.take(&mut ledger, held.place().slot))))
    }

    /// A slot for `new`; what had to go for it is in `evicted`.
    pub(crate) fn make_room(
        &self,
        ledger: &mut Ledger,
        new: &NewConnection,
        evicted: &mut Vec<Gone>,
    ) -> Result<u32, InsertError> {
        let is_full = ledger.connections() >= self.connections_max();
        if new.class() != Class::HalfOpen {
            if is_full {
                self.push_out(ledger, Class::Closing, evicted).ok_or(InsertError::Full)?;
            }
            return self.reserve(ledger, evicted).ok_or(InsertError::Full);
        }
        // It would have no place when it is established.
        let stay = |ledger: &mut Ledger| self.longest_in(ledger, Class::Closing).is_none();
        if ledger.half_open.refuses || is_full && stay(ledger) {
            return Err(InsertError::Full);
        }
        if ledger.half_open.is_full(ledger.len(Class::HalfOpen)) {
            // Some may be established and not yet counted so.
            let oldest = self.longest_in(ledger, Class::HalfOpen);
            if ledger.half_open.is_full(ledger.len(Class::HalfOpen)) {
                let until = new.now_ns.saturating_add(CROWDED_FOR_NS);
                self.crowded_until_ns.fetch_max(until, Ordering::Relaxed);
                if !ledger.half_open.turnover.take(new.now_ns) {
                    return Err(InsertError::HalfOpenFull);
                }
                let oldest = oldest.filter(|_| ledger.half_open.absent == 0);
                evicted.extend(oldest.map(|slot| self.take(ledger, slot)));
            }
        }
        self.reserve(ledger, evicted).ok_or(InsertError::Full)
    }

    /// Half-open connections find no place of their own, or did not shortly before: whoever can do
    /// without takes none. One in [`CROWDED_FOR_NS`] tries.
    pub(crate) fn is_crowded(&self, now_ns: u64) -> bool {
        now_ns < self.crowded_until_ns.load(Ordering::Relaxed)
    }

    /// Lets in and refuses new connections as `other` would, which holds more than this copy of it.
    pub(crate) fn bound_as(&self, other: &Self) {
        let (mut half_open, len, refuses) = {
            let ledger = other.ledger();
            let is_full = ledger.connections() >= other.connections_max();
            let refuses = is_full && ledger.len(Class::Closing) == 0;
            (ledger.half_open, ledger.len(Class::HalfOpen), refuses)
        };
        let crowded = other.crowded_until_ns.load(Ordering::Relaxed);
        self.crowded_until_ns.store(crowded, Ordering::Relaxed);
        let mut ledger = self.ledger();
        half_open.absent = len.saturating_sub(ledger.len(Class::HalfOpen));
        half_open.refuses = refuses;
        ledger.half_open = half_open;
    }

    /// A slot for a peer's connection, which pushes nothing out. Half-open ones that find no place of
    /// their own (peers send few) take one of connections.
    pub(crate) fn room_for_copy(
        &self,
        ledger: &mut Ledger,
        new: &NewConnection,
    ) -> Result<u32, InsertError> {
        let is_full = ledger.connections() >= self.connections_max();
        if is_full && new.class() != Class::HalfOpen {
            return Err(InsertError::Full);
        }
        ledger.reserve().ok_or(InsertError::Full)
    }

    /// Brings the order of eviction and the timer up to date; call it after a change of state. What
    /// had to go because this one is half-open no more.
    ///
    /// The state is read under the lock: of two threads that changed it the last one in sees what
    /// both left.
    #[must_use]
    pub fn changed(&self, connection: &Connection, timeouts: &Timeouts) -> Option<Gone> {
        let mut ledger = self.ledger();
        let was = ledger.class(connection.place().slot);
        self.note(&mut ledger, connection, timeouts);
        let joins = was == Class::HalfOpen && connection.class() != Class::HalfOpen;
        if !joins || ledger.connections() <= self.connections_max() {
            return None;
        }
        let slot = self.longest_in(&mut ledger, Class::Closing)?;
        (slot != connection.place().slot).then(|| self.take(&mut ledger, slot))
    }

    /// A free slot. There is one unless connections have more places than they should: then a
    /// half-open or closing one goes.
    fn reserve(&self, ledger: &mut Ledger, evicted: &mut Vec<Gone>) -> Option<u32> {
        ledger.reserve().or_else(|| {
            self.push_out(ledger, Class::HalfOpen, evicted)
                .or_else(|| self.push_out(ledger, Class::Closing, evicted))?;
            ledger.reserve()
        })
    }

    fn push_out(&self, ledger: &mut Ledger, class: Class, evicted: &mut Vec<Gone>) -> Option<()> {
        let slot = self.longest_in(ledger, class)?;
        evicted.push(self.take(ledger, slot));
        Some(())
    }

    /// The slot that is longest in `class`.
    fn longest_in(&self, ledger: &mut Ledger, class: Class) -> Option<u32> {
        for _ in 0..EVICT_TRIES_MAX {
            let slot = ledger.oldest(class)?;
            let now = self.at(self.occupant(slot)?).class();
            if now == class {
                return Some(slot);
            }
            // Its worker has not told the ledger yet, and will set its timer.
            ledger.note_class(slot, now);
        }
        None
    }
}
