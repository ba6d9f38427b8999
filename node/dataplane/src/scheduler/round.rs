//! Round robin, plain and weighted.
//!
//! Guarantees: all workers share one position. Not guaranteed: exact turns over several nodes.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{Pool, gcd, warmup::FULL};
use crate::ServerSpec;

/// Times a position is tried to be moved before a worker takes its choice without moving it:
/// others did move it then.
const MOVE_TRIES_MAX: usize = 16;

/// Turns that servers which warm up may let pass before one of them takes a connection all the
/// same.
const TURNS_PASSED_MAX: usize = 32;

/// Round robin: the index after the last server used.
#[derive(Clone, Debug, Default)]
pub(super) struct Rr(Arc<AtomicU64>);

impl Rr {
    //= Linux net/netfilter/ipvs/ip_vs_rr.c, ip_vs_rr_del_dest(): the place of a server that goes
    //= falls to the one before it
    pub(super) fn compile(
        servers: &[ServerSpec],
        previous: Option<(&Self, &[ServerSpec])>,
    ) -> Self {
        let Some((old, old_servers)) = previous else { return Self::default() };
        let place = |server: &ServerSpec| (server.addr, server.port);
        if old_servers.iter().map(place).eq(servers.iter().map(place)) {
            return old.clone();
        }
        let used = (old.0.load(Ordering::Relaxed) as usize).min(old_servers.len());
        let index = |old: &ServerSpec| servers.iter().position(|s| place(s) == place(old));
        let next = old_servers[..used].iter().rev().find_map(index).map_or(0, |last| last + 1);
        Self(Arc::new(AtomicU64::new(next as u64)))
    }

    /// One of the same position that nobody shares.
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(AtomicU64::new(self.0.load(Ordering::Relaxed))))
    }

    pub(super) fn pick(&self, pool: &Pool<'_>) -> Option<usize> {
        let count = pool.servers.len();
        let mut from = self.0.load(Ordering::Relaxed);
        let mut chosen = None;
        for _ in 0..MOVE_TRIES_MAX {
            chosen = (0..count)
                .map(|step| (from as usize + step) % count)
                .find(|index| pool.is_available(*index));
            let next = chosen? as u64 + 1;
            match self.0.compare_exchange_weak(from, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => break,
                Err(now) => from = now,
            }
        }
        chosen
    }
}

/// Weighted round robin: rounds of falling levels; a server is in the rounds of the levels up to
/// its weight (in units of the greatest common divisor).
#[derive(Clone, Debug)]
pub(super) struct Wrr {
    /// Level in the upper half, index after the last server used in the lower.
    position: Arc<AtomicU64>,
    /// Greatest common divisor of the weights, at least 1.
    unit: u32,
    /// Weight of the heaviest server in units; 0 without servers.
    top: u32,
    /// Turns of each server while it warms up, each counted as what its weight counts.
    passed: Arc<[AtomicU64]>,
}

impl Wrr {
    //= Linux net/netfilter/ipvs/ip_vs_wrr.c, ip_vs_wrr_init_svc() and ip_vs_wrr_dest_changed()
    pub(super) fn compile(
        servers: &[ServerSpec],
        previous: Option<(&Self, &[ServerSpec])>,
    ) -> Self {
        let weights = || servers.iter().map(|server| u32::from(server.weight));
        let unit = weights().fold(0, gcd).max(1);
        let top = weights().max().unwrap_or(0) / unit;
        let mut level = top;
        if let Some((old, old_servers)) = previous {
            let same = old_servers.len() == servers.len()
                && old_servers.iter().zip(servers).all(|(old, new)| {
                    (old.addr, old.port, old.weight) == (new.addr, new.port, new.weight)
                });
            if same {
                return old.clone();
            }
            // The current weight of the round is kept where the new weights reach it.
            let (old_level, _) = unpack(old.position.load(Ordering::Relaxed));
            let current = (old_level * old.unit).saturating_sub(old.unit - 1);
            let kept = if unit > 1 { current / unit + 1 } else { current };
            if current > 0 && kept <= top {
                level = kept;
            }
        }
        let passed = servers.iter().map(|_| AtomicU64::new(0)).collect();
        Self { position: Arc::new(AtomicU64::new(pack(level, 0))), unit, top, passed }
    }

    /// One of the same position that nobody shares.
    pub(super) fn copy(&self) -> Self {
        let copy = |cell: &AtomicU64| AtomicU64::new(cell.load(Ordering::Relaxed));
        let passed = self.passed.iter().map(copy).collect();
        Self { position: Arc::new(copy(&self.position)), passed, ..*self }
    }

    pub(super) fn pick(&self, pool: &Pool<'_>) -> Option<usize> {
        let mut chosen = None;
        for _ in 0..TURNS_PASSED_MAX {
            chosen = self.turn(pool);
            if self.takes_turn(chosen?, pool) {
                break;
            }
        }
        chosen
    }

    /// A server that warms up takes as many of its turns as its weight counts.
    fn takes_turn(&self, index: usize, pool: &Pool<'_>) -> bool {
        let warmth = pool.warmth(index);
        let Some(passed) = self.passed.get(index).filter(|_| warmth < FULL) else { return true };
        passed.fetch_add(warmth, Ordering::Relaxed) % FULL + warmth >= FULL
    }

    fn turn(&self, pool: &Pool<'_>) -> Option<usize> {
        let servers = pool.servers;
        let level_of = |server: &ServerSpec| u32::from(server.weight) / self.unit;
        // Rounds above the heaviest available server would find nobody: they are skipped, so the
        // work is bounded by two walks whatever the weights are.
        let reachable = pool.available().map(|index| level_of(&servers[index])).max()?;
        let mut position = self.position.load(Ordering::Relaxed);
        let mut chosen = None;
        for _ in 0..MOVE_TRIES_MAX {
            let (mut level, from) = unpack(position);
            let rest = (from as usize).min(servers.len())..servers.len();
            let fits = |level: u32| {
                move |index: &usize| {
                    pool.is_available(*index) && level_of(&servers[*index]) >= level
                }
            };
            chosen = rest.clone().find(fits(level));
            if chosen.is_none() {
                level = if level > 1 { level - 1 } else { self.top };
                level = level.min(reachable);
                chosen = (0..servers.len()).find(fits(level));
            }
            let next = pack(level, chosen? as u32 + 1);
            match self.position.compare_exchange_weak(
                position,
                next,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => break,
                Err(now) => position = now,
            }
        }
        chosen
    }
}

fn pack(level: u32, next: u32) -> u64 {
    u64::from(level) << 32 | u64::from(next)
}

fn unpack(position: u64) -> (u32, u32) {
    ((position >> 32) as u32, position as u32)
}
