//! Rates of connections, packets and bytes, as IPVS estimates them.
//!
//! Guarantees: pure: whoever calls [`Estimators::tick`] every [`ESTIMATE_EVERY`] has the rates that
//! ipvsadm would print. It remembers nothing but what the configuration has.

use std::{collections::HashMap, hash::Hash, time::Duration};

use crate::{Config, FlowTotals, ServerId, ServiceId};

/// Time between two looks at the counters.
//= Linux net/netfilter/ipvs/ip_vs_est.c, estimation_timer(): 2 * HZ
pub const ESTIMATE_EVERY: Duration = Duration::from_secs(2);

/// Connections and packets are kept in units of 2^-10 a second, bytes of 2^-5.
const COUNT_BITS: u32 = 10;
const BYTE_BITS: u32 = 5;

/// What happens in a second.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowRates {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets to the server.
    pub in_pkts: u64,
    /// Bytes to the server.
    pub in_bytes: u64,
    /// Packets from the server.
    pub out_pkts: u64,
    /// Bytes from the server.
    pub out_bytes: u64,
}

/// A moving average of one set of counters: each look moves it a quarter of the way.
#[derive(Clone, Copy, Debug)]
struct Estimator {
    last: FlowTotals,
    /// In the units above.
    averages: FlowRates,
}

/// The averages of all services and servers.
#[derive(Debug, Default)]
pub struct Estimators {
    services: HashMap<ServiceId, Estimator>,
    servers: HashMap<ServerId, Estimator>,
}

impl Estimators {
    /// Looks at the counters of this configuration; call it every [`ESTIMATE_EVERY`].
    pub fn tick(&mut self, config: &Config) {
        self.services.retain(|id, _| config.service(*id).is_some());
        self.servers.retain(|id, _| config.server(*id).is_some());
        for service in config.services() {
            tick(&mut self.services, service.spec.id, service.totals());
            for (index, server) in service.spec.servers.iter().enumerate() {
                if let Some(counters) = service.counters(index) {
                    tick(&mut self.servers, server.id, counters.totals());
                }
            }
        }
    }

    /// Rates of a service; zero until it was looked at twice.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> FlowRates {
        self.services.get(&id).map(Estimator::rates).unwrap_or_default()
    }

    /// Rates of a server.
    #[must_use]
    pub fn server(&self, id: ServerId) -> FlowRates {
        self.servers.get(&id).map(Estimator::rates).unwrap_or_default()
    }
}

fn tick<K>(estimators: &mut HashMap<K, Estimator>, key: K, totals: FlowTotals)
where
    K: Eq + Hash,
{
    estimators.entry(key).or_insert_with(|| Estimator::new(totals)).tick(totals);
}

impl Estimator {
    /// Starts from what was counted before.
    fn new(totals: FlowTotals) -> Self {
        Self { last: totals, averages: FlowRates::default() }
    }

    //= Linux net/netfilter/ipvs/ip_vs_est.c, estimation_timer()
    fn tick(&mut self, now: FlowTotals) {
        let Self { last, averages } = self;
        approach(&mut averages.conns, last.conns, now.conns, COUNT_BITS);
        approach(&mut averages.in_pkts, last.in_pkts, now.in_pkts, COUNT_BITS);
        approach(&mut averages.out_pkts, last.out_pkts, now.out_pkts, COUNT_BITS);
        approach(&mut averages.in_bytes, last.in_bytes, now.in_bytes, BYTE_BITS);
        approach(&mut averages.out_bytes, last.out_bytes, now.out_bytes, BYTE_BITS);
        *last = now;
    }

    //= ip_vs_est.c, ip_vs_read_estimator(): rounded to the nearest
    fn rates(&self) -> FlowRates {
        let of = |average: u64, bits: u32| average.saturating_add((1 << (bits - 1)) - 1) >> bits;
        FlowRates {
            conns: of(self.averages.conns, COUNT_BITS),
            in_pkts: of(self.averages.in_pkts, COUNT_BITS),
            out_pkts: of(self.averages.out_pkts, COUNT_BITS),
            in_bytes: of(self.averages.in_bytes, BYTE_BITS),
            out_bytes: of(self.averages.out_bytes, BYTE_BITS),
        }
    }
}

/// Moves an average of units of 2^-`bits` a second a quarter of the way to what two seconds gave.
fn approach(average: &mut u64, last: u64, now: u64, bits: u32) {
    // Counters that began anew, because workers came or went, have counted nothing.
    let counted = i128::from(now.saturating_sub(last));
    let rate = counted << (bits - 1);
    let next = i128::from(*average) + ((rate - i128::from(*average)) >> 2);
    *average = u64::try_from(next).unwrap_or(u64::MAX);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(n: u64) -> FlowTotals {
        FlowTotals {
            conns: n,
            in_pkts: 10 * n,
            in_bytes: 600 * n,
            out_pkts: n,
            out_bytes: 1_500 * n,
        }
    }

    /// (counted so far, then rates of connections, packets in and bytes in)
    //= by hand: avg += (rate - avg) >> 2 in units of 1/1024 and 1/32, from 100 in each 2 s: the
    //= average is 50 * (1 - 0.75^n) a second
    const BY_HAND: [(u64, [u64; 3]); 12] = [
        (100, [12, 125, 7_500]),
        (200, [22, 219, 13_125]),
        (300, [29, 289, 17_344]),
        (400, [34, 342, 20_508]),
        (500, [38, 381, 22_881]),
        (600, [41, 411, 24_661]),
        (600, [31, 308, 18_495]),
        (600, [23, 231, 13_872]),
        (600, [17, 173, 10_404]),
        (600, [13, 130, 7_803]),
        (600, [10, 98, 5_852]),
        (600, [7, 73, 4_389]),
    ];

    #[test]
    fn averages_are_those_of_ipvs() {
        let mut estimator = Estimator::new(totals(0));
        for (n, expected) in BY_HAND {
            estimator.tick(totals(n));
            let rates = estimator.rates();
            assert_eq!([rates.conns, rates.in_pkts, rates.in_bytes], expected, "{n}");
            assert_eq!(rates.out_pkts, rates.conns, "{n}");
        }
    }

    #[test]
    fn an_average_comes_to_the_rate_and_back_to_nothing() {
        let mut estimator = Estimator::new(totals(1_000_000));
        assert_eq!(estimator.rates(), FlowRates::default(), "what was counted before is no rate");
        for second in 1..=60 {
            estimator.tick(totals(1_000_000 + 2_000 * second));
        }
        let rates = estimator.rates();
        assert_eq!([rates.conns, rates.in_pkts, rates.out_bytes], [1_000, 10_000, 1_500_000]);
        for _ in 0..60 {
            estimator.tick(totals(1_120_000));
        }
        assert_eq!(estimator.rates(), FlowRates::default());
    }

    #[test]
    fn counters_that_begin_anew_or_are_huge_harm_nobody() {
        let mut estimator = Estimator::new(totals(500));
        estimator.tick(totals(0));
        assert_eq!(estimator.rates(), FlowRates::default());
        let huge = FlowTotals { in_bytes: u64::MAX, ..FlowTotals::default() };
        for _ in 0..9 {
            estimator.tick(huge);
            estimator.tick(FlowTotals::default());
        }
        assert!(estimator.rates().in_bytes > 0);
    }
}
