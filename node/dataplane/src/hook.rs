//! What the data plane tells an observer, so that replication can decide what to send.
//!
//! Guarantees: `forwarded` is called after an inbound packet of a connection was rewritten for
//! transmission, never for a packet that was dropped. Not guaranteed: an order between calls from
//! different workers for one connection.

use std::sync::Arc;

use crate::{Config, Connection, Gone, Record, Service, State, Target, Template};

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
    /// Its client came with a cookie, and its server did not answer or refused it.
    GivenUp,
}

/// A packet that went out, and what the packet path knows of it anyhow.
#[derive(Clone, Copy, Debug)]
pub struct Carried<'a> {
    /// The connection it is of.
    pub connection: &'a Connection,
    /// The state before this packet.
    pub old: State,
    /// The state after it.
    pub new: State,
    /// Inbound packets of the connection, this one included if it is one.
    pub in_pkts: u64,
    /// When it was handled.
    pub now_ns: u64,
    /// The service of its server.
    pub service: &'a Service,
    /// The configuration under which it was handled.
    pub config: &'a Config,
}

/// Observer of connections. Called on the packet path: it must not block.
pub trait SyncHook {
    /// An inbound (client to server) packet went out.
    fn forwarded(&self, carried: &Carried<'_>);

    /// A return (server to client) packet went out.
    fn replied(&self, _carried: &Carried<'_>) {}

    /// The numbers of a connection's two sides differ otherwise than before: a reply got longer, or
    /// the server has acknowledged the header that was put before what its client sends.
    fn renumbered(&self, _connection: &Connection) {}

    /// This node scheduled a new connection; its first packet may not have gone out yet.
    fn created(&self, _connection: &Connection, _now_ns: u64) {}

    /// A new connection found no room; its packet goes by the hash, or not at all.
    fn no_room(&self, _record: &Record) {}

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
    fn forwarded(&self, _: &Carried<'_>) {}
}

impl<T> SyncHook for Arc<T>
where
    T: SyncHook + ?Sized,
{
    fn forwarded(&self, carried: &Carried<'_>) {
        (**self).forwarded(carried);
    }

    fn replied(&self, carried: &Carried<'_>) {
        (**self).replied(carried);
    }

    fn renumbered(&self, connection: &Connection) {
        (**self).renumbered(connection);
    }

    fn created(&self, connection: &Connection, now_ns: u64) {
        (**self).created(connection, now_ns);
    }

    fn no_room(&self, record: &Record) {
        (**self).no_room(record);
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
