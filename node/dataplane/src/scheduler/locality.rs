//! Locality by destination (`lblc`, `lblcr`): an address stays with its server until that one has
//! too much to do.
//!
//! Guarantees: bounded; what is remembered is by server id, so that it outlives a new
//! configuration.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use super::{
    Pool,
    least::{least_overhead, most_overhead},
    warmup::FULL,
};
use crate::ServerId;

/// Destinations remembered; the one that was used longest ago gives way.
const DESTINATIONS_MAX: usize = 16_384;

/// A destination that was not used so long is forgotten, and a set that did not change so long
/// loses a member (`lblc_expiration`, `lblcr_expiration`: 24 h).
const EXPIRATION_NS: u64 = 24 * 3600 * 1_000_000_000;

/// One server or a set for each destination.
#[derive(Debug, Default)]
pub(super) struct Locality(Mutex<HashMap<IpAddr, Entry>>);

#[derive(Clone, Debug)]
struct Entry {
    /// The newest first.
    servers: Vec<ServerId>,
    used_ns: u64,
    changed_ns: u64,
}

impl Locality {
    /// One that remembers the same.
    pub(super) fn copy(&self) -> Self {
        Self(Mutex::new(self.lock().clone()))
    }

    /// One server a destination.
    //= Linux net/netfilter/ipvs/ip_vs_lblc.c, ip_vs_lblc_schedule()
    pub(super) fn pick_one(&self, vip: IpAddr, pool: &Pool<'_>) -> Option<usize> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(&vip).filter(|e| !e.is_old(pool.now_ns)) {
            entry.used_ns = pool.now_ns;
            let known = entry.servers.first().and_then(|id| pool.index_of(*id));
            if let Some(index) = known.filter(|i| pool.is_available(*i) && !is_overloaded(*i, pool))
            {
                return Some(index);
            }
        }
        let index = least_overhead(pool, pool.available())?;
        remember(&mut entries, vip, vec![pool.id(index)?], pool.now_ns);
        Some(index)
    }

    /// A set of servers a destination, that grows under load and shrinks with time.
    //= Linux net/netfilter/ipvs/ip_vs_lblcr.c, ip_vs_lblcr_schedule()
    pub(super) fn pick_of_set(&self, vip: IpAddr, pool: &Pool<'_>) -> Option<usize> {
        let mut entries = self.lock();
        let now_ns = pool.now_ns;
        let Some(entry) = entries.get_mut(&vip).filter(|e| !e.is_old(now_ns)) else {
            let index = least_overhead(pool, pool.available())?;
            remember(&mut entries, vip, vec![pool.id(index)?], now_ns);
            return Some(index);
        };
        entry.used_ns = now_ns;
        entry.servers.retain(|id| pool.index_of(*id).is_some());
        let members = || entry.servers.iter().filter_map(|id| pool.index_of(*id));
        let least = least_overhead(pool, members().filter(|i| pool.is_available(*i)));
        let idle_ns = now_ns.saturating_sub(entry.changed_ns);
        if entry.servers.len() > 1
            && idle_ns > EXPIRATION_NS
            && let Some(most) = most_overhead(pool, members()).and_then(|i| pool.id(i))
        {
            entry.servers.retain(|id| *id != most);
            entry.changed_ns = now_ns;
        }
        if let Some(index) = least.filter(|i| !is_overloaded(*i, pool)) {
            return Some(index);
        }
        let index = least_overhead(pool, pool.available())?;
        let id = pool.id(index)?;
        if !entry.servers.contains(&id) {
            //= ip_vs_dest_set_insert(): the newest stands first, so of equals it is the one
            entry.servers.insert(0, id);
            entry.changed_ns = now_ns;
        }
        Some(index)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<IpAddr, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_old(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.used_ns) > EXPIRATION_NS
    }
}

fn remember(
    entries: &mut HashMap<IpAddr, Entry>,
    vip: IpAddr,
    servers: Vec<ServerId>,
    now_ns: u64,
) {
    if entries.len() >= DESTINATIONS_MAX && !entries.contains_key(&vip) {
        let oldest = entries.iter().min_by_key(|(_, entry)| entry.used_ns).map(|(vip, _)| *vip);
        if let Some(oldest) = oldest {
            entries.remove(&oldest);
        }
    }
    entries.insert(vip, Entry { servers, used_ns: now_ns, changed_ns: now_ns });
}

/// More active connections than its weight, while another has less than half of that.
//= ip_vs_lblc.c, is_overloaded()
fn is_overloaded(index: usize, pool: &Pool<'_>) -> bool {
    pool.loads.active(index) * FULL > pool.weight(index)
        && (0..pool.servers.len()).any(|i| pool.loads.active(i) * 2 * FULL < pool.weight(i))
}
