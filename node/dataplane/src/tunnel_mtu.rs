//! What the ways of tunnels take, as routers on them say.
//!
//! A router that cannot pass on an outer packet tells this node, who sent it; the client hears of it
//! from here, by the next packet that is too big. Such errors are for an address of the node, so they
//! are the kernel's, which knows no tunnel to give them to: the driver hears them by a raw socket
//! beside it, and nothing is taken from the kernel.
//!
//! Guarantees: only errors about packets from this node to a server of a tunnel that is configured
//! count; nobody can bring an MTU below [`MTU_LEAST_V4`] or 1280 octets (RFC 8201 section 4); memory
//! and work are bounded ([`TUNNEL_MTUS_MAX`] servers; so many changes a second); what was learnt is
//! forgotten after [`TUNNEL_MTU_TIMEOUT_NS`]. A packet of another tunnel, or of none, looks at one
//! flag at most.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;
use steadfast_packet::{Tunnel, TunnelError};

use crate::{Shared, bucket::SharedBucket, fast::Map};

/// Servers whose way takes less than its interface; of further ones nothing is learnt.
pub const TUNNEL_MTUS_MAX: usize = 1024;

/// How long a smaller MTU is believed after it was told last, as by the kernel.
//= Linux net/ipv4/route.c, DEFAULT_MTU_EXPIRES; RFC 1191 section 6.3, RFC 8201 section 4: 10 minutes
pub const TUNNEL_MTU_TIMEOUT_NS: u64 = 600_000_000_000;

/// The least that an error brings the way of outer IPv4 packets down to.
//= Linux net/ipv4/route.c, DEFAULT_MIN_PMTU
const MTU_LEAST_V4: u16 = 552;
/// The same of IPv6.
const MTU_LEAST_V6: u16 = 1280;

/// Changes a second, and at once: each copies the table.
const CHANGES_PER_SECOND: u64 = 100;
const CHANGES_BURST: u64 = 100;

/// What is known of the ways of tunnels.
#[derive(Debug)]
pub struct TunnelMtus {
    known: ArcSwap<Map<IpAddr, Known>>,
    /// Anything is known.
    any: AtomicBool,
    changes: SharedBucket,
    too_big: AtomicU64,
    other: AtomicU64,
    foreign: AtomicU64,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    mtu: u16,
    until_ns: u64,
}

/// Errors that were heard, by what became of them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct TunnelErrors {
    /// That a packet of a tunnel is too big for its way.
    pub too_big: u64,
    /// Other errors about packets of tunnels.
    pub other: u64,
    /// About other packets: the kernel's own.
    pub foreign: u64,
}

impl TunnelMtus {
    pub(crate) fn new() -> Self {
        Self {
            known: ArcSwap::from_pointee(Map::default()),
            any: AtomicBool::new(false),
            changes: SharedBucket::new(CHANGES_PER_SECOND, CHANGES_BURST),
            too_big: AtomicU64::new(0),
            other: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
        }
    }

    /// The largest outer packet that goes to this server, as far as it is known.
    pub(crate) fn of(&self, now_ns: u64, server: IpAddr) -> u16 {
        if !self.any.load(Ordering::Relaxed) {
            return u16::MAX;
        }
        let known = self.known.load();
        let found = known.get(&server).filter(|known| now_ns < known.until_ns);
        found.map_or(u16::MAX, |known| known.mtu)
    }

    /// The servers whose way takes less than its interface may, each with how much, and for how many
    /// nanoseconds that is still believed.
    #[must_use]
    pub fn known(&self, now_ns: u64) -> Vec<(IpAddr, u16, u64)> {
        let known = self.known.load();
        let valid = known.iter().filter(|(_, known)| now_ns < known.until_ns);
        let mut all: Vec<_> =
            valid.map(|(addr, known)| (*addr, known.mtu, known.until_ns - now_ns)).collect();
        all.sort_unstable();
        all
    }

    /// What was heard.
    #[must_use]
    pub fn errors(&self) -> TunnelErrors {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (too_big, other) = (read(&self.too_big), read(&self.other));
        TunnelErrors { too_big, other, foreign: read(&self.foreign) }
    }

    /// Notes a smaller MTU; a larger one than is believed is no news.
    fn lower(&self, now_ns: u64, server: IpAddr, told: u16) {
        let mtu = told.max(if server.is_ipv6() { MTU_LEAST_V6 } else { MTU_LEAST_V4 });
        if self.of(now_ns, server) < mtu || !self.changes.take(now_ns) {
            return;
        }
        let until_ns = now_ns.saturating_add(TUNNEL_MTU_TIMEOUT_NS);
        self.known.rcu(|known| {
            let mut known = Map::clone(known);
            known.retain(|_, known| now_ns < known.until_ns);
            if known.len() < TUNNEL_MTUS_MAX || known.contains_key(&server) {
                known.insert(server, Known { mtu, until_ns });
            }
            Arc::new(known)
        });
        self.any.store(true, Ordering::Relaxed);
    }

    /// Knows what the other does.
    pub(crate) fn copy_in(&self, other: &Self) {
        self.known.store(other.known.load_full());
        self.any.store(other.any.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Forgets what is not believed any more.
    pub(crate) fn advance(&self, now_ns: u64) {
        let over = |known: &Known| known.until_ns <= now_ns;
        if !self.any.load(Ordering::Relaxed) || !self.known.load().values().all(over) {
            return;
        }
        // An error that comes now is told again by the next packet that is too big.
        self.known.store(Arc::default());
        self.any.store(false, Ordering::Relaxed);
    }
}

impl Shared {
    /// Hears an ICMP error that came for this node.
    pub fn hear_error(&self, now_ns: u64, error: &TunnelError) {
        let mtus = &self.tunnel_mtus;
        let is_ours = self.next_hops.load().is_own_addr(error.src)
            && self.config.load().has_tunnel(error.dst, |tunnel| fits(tunnel, error));
        let counter = match (is_ours, error.mtu) {
            (false, _) => &mtus.foreign,
            (true, None) => &mtus.other,
            (true, Some(mtu)) => {
                mtus.lower(now_ns, error.dst, mtu);
                &mtus.too_big
            }
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The packet may have been one of this tunnel.
fn fits(tunnel: Tunnel, error: &TunnelError) -> bool {
    let port = match tunnel {
        Tunnel::Gue { port, .. } => Some(port),
        Tunnel::IpIp | Tunnel::Gre { .. } => None,
    };
    tunnel.may_have_sent(error.protocol) && error.dst_port == port
}
