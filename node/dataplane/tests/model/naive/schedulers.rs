//! The schedulers, after their rules (ipvs.md 1.11): each pick walks the list from its start.

use std::{cell::RefCell, collections::BTreeMap, hash::Hasher, net::IpAddr, rc::Rc};

use super::{Naive, Sched, Server, Service};
use crate::packet::Pkt;

/// When so many turns would be let pass, the last one is taken.
const TURNS_MAX: u64 = 32;

impl Naive {
    pub(super) fn schedule(&mut self, service: usize, pkt: &Pkt) -> Option<usize> {
        use Sched::{Lblc, Lblcr, Lc, Nq, Ovf, Sed, Wlc};
        let sched = self.services[service].sched;
        let counts = matches!(sched, Lc | Wlc | Sed | Nq | Ovf | Lblc | Lblcr);
        let pool = self.pool(service, counts);
        let (servers, takers, (cport, _)) = (&pool.servers, pool.takers(), pkt.ports());
        if servers.iter().zip(0..).any(|(server, at)| server.takes() && !pool.takes(at)) {
            self.tally.passed_over += 1;
        }
        self.tally.warmed += u64::from(pool.warms());
        let weight = |at: &usize| u64::from(servers[*at].weight);
        let active = |at: usize| pool.loads[at].0;
        let takes = |at: usize| pool.takes(at);
        if matches!(sched, Lblc | Lblcr) {
            return self.stay(service, pkt.dst, sched == Lblcr, &pool);
        }
        let service = &mut self.services[service];
        match sched {
            Sched::Rr => {
                let after = |place: (IpAddr, u16)| {
                    servers.iter().position(|s| (s.addr, s.port) > place).unwrap_or(servers.len())
                };
                let from = service.last.map_or(0, after);
                let chosen = (from..servers.len()).chain(0..from).find(|at| takes(*at))?;
                service.last = Some((servers[chosen].addr, servers[chosen].port));
                Some(chosen)
            }
            Sched::Wrr => {
                let top = servers.iter().map(|s| i64::from(s.weight)).max()?;
                let unit = servers.iter().fold(0, |unit, s| gcd(unit, i64::from(s.weight)));
                if takers.is_empty() {
                    return None;
                }
                let mut turns = 0;
                loop {
                    let (at, level) = &mut service.walk;
                    *at = (*at + 1) % servers.len() as isize;
                    if *at == 0 {
                        *level -= unit;
                        if *level <= 0 {
                            *level = top;
                        }
                    }
                    let server = servers[*at as usize];
                    if takes(*at as usize) && i64::from(server.weight) >= *level {
                        turns += 1;
                        let at = *at as usize;
                        let share = pool.thousandths(at);
                        // One that warms up takes so many of a thousand turns.
                        let taken = service.turns.entry(server.id).or_default();
                        if share < 1000 {
                            *taken += share;
                        }
                        if share == 1000 || *taken % 1000 < share || turns == TURNS_MAX {
                            return Some(at);
                        }
                        self.tally.turns_passed += 1;
                    }
                }
            }
            Sched::Lc => takers.iter().copied().min_by_key(|at| pool.overhead(*at)),
            Sched::Wlc => pool.least(&takes, &|at| pool.overhead(at)),
            Sched::Sed => pool.least(&takes, &|at| active(at) + 1),
            Sched::Nq => {
                let idle = takers.iter().copied().find(|at| active(*at) == 0);
                idle.or_else(|| pool.least(&takes, &|at| active(at) + 1))
            }
            Sched::Fo => heaviest(takers.iter().copied(), weight),
            Sched::Ovf => {
                let room = takers.iter().copied().filter(|at| active(*at) <= weight(at));
                heaviest(room, weight)
            }
            Sched::Dh => {
                let chosen = service.destination(pkt.dst)?;
                takes(chosen).then_some(chosen)
            }
            Sched::Sh { port, fallback } => {
                let (buckets, hash) = service.buckets(pkt.src, cport, port);
                let first = *buckets.get(hash)?;
                if takes(first) {
                    return Some(first);
                }
                let steps = if fallback { 0..256 } else { 0..0 };
                // The offset starts at the hash and is added to the hash: ipvs.md 1.11.
                let slot = |offset: usize| buckets[(offset % 256 + hash) % 256];
                steps.map(|step| slot(step + hash)).find(|at| takes(*at))
            }
            Sched::Mh { port, fallback } => maglev(servers, pkt.src, cport, port, fallback, &takes),
            Lblc | Lblcr => None,
        }
    }
}

impl Service {
    /// The server of a destination under dh.
    pub(super) fn destination(&self, vip: IpAddr) -> Option<usize> {
        let bucket = golden(words(vip)) as usize;
        (!self.servers.is_empty()).then(|| bucket % self.servers.len())
    }

    /// The first choice of a client under sh.
    pub(super) fn bucket(&self, client: IpAddr, cport: u16, with_port: bool) -> Option<usize> {
        let (buckets, hash) = self.buckets(client, cport, with_port);
        buckets.get(hash).copied()
    }

    /// The buckets of sh and a client's place there.
    fn buckets(&self, client: IpAddr, cport: u16, with_port: bool) -> (Vec<usize>, usize) {
        let mut buckets = Vec::new();
        while buckets.len() < 256 && !self.servers.is_empty() {
            for (at, server) in self.servers.iter().enumerate() {
                for _ in 0..server.weight.max(1) {
                    buckets.push(at);
                }
            }
        }
        buckets.truncate(256);
        let cport = if with_port { u32::from(cport) } else { 0 };
        (buckets, golden(cport.wrapping_add(words(client))) as usize)
    }
}

fn heaviest(of: impl Iterator<Item = usize>, weight: impl Fn(&usize) -> u64) -> Option<usize> {
    let mut best: Option<usize> = None;
    for at in of {
        if best.is_none_or(|best| weight(&at) > weight(&best)) {
            best = Some(at);
        }
    }
    best
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn words(addr: IpAddr) -> u32 {
    match addr {
        IpAddr::V4(addr) => u32::from(addr),
        IpAddr::V6(addr) => {
            let bytes = addr.octets();
            bytes.chunks(4).fold(0, |all, word| all ^ u32::from_be_bytes(word.try_into().unwrap()))
        }
    }
}

fn golden(value: u32) -> u32 {
    value.wrapping_mul(0x61C8_8647) >> 24
}

const SLOTS: u64 = 4093;

type Slots = Rc<Vec<Option<usize>>>;
/// Address, port and weight of each server.
type Whose = Vec<(IpAddr, u16, u16)>;

thread_local! {
    /// Tables that were filled before, by their servers: it takes long.
    static FILLED: RefCell<BTreeMap<Whose, Slots>> = RefCell::default();
}

/// Tables that are kept.
const FILLED_MAX: usize = 256;

/// The table of these servers.
fn filled(servers: &[Server]) -> Option<Slots> {
    let whose: Whose = servers.iter().map(|s| (s.addr, s.port, s.weight)).collect();
    FILLED.with_borrow_mut(|filled| {
        if let Some(known) = filled.get(&whose) {
            return Some(Rc::clone(known));
        }
        if filled.len() >= FILLED_MAX {
            filled.clear();
        }
        let slots = Rc::new(fill(servers)?);
        filled.insert(whose, Rc::clone(&slots));
        Some(slots)
    })
}

fn sip(value: u32, key: u64) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new_with_keys(key, key);
    hasher.write(&value.to_le_bytes());
    hasher.finish() & 0xffff_ffff
}

fn of(addr: IpAddr, port: u16, offset: u32, key: u64) -> u64 {
    sip(offset.wrapping_add(u32::from(port)).wrapping_add(words(addr)), key)
}

fn fill(servers: &[Server]) -> Option<Vec<Option<usize>>> {
    let unit = servers.iter().fold(0, |unit, s| gcd(unit, i64::from(s.weight))).max(1);
    let top = servers.iter().map(|s| i64::from(s.weight)).max()? / unit;
    let bits = 64 - top.leading_zeros();
    let mut slots: Vec<Option<usize>> = vec![None; SLOTS as usize];
    let mut at: Vec<u64> =
        servers.iter().map(|s| of(s.addr, s.port, 0, 2_654_435_761) % SLOTS).collect();
    let mut filled = 0;
    'full: while servers.iter().any(|s| s.weight > 0) {
        for (index, server) in servers.iter().enumerate().filter(|(_, s)| s.weight > 0) {
            let skip = of(server.addr, server.port, 0, 2_654_446_892) % (SLOTS - 1) + 1;
            let turns = (i64::from(server.weight) / unit) >> bits.saturating_sub(6);
            for _ in 0..turns.max(1) {
                while slots[at[index] as usize].is_some() {
                    at[index] = (at[index] + skip) % SLOTS;
                }
                slots[at[index] as usize] = Some(index);
                filled += 1;
                if filled == SLOTS {
                    break 'full;
                }
            }
        }
    }
    Some(slots)
}

pub(super) fn maglev(
    servers: &[Server],
    client: IpAddr,
    cport: u16,
    with_port: bool,
    fallback: bool,
    takes: &dyn Fn(usize) -> bool,
) -> Option<usize> {
    let slots = filled(servers)?;
    let cport = if with_port { cport } else { 0 };
    let first = of(client, cport, 0, 2_654_435_761) % SLOTS;
    let choice = slots[first as usize]?;
    if takes(choice) || !fallback {
        return takes(choice).then_some(choice);
    }
    let probed = (0..SLOTS as u32).find_map(|step| {
        let offset = (step + first as u32) % SLOTS as u32;
        slots[(of(client, cport, offset, 2_654_435_761) % SLOTS) as usize].filter(|at| takes(*at))
    });
    probed.or_else(|| slots.iter().flatten().copied().find(|at| takes(*at)))
}
