//! The connection table: shared by workers, replication and the API.
//!
//! Guarantees: no method returns a guard, so no caller can hold a lock; at most `connections_max`
//! connections exist, and memory for them is reserved at start; a connection that left the table
//! is dead before the call returns. When the table is full the oldest half-open connection goes,
//! then the oldest closing one, and then new ones are refused; established ones stay.
//! Not guaranteed: that a found connection is still in the table (look at [`Connection::is_dead`]).
//!
//! Lock order: shard of a key, then shard of its reply key, then the ledger. Nothing takes a lock
//! to the left of one it holds.

use std::{
    hash::BuildHasher,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering, fence},
    },
};

use dashmap::{DashMap, Entry};
use siphasher::sip::SipHasher13;

use crate::{
    Class, Config, Connection, FlowKey, GroupId, Groups, Origin, Provenance, Record, ReplyKey,
    Role, ServerId, ServerLoad, State, Timeouts, ledger::Ledger,
};

/// How a table is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableOptions {
    /// `connections_max`.
    pub connections_max: usize,
    /// Key of the hash: random, drawn by the driver, so that clients cannot choose collisions.
    pub seed: [u64; 2],
}

/// The connection table.
#[derive(Debug)]
pub struct ConnectionTable {
    connections: DashMap<FlowKey, Arc<Connection>, Keyed>,
    replies: DashMap<ReplyKey, Arc<Connection>, Keyed>,
    ledger: Mutex<Ledger>,
    connections_max: usize,
    len: AtomicUsize,
    unbound: AtomicUsize,
}

/// Why a connection was not inserted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InsertError {
    /// The key is taken.
    #[error("the connection exists already")]
    Exists(Arc<Connection>),
    /// The server already talks to this client port through another VIP.
    #[error("the server already has a connection from this client address and port")]
    ReplyTaken(Arc<Connection>),
    /// It was removed or replaced meanwhile; try again.
    #[error("the connection changed meanwhile: try again")]
    Gone,
    /// Full of established connections.
    #[error("the table is full of established connections: raise connections_max")]
    Full,
}

/// A connection as a peer describes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Replica {
    /// The record; `target` is filled in from the configuration and need not be set.
    pub record: Record,
    /// State at the sender.
    pub state: State,
    /// Inbound packets to start with (IPVS: the `sync_threshold`).
    pub in_pkts: u64,
    /// The sender has seen a conversation, not one datagram that may be forged.
    pub assured: bool,
    /// A deposed holder gives it, rather than the holder sending it.
    pub donated: bool,
    /// Snapshot generation it belongs to; see [`ConnectionTable::sweep`].
    pub snapshot: u64,
}

/// What became of a replica.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Applied {
    /// It was not known.
    Inserted,
    /// Known; state and age were taken over.
    Updated,
    /// It took the place of another connection of the same key.
    Replaced,
    /// What is here is worth more.
    Kept,
    /// No room: the copy is not complete.
    Full,
}

/// What a sweep removes: replicas of `group` that `snapshot` did not confirm.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sweep {
    /// The group the snapshot is of.
    pub group: GroupId,
    /// Replicas stamped with an older generation go.
    pub snapshot: u64,
    /// Records of a higher epoch than the sender's stay.
    pub epoch: Origin,
}

/// What one call of [`ConnectionTable::advance`] did.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Advanced {
    /// Connections that expired.
    pub expired: usize,
    /// There is more to do at this time.
    pub more: bool,
}

/// Where a walk stands; start with the default.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Cursor(u32);

/// Tries to make room for one connection: other threads may take what was freed.
const EVICT_TRIES_MAX: usize = 4;

/// The most connections a table can number.
pub const CONNECTIONS_CEILING: usize = 1 << 28;

/// SipHash under a secret key: clients choose the tuples.
#[derive(Clone, Copy, Debug)]
struct Keyed([u64; 2]);

impl BuildHasher for Keyed {
    type Hasher = SipHasher13;

    fn build_hasher(&self) -> SipHasher13 {
        SipHasher13::new_with_keys(self.0[0], self.0[1])
    }
}

impl ConnectionTable {
    /// An empty table with all its memory reserved.
    #[must_use]
    pub fn new(options: TableOptions) -> Self {
        let max = options.connections_max.clamp(1, CONNECTIONS_CEILING);
        let keyed = Keyed(options.seed);
        Self {
            connections: DashMap::with_capacity_and_hasher(max, keyed),
            replies: DashMap::with_capacity_and_hasher(max, keyed),
            ledger: Mutex::new(Ledger::new(max as u32)),
            connections_max: max,
            len: AtomicUsize::new(0),
            unbound: AtomicUsize::new(0),
        }
    }

    /// Inserts a connection unless its key is taken. When full, makes room as the module says;
    /// what had to go is in `evicted`. `timeouts` are those of its service.
    pub fn insert(
        &self,
        connection: Connection,
        timeouts: &Timeouts,
        evicted: &mut Vec<Arc<Connection>>,
    ) -> Result<Arc<Connection>, InsertError> {
        if let Some(existing) = self.find(&connection.key()) {
            return Err(InsertError::Exists(existing));
        }
        let mut tries = 0;
        let slot = loop {
            match self.make_room(evicted) {
                Some(slot) => break slot,
                None if tries < EVICT_TRIES_MAX && self.has_victim() => tries += 1,
                None => return Err(InsertError::Full),
            }
        };
        self.insert_into(slot, connection, timeouts)
    }

    /// Inserts a connection unless its key is taken or the table is full; pushes nothing out.
    pub fn insert_without_eviction(
        &self,
        connection: Connection,
        timeouts: &Timeouts,
    ) -> Result<Arc<Connection>, InsertError> {
        if let Some(existing) = self.find(&connection.key()) {
            return Err(InsertError::Exists(existing));
        }
        let slot = self.ledger().reserve().ok_or(InsertError::Full)?;
        self.insert_into(slot, connection, timeouts)
    }

    /// Puts `connection` in the place of `old`, if `old` is still what the table holds; they have
    /// the same key.
    pub fn replace(
        &self,
        old: &Arc<Connection>,
        connection: Connection,
        timeouts: &Timeouts,
    ) -> Result<Arc<Connection>, InsertError> {
        let Entry::Occupied(mut entry) = self.connections.entry(old.key()) else {
            return Err(InsertError::Gone);
        };
        if !Arc::ptr_eq(entry.get(), old) || connection.key() != old.key() {
            return Err(InsertError::Gone);
        }
        let connection = Arc::new(connection);
        self.link_reply(&connection, Some(old))?;
        old.kill();
        if old.incarnation() == connection.incarnation() {
            // A sender may have noted its peer in the old entry after it was copied: without the
            // bit that peer would never get the connection's delete.
            fence(Ordering::SeqCst);
            connection.note_sent_to(old.sent_to());
        }
        if old.reply_key() != connection.reply_key() {
            self.unlink_reply(old);
        }
        let deadline_ns = deadline_ns(&connection, timeouts);
        self.ledger().swap(old, &connection, deadline_ns);
        self.count_unbound(&connection, old);
        entry.insert(Arc::clone(&connection));
        Ok(connection)
    }

    /// What a server carries.
    pub fn load(&self, server: ServerId) -> Arc<ServerLoad> {
        self.ledger().load(server)
    }

    /// Shows the schedulers of a configuration what their servers carry.
    pub(crate) fn attach_loads(&self, config: &Config) {
        let mut ledger = self.ledger();
        ledger.retain_loads(|server| config.server(server).is_some());
        let ledger = std::cell::RefCell::new(ledger);
        for service in config.services() {
            service.attach_loads(|server| ledger.borrow_mut().load(server));
        }
    }

    /// Removes the connection of this key and incarnation.
    pub fn remove(&self, key: &FlowKey, incarnation: u64) -> Option<Arc<Connection>> {
        self.remove_if(key, |connection| connection.incarnation() == incarnation)
    }

    /// Removes the connection of this key if `condition` holds for it.
    pub(crate) fn remove_if(
        &self,
        key: &FlowKey,
        condition: impl FnOnce(&Arc<Connection>) -> bool,
    ) -> Option<Arc<Connection>> {
        let Entry::Occupied(entry) = self.connections.entry(*key) else { return None };
        if !condition(entry.get()) {
            return None;
        }
        let connection = entry.get();
        connection.kill();
        self.unlink_reply(connection);
        self.ledger().remove(connection);
        self.len.fetch_sub(1, Ordering::Relaxed);
        if connection.target().is_none() {
            self.unbound.fetch_sub(1, Ordering::Relaxed);
        }
        Some(entry.remove())
    }

    /// Brings the order of eviction and the timer up to date; call it after a change of state.
    pub fn changed(&self, connection: &Arc<Connection>, timeouts: &Timeouts) {
        let deadline_ns = deadline_ns(connection, timeouts);
        self.ledger().update(connection, deadline_ns);
    }

    /// The connection of a key.
    #[must_use]
    pub fn find(&self, key: &FlowKey) -> Option<Arc<Connection>> {
        self.connections.get(key).map(|entry| Arc::clone(entry.value()))
    }

    /// The NAT connection a return packet belongs to.
    #[must_use]
    pub fn find_reply(&self, key: &ReplyKey) -> Option<Arc<Connection>> {
        self.replies.get(key).map(|entry| Arc::clone(entry.value()))
    }

    /// Up to `max` connections and where to go on; `None` at the end. A step may return fewer, even
    /// none, before the end: it looks at a bounded number of places.
    ///
    /// A connection that is in the table from the first call to the last is seen exactly once.
    #[must_use]
    pub fn walk(&self, cursor: Cursor, max: usize) -> (Vec<Arc<Connection>>, Option<Cursor>) {
        let (found, next) = self.ledger().walk(cursor.0, max);
        (found, next.map(Cursor))
    }

    /// Connections in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// No connections.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Replicas whose server no configuration here knows.
    #[must_use]
    pub fn unbound(&self) -> usize {
        self.unbound.load(Ordering::Relaxed)
    }

    /// `connections_max`.
    #[must_use]
    pub fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// Expires what is due at `now_ns`, looking at no more than `budget` timers; calls `on_expired`
    /// for each connection that went.
    pub fn advance(
        &self,
        now_ns: u64,
        budget: usize,
        config: &Config,
        groups: &Groups,
        on_expired: &mut dyn FnMut(&Arc<Connection>),
    ) -> Advanced {
        let mut due = Vec::new();
        let more = self.ledger().due(now_ns, budget, &mut due);
        let mut expired = 0;
        due.retain(|connection| {
            let timeouts = config.timeouts(connection.service());
            let role = groups.role(connection.group());
            let removed = self.remove_if(&connection.key(), |held| {
                Arc::ptr_eq(held, connection) && expiry_ns(held, &timeouts, &role) <= now_ns
            });
            if let Some(connection) = &removed {
                expired += 1;
                on_expired(connection);
            }
            removed.is_none()
        });
        let mut ledger = self.ledger();
        for connection in &due {
            let timeouts = config.timeouts(connection.service());
            let role = groups.role(connection.group());
            let deadline_ns = match expiry_ns(connection, &timeouts, &role) {
                // A holder looks after it; look again when it could be ours.
                u64::MAX => now_ns.saturating_add(timeouts.of_ns(connection.state())),
                deadline_ns => deadline_ns,
            };
            ledger.arm(connection, deadline_ns);
        }
        Advanced { expired, more }
    }

    fn insert_into(
        &self,
        slot: u32,
        connection: Connection,
        timeouts: &Timeouts,
    ) -> Result<Arc<Connection>, InsertError> {
        let entry = match self.connections.entry(connection.key()) {
            Entry::Vacant(entry) => entry,
            Entry::Occupied(held) => {
                self.ledger().release(slot);
                return Err(InsertError::Exists(Arc::clone(held.get())));
            }
        };
        let connection = Arc::new(connection);
        if let Err(error) = self.link_reply(&connection, None) {
            self.ledger().release(slot);
            return Err(error);
        }
        let deadline_ns = deadline_ns(&connection, timeouts);
        self.ledger().fill(slot, &connection, deadline_ns);
        self.len.fetch_add(1, Ordering::Relaxed);
        if connection.target().is_none() {
            self.unbound.fetch_add(1, Ordering::Relaxed);
        }
        entry.insert(Arc::clone(&connection));
        Ok(connection)
    }

    /// A slot, pushing out the oldest half-open or closing connection when none is free.
    fn make_room(&self, evicted: &mut Vec<Arc<Connection>>) -> Option<u32> {
        let victim = {
            let mut ledger = self.ledger();
            if let Some(slot) = ledger.reserve() {
                return Some(slot);
            }
            ledger.oldest(Class::HalfOpen).or_else(|| ledger.oldest(Class::Closing))?
        };
        // It may have become established since the ledger was asked.
        evicted.extend(self.remove_if(&victim.key(), |held| {
            Arc::ptr_eq(held, &victim) && held.class() != Class::Established
        }));
        self.ledger().reserve()
    }

    fn has_victim(&self) -> bool {
        let ledger = self.ledger();
        ledger.oldest(Class::HalfOpen).or_else(|| ledger.oldest(Class::Closing)).is_some()
    }

    /// Makes a NAT connection findable by its replies. `instead_of` may hold the place.
    fn link_reply(
        &self,
        connection: &Arc<Connection>,
        instead_of: Option<&Arc<Connection>>,
    ) -> Result<(), InsertError> {
        let Some(key) = connection.reply_key() else { return Ok(()) };
        match self.replies.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(connection));
            }
            Entry::Occupied(mut entry) => {
                let held = entry.get();
                let ours = instead_of.is_some_and(|old| Arc::ptr_eq(held, old));
                if !ours && !held.is_dead() {
                    return Err(InsertError::ReplyTaken(Arc::clone(held)));
                }
                entry.insert(Arc::clone(connection));
            }
        }
        Ok(())
    }

    fn unlink_reply(&self, connection: &Arc<Connection>) {
        if let Some(key) = connection.reply_key() {
            self.replies.remove_if(&key, |_, held| Arc::ptr_eq(held, connection));
        }
    }

    fn count_unbound(&self, new: &Connection, old: &Connection) {
        match (old.target().is_none(), new.target().is_none()) {
            (true, false) => drop(self.unbound.fetch_sub(1, Ordering::Relaxed)),
            (false, true) => drop(self.unbound.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing in there panics half-way; a poisoned lock would only repeat another's panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the timer of a connection should be looked at.
fn deadline_ns(connection: &Connection, timeouts: &Timeouts) -> u64 {
    connection.last_seen_ns().saturating_add(timeouts.of_ns(connection.state()))
}

/// When a connection expires; `u64::MAX` while another node looks after it.
///
/// A replica's age counts from the moment this node answered for it: no packet of its client was
/// to be seen here before.
fn expiry_ns(connection: &Connection, timeouts: &Timeouts, role: &Role) -> u64 {
    let since_ns = match (connection.provenance(), role) {
        (Provenance::Local, _) => 0,
        (_, Role::Holder { since_ns, .. } | Role::NoHolder { since_ns }) => *since_ns,
        (_, Role::Other { .. }) => return u64::MAX,
    };
    let from_ns = connection.last_seen_ns().max(since_ns);
    from_ns.saturating_add(timeouts.of_ns(connection.state()))
}
