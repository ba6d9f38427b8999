//! What servers carry, as schedulers see it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering},
};

/// Connections of one server. Written under the lock of the table's ledger, read by anybody.
#[derive(Debug, Default)]
pub struct ServerLoad {
    active: AtomicU32,
    inactive: AtomicU32,
    /// Thresholds of the configuration; 0 as in [`ServerSpec`](crate::ServerSpec).
    upper: AtomicU32,
    lower: AtomicU32,
    overloaded: AtomicBool,
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

    /// It has as many connections as it may have, or has not yet lost enough of them.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
    }

    /// One that stands at the same and counts for itself.
    pub(crate) fn copy(&self) -> Self {
        let count = |cell: &AtomicU32| AtomicU32::new(cell.load(Ordering::Relaxed));
        Self {
            active: count(&self.active),
            inactive: count(&self.inactive),
            upper: count(&self.upper),
            lower: count(&self.lower),
            overloaded: AtomicBool::new(self.is_overloaded()),
        }
    }

    pub(crate) fn add(&self, active: bool) {
        self.side(active).fetch_add(1, Ordering::Relaxed);
        self.judge();
    }

    pub(crate) fn take(&self, active: bool) {
        self.subtract(active);
        self.judge();
    }

    /// A connection changes sides; that is no coming or going.
    pub(crate) fn move_to(&self, active: bool) {
        self.subtract(!active);
        self.side(active).fetch_add(1, Ordering::Relaxed);
    }

    /// Takes over thresholds of a configuration.
    pub(crate) fn set_thresholds(&self, upper: u32, lower: u32) {
        self.upper.store(upper, Ordering::Relaxed);
        self.lower.store(lower, Ordering::Relaxed);
        self.judge();
    }

    //= Linux net/netfilter/ipvs/ip_vs_conn.c, ip_vs_bind_dest() and ip_vs_unbind_dest(): set at the
    //= upper threshold, cleared below the lower one, without one below 3/4 of the upper
    fn judge(&self) {
        let upper = u64::from(self.upper.load(Ordering::Relaxed));
        let lower = u64::from(self.lower.load(Ordering::Relaxed));
        let total = u64::from(self.active()) + u64::from(self.inactive());
        let freed = if lower > 0 { total < lower } else { total * 4 < upper * 3 };
        if upper > 0 && total >= upper {
            self.overloaded.store(true, Ordering::Relaxed);
        } else if upper == 0 || freed {
            self.overloaded.store(false, Ordering::Relaxed);
        }
    }

    fn subtract(&self, active: bool) {
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
    pub(super) fn is_overloaded(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|load| load.is_overloaded())
    }

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
