//! The connection table: shared by workers, replication and the API.
//!
//! Connections lie in a [`Slab`], two [`Index`]es lead to their slots, and the [`Ledger`] keeps the
//! slots in order; what comes, goes or changes its state does so under the ledger's lock.
//!
//! Guarantees: look-ups take no lock, but for one that finds nothing while a writer stands still in
//! the middle of a change, and read a bounded number of places, whatever clients send (the hash has
//! a secret key); at most `connections_max` connections exist, and `half_open_max` half-open ones
//! beside them, and memory for all is reserved at start; a connection that left the table is dead
//! before the call returns. Who goes when there is no room: see `room.rs`.
//! Not guaranteed: that a found connection is still in the table (look at [`Connection::is_dead`]).
//!
//! Lock order: the ledger, then the epochs of the slab, then the templates.

use std::{
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
};

use steadfast_known_bugs::{Bug, is_on};
use steadfast_packet::Plain;

use crate::{
    Class, Config, Connection, Deltas, FlowKey, Gone, GroupId, Groups, NewConnection, Origin,
    Protocol, Provenance, Record, ReplyKey, Role, ServerId, ServerLoad, ServiceId, State, Target,
    Template, Templates, Timeouts,
    cache::Way,
    connection,
    express::PlainEnds,
    index::{Index, Mirror},
    ledger::{Entry, Ledger},
    prepare::Trail,
    sip::sip13,
    slab::{self, Place, Slab},
    sources::Sources,
};

/// How a table is made.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TableOptions {
    /// `connections_max`.
    pub connections_max: usize,
    /// `half_open_max`.
    pub half_open_max: usize,
    /// Key of the hash: random, drawn by the driver, so that clients cannot choose collisions.
    pub seed: [u64; 2],
}

/// The connection table.
#[derive(Debug)]
pub struct ConnectionTable {
    slab: Arc<Slab>,
    keys: Index,
    replies: Index,
    seed: [u64; 2],
    /// Which server clients of persistent services keep. For every four connections one.
    pub templates: Templates,
    ledger: Mutex<Ledger>,
    /// Slots from here on were never used; for walks.
    high: AtomicU32,
    connections_max: usize,
    half_open_max: usize,
    /// Half-open connections have pushed others out not long before this.
    pub(crate) crowded_until_ns: AtomicU64,
    pub(crate) sources: Sources,
    len: AtomicUsize,
    unbound: AtomicUsize,
}

/// Why a connection was not inserted.
#[derive(Clone, Debug, thiserror::Error)]
pub enum InsertError {
    /// The key is taken.
    #[error("the connection exists already")]
    Exists(Connection),
    /// The server already talks to this client port through another VIP, or to this local port.
    #[error("the server already has a connection from this address and port")]
    ReplyTaken(Connection),
    /// It was removed or replaced meanwhile; try again.
    #[error("the connection changed meanwhile: try again")]
    Gone,
    /// Full of half-open connections, none of which has had its time yet.
    #[error("too many half-open connections: raise half_open_max")]
    HalfOpenFull,
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
    /// How the numbers of its two sides differ.
    pub deltas: Option<Deltas>,
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

/// Empty slots looked at per connection asked for, in one walk step.
const WALK_STRIDE: usize = 16;

/// The fewest and the most templates that there is room for.
const TEMPLATES_MIN: usize = 1 << 10;
const TEMPLATES_MAX: usize = 1 << 20;

/// The most connections a table can number.
pub const CONNECTIONS_CEILING: usize = 1 << 28;

impl ConnectionTable {
    /// An empty table with all its memory reserved.
    #[must_use]
    pub fn new(options: TableOptions) -> Self {
        let max = options.connections_max.clamp(1, CONNECTIONS_CEILING);
        let half_open_max = options.half_open_max.clamp(1, CONNECTIONS_CEILING);
        let slots = (max + half_open_max) as u32;
        Self {
            slab: Arc::new(Slab::new(slots)),
            keys: Index::new(slots),
            replies: Index::new(slots),
            seed: options.seed,
            templates: Templates::new(
                (max / 4).clamp(TEMPLATES_MIN, TEMPLATES_MAX) as u32,
                options.seed,
            ),
            ledger: Mutex::new(Ledger::new(slots, half_open_max)),
            high: AtomicU32::new(0),
            connections_max: max,
            half_open_max,
            crowded_until_ns: AtomicU64::new(0),
            sources: Sources::new(slots as usize),
            len: AtomicUsize::new(0),
            unbound: AtomicUsize::new(0),
        }
    }

    /// Inserts a connection unless its key is taken. When full, makes room as the module says;
    /// what had to go is in `evicted`. `timeouts` are those of its service.
    pub fn insert(
        &self,
        new: NewConnection,
        timeouts: &Timeouts,
        evicted: &mut Vec<Gone>,
    ) -> Result<Connection, InsertError> {
        let mut ledger = self.ledger();
        if let Some(existing) = self.find(&new.record.key) {
            return Err(InsertError::Exists(existing));
        }
        self.check_reply(&new)?;
        let slot = self.make_room(&mut ledger, &new, evicted)?;
        self.put(&mut ledger, slot, new, timeouts)
    }

    /// Inserts a connection unless its key is taken or the table is full; pushes nothing out.
    pub fn insert_without_eviction(
        &self,
        new: NewConnection,
        timeouts: &Timeouts,
    ) -> Result<Connection, InsertError> {
        let mut ledger = self.ledger();
        if let Some(existing) = self.find(&new.record.key) {
            return Err(InsertError::Exists(existing));
        }
        self.check_reply(&new)?;
        let slot = self.room_for_copy(&mut ledger, &new)?;
        self.put(&mut ledger, slot, new, timeouts)
    }

    /// Puts `new` in the place of `old`, if `old` is still what the table holds; they have the same
    /// key. Gives the new connection and what the old one was.
    pub fn replace(
        &self,
        old: &Connection,
        new: NewConnection,
        timeouts: &Timeouts,
    ) -> Result<(Connection, Gone), InsertError> {
        let mut ledger = self.ledger();
        let slot = old.place().slot;
        if old.is_dead() || old.key() != new.record.key {
            return Err(InsertError::Gone);
        }
        let (reply, next) = (old.reply_key(), new.record.reply_key());
        if let Some(next) = next.filter(|next| reply != Some(*next)) {
            self.link_reply(&next, slot)?;
        }
        let (connection, gone) = self.keys.rewriting(|| {
            self.replies.rewriting(|| {
                let gone = self.kill(slot);
                // A sender may have noted its peer in the old one: without the bit that peer would
                // never get the connection's delete.
                let same = gone.incarnation() == new.record.incarnation;
                (self.write(slot, &new, if same { gone.sent_to() } else { 0 }), gone)
            })
        });
        if let Some(reply) = reply.filter(|reply| next != Some(*reply)) {
            self.replies.remove(self.hash_reply(&reply), slot);
        }
        ledger.vacate(slot, gone.record().server);
        ledger.fill(slot, &entry(&connection, timeouts));
        self.release(&gone);
        match (gone.record().target.is_none(), new.record.target.is_none()) {
            (true, false) => drop(self.unbound.fetch_sub(1, Ordering::Relaxed)),
            (false, true) => drop(self.unbound.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
        Ok((connection, gone))
    }

    /// Tells a connection its server; it is another one then, and all that changes goes with it.
    pub(crate) fn bind_to(&self, old: &Connection, target: Target) -> Option<Connection> {
        let _ledger = self.ledger();
        let slot = old.place().slot;
        if old.is_dead() || old.target().is_some() {
            return None;
        }
        let record = Record { target: Some(target), ..old.record() };
        if let Some(reply) = record.reply_key() {
            self.link_reply(&reply, slot).ok()?;
        }
        let connection = self.keys.rewriting(|| {
            self.replies.rewriting(|| {
                let word = self.close(slot);
                let bits = self.slab.write(slot, &record);
                self.open(slot, word & slab::KEPT | bits)
            })
        });
        self.unbound.fetch_sub(1, Ordering::Relaxed);
        Some(connection)
    }

    /// Notes how the numbers of a connection's two sides differ; nothing when it is gone.
    pub fn set_deltas(&self, connection: &Connection, deltas: &Deltas) {
        if connection.deltas().unwrap_or_default() != *deltas {
            self.change_deltas(connection, |_| Some(*deltas));
        }
    }

    /// Changes how the numbers of a connection's two sides differ, unless `change` gives none: what
    /// they are then. No other changes them in between; who reads them finds the old or the new ones.
    pub(crate) fn change_deltas(
        &self,
        connection: &Connection,
        change: impl FnOnce(Deltas) -> Option<Deltas>,
    ) -> Deltas {
        let _ledger = self.ledger();
        let old = connection.deltas().unwrap_or_default();
        let Some(new) = change(old).filter(|_| !connection.is_dead()) else { return old };
        let place = connection.place();
        self.slab.write_deltas(place.slot, &new);
        self.slab.update(place, |word| Some(word | slab::HAS_DELTAS));
        new
    }

    /// The server of a connection has answered; false when that was known, or it is gone.
    pub(crate) fn finish_handshake(&self, connection: &Connection, deltas: &Deltas) -> bool {
        let _ledger = self.ledger();
        if connection.handshake().is_none() {
            return false;
        }
        let place = connection.place();
        self.slab.write_deltas(place.slot, deltas);
        self.slab.forget_handshake(place.slot);
        self.slab.update(place, |word| Some(word & !slab::SHAKING)).is_some()
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
    pub fn remove(&self, key: &FlowKey, incarnation: u64) -> Option<Gone> {
        self.remove_if(key, |connection| connection.incarnation() == incarnation)
    }

    /// Removes the connection of this key if `condition` holds for it.
    pub(crate) fn remove_if(
        &self,
        key: &FlowKey,
        condition: impl FnOnce(&Connection) -> bool,
    ) -> Option<Gone> {
        let mut ledger = self.ledger();
        let connection = self.find(key)?;
        condition(&connection).then(|| self.take(&mut ledger, connection.place().slot))
    }

    /// Brings the order of eviction and the timer of a connection up to date.
    pub(crate) fn note(&self, ledger: &mut Ledger, connection: &Connection, timeouts: &Timeouts) {
        if !connection.is_dead() {
            ledger.update(connection.place().slot, &entry(connection, timeouts));
        }
    }

    /// A snapshot of this generation has a record of the connection; never goes back.
    pub(crate) fn confirm(&self, connection: &Connection, snapshot: u64) {
        let _ledger = self.ledger();
        let snapshot = stamp(snapshot);
        let confirms = !is_on(Bug::SnapshotNotConfirmed);
        if confirms && !connection.is_dead() && connection.snapshot() < snapshot {
            let cell = &self.slab.cold(connection.place().slot)[slab::SNAPSHOT];
            let low = cell.load(Ordering::Relaxed) & u64::from(u32::MAX);
            cell.store(u64::from(snapshot) << 32 | low, Ordering::Relaxed);
        }
    }

    /// The connection of a key.
    #[must_use]
    pub fn find(&self, key: &FlowKey) -> Option<Connection> {
        self.locate(key).map(|place| self.at(place))
    }

    /// The NAT or full-NAT connection a return packet belongs to.
    #[must_use]
    pub fn find_reply(&self, key: &ReplyKey) -> Option<Connection> {
        self.locate_reply(key).map(|place| self.at(place))
    }

    /// As [`Self::find`], for packets.
    pub(crate) fn locate(&self, key: &FlowKey) -> Option<Place> {
        self.locate_at(self.hash(key), key)
    }

    /// As [`Self::find_reply`], for packets.
    pub(crate) fn locate_reply(&self, key: &ReplyKey) -> Option<Place> {
        self.locate_reply_at(self.hash_reply(key), key)
    }

    /// As [`Self::locate`]; `hash` is that of the key.
    pub(crate) fn locate_at(&self, hash: u64, key: &FlowKey) -> Option<Place> {
        self.search(&self.keys, hash, |slot| {
            let place = self.slab.occupant(slot)?;
            (self.slab.has_key(slot, key) && self.slab.is_live(place)).then_some(place)
        })
    }

    /// As [`Self::locate_reply`]; `hash` is that of the key.
    pub(crate) fn locate_reply_at(&self, hash: u64, key: &ReplyKey) -> Option<Place> {
        self.search(&self.replies, hash, |slot| {
            let place = self.slab.occupant(slot)?;
            let same = self.slab.reply_key(slot)? == *key;
            (same && self.slab.is_live(place)).then_some(place)
        })
    }

    /// The handle of a connection.
    pub(crate) fn at(&self, place: Place) -> Connection {
        Connection::new(Arc::clone(&self.slab), place)
    }

    /// Up to `max` connections and where to go on; `None` at the end. A step may return fewer, even
    /// none, before the end: it looks at a bounded number of places.
    ///
    /// A connection that is in the table from the first call to the last is seen exactly once.
    #[must_use]
    pub fn walk(&self, cursor: Cursor, max: usize) -> (Vec<Connection>, Option<Cursor>) {
        let (mut found, high) = (Vec::new(), self.high.load(Ordering::Acquire));
        let mut slot = cursor.0;
        let end = slot.saturating_add(to_u32(max.max(1).saturating_mul(WALK_STRIDE))).min(high);
        while slot < end && found.len() < max {
            found.extend(self.slab.occupant(slot).map(|place| self.at(place)));
            slot += 1;
        }
        (found, (slot < high).then_some(Cursor(slot)))
    }

    /// Templates and connections, the templates first so that a peer has them before the
    /// connections they control. Otherwise as [`Self::walk`].
    #[must_use]
    pub fn walk_all(
        &self,
        cursor: Cursor,
        max: usize,
    ) -> (Vec<Template>, Vec<Connection>, Option<Cursor>) {
        let templates = to_u32(self.templates.max());
        if let Some(at) = cursor.0.checked_sub(templates) {
            let (found, next) = self.walk(Cursor(at), max);
            return (Vec::new(), found, next.map(|next| Cursor(next.0 + templates)));
        }
        let (found, next) = self.templates.walk(cursor.0, max);
        (found, Vec::new(), Some(Cursor(next.unwrap_or(templates))))
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

    /// Of those, half-open ones.
    #[must_use]
    pub fn half_open(&self) -> usize {
        self.ledger().len(Class::HalfOpen)
    }

    /// `half_open_max`.
    #[must_use]
    pub fn half_open_max(&self) -> usize {
        self.half_open_max
    }

    /// Connections that the source of `client` has with a service, of those that were counted by
    /// source; see `Limits::per_source`.
    #[must_use]
    pub fn of_source(&self, service: ServiceId, client: IpAddr) -> u32 {
        self.sources.count(self.source(service, client))
    }

    /// What a look-up of this key does: entries of the index that it reads, at most [`crate::PROBE_MAX`],
    /// and connections that it looks into.
    #[must_use]
    pub fn steps(&self, key: &FlowKey) -> (usize, usize) {
        let slot = self.locate(key).map(|place| place.slot);
        self.keys.steps(self.hash(key), slot)
    }

    /// Counts as many connections of a source as `other` does, of which this is a copy.
    pub(crate) fn count_as(&self, other: &Self, service: ServiceId, client: IpAddr) {
        let hash = self.source(service, client);
        let missing = other.of_source(service, client).saturating_sub(self.sources.count(hash));
        if missing > 0 {
            self.sources.add_many(hash, missing);
        }
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
        on_expired: &mut dyn FnMut(&Gone),
    ) -> Advanced {
        let mut slots = Vec::new();
        let more = self.ledger().due(now_ns, budget, &mut slots);
        let places = slots.into_iter().filter_map(|slot| self.slab.occupant(slot));
        let mut due: Vec<_> = places.map(|place| self.at(place)).collect();
        let expiry = |connection: &Connection| {
            let timeouts = config.timeouts(connection.service());
            let role = groups.role(connection.group());
            let left_ns = groups.left_ns(connection.group());
            match expiry_ns(connection, &timeouts, &role, left_ns) {
                // A holder looks after it; look again when it could be ours.
                u64::MAX => (u64::MAX, now_ns.saturating_add(timeouts.of_ns(connection.state()))),
                expiry_ns => (expiry_ns, expiry_ns),
            }
        };
        let mut expired = 0;
        due.retain(|connection| {
            if expiry(connection).0 > now_ns {
                return true;
            }
            let mut ledger = self.ledger();
            if connection.is_dead() || expiry(connection).0 > now_ns {
                return true;
            }
            let gone = self.take(&mut ledger, connection.place().slot);
            drop(ledger);
            expired += 1;
            on_expired(&gone);
            false
        });
        let mut ledger = self.ledger();
        for connection in &due {
            let (_, look_ns) = expiry(connection);
            if !connection.is_dead() {
                ledger.arm(connection.place().slot, look_ns);
            }
        }
        Advanced { expired, more }
    }

    /// Has the processor fetch a line of the index where a trail may end.
    pub(crate) fn fetch_index(&self, trail: Trail, line: Mirror) {
        self.index(trail.way).fetch(trail.hash, line);
    }

    /// The slot at the end of a trail, most likely, by that line.
    #[inline]
    pub(crate) fn guess(&self, trail: Trail, line: Mirror) -> Option<u32> {
        self.index(trail.way).guess(trail.hash, line)
    }

    /// Has the processor fetch what packets need of a slot.
    pub(crate) fn fetch_slot(&self, slot: u32) {
        self.slab.fetch(slot);
    }

    /// See [`Slab::follow_plain`].
    #[inline]
    pub(crate) fn follow_plain(&self, slot: u32, way: Way, packet: &Plain) -> Option<PlainEnds> {
        self.slab.follow_plain(slot, way, packet)
    }

    /// Where the connection of a key is looked for.
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        key.sip(self.seed)
    }

    /// Where the connection of a return packet is looked for.
    pub(crate) fn hash_reply(&self, key: &ReplyKey) -> u64 {
        key.sip(self.seed)
    }

    /// Both at once over IPv4, of source and destination as they lie in the packet.
    #[inline]
    pub(crate) fn hash_v4(&self, protocol: Protocol, addrs: u64, ports: u32) -> u64 {
        connection::sip_of_v4(self.seed, protocol, addrs, ports)
    }

    /// Takes the lock only when a writer that moves entries did not come to its end meanwhile: it
    /// may have lost its processor. Who holds the lock never finds one at work.
    fn search(
        &self,
        index: &Index,
        hash: u64,
        check: impl Fn(u32) -> Option<Place>,
    ) -> Option<Place> {
        if let Ok(found) = index.find(hash, &check) {
            return found;
        }
        let _ledger = self.ledger();
        index.find(hash, &check).ok()?
    }

    fn index(&self, way: Way) -> &Index {
        match way {
            Way::In => &self.keys,
            Way::Out => &self.replies,
        }
    }

    /// Nothing is pushed out for a connection that its server could not tell from another.
    pub(crate) fn check_reply(&self, new: &NewConnection) -> Result<(), InsertError> {
        let held = new.record.reply_key().and_then(|reply| self.find_reply(&reply));
        held.map_or(Ok(()), |held| Err(InsertError::ReplyTaken(held)))
    }

    /// Puts a connection into a reserved slot, or releases the slot. Its keys are free.
    pub(crate) fn put(
        &self,
        ledger: &mut Ledger,
        slot: u32,
        new: NewConnection,
        timeouts: &Timeouts,
    ) -> Result<Connection, InsertError> {
        let reply = new.record.reply_key();
        if let Some(reply) = &reply
            && !self.replies.insert(self.hash_reply(reply), slot)
        {
            ledger.release(slot);
            return Err(InsertError::Full);
        }
        if !self.keys.insert(self.hash(&new.record.key), slot) {
            if let Some(reply) = &reply {
                self.replies.remove(self.hash_reply(reply), slot);
            }
            ledger.release(slot);
            return Err(InsertError::Full);
        }
        self.high.fetch_max(ledger.high(), Ordering::Release);
        let connection = self.write(slot, &new, 0);
        ledger.fill(slot, &entry(&connection, timeouts));
        self.len.fetch_add(1, Ordering::Relaxed);
        if new.record.target.is_none() {
            self.unbound.fetch_add(1, Ordering::Relaxed);
        }
        Ok(connection)
    }

    /// Takes the connection out of its slot.
    pub(crate) fn take(&self, ledger: &mut Ledger, slot: u32) -> Gone {
        let gone = self.kill(slot);
        let record = gone.record();
        self.keys.remove(self.hash(&record.key), slot);
        if let Some(reply) = record.reply_key() {
            self.replies.remove(self.hash_reply(&reply), slot);
        }
        ledger.vacate(slot, record.server);
        ledger.release(slot);
        self.release(&gone);
        self.len.fetch_sub(1, Ordering::Relaxed);
        if record.target.is_none() {
            self.unbound.fetch_sub(1, Ordering::Relaxed);
        }
        gone
    }

    /// From here on no packet follows the connection in `slot`; what it was.
    fn kill(&self, slot: u32) -> Gone {
        let word = self.close(slot);
        // A sender that notes its peer from here on sees that the connection is gone.
        fence(Ordering::SeqCst);
        let connection = self.at(Place { slot, generation: slab::generation(word) });
        let gone = Gone::new(&connection, word);
        let number = self.slab.cold(slot)[slab::SNAPSHOT].load(Ordering::Relaxed) as u32;
        self.slab.give_origin(number);
        if word & slab::COUNTED != 0 {
            let record = gone.record();
            self.sources.take(self.source(record.service, record.key.client));
        }
        gone
    }

    /// Closes a slot to readers; the word it had.
    fn close(&self, slot: u32) -> u64 {
        let cell = &self.slab.hot(slot)[slab::WORD];
        let word = cell.fetch_and(!slab::OPEN, Ordering::SeqCst);
        // What is written from here on is not read by who still finds the slot open afterwards.
        fence(Ordering::Release);
        word
    }

    /// Opens a slot to readers, under the next generation.
    fn open(&self, slot: u32, bits: u64) -> Connection {
        let cell = &self.slab.hot(slot)[slab::WORD];
        let generation = slab::generation(cell.load(Ordering::Relaxed)).wrapping_add(1);
        cell.store(u64::from(generation) << 32 | bits | slab::OPEN, Ordering::Release);
        self.at(Place { slot, generation })
    }

    /// Writes a connection into a closed slot and opens it.
    fn write(&self, slot: u32, new: &NewConnection, sent_to: u32) -> Connection {
        let relaxed = Ordering::Relaxed;
        let (record, hot, cold) = (&new.record, self.slab.hot(slot), self.slab.cold(slot));
        fence(Ordering::Release);
        hot[slab::PEERS].store(u64::from(sent_to) << 32, relaxed);
        let bits = self.slab.write(slot, record);
        hot[slab::SEEN].store(new.now_ns, relaxed);
        hot[slab::PKTS].store(new.in_pkts & u64::from(u32::MAX), relaxed);
        hot[slab::SYNC].store(0, relaxed);
        cold[slab::INCARNATION].store(record.incarnation, relaxed);
        let ids = u64::from(record.service.0) << 32 | u64::from(record.group.0);
        cold[slab::IDS].store(ids, relaxed);
        let origin = self.slab.take_origin(record.origin);
        let snapshot = u64::from(stamp(new.snapshot)) << 32;
        cold[slab::SNAPSHOT].store(snapshot | u64::from(origin), relaxed);
        let from = match new.provenance {
            Provenance::Local => slab::LOCAL,
            Provenance::Replica => 0,
            Provenance::Donated => slab::DONATED,
        };
        if let Some(deltas) = &new.deltas {
            self.slab.write_deltas(slot, deltas);
        }
        if let Some(handshake) = &new.handshake {
            self.slab.write_handshake(slot, handshake);
        }
        if new.counted {
            self.sources.add(self.source(record.service, record.key.client));
        }
        let flags = [
            (new.assured, slab::ASSURED),
            (new.counted, slab::COUNTED),
            (new.adopted, slab::ADOPTED),
            (new.controlled, slab::CONTROLLED),
            (new.deltas.is_some() || new.handshake.is_some(), slab::HAS_DELTAS),
            (new.handshake.is_some(), slab::SHAKING),
        ];
        let flags = flags.iter().filter(|(set, _)| *set).fold(0, |all, (_, flag)| all | flag);
        self.open(slot, bits | from | flags | new.state as u64)
    }

    /// The hash of a source of connections of a service.
    fn source(&self, service: ServiceId, client: IpAddr) -> u64 {
        let network = match client {
            IpAddr::V4(addr) => u64::from(addr.to_bits()),
            // Who has one address has as many as it wants of these 64 bits (RFC 6177).
            IpAddr::V6(addr) => (addr.to_bits() >> 64) as u64,
        };
        let whose = u64::from(client.is_ipv6()) << 32 | u64::from(service.0);
        sip13(self.seed, [whose, network])
    }

    /// Makes a NAT or full-NAT connection findable by its replies.
    fn link_reply(&self, reply: &ReplyKey, slot: u32) -> Result<(), InsertError> {
        if let Some(held) = self.find_reply(reply).filter(|held| held.place().slot != slot) {
            return Err(InsertError::ReplyTaken(held));
        }
        let fits = self.replies.insert(self.hash_reply(reply), slot);
        if fits { Ok(()) } else { Err(InsertError::Full) }
    }

    pub(crate) fn occupant(&self, slot: u32) -> Option<Place> {
        self.slab.occupant(slot)
    }

    /// Tells the template of a connection that it is gone.
    fn release(&self, gone: &Gone) {
        if gone.is_controlled() {
            let Record { key, service, server, .. } = gone.record();
            self.templates.release(service, key.client, server);
        }
    }

    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Nothing in there panics half-way; a poisoned lock would only repeat another's panic.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the ledger has to know about a connection now.
fn entry(connection: &Connection, timeouts: &Timeouts) -> Entry {
    Entry {
        class: connection.class(),
        active: connection.state().is_active(),
        server: connection.server(),
        deadline_ns: deadline_ns(connection, timeouts),
    }
}

/// A snapshot's generation as it is kept.
pub(crate) fn stamp(snapshot: u64) -> u32 {
    u32::try_from(snapshot).unwrap_or(u32::MAX)
}

fn to_u32(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// When the timer of a connection should be looked at.
fn deadline_ns(connection: &Connection, timeouts: &Timeouts) -> u64 {
    connection.last_seen_ns().saturating_add(timeouts.of_ns(connection.state()))
}

/// When a connection expires; `u64::MAX` while another node looks after it.
///
/// A replica's age counts from the moment this node answered for it: no packet of its client was
/// to be seen here before, or from the moment it was told of no more.
fn expiry_ns(
    connection: &Connection,
    timeouts: &Timeouts,
    role: &Role,
    left_ns: Option<u64>,
) -> u64 {
    let since_ns = match (connection.provenance(), role) {
        (Provenance::Local, _) => 0,
        (_, Role::Other { .. }) if is_on(Bug::ReplicaExpires) => 0,
        _ if is_on(Bug::NoFullTimeout) && !matches!(role, Role::Other { .. }) => 0,
        (_, Role::Holder { since_ns, .. } | Role::NoHolder { since_ns }) => *since_ns,
        (_, Role::Other { .. }) => match left_ns {
            Some(left_ns) => left_ns,
            None => return u64::MAX,
        },
    };
    let from_ns = connection.last_seen_ns().max(since_ns);
    from_ns.saturating_add(timeouts.of_ns(connection.state()))
}
