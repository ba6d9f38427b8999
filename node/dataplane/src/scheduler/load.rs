//! What servers carry, as schedulers see it.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

/// Connections of one server. Written under the lock of the table's ledger, read by anybody.
#[derive(Debug, Default)]
pub struct ServerLoad {
    active: AtomicU32,
    inactive: AtomicU32,
}

impl ServerLoad {
    /// Connections in an active state (`ActiveConn` of ipvsadm).
    #[must_use]
    pub fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// The others (`InActConn` of ipvsadm).
    #[must_use]
    pub fn inactive(&self) -> u32 {
        self.inactive.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, active: bool) {
        self.side(active).fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn take(&self, active: bool) {
        // Never below zero, whatever went wrong: a server that seems to have four billion
        // connections would get no more.
        let take = |count: u32| Some(count.saturating_sub(1));
        let _ = self.side(active).fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    }

    fn side(&self, active: bool) -> &AtomicU32 {
        if active { &self.active } else { &self.inactive }
    }
}

/// The loads of a service's servers, by their indexes; a server without one carries nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Loads<'a>(pub(crate) &'a [Arc<ServerLoad>]);

impl Loads<'_> {
    pub(super) fn active(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |load| u64::from(load.active()))
    }

    /// Active connections weigh 256 times as much as any.
    //= Linux include/net/ip_vs.h, ip_vs_dest_conn_overhead()
    pub(super) fn overhead(&self, index: usize) -> u64 {
        let inactive = self.0.get(index).map_or(0, |load| u64::from(load.inactive()));
        let active = self.active(index);
        (active << 8) + active + inactive
    }
}
