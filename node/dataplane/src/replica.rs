//! What peers say about connections: how their records meet those that are here.
//!
//! Merge rules, for one key:
//!
//! 1. Absent: the record is inserted; a record whose server is not known yet waits unbound.
//! 2. The same incarnation and server: state and age are taken over, from the holder always, from
//!    a donor only where what is here is half-open.
//! 3. From the holder, another connection: within one epoch the higher incarnation wins. Across
//!    epochs established beats half-open, then the higher epoch wins.
//! 4. From a donor, another connection: only a half-open one gives way, to an established one or
//!    to one of a higher epoch.
//!
//! Guarantees: nothing here pushes a connection out for lack of room; it says [`Applied::Full`], and
//! the copy is not complete.

use crate::{
    Class, Config, Connection, ConnectionTable, Cursor, FlowKey, Gone, InsertError, NewConnection,
    Origin, Provenance, Record, Replica, Sweep,
    table::{Applied, stamp},
};

/// Times a record is merged again because another thread changed what is here meanwhile.
const MERGE_TRIES_MAX: usize = 4;

/// What a record means for the connection that is here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Merge {
    Update,
    Replace,
    Keep,
}

impl ConnectionTable {
    /// Applies a peer's record by the merge rules of this module.
    pub fn apply_replica(&self, replica: &Replica, config: &Config, now_ns: u64) -> Applied {
        let record = Record { target: config.target_of(&replica.record), ..replica.record };
        let timeouts = config.timeouts(record.service);
        let limits = config.service(record.service).map(|service| service.spec.limits);
        let counted = limits.is_some_and(|limits| limits.per_source > 0);
        let connection = NewConnection { counted, ..replica.connection(record, now_ns) };
        for _ in 0..MERGE_TRIES_MAX {
            let Some(here) = self.find(&record.key) else {
                match self.insert_without_eviction(connection, &timeouts) {
                    Ok(connection) => {
                        self.control(&connection, config);
                        return Applied::Inserted;
                    }
                    Err(InsertError::Exists(_) | InsertError::Gone) => continue,
                    Err(InsertError::Full | InsertError::HalfOpenFull) => return Applied::Full,
                    Err(InsertError::ReplyTaken(held)) if self.yield_reply(replica, &held) => {
                        continue;
                    }
                    Err(InsertError::ReplyTaken(_)) => return Applied::Kept,
                }
            };
            match merge(replica, &here) {
                Merge::Keep => {
                    // Confirmed or not, what is here is newer than the snapshot's record of it.
                    self.confirm(&here, replica.snapshot);
                    return Applied::Kept;
                }
                Merge::Update => {
                    if let Some(deltas) = &replica.deltas {
                        self.set_deltas(&here, deltas);
                    }
                    here.set_state(replica.state);
                    here.touch(now_ns);
                    self.confirm(&here, replica.snapshot);
                    if replica.assured {
                        here.assure();
                    }
                    if !replica.donated {
                        here.become_replica();
                    }
                    self.note(&mut self.ledger(), &here, &timeouts);
                    return Applied::Updated;
                }
                Merge::Replace => match self.replace(&here, connection, &timeouts) {
                    Ok((connection, _)) => {
                        self.control(&connection, config);
                        return Applied::Replaced;
                    }
                    Err(InsertError::ReplyTaken(held)) if !self.yield_reply(replica, &held) => {
                        return Applied::Kept;
                    }
                    Err(_) => continue,
                },
            }
        }
        Applied::Kept
    }

    /// Counts a copied connection with the copy of its template, if that led it there.
    fn control(&self, connection: &Connection, config: &Config) {
        let service = config.service(connection.service());
        if service.is_none_or(|service| service.spec.persistence.is_none()) {
            return;
        }
        let (service, client) = (connection.service(), connection.key().client);
        let server = connection.server();
        // Removed meanwhile: nobody else will tell.
        if self.templates.hold(service, client, server) && !connection.set_controlled() {
            self.templates.release(service, client, server);
        }
    }

    /// Applies the holder's delete of `incarnation` and older ones of that key, unless what is here
    /// is of a higher epoch than `epoch`, the sender's.
    pub fn delete_replica(&self, key: &FlowKey, incarnation: u64, epoch: Origin) -> Option<Gone> {
        // Older ones too: the sender may never have sent the one that replaced them.
        self.remove_if(key, |here| here.incarnation() <= incarnation && here.origin() <= epoch)
    }

    /// Removes replicas that a finished snapshot did not confirm, among up to `max` connections
    /// that pass `of_shard`. Returns how many went and where to go on.
    pub fn sweep(
        &self,
        sweep: &Sweep,
        of_shard: &dyn Fn(&FlowKey) -> bool,
        cursor: Cursor,
        max: usize,
    ) -> (usize, Option<Cursor>) {
        let (found, next) = self.walk(cursor, max);
        let stale = |here: &Connection| {
            here.group() == sweep.group
                && here.provenance() == Provenance::Replica
                && here.snapshot() < stamp(sweep.snapshot)
                && here.origin() <= sweep.epoch
        };
        let mut removed = 0;
        for connection in found {
            let key = connection.key();
            if stale(&connection) && of_shard(&key) {
                let gone = self.remove_if(&key, |held| *held == connection && stale(held));
                removed += usize::from(gone.is_some());
            }
        }
        (removed, next)
    }

    /// Binds records whose server `config` knows, among up to `max` connections.
    pub fn bind(&self, config: &Config, cursor: Cursor, max: usize) -> (usize, Option<Cursor>) {
        let (found, next) = self.walk(cursor, max);
        let bound = found.iter().filter(|connection| self.bind_one(connection, config).is_some());
        (bound.count(), next)
    }

    /// Binds one record, if `config` knows its server.
    pub(crate) fn bind_one(&self, connection: &Connection, config: &Config) -> Option<Connection> {
        if connection.target().is_some() {
            return None;
        }
        let target = config.target_of(&connection.record())?;
        self.bind_to(connection, target)
    }

    /// Another VIP's connection has the server's place for this client port: it goes if it is worth
    /// less. Two live connections cannot share it, and the holder's is the one in use.
    fn yield_reply(&self, replica: &Replica, held: &Connection) -> bool {
        if held.class() >= replica.state.class() && held.origin() >= replica.record.origin {
            return false;
        }
        self.remove_if(&held.key(), |here| here == held).is_some()
    }
}

impl Replica {
    fn connection(&self, record: Record, now_ns: u64) -> NewConnection {
        let provenance = if self.donated { Provenance::Donated } else { Provenance::Replica };
        NewConnection {
            in_pkts: self.in_pkts,
            assured: self.assured,
            snapshot: self.snapshot,
            deltas: self.deltas,
            ..NewConnection::new(record, self.state, provenance, now_ns)
        }
    }
}

/// The rules of this module.
fn merge(replica: &Replica, here: &Connection) -> Merge {
    let (new, old) = (&replica.record, &here.record());
    let half_open = here.class() == Class::HalfOpen;
    let established = replica.state.class() != Class::HalfOpen;
    if (new.incarnation, new.server) == (old.incarnation, old.server) {
        return if !replica.donated || half_open { Merge::Update } else { Merge::Keep };
    }
    let wins = if replica.donated {
        half_open && (established || new.origin > old.origin)
    } else if new.origin == old.origin {
        new.incarnation > old.incarnation
    } else if half_open == established {
        established
    } else {
        new.origin > old.origin
    };
    if wins { Merge::Replace } else { Merge::Keep }
}
