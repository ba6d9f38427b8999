//! Schedulers: which server gets a new connection.
//!
//! Guarantees: servers come in canonical order, so that nodes agree; a server that is not
//! available is skipped and changes nothing for the others. `rr` and `wrr` share one position
//! between all workers. Not guaranteed: exact turns of `rr` and `wrr` over nodes.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{SchedulerKind, ServerSpec, maglev::Maglev};

/// Times a position is tried to be moved before a worker takes its choice without moving it:
/// others did move it then.
const MOVE_TRIES_MAX: usize = 16;

/// A compiled scheduler with its state.
#[derive(Clone, Debug)]
pub struct Scheduler {
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    /// Index after the last server used.
    Rr(Arc<AtomicU64>),
    Wrr(Wrr),
    Mh(Arc<Maglev>),
}

/// Weighted round robin: rounds of falling levels; a server is in the rounds of the levels up to
/// its weight (in units of the greatest common divisor).
#[derive(Clone, Debug)]
struct Wrr {
    /// Level in the upper half, index after the last server used in the lower.
    position: Arc<AtomicU64>,
    /// Greatest common divisor of the weights, at least 1.
    unit: u32,
    /// Weight of the heaviest server in units; 0 without servers.
    top: u32,
}

impl Scheduler {
    /// Compiles a scheduler over servers in canonical order. `previous` is what served them before.
    #[must_use]
    pub fn compile(
        kind: SchedulerKind,
        servers: &[ServerSpec],
        previous: Option<(&Self, &[ServerSpec])>,
    ) -> Self {
        let kind = match kind {
            SchedulerKind::Rr => Kind::Rr(compile_rr(servers, previous)),
            SchedulerKind::Wrr => Kind::Wrr(Wrr::compile(servers, previous)),
            SchedulerKind::Mh => match previous {
                Some((Self { kind: Kind::Mh(table) }, _)) if table.is_of(servers) => {
                    Kind::Mh(Arc::clone(table))
                }
                _ => Kind::Mh(Arc::new(Maglev::new(servers))),
            },
        };
        Self { kind }
    }

    /// The server for a new connection, as an index; none when no server is available.
    #[must_use]
    pub fn pick(&self, servers: &[ServerSpec], client: IpAddr, client_port: u16) -> Option<usize> {
        let available = |index: usize| servers.get(index).is_some_and(ServerSpec::is_available);
        match &self.kind {
            Kind::Rr(position) => pick_rr(position, servers),
            Kind::Wrr(wrr) => wrr.pick(servers),
            Kind::Mh(table) => table.pick(client, client_port, available),
        }
    }

    /// What hashing chooses for this client when all servers are available; none for schedulers
    /// that do not hash.
    #[must_use]
    pub fn first_choice(&self, client: IpAddr, client_port: u16) -> Option<usize> {
        match &self.kind {
            Kind::Mh(table) => table.pick(client, client_port, |_| true),
            Kind::Rr(_) | Kind::Wrr(_) => None,
        }
    }
}

impl Wrr {
    //= Linux net/netfilter/ipvs/ip_vs_wrr.c, ip_vs_wrr_init_svc() and ip_vs_wrr_dest_changed()
    fn compile(servers: &[ServerSpec], previous: Option<(&Scheduler, &[ServerSpec])>) -> Self {
        let weights = || servers.iter().map(|server| u32::from(server.weight));
        let unit = weights().fold(0, gcd).max(1);
        let top = weights().max().unwrap_or(0) / unit;
        let mut level = top;
        if let Some((Scheduler { kind: Kind::Wrr(old) }, old_servers)) = previous {
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
        Self { position: Arc::new(AtomicU64::new(pack(level, 0))), unit, top }
    }

    fn pick(&self, servers: &[ServerSpec]) -> Option<usize> {
        let level_of = |server: &ServerSpec| u32::from(server.weight) / self.unit;
        // Rounds above the heaviest available server would find nobody: they are skipped, so the
        // work is bounded by two walks whatever the weights are.
        let reachable =
            servers.iter().filter(|server| server.is_available()).map(level_of).max()?;
        let mut position = self.position.load(Ordering::Relaxed);
        let mut chosen = None;
        for _ in 0..MOVE_TRIES_MAX {
            let (mut level, from) = unpack(position);
            let rest = (from as usize).min(servers.len())..servers.len();
            let fits = |level: u32| {
                move |index: &usize| {
                    let server = &servers[*index];
                    server.is_available() && level_of(server) >= level
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

fn compile_rr(
    servers: &[ServerSpec],
    previous: Option<(&Scheduler, &[ServerSpec])>,
) -> Arc<AtomicU64> {
    let Some((Scheduler { kind: Kind::Rr(old) }, old_servers)) = previous else {
        return Arc::default();
    };
    let place = |server: &ServerSpec| (server.addr, server.port);
    if old_servers.iter().map(place).eq(servers.iter().map(place)) {
        return Arc::clone(old);
    }
    // Go on after the last server used, or where it stood.
    let last = (old.load(Ordering::Relaxed) as usize).checked_sub(1);
    let next = match last.and_then(|last| old_servers.get(last)) {
        Some(last) => servers.partition_point(|server| place(server) <= place(last)),
        None => 0,
    };
    Arc::new(AtomicU64::new(next as u64))
}

fn pick_rr(position: &AtomicU64, servers: &[ServerSpec]) -> Option<usize> {
    let count = servers.len();
    let mut from = position.load(Ordering::Relaxed);
    let mut chosen = None;
    for _ in 0..MOVE_TRIES_MAX {
        chosen = (0..count)
            .map(|step| (from as usize + step) % count)
            .find(|index| servers[*index].is_available());
        let next = chosen? as u64 + 1;
        match position.compare_exchange_weak(from, next, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => break,
            Err(now) => from = now,
        }
    }
    chosen
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn pack(level: u32, next: u32) -> u64 {
    u64::from(level) << 32 | u64::from(next)
}

fn unpack(position: u64) -> (u32, u32) {
    ((position >> 32) as u32, position as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServerId;

    fn servers(weights: &[u16]) -> Vec<ServerSpec> {
        let server = |(index, weight): (usize, &u16)| ServerSpec {
            id: ServerId(index as u32 + 1),
            addr: IpAddr::from([198, 18, 1, index as u8 + 1]),
            port: 80,
            weight: *weight,
            drained: false,
            up: true,
        };
        weights.iter().enumerate().map(server).collect()
    }

    fn compile(kind: SchedulerKind, servers: &[ServerSpec]) -> Scheduler {
        Scheduler::compile(kind, servers, None)
    }

    /// The last octets of the servers picked.
    fn picks(scheduler: &Scheduler, servers: &[ServerSpec], count: usize) -> String {
        let pick = |_| scheduler.pick(servers, IpAddr::from([198, 18, 0, 1]), 1);
        let name = |pick: Option<usize>| {
            pick.map_or_else(|| "-".to_owned(), |i| servers[i].id.to_string())
        };
        (0..count).map(pick).map(name).collect()
    }

    #[test]
    fn rr_takes_turns_and_ignores_weights() {
        let mut all = servers(&[1, 5, 0, 1]);
        let rr = compile(SchedulerKind::Rr, &all);
        assert_eq!(picks(&rr, &all, 6), "124124");
        all[1].up = false;
        assert_eq!(picks(&rr, &all, 4), "1414");
        all[1].up = true;
        all[0].drained = true;
        assert_eq!(picks(&rr, &all, 3), "242");
        assert_eq!(picks(&compile(SchedulerKind::Rr, &[]), &[], 2), "--");
    }

    #[test]
    fn rr_goes_on_where_it_was_when_servers_come_and_go() {
        let all = servers(&[1, 1, 1, 1]);
        let rr = compile(SchedulerKind::Rr, &all);
        assert_eq!(picks(&rr, &all, 2), "12");
        let fewer: Vec<_> = all.iter().copied().filter(|server| server.id.0 != 2).collect();
        let next = Scheduler::compile(SchedulerKind::Rr, &fewer, Some((&rr, &all)));
        assert_eq!(picks(&next, &fewer, 3), "341");
        let back = Scheduler::compile(SchedulerKind::Rr, &all, Some((&next, &fewer)));
        assert_eq!(picks(&back, &all, 2), "23");
        // Health is no change: the position is the same object.
        let mut down = all.clone();
        down[3].up = false;
        let same = Scheduler::compile(SchedulerKind::Rr, &down, Some((&back, &all)));
        assert_eq!(picks(&same, &down, 2), "12");
        assert_eq!(picks(&back, &all, 1), "3", "shared with the older configuration");
    }

    #[test]
    fn wrr_interleaves_by_weight() {
        //= ip_vs_wrr.c: rounds of falling weight, in list order; a fresh list starts at the top
        for (weights, expected) in [
            (&[1, 2, 3][..], "323123323123"),
            (&[3, 2, 1], "112123"),
            (&[2, 4, 2], "2123"),
            (&[10, 10], "1212"),
            (&[5, 0, 0], "1111"),
            (&[0, 0], "----"),
            (&[65535, 1], "1111"),
        ] {
            let all = servers(weights);
            let wrr = compile(SchedulerKind::Wrr, &all);
            assert_eq!(picks(&wrr, &all, expected.len()), expected, "{weights:?}");
        }
    }

    #[test]
    fn wrr_skips_who_is_down() {
        let mut all = servers(&[1, 2, 65535]);
        all[2].up = false;
        let wrr = compile(SchedulerKind::Wrr, &all);
        assert_eq!(picks(&wrr, &all, 6), "212212");
        all[0].up = false;
        all[1].up = false;
        assert_eq!(picks(&wrr, &all, 2), "--");
    }

    #[test]
    fn wrr_shares_follow_weights_over_a_change() {
        let old = servers(&[1, 1, 4]);
        let wrr = compile(SchedulerKind::Wrr, &old);
        picks(&wrr, &old, 4);
        let new = servers(&[2, 6, 4]);
        let wrr = Scheduler::compile(SchedulerKind::Wrr, &new, Some((&wrr, &old)));
        picks(&wrr, &new, 6); // the rest of a round
        let round = picks(&wrr, &new, 12);
        let share = |server| round.chars().filter(|pick| *pick == server).count();
        assert_eq!([share('1'), share('2'), share('3')], [2, 6, 4], "{round}");
    }

    #[test]
    fn mh_keeps_its_table_when_only_health_changes() {
        let all = servers(&[1, 1, 1]);
        let mh = compile(SchedulerKind::Mh, &all);
        let mut down = all.clone();
        down[0].up = false;
        let next = Scheduler::compile(SchedulerKind::Mh, &down, Some((&mh, &all)));
        let (Kind::Mh(old), Kind::Mh(new)) = (&mh.kind, &next.kind) else { panic!("not mh") };
        assert!(Arc::ptr_eq(old, new));
        assert_eq!(next.first_choice(IpAddr::from([198, 18, 0, 1]), 1), {
            mh.pick(&all, IpAddr::from([198, 18, 0, 1]), 1)
        });
    }
}
