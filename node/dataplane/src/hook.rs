//! What the data plane tells an observer, so that replication can decide what to send.
//!
//! Guarantees: `forwarded` is called after an inbound packet of a connection was rewritten for
//! transmission, never for a packet that was dropped. Not guaranteed: an order between calls from
//! different workers for one connection.

use std::sync::Arc;

use crate::{Connection, Gone, State, Target, Template};

/// Why a connection left the table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Removal {
    /// No packet for the time-out of its state.
    Expired,
    /// The table was full and this one was worth least.
    Evicted,
    /// A new opening packet took its place.
    Reused,
    /// Its server left the configuration, and its client was told.
    ServerGone,
}

/// Observer of connections. Called on the packet path: it must not block.
pub trait SyncHook {
    /// An inbound (client to server) packet went out. `old` is the state before this packet,
    /// `in_pkts` counts it.
    fn forwarded(&self, connection: &Connection, old: State, new: State, in_pkts: u64, now_ns: u64);

    /// A return (server to client) packet went out.
    fn replied(&self, _connection: &Connection, _old: State, _new: State, _now_ns: u64) {}

    /// This node scheduled a new connection; its first packet may not have gone out yet.
    fn created(&self, _connection: &Connection, _now_ns: u64) {}

    /// A packet of a connection that is above a limit goes by the hash, to or from this server.
    fn hashed(&self, _target: &Target) {}

    /// A template is new here, names another server, or is assured from now on.
    fn template(&self, _template: &Template, _now_ns: u64) {}

    /// This node removed a template by itself (never: by a peer's delete or a sweep).
    fn template_removed(&self, _template: &Template) {}

    /// This node removed a connection by itself (never: by a peer's delete or a sweep).
    fn removed(&self, _gone: &Gone, _removal: Removal, _now_ns: u64) {}
}

/// Observes nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl SyncHook for NoHook {
    fn forwarded(&self, _: &Connection, _: State, _: State, _: u64, _: u64) {}
}

impl<T> SyncHook for Arc<T>
where
    T: SyncHook + ?Sized,
{
    fn forwarded(
        &self,
        connection: &Connection,
        old: State,
        new: State,
        in_pkts: u64,
        now_ns: u64,
    ) {
        (**self).forwarded(connection, old, new, in_pkts, now_ns);
    }

    fn replied(&self, connection: &Connection, old: State, new: State, now_ns: u64) {
        (**self).replied(connection, old, new, now_ns);
    }

    fn created(&self, connection: &Connection, now_ns: u64) {
        (**self).created(connection, now_ns);
    }

    fn hashed(&self, target: &Target) {
        (**self).hashed(target);
    }

    fn template(&self, template: &Template, now_ns: u64) {
        (**self).template(template, now_ns);
    }

    fn template_removed(&self, template: &Template) {
        (**self).template_removed(template);
    }

    fn removed(&self, gone: &Gone, removal: Removal, now_ns: u64) {
        (**self).removed(gone, removal, now_ns);
    }
}
