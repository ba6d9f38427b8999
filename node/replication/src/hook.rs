//! Watches the packet path and marks what the policy wants copied.
//!
//! Guarantees: a packet costs the policy's arithmetic; the lock
//! of one shard is taken only when a key is marked, and nothing in there waits for a peer.

use std::sync::Arc;

use steadfast_dataplane::{
    Carried, Config, Connection, Gone, Removal, Service, Shared, State, SyncHook, Template,
};
use steadfast_model::GroupId;

use crate::{
    DirtySet,
    adapter::{key_of, key_of_template},
    policy::{self, Packet},
};

/// The observer to give to each worker and to the timer; cloning shares the dirty set.
#[derive(Clone, Debug)]
pub struct ReplicationHook {
    shared: Arc<Shared>,
    dirty: Arc<DirtySet>,
}

impl ReplicationHook {
    /// Watches connections of `shared` and marks in `dirty`.
    #[must_use]
    pub fn new(shared: Arc<Shared>, dirty: Arc<DirtySet>) -> Self {
        Self { shared, dirty }
    }

    /// No other node could find out where it goes, and by which numbers.
    fn deviates(config: &Config, connection: &Connection) -> bool {
        connection.deltas().is_some()
            || !config.is_derivable(connection.server(), &connection.key())
    }

    /// Its template goes over alone.
    //= Linux ip_vs_sync.c, ip_vs_sync_conn_needed(): sync_persist_mode
    fn is_left_out(service: &Service, connection: &Connection) -> bool {
        service.spec.sync.persist_mode && connection.is_controlled()
    }

    fn mark(&self, connection: &Connection) {
        self.dirty.mark(&key_of(&connection.key()), GroupId(connection.group().0));
    }
}

impl SyncHook for ReplicationHook {
    fn forwarded(&self, carried: &Carried<'_>) {
        let Carried { connection, old, new, in_pkts, now_ns, service, config } = *carried;
        let packet =
            Packet { old, new, in_pkts, now_ns, timeout_ns: service.spec.timeouts.of_ns(new) };
        // UDP asks with its first datagram alone, which anybody can send.
        let deviating = || {
            Self::deviates(config, connection)
                && (new != State::Udp || service.take_first_copy(now_ns))
        };
        if !Self::is_left_out(service, connection)
            && policy::wants(&service.spec.sync, &packet, connection, deviating)
        {
            self.mark(connection);
        }
    }

    fn replied(&self, carried: &Carried<'_>) {
        let Carried { connection, old, new, service, config, .. } = *carried;
        // IPVS never looks at replies, but one may be what establishes a connection.
        if !new.is_established() || old == new || Self::is_left_out(service, connection) {
            return;
        }
        if service.spec.sync.on_established || Self::deviates(config, connection) {
            connection.set_synced_state(new);
            self.mark(connection);
        }
    }

    fn renumbered(&self, connection: &Connection) {
        // Whoever does not hear of a reply that got longer shifts all behind it wrongly; whoever
        // believes that a header is under way judges numbers by where it was put, in vain once the
        // client has sent half of all there are.
        let config = self.shared.config.load();
        let service = config.service(connection.service());
        if !service.is_some_and(|service| Self::is_left_out(service, connection)) {
            self.mark(connection);
        }
    }

    fn template(&self, template: &Template, now_ns: u64) {
        let record = &template.record;
        let config = self.shared.config.load();
        let Some(service) = config.service(record.key.service) else { return };
        // Anybody can make one with a forged packet; an assured one is a client's.
        if record.assured || service.take_first_copy(now_ns) {
            self.dirty.mark(&key_of_template(&record.key), GroupId(record.group.0));
        }
    }

    fn template_removed(&self, template: &Template) {
        let Template { record, sent_to, .. } = template;
        let (key, group) = (key_of_template(&record.key), GroupId(record.group.0));
        self.dirty.mark_deleted(&key, group, record.incarnation, *sent_to);
    }

    fn removed(&self, gone: &Gone, _removal: Removal, _now_ns: u64) {
        // Whom it was sent to was read after it died, which pairs with the fence of a sender that
        // looks it up.
        let (key, group) = (key_of(&gone.key()), GroupId(gone.group().0));
        self.dirty.mark_deleted(&key, group, gone.incarnation(), gone.sent_to());
    }
}

#[cfg(test)]
mod tests;
