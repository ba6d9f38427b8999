//! What servers carry: thresholds, slow start, and who has least.

use super::{Naive, SECOND, Server};

/// Time that a server which came up takes to its full share.
pub(crate) const SLOW_START: u64 = 1200 * SECOND;

/// The servers of a service, with what each carries now.
pub(super) struct Pool {
    pub(super) servers: Vec<Server>,
    /// Active and inactive connections.
    pub(super) loads: Vec<(u64, u64)>,
    full: Vec<bool>,
    /// Weights in thousandths.
    shares: Vec<u64>,
}

impl Naive {
    /// `counts`: connections are counted.
    pub(super) fn pool(&self, service: usize, counts: bool) -> Pool {
        let of = &self.services[service];
        let servers = of.servers.clone();
        let load = |server: &Server| if counts { self.load(server.id) } else { (0, 0) };
        let share = |server: &Server| {
            u64::from(server.weight) * thousandths(of.slow_start, self.now - server.since)
        };
        Pool {
            loads: servers.iter().map(load).collect(),
            full: servers.iter().map(|server| self.full.contains(&server.id)).collect(),
            shares: servers.iter().map(share).collect(),
            servers,
        }
    }

    /// Thresholds (ipvs.md 1.3): full with `upper` connections, until fewer than `lower`, or than
    /// three quarters of `upper`. Judged whenever one comes or goes.
    pub(crate) fn judge(&mut self, id: u32) {
        let mut servers = self.services.iter().flat_map(|service| &service.servers);
        let Some(server) = servers.find(|server| server.id == id) else { return };
        let (upper, lower) = (u64::from(server.upper), u64::from(server.lower));
        if upper == 0 {
            self.full.remove(&id);
            return;
        }
        let held = self.conns.iter().filter(|conn| conn.server == id).count() as u64;
        if held >= upper {
            self.tally.filled += u64::from(self.full.insert(id));
        } else if if lower > 0 { held < lower } else { held < upper - upper / 4 } {
            self.tally.freed += u64::from(self.full.remove(&id));
        }
    }
}

/// A tenth at first, then evenly more.
fn thousandths(slow_start: bool, up: u64) -> u64 {
    if slow_start && up < SLOW_START { 100 + up * 900 / SLOW_START } else { 1000 }
}

impl Pool {
    pub(super) fn takes(&self, at: usize) -> bool {
        self.servers[at].takes() && !self.full[at]
    }

    /// Whether one that could be chosen has less than its share as yet.
    pub(super) fn warms(&self) -> bool {
        let is_less = |at: &usize| self.shares[*at] < u64::from(self.servers[*at].weight) * 1000;
        self.takers().iter().any(is_less)
    }

    /// What counts of a weight.
    pub(super) fn thousandths(&self, at: usize) -> u64 {
        self.shares[at] / u64::from(self.servers[at].weight.max(1))
    }

    pub(super) fn takers(&self) -> Vec<usize> {
        (0..self.servers.len()).filter(|at| self.takes(*at)).collect()
    }

    pub(super) fn place(&self, id: u32) -> usize {
        self.servers.iter().position(|server| server.id == id).unwrap()
    }

    /// ip_vs_dest_conn_overhead() of the kernels since July 2026: ipvs.md 1.11.
    pub(super) fn overhead(&self, at: usize) -> u64 {
        (self.loads[at].0 << 8) + self.loads[at].0 + self.loads[at].1
    }

    /// The least cost by weight; of equals the first.
    pub(super) fn least(
        &self,
        takes: &dyn Fn(usize) -> bool,
        cost: &dyn Fn(usize) -> u64,
    ) -> Option<usize> {
        let all: Vec<usize> = (0..self.servers.len()).collect();
        self.least_of(&all, takes, cost)
    }

    pub(super) fn least_of(
        &self,
        all: &[usize],
        takes: &dyn Fn(usize) -> bool,
        cost: &dyn Fn(usize) -> u64,
    ) -> Option<usize> {
        let mut best: Option<usize> = None;
        for at in all.iter().copied().filter(|at| takes(*at)) {
            let share = |at: usize| self.shares[at];
            if best.is_none_or(|best| cost(at) * share(best) < cost(best) * share(at)) {
                best = Some(at);
            }
        }
        best
    }

    /// The most overhead by weight; of equals the first.
    pub(super) fn most_of(&self, all: &[usize]) -> Option<usize> {
        let mut best: Option<usize> = None;
        for at in all.iter().copied().filter(|at| self.servers[*at].weight > 0) {
            let more = |best: usize| {
                self.overhead(at) * self.shares[best] > self.overhead(best) * self.shares[at]
            };
            if best.is_none_or(more) {
                best = Some(at);
            }
        }
        best
    }

    /// is_overloaded() of the kernel: more active connections than its weight, and another server
    /// has less than half of its own.
    pub(super) fn has_too_much(&self, at: usize) -> bool {
        let active = |at: usize| self.loads[at].0 * 1000;
        let mut all = 0..self.servers.len();
        active(at) > self.shares[at] && all.any(|at| active(at) * 2 < self.shares[at])
    }
}
