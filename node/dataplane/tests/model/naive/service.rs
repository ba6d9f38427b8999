//! Services and their servers.

use std::{collections::HashMap, net::IpAddr};

use super::{Clamp, Limits, Listen, Persist, Tunnel, locality};

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Mode {
    Dr,
    Nat,
    Tunnel,
    FullNat,
}

impl Mode {
    /// What servers answer comes back this way.
    pub(crate) fn returns(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Sched {
    Rr,
    Wrr,
    Lc,
    Wlc,
    Sed,
    Nq,
    Fo,
    Ovf,
    Sh { port: bool, fallback: bool },
    Dh,
    Mh { port: bool, fallback: bool },
    Lblc,
    Lblcr,
}

/// What becomes of a connection whose server left.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Gone {
    Drop,
    Reset,
    Reschedule,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Server {
    pub(crate) id: u32,
    pub(crate) addr: IpAddr,
    /// 0: the one that a packet was sent to.
    pub(crate) port: u16,
    pub(crate) weight: u16,
    pub(crate) up: bool,
    /// Thresholds; 0: none, and three quarters of the upper one.
    pub(crate) upper: u32,
    pub(crate) lower: u32,
    /// When it came up.
    pub(crate) since: u64,
}

impl Server {
    pub(crate) fn takes(&self) -> bool {
        self.up && self.weight > 0
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) id: u32,
    pub(crate) listens: Vec<Listen>,
    pub(crate) mode: Mode,
    pub(crate) sched: Sched,
    pub(crate) gone: Gone,
    /// Of tunnels.
    pub(crate) tunnel: Tunnel,
    pub(crate) clamp: Clamp,
    /// One-packet scheduling.
    pub(crate) once: bool,
    pub(crate) persist: Option<Persist>,
    /// Its servers are told their clients by a TCP option.
    pub(crate) toa: bool,
    pub(crate) limits: Limits,
    /// Up to when new connections are used up.
    pub(super) new_paid: u64,
    /// Servers that came up start with a tenth of their share.
    pub(crate) slow_start: bool,
    /// Of lblc and lblcr.
    pub(super) kept: Vec<locality::Kept>,
    /// Sorted by address and port.
    pub(crate) servers: Vec<Server>,
    /// rr: the server that was served last, by address and port.
    pub(super) last: Option<(IpAddr, u16)>,
    /// wrr: where the walk stands, and the weight it asks for.
    pub(super) walk: (isize, i64),
    /// wrr: what the turns of servers that warmed up counted so far, by their ids.
    pub(super) turns: HashMap<u32, u64>,
    /// Until then packets of unknown connections go by the hash.
    pub(super) hashing: u64,
}

impl Service {
    pub(crate) fn new(id: u32, listens: Vec<Listen>, mode: Mode, sched: Sched) -> Self {
        let gone = [Gone::Reset, Gone::Drop, Gone::Reschedule][id as usize % 3];
        let (last, walk) = (None, (-1, 0));
        let (hashing, persist) = (0, None);
        let (tunnel, clamp, once) = (Tunnel::IpIp, Clamp::Off, false);
        Self {
            id,
            listens,
            mode,
            sched,
            gone,
            tunnel,
            clamp,
            once,
            persist,
            toa: false,
            limits: Limits::default(),
            new_paid: 0,
            slow_start: false,
            kept: Vec::new(),
            servers: Vec::new(),
            last,
            walk,
            turns: HashMap::new(),
            hashing,
        }
    }

    /// Two services of each family have the same servers: a client port in both leads to the same
    /// tuple.
    pub(crate) fn is_on_shared(&self) -> bool {
        self.id % 200 / 2 == 50
    }

    /// Its servers have thresholds, or start slowly.
    pub(crate) fn is_bounded(&self) -> bool {
        (160..180).contains(&(self.id % 200))
    }

    /// It has limits.
    pub(crate) fn is_limited(&self) -> bool {
        (60..80).contains(&(self.id % 200))
    }

    /// Gives it others; another rate starts anew.
    pub(crate) fn limit(&mut self, limits: Limits) {
        if limits.new_per_s != self.limits.new_per_s {
            self.new_paid = 0;
        }
        self.limits = limits;
    }

    /// It is a match group, or lies within one.
    pub(crate) fn is_grouped(&self) -> bool {
        (180..200).contains(&(self.id % 200))
    }

    /// The family of its servers, which over a tunnel may be another one than its own.
    pub(crate) fn servers_are_ipv6(&self) -> bool {
        self.servers.first().map_or_else(|| self.is_ipv6(), |server| server.addr.is_ipv6())
    }

    fn sort(&mut self) {
        self.servers.sort_by_key(|server| (server.addr, server.port));
    }

    pub(crate) fn add(&mut self, server: Server) {
        self.servers.push(server);
        self.sort();
    }

    /// The place in the round of a server that goes falls to the one before it.
    pub(crate) fn remove(&mut self, index: usize) {
        let gone = self.servers[index];
        if self.last == Some((gone.addr, gone.port)) {
            self.last = index.checked_sub(1).map(|before| {
                let before = self.servers[before];
                (before.addr, before.port)
            });
        }
        self.servers.remove(index);
    }
}
