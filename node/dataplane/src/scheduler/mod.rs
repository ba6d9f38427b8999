//! Schedulers: which server gets a new connection.
//!
//! Guarantees: nodes that have the same servers in the same order build the same tables; a server
//! that is not available is skipped and, where a table has a fallback, moves nobody else. Loads are
//! those of this node's table: complete at the holder, which alone schedules.

mod buckets;
mod least;
mod load;
mod locality;
mod maglev;
mod round;
#[cfg(test)]
mod tests;
mod twos;
mod warmup;

use std::{
    net::IpAddr,
    sync::{Arc, OnceLock},
};

pub(crate) use self::load::Loads;
pub use self::load::ServerLoad;
use self::{
    buckets::Buckets,
    least::Least,
    locality::Locality,
    maglev::Maglev,
    round::{Rr, Wrr},
    twos::Twos,
    warmup::warmth,
};
use crate::{HashOptions, SchedulerKind, ServerId, ServerSpec};

/// A compiled scheduler with its state.
#[derive(Clone, Debug)]
pub struct Scheduler {
    kind: Kind,
    slow_start_ns: u64,
    /// Where the kind does not hash by the client: what stands in, once it is needed.
    stand_in: Arc<OnceLock<Maglev>>,
}

#[derive(Clone, Debug)]
enum Kind {
    Rr(Rr),
    Wrr(Wrr),
    Least(Least),
    Twos(Arc<Twos>),
    /// One server a destination, or a set.
    Locality {
        table: Arc<Locality>,
        sets: bool,
    },
    Destination(Arc<Buckets>),
    Source(Arc<Buckets>, HashOptions),
    Mh(Arc<Maglev>, HashOptions),
}

/// The connection that wants a server.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Who connects.
    pub client: IpAddr,
    /// From which port.
    pub client_port: u16,
    /// To which address.
    pub vip: IpAddr,
    /// When.
    pub now_ns: u64,
}

/// A place in a hash table of servers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Slot {
    /// Its number, from 0.
    pub slot: u32,
    /// How many there are.
    pub slots: u32,
    /// Index of the server there, available or not; none in a table without servers.
    pub server: Option<usize>,
}

/// The servers that there are to choose from.
#[derive(Clone, Copy)]
pub(crate) struct Pool<'a> {
    servers: &'a [ServerSpec],
    loads: Loads<'a>,
    now_ns: u64,
    slow_start_ns: u64,
}

impl Pool<'_> {
    fn is_available(&self, index: usize) -> bool {
        self.servers.get(index).is_some_and(ServerSpec::is_available)
            && !self.loads.is_overloaded(index)
    }

    fn available(&self) -> impl Iterator<Item = usize> {
        (0..self.servers.len()).filter(|index| self.is_available(*index))
    }

    /// Weight in units of 1 / [`warmup::FULL`]: a server that warms up has less than it is given.
    fn weight(&self, index: usize) -> u64 {
        let weight = |server: &ServerSpec| u64::from(server.weight);
        self.servers.get(index).map_or(0, weight) * self.warmth(index)
    }

    /// Up to [`warmup::FULL`].
    fn warmth(&self, index: usize) -> u64 {
        let since_ns = self.servers.get(index).map_or(0, |server| server.up_since_ns);
        warmth(self.slow_start_ns, self.now_ns.saturating_sub(since_ns))
    }

    fn id(&self, index: usize) -> Option<ServerId> {
        self.servers.get(index).map(|server| server.id)
    }

    fn index_of(&self, id: ServerId) -> Option<usize> {
        self.servers.iter().position(|server| server.id == id)
    }
}

impl Scheduler {
    /// Compiles a scheduler over servers in their order. `previous` is what served them before: its
    /// position, or its table where that is still right, is taken over.
    #[must_use]
    pub fn compile(
        kind: SchedulerKind,
        servers: &[ServerSpec],
        previous: Option<(&Self, &[ServerSpec])>,
    ) -> Self {
        let old = previous.map(|(scheduler, servers)| (&scheduler.kind, servers));
        let kind = match kind {
            SchedulerKind::Rr => Kind::Rr(Rr::compile(
                servers,
                old.and_then(|(kind, servers)| match kind {
                    Kind::Rr(rr) => Some((rr, servers)),
                    _ => None,
                }),
            )),
            SchedulerKind::Wrr => Kind::Wrr(Wrr::compile(
                servers,
                old.and_then(|(kind, servers)| match kind {
                    Kind::Wrr(wrr) => Some((wrr, servers)),
                    _ => None,
                }),
            )),
            SchedulerKind::Lc => Kind::Least(Least::Lc),
            SchedulerKind::Wlc => Kind::Least(Least::Wlc),
            SchedulerKind::Sed => Kind::Least(Least::Sed),
            SchedulerKind::Nq => Kind::Least(Least::Nq),
            SchedulerKind::Fo => Kind::Least(Least::Fo),
            SchedulerKind::Ovf => Kind::Least(Least::Ovf),
            SchedulerKind::Twos => match old {
                Some((Kind::Twos(twos), _)) => Kind::Twos(Arc::clone(twos)),
                _ => Kind::Twos(Arc::default()),
            },
            SchedulerKind::Lblc => Kind::Locality { table: locality(old, false), sets: false },
            SchedulerKind::Lblcr => Kind::Locality { table: locality(old, true), sets: true },
            SchedulerKind::Dh => Kind::Destination(Arc::new(Buckets::by_turns(servers))),
            SchedulerKind::Sh(options) => {
                Kind::Source(Arc::new(Buckets::by_weight(servers)), options)
            }
            SchedulerKind::Mh(options) => match old {
                Some((Kind::Mh(table, _), _)) if table.is_of(servers) => {
                    Kind::Mh(Arc::clone(table), options)
                }
                _ => Kind::Mh(Arc::new(Maglev::new(servers)), options),
            },
        };
        Self { kind, slow_start_ns: 0, stand_in: Arc::default() }
    }

    /// Servers that came up get fewer connections for so long, where weights are shares.
    #[must_use]
    pub fn with_slow_start(self, slow_start_ns: u64) -> Self {
        Self { slow_start_ns, ..self }
    }

    /// One that would choose the same next and whose choices nobody else sees.
    pub(crate) fn copy(&self) -> Self {
        let kind = match &self.kind {
            Kind::Rr(rr) => Kind::Rr(rr.copy()),
            Kind::Wrr(wrr) => Kind::Wrr(wrr.copy()),
            Kind::Twos(twos) => Kind::Twos(Arc::new(twos.copy())),
            Kind::Locality { table, sets } => {
                Kind::Locality { table: Arc::new(table.copy()), sets: *sets }
            }
            // These only look.
            Kind::Least(_) | Kind::Destination(_) | Kind::Source(..) | Kind::Mh(..) => {
                self.kind.clone()
            }
        };
        let stand_in = Arc::clone(&self.stand_in);
        Self { kind, slow_start_ns: self.slow_start_ns, stand_in }
    }

    /// Where hashing looks first; none for schedulers that do not hash.
    #[must_use]
    pub fn slot(&self, client: IpAddr, client_port: u16, vip: IpAddr) -> Option<Slot> {
        let client = (client, client_port);
        let (slot, slots) = match &self.kind {
            Kind::Mh(table, options) => table.slot(client, *options),
            Kind::Source(buckets, options) => buckets.source_bucket(client, *options),
            Kind::Destination(buckets) => buckets.destination_bucket(vip),
            Kind::Rr(_) | Kind::Wrr(_) | Kind::Least(_) | Kind::Twos(_) | Kind::Locality { .. } => {
                return None;
            }
        };
        Some(Slot { slot, slots, server: self.first_choice(client.0, client.1, vip) })
    }

    /// The server for a new connection, as an index; none when no server is available, or the one
    /// that hashing wants is not and there is no fallback. `loads` are by the indexes of `servers`.
    #[must_use]
    pub fn pick(
        &self,
        servers: &[ServerSpec],
        loads: &[Arc<ServerLoad>],
        asked: &Asked,
    ) -> Option<usize> {
        let (loads, slow_start_ns) = (Loads(loads), self.slow_start_ns);
        let pool = Pool { servers, loads, now_ns: asked.now_ns, slow_start_ns };
        let client = (asked.client, asked.client_port);
        match &self.kind {
            Kind::Rr(rr) => rr.pick(&pool),
            Kind::Wrr(wrr) => wrr.pick(&pool),
            Kind::Least(least) => least.pick(&pool),
            Kind::Twos(twos) => twos.pick(&pool),
            Kind::Locality { table, sets: false } => table.pick_one(asked.vip, &pool),
            Kind::Locality { table, sets: true } => table.pick_of_set(asked.vip, &pool),
            Kind::Destination(buckets) => buckets.pick_destination(asked.vip, &pool),
            Kind::Source(buckets, options) => {
                buckets.pick_source(client, *options, |index| pool.is_available(index))
            }
            Kind::Mh(table, options) => {
                table.pick(client, *options, |index| pool.is_available(index))
            }
        }
    }

    /// The server for a packet of a connection that is not in the table, by hashing alone: the same
    /// for all packets of a connection, on every node, while servers and their health stay. Where the
    /// scheduler does not hash, `mh` with port and fallback stands in.
    #[must_use]
    pub fn pick_by_hash(
        &self,
        servers: &[ServerSpec],
        loads: &[Arc<ServerLoad>],
        asked: &Asked,
    ) -> Option<usize> {
        match &self.kind {
            Kind::Destination(_) | Kind::Source(..) | Kind::Mh(..) => {
                self.pick(servers, loads, asked)
            }
            Kind::Rr(_) | Kind::Wrr(_) | Kind::Least(_) | Kind::Twos(_) | Kind::Locality { .. } => {
                let pool =
                    Pool { servers, loads: Loads(loads), now_ns: asked.now_ns, slow_start_ns: 0 };
                let table = self.stand_in.get_or_init(|| Maglev::new(servers));
                let options = HashOptions { port: true, fallback: true };
                let client = (asked.client, asked.client_port);
                table.pick(client, options, |index| pool.is_available(index))
            }
        }
    }

    /// What hashing chooses for this client when all servers are available; none for schedulers
    /// that do not hash.
    #[must_use]
    pub fn first_choice(&self, client: IpAddr, client_port: u16, vip: IpAddr) -> Option<usize> {
        let client = (client, client_port);
        match &self.kind {
            Kind::Mh(table, options) => table.pick(client, *options, |_| true),
            Kind::Source(buckets, options) => buckets.pick_source(client, *options, |_| true),
            Kind::Destination(buckets) => buckets.first_choice(vip),
            Kind::Rr(_) | Kind::Wrr(_) | Kind::Least(_) | Kind::Twos(_) | Kind::Locality { .. } => {
                None
            }
        }
    }
}

/// What is remembered of destinations goes on, unless the scheduler changes.
fn locality(old: Option<(&Kind, &[ServerSpec])>, sets: bool) -> Arc<Locality> {
    match old {
        Some((Kind::Locality { table, sets: old_sets }, _)) if *old_sets == sets => {
            Arc::clone(table)
        }
        _ => Arc::default(),
    }
}

//= Linux net/netfilter/ipvs, all hashing schedulers: the words of an address are XORed
fn fold(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => addr.to_bits(),
        IpAddr::V6(addr) => {
            let bits = addr.to_bits();
            (bits >> 96) as u32 ^ (bits >> 64) as u32 ^ (bits >> 32) as u32 ^ bits as u32
        }
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}
