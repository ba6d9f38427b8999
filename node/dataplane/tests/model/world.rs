//! A small network and what happens in it, at random from a seed.

mod build;
mod crowd;
mod errors;
mod kinds;
mod make;
mod packets;
mod parts;
mod rush;
mod sctp;
pub(crate) mod steer;
mod wire;

use std::{collections::VecDeque, net::IpAddr};

use self::{build::server, crowd::Crowd, kinds::THRESHOLDS};
use crate::{
    coverage::{Coverage, HITS_AIMED_AT, WARMED_AIMED_AT, lacks_days},
    naive::{
        GROUPS, Kept, Mode, Naive, Role, SECOND, Sched, Server, Service, Template, Way, network,
    },
    packet::{Mac, Pkt},
};

/// All times are multiples of this, the resolution of the timers.
pub(crate) const STEP: u64 = SECOND / 4;

/// Steps of a day.
const DAY: usize = 24 * 3600 * 4;

pub(crate) const FRONT: Mac = [2, 0, 0, 0, 1, 0];
pub(crate) const BACK: Mac = [2, 0, 0, 0, 2, 0];

/// SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// An address of the same number in both families.
fn addr(ipv6: bool, net: u8, host: u8) -> IpAddr {
    if ipv6 {
        ip(&format!("2001:db8:{net:x}::{host:x}"))
    } else {
        ip(&format!("198.18.{net}.{host}"))
    }
}

/// One of a network beside that of the others: in IPv6 the next one of 64 bits.
fn far(ipv6: bool, host: u8) -> IpAddr {
    if ipv6 { ip(&format!("2001:db8:0:1::{host:x}")) } else { addr(false, 3, host) }
}

/// How many connections there is room for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Size {
    /// Too many for few.
    Small,
    Large,
}

impl Size {
    pub(crate) fn connections_max(self) -> usize {
        match self {
            Self::Small => 40,
            Self::Large => 1 << 16,
        }
    }
}

pub(crate) struct World {
    pub(crate) random: Random,
    pub(crate) naive: Naive,
    next_server: u32,
    /// Services on the same servers, those whose clients keep theirs, and so on.
    shared: Vec<usize>,
    persistent: Vec<usize>,
    bounded: Vec<usize>,
    locals: Vec<usize>,
    groups: Vec<usize>,
    limited: Vec<usize>,
    ways: steer::Ways,
    /// Packets of which some parts have not come yet.
    flights: Vec<VecDeque<Pkt>>,
    /// Parts that come at once.
    storm: VecDeque<Pkt>,
    /// Packets to one server, one after the other; afterwards their connections are left to end.
    rush: VecDeque<Pkt>,
    /// There is room for many connections.
    is_large: bool,
    was_rush: bool,
    /// Connections that are asked for one after the other, and of which service.
    crowd: Crowd,
    /// Packets to come that nobody serves: more at once than are answered.
    burst: usize,
    /// The configuration changed: the crate must be told.
    pub(crate) is_reconfigured: bool,
    pub(crate) is_new_role: bool,
}

impl World {
    pub(crate) fn new(seed: u64, size: Size) -> Self {
        let mut naive = Naive::new(vec![FRONT, BACK, FRONT]);
        naive.now = 20_000 * STEP;
        naive.port_mtus = vec![1500, 9000, 1450];
        naive.tunnel_ends = [addr(false, 2, 1), addr(true, 2, 1)];
        naive.locals = vec![addr(false, 1, 10), addr(false, 1, 11), addr(true, 1, 10)];
        // Slot 3 of 64, each of 1008 ports from 1024 on.
        naive.local_ports = 1024 + 3 * 1008..1024 + 4 * 1008;
        naive.roles = [Role::Holder { since: 0, complete: true }; GROUPS];
        let mut world = Self {
            random: Random(seed),
            naive,
            next_server: 1,
            shared: Vec::new(),
            persistent: Vec::new(),
            bounded: Vec::new(),
            locals: Vec::new(),
            groups: Vec::new(),
            limited: Vec::new(),
            ways: steer::Ways::new(),
            flights: Vec::new(),
            storm: VecDeque::new(),
            rush: VecDeque::new(),
            is_large: size == Size::Large,
            was_rush: false,
            crowd: Crowd { left: 0, service: 0 },
            burst: 0,
            is_reconfigured: true,
            is_new_role: true,
        };
        for ipv6 in [false, true] {
            world.add_family(ipv6);
        }
        let services = &world.naive.services;
        let all = 0..services.len();
        world.shared = all.clone().filter(|at| services[*at].is_on_shared()).collect();
        world.bounded = all.clone().filter(|at| services[*at].is_bounded()).collect();
        world.locals = all.clone().filter(|at| services[*at].mode == Mode::FullNat).collect();
        world.limited = all.clone().filter(|at| services[*at].is_limited()).collect();
        world.groups = all.clone().filter(|at| services[*at].is_grouped()).collect();
        world.persistent = all.filter(|at| services[*at].persist.is_some()).collect();
        world
    }

    /// Time passes, and now and then something changes. True when time has passed.
    pub(crate) fn happen(&mut self, coverage: &Coverage) -> bool {
        if self.is_rushing() {
            return false;
        }
        if self.begins_rush() {
            return true;
        }
        if self.begins_crowd() {
            return false;
        }
        if self.random.below(250) == 0 {
            // Both are told of it at this time.
            self.reconfigure();
            return false;
        }
        let of_roles = ["held_back", "no_holder", "relay_loop"];
        let often = if of_roles.iter().any(|name| coverage.lacks(name)) { 1000 } else { 2500 };
        for group in 0..GROUPS {
            self.change_role(group, often);
        }
        // Those of a burst come at once.
        if self.burst > 0 || !self.storm.is_empty() || self.random.below(20) != 0 {
            return false;
        }
        let steps = match self.random.below(200) {
            0..3 if lacks_days(&self.naive) => DAY + 130 - self.random.below(500),
            0 => 40 + self.random.below(4000),
            _ => self.random.below(4),
        };
        self.naive.now += steps as u64 * STEP;
        true
    }

    fn change_role(&mut self, group: usize, often: usize) {
        let (now, role) = (self.naive.now, self.naive.roles[group]);
        let role = if self.random.below(often) == 0 {
            match self.random.below(8) {
                0 => Role::Other,
                1 => Role::Nobody,
                2 => Role::Holder { since: now, complete: false },
                3 => Role::Holder { since: now, complete: true },
                _ => Role::Holder { since: now - 10 * SECOND, complete: true },
            }
        } else if !matches!(role, Role::Holder { complete: true, .. })
            && self.random.below(400) == 0
        {
            Role::Holder { since: now, complete: true }
        } else {
            return;
        };
        self.naive.roles[group] = role;
        self.is_new_role = true;
    }

    fn reconfigure(&mut self) {
        self.is_reconfigured = true;
        // Where nobody answers steering would lead again and again.
        let silent = |naive: &Naive, server: &Server| {
            server.takes() && matches!(naive.way(server.addr), Way::Silent(_))
        };
        if self.random.percent(20) {
            let services = self.naive.services.iter().enumerate();
            let of = |(at, service): (usize, &Service)| {
                let place = service.servers.iter().position(|server| silent(&self.naive, server));
                place.map(|place| (at, place))
            };
            let found: Vec<(usize, usize)> = services.filter_map(of).collect();
            if !found.is_empty() {
                let (at, place) = self.random.of(&found);
                self.naive.services[at].servers[place].up = false;
                return;
            }
        }
        let mut at = self.random.below(self.naive.services.len());
        // Rare: a client whose server of weight 0 is still its own.
        let kept = self.naive.tally.kept.get(&Kept::StayedQuiescent).copied().unwrap_or(0);
        let lacks = kept < HITS_AIMED_AT;
        if self.random.percent(if lacks { 60 } else { 40 }) {
            at = self.random.of(&self.persistent);
        } else if self.random.percent(30) {
            at = self.random.of(&self.bounded);
            if self.naive.tally.warmed < WARMED_AIMED_AT && self.random.percent(50) {
                at = self.bounded_that(|service| service.slow_start);
            }
        }
        // Rare: a round with a server that warms up.
        let comes_up = self.naive.tally.turns_passed < HITS_AIMED_AT && self.random.percent(25);
        if comes_up {
            at = self.bounded_that(|service| service.sched == Sched::Wrr);
        }
        if self.random.percent(8) {
            at = self.random.of(&self.limited);
            let limits = self.limits();
            self.naive.services[at].limit(limits);
            return;
        }
        let (now, bounded) = (self.naive.now, self.naive.services[at].is_bounded());
        let service = &mut self.naive.services[at];
        let (ipv6, count) = (service.servers_are_ipv6(), service.servers.len());
        let place = self.random.below(count.max(1));
        // The server that clients of a crowd keep.
        let of_crowd = network(addr(service.is_ipv6(), 0, 203));
        let is_its = |t: &&Template| (t.service, t.network) == (service.id, of_crowd);
        let mut kept = self.naive.templates.iter().filter(is_its);
        let named = kept.find_map(|t| service.servers.iter().position(|s| s.id == t.server));
        // What a weighted round does when weights change is not told by its rule alone.
        let rounds = service.sched == Sched::Wrr;
        // Those on the same servers stay there.
        let shared = service.is_on_shared();
        let took: Vec<u32> = service.servers.iter().filter(|s| s.takes()).map(|s| s.id).collect();
        let moved = self.naive.tally.kept.get(&Kept::Moved).copied().unwrap_or(0);
        let (persists, goes) = (service.persist.is_some(), moved < HITS_AIMED_AT);
        let goes = persists && goes;
        match self.random.below(if lacks { 5 } else { 4 }) {
            _ if goes && count > 0 && self.random.percent(if lacks { 30 } else { 65 }) => {
                let down = named.unwrap_or(place);
                for (at, server) in service.servers.iter_mut().enumerate() {
                    server.up = at != down;
                }
            }
            _ if comes_up => service.servers[place].up ^= true,
            _ if count > 0 && bounded && self.random.percent(40) => {
                let server = &mut service.servers[place];
                (server.upper, server.lower) = self.random.of(&THRESHOLDS);
            }
            0 if count > 0 => service.servers[place].up ^= true,
            1 if count > 0 && !rounds => {
                service.servers[place].weight = self.random.of(&[0, 1, 1, 2, 5, 300]);
            }
            4 if count > 0 && !rounds => service.servers[place].weight = 0,
            2 if count > 1 && !rounds && !shared => service.remove(place),
            3 if !rounds => {
                // Who sends packets nowhere has few connections, and gets the next: such are rare.
                let slot = if self.random.percent(4) { 5 } else { self.random.below(5) as u8 };
                self.next_server += 1;
                let weight = self.random.of(&[1, 2, 7]);
                let (id, mode, port) = (service.id, service.mode, service.port().unwrap_or(0));
                let new = server(ipv6, mode, id, slot, self.next_server, weight, port);
                let held = |s: &Server| (s.addr, s.port) == (new.addr, new.port);
                if !service.servers.iter().any(held) {
                    service.add(new);
                }
            }
            _ => {}
        }
        // Who did not take connections before comes up now.
        for server in service.servers.iter_mut().filter(|server| !took.contains(&server.id)) {
            server.since = now;
        }
        let servers: Vec<u32> = service.servers.iter().map(|server| server.id).collect();
        servers.into_iter().for_each(|server| self.naive.judge(server));
        if goes || persists && lacks {
            // Its clients come again, and may have to go elsewhere, or not.
            self.start_crowd(at);
        }
    }
}
