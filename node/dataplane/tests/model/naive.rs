//! The data plane once more, slowly: lists that are searched from the front, tables typed in again
//! from the references, nothing shared with the crate.

mod excess;
mod persist;
mod schedulers;

use std::{collections::BTreeMap, net::IpAddr};

pub(crate) use persist::{Kept, Persist, Template};

use crate::packet::{ACK, Body, FIN, Mac, Pkt, Proto, RST, Row, SYN};

pub(crate) const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Mode {
    Dr,
    Nat,
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
    pub(crate) port: u16,
    pub(crate) weight: u16,
    pub(crate) up: bool,
}

impl Server {
    fn takes(&self) -> bool {
        self.up && self.weight > 0
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) id: u32,
    pub(crate) proto: Proto,
    pub(crate) vip: IpAddr,
    pub(crate) port: u16,
    pub(crate) mode: Mode,
    pub(crate) sched: Sched,
    pub(crate) gone: Gone,
    pub(crate) persist: Option<Persist>,
    /// Sorted by address and port.
    pub(crate) servers: Vec<Server>,
    /// rr: the server that was served last, by address and port.
    last: Option<(IpAddr, u16)>,
    /// wrr: where the walk stands, and the weight it asks for.
    walk: (isize, i64),
    /// Until then packets of unknown connections go by the hash.
    hashing: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Holder { since: u64, complete: bool },
    Other,
    Nobody,
}

pub(crate) type State = &'static str;

#[derive(Clone, Debug)]
pub(crate) struct Conn {
    pub(crate) proto: Proto,
    pub(crate) client: IpAddr,
    pub(crate) cport: u16,
    pub(crate) vip: IpAddr,
    pub(crate) vport: u16,
    gone: Gone,
    pub(crate) server: u32,
    pub(crate) addr: IpAddr,
    pub(crate) port: u16,
    pub(crate) mode: Mode,
    pub(crate) state: State,
    seen: u64,
    /// The holder was given its successor.
    superseded: bool,
    /// Inbound packets.
    packets: u64,
    /// More than one inbound packet was seen, or a reply.
    assured: bool,
    /// It went by the hash before.
    adopted: bool,
    /// Of which service, and whether a template led it to its server.
    service: u32,
    controlled: bool,
    /// When it came into the class it is in, as a number.
    entered: u64,
}

/// What should become of a packet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Fate {
    Sent(Pkt),
    Dropped(&'static str),
}

/// Which cell of which table a packet of a live connection met.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) struct Cell {
    pub(crate) ipv6: bool,
    pub(crate) mode: Mode,
    pub(crate) proto: Proto,
    pub(crate) inbound: bool,
    pub(crate) state: State,
    pub(crate) row: Row,
}

/// A neighbour: the interface it is on and its address there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way {
    Known(u16, Mac),
    Silent,
    NoRoute,
}

pub(crate) struct Naive {
    pub(crate) now: u64,
    pub(crate) services: Vec<Service>,
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) role: Role,
    pub(crate) conns: Vec<Conn>,
    pub(crate) own: Vec<Mac>,
    pub(crate) peer: Mac,
    pub(crate) neighbours: Vec<(IpAddr, Way)>,
    paid: u64,
    /// Room for half-open connections.
    pub(crate) half_open_max: usize,
    half_open_paid: u64,
    entries: u64,
    pub(crate) templates: Vec<Template>,
    /// A connection was opened by the packet at hand.
    opened: bool,
    /// How often what was decided by a template.
    pub(crate) kept: BTreeMap<Kept, u64>,
    /// The cell that the packet at hand met.
    pub(crate) met: Option<Cell>,
}

// ipvs.md 1.6, typed in again: columns NO ES SS SR FW TW CL CW LA LI SA.
const COLUMNS: [State; 11] = [
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "SYNACK",
];
const IN: [&str; 4] = [
    "SR ES ES SR SR SR SR SR SR SR SR",
    "CL CW SS TW TW TW CL CW LA LI TW",
    "ES ES SS ES FW TW CL CW CL LI ES",
    "CL CL CL SR CL CL CL CL LA LI SR",
];
const OUT: [&str; 4] = [
    "SS ES SS SR SS SS SS SS SS LI SR",
    "TW FW SS TW FW TW CL TW LA LI TW",
    "ES ES SS ES FW TW CL CW LA ES ES",
    "CL CL SS CL CL TW CL CL CL CL CL",
];
const IN_ONLY: [&str; 4] = [
    "SR ES ES SR SR SR SR SR SR SR SR",
    "CL FW SS TW FW TW CL CW LA LI TW",
    "ES ES SS ES FW TW CL CW CL LI ES",
    "CL CL CL SR CL CL CL CL LA LI CL",
];

pub(crate) fn step(state: State, mode: Mode, inbound: bool, row: Row) -> State {
    let table = match (inbound, mode) {
        (false, _) => OUT,
        (true, Mode::Nat) => IN,
        (true, Mode::Dr) => IN_ONLY,
    };
    let line = match row {
        Row::Syn => table[0],
        Row::Fin => table[1],
        Row::Ack => table[2],
        Row::Rst => table[3],
        Row::Nothing => return "CLOSE",
    };
    let column = COLUMNS.iter().position(|name| *name == state).unwrap();
    match line.split(' ').nth(column).unwrap() {
        "NO" => "NONE",
        "ES" => "ESTABLISHED",
        "SS" => "SYN_SENT",
        "SR" => "SYN_RECV",
        "FW" => "FIN_WAIT",
        "TW" => "TIME_WAIT",
        "CL" => "CLOSE",
        "CW" => "CLOSE_WAIT",
        "LA" => "LAST_ACK",
        "LI" => "LISTEN",
        "SA" => "SYNACK",
        other => panic!("{other}"),
    }
}

pub(crate) fn timeout(state: State) -> u64 {
    let seconds = match state {
        // Not the 2 of the table: a new connection starts with 3 (ipvs.md 1.3).
        "NONE" => 3,
        "ESTABLISHED" => 900,
        "SYN_SENT" => 120,
        "SYN_RECV" => 60,
        "FIN_WAIT" | "TIME_WAIT" => 120,
        "CLOSE" => 10,
        "CLOSE_WAIT" => 60,
        "LAST_ACK" => 30,
        "LISTEN" | "SYNACK" => 120,
        "UDP" => 300,
        other => panic!("{other}"),
    };
    seconds * SECOND
}

impl Service {
    pub(crate) fn new(
        id: u32,
        (proto, vip, port): (Proto, IpAddr, u16),
        mode: Mode,
        sched: Sched,
        servers: Vec<Server>,
    ) -> Self {
        let gone = [Gone::Reset, Gone::Drop, Gone::Reschedule][id as usize % 3];
        let (last, walk) = (None, (-1, 0));
        let (hashing, persist) = (0, None);
        let mut service =
            Self { id, proto, vip, port, mode, sched, gone, persist, servers, last, walk, hashing };
        service.sort();
        service
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

impl Naive {
    pub(crate) fn new(own: Vec<Mac>, peer: Mac) -> Self {
        Self {
            now: 0,
            services: Vec::new(),
            vips: Vec::new(),
            role: Role::Nobody,
            conns: Vec::new(),
            own,
            peer,
            neighbours: Vec::new(),
            paid: 0,
            half_open_max: usize::MAX,
            half_open_paid: 0,
            entries: 0,
            templates: Vec::new(),
            opened: false,
            kept: BTreeMap::new(),
            met: None,
        }
    }

    pub(crate) fn expire(&mut self) {
        let now = self.now;
        // Templates first: one whose last connection ends now has been looked at before.
        self.expire_templates();
        let (stay, gone) =
            self.conns.drain(..).partition(|conn| conn.seen + timeout(conn.state) > now);
        self.conns = stay;
        let gone: Vec<Conn> = gone;
        gone.iter().for_each(|conn| self.leave(conn));
    }

    pub(crate) fn packet(&mut self, pkt: &Pkt) -> Fate {
        self.met = None;
        if pkt.dst_mac != self.own[usize::from(pkt.port)] {
            return Fate::Dropped("other_mac");
        }
        let Some(proto) = pkt.proto() else { return self.ping(pkt) };
        if self.vips.contains(&pkt.dst) {
            return self.inbound(pkt, proto);
        }
        let (sport, dport) = pkt.ports();
        let pool = self.services.iter().filter(|service| service.mode == Mode::Nat);
        let is_pool = pool
            .filter(|service| service.proto == proto)
            .any(|service| service.servers.iter().any(|s| (s.addr, s.port) == (pkt.src, sport)));
        if !is_pool {
            return Fate::Dropped("not_ours");
        }
        let found = self.conns.iter().position(|conn| {
            conn.mode == Mode::Nat
                && conn.proto == proto
                && (conn.addr, conn.port) == (pkt.src, sport)
                && (conn.client, conn.cport) == (pkt.dst, dport)
        });
        match (found, self.role) {
            (Some(at), _) if !self.is_known(self.conns[at].server) => {
                Fate::Dropped("server_removed")
            }
            (Some(at), _) => self.forward(pkt, at, false),
            (None, Role::Other) => self.relay(pkt),
            (None, Role::Holder { .. }) if self.hashed_return(pkt, proto).is_some() => {
                self.hashed_return(pkt, proto).unwrap()
            }
            (None, Role::Holder { .. }) if !self.is_settled() => Fate::Dropped("held_back"),
            (None, _) => Fate::Dropped("unknown_return"),
        }
    }

    fn ping(&mut self, pkt: &Pkt) -> Fate {
        let Body::Icmp { kind, code, rest } = &pkt.body else { unreachable!() };
        if !self.vips.contains(&pkt.dst) {
            return Fate::Dropped("not_ours");
        }
        let (request, reply) = if pkt.src.is_ipv6() { (128, 129) } else { (8, 0) };
        if (*kind, *code) != (request, 0) {
            return Fate::Dropped("protocol");
        }
        match self.role {
            Role::Nobody => Fate::Dropped("no_holder"),
            Role::Other => self.relay(pkt),
            Role::Holder { .. } => {
                let body = Body::Icmp { kind: reply, code: 0, rest: rest.clone() };
                self.answer(pkt, body, pkt.tos)
            }
        }
    }

    fn inbound(&mut self, pkt: &Pkt, proto: Proto) -> Fate {
        let (cport, vport) = pkt.ports();
        let found = self.conns.iter().position(|conn| {
            conn.proto == proto
                && (conn.client, conn.cport) == (pkt.src, cport)
                && (conn.vip, conn.vport) == (pkt.dst, vport)
        });
        let Some(at) = found else { return self.unknown(pkt, proto, None) };
        let conn = &self.conns[at];
        let known = self.is_known(conn.server);
        let drains = self.services.iter().flat_map(|service| &service.servers);
        let drains = drains.into_iter().any(|s| s.id == conn.server && s.weight == 0);
        let is_over = matches!(conn.state, "TIME_WAIT" | "CLOSE");
        let opens = proto == Proto::Tcp && pkt.row() == Row::Syn;
        let moves = opens && (is_over || drains && conn.gone == Gone::Reschedule);
        if moves || conn.superseded || (!known && conn.gone != Gone::Drop) {
            return self.unknown(pkt, proto, Some(at));
        }
        if known { self.forward(pkt, at, true) } else { Fate::Dropped("server_removed") }
    }

    fn unknown(&mut self, pkt: &Pkt, proto: Proto, old: Option<usize>) -> Fate {
        match self.role {
            Role::Nobody => return Fate::Dropped("no_holder"),
            Role::Other => {
                if let Some(at) = old
                    && (proto == Proto::Udp || pkt.row() == Row::Syn)
                {
                    self.conns[at].superseded = true;
                }
                return self.relay(pkt);
            }
            Role::Holder { .. } => {}
        }
        let is_client = match pkt.src {
            IpAddr::V4(addr) => !matches!(addr.octets()[0], 0 | 127 | 224..),
            IpAddr::V6(addr) => {
                let text = addr.to_string();
                !(text == "::" || text == "::1" || text.starts_with("ff") || text.contains('.'))
            }
        };
        if !is_client {
            return Fate::Dropped("malformed");
        }
        let opens = proto == Proto::Udp || pkt.row() == Row::Syn;
        if !opens && !self.is_settled() {
            return Fate::Dropped("held_back");
        }
        let (_, vport) = pkt.ports();
        let service =
            self.services.iter().position(|s| (s.proto, s.vip, s.port) == (proto, pkt.dst, vport));
        let Some(service) = service else { return self.reject(pkt) };
        if !opens {
            // Its client is told, or would have been: nobody needs it any more.
            if let Some(at) = old
                && !self.is_known(self.conns[at].server)
            {
                let gone = self.conns.remove(at);
                self.leave(&gone);
            }
            if old.is_none() && self.services[service].hashing > self.now {
                return self.adopt(pkt, proto, service);
            }
            return self.reject(pkt);
        }
        match self.choose(service, pkt) {
            Some((server, controlled)) => {
                let fate = self.open(pkt, proto, (service, server), old, (false, controlled));
                if controlled && !self.opened {
                    let of = &self.services[service];
                    self.release(of.id, pkt.src, of.servers[server].id);
                }
                fate
            }
            None => {
                if let Some(at) = old {
                    let gone = self.conns.remove(at);
                    self.leave(&gone);
                }
                self.reject(pkt)
            }
        }
    }

    fn open(
        &mut self,
        pkt: &Pkt,
        proto: Proto,
        (of, server): (usize, usize),
        old: Option<usize>,
        (adopted, controlled): (bool, bool),
    ) -> Fate {
        self.opened = false;
        let service = of;
        let (cport, vport) = pkt.ports();
        let service = &self.services[service];
        let server = service.servers[server];
        let conn = Conn {
            proto,
            client: pkt.src,
            cport,
            vip: pkt.dst,
            vport,
            gone: service.gone,
            server: server.id,
            addr: server.addr,
            port: server.port,
            mode: service.mode,
            state: if proto == Proto::Udp { "UDP" } else { "NONE" },
            seen: self.now,
            superseded: false,
            packets: 0,
            assured: false,
            adopted,
            service: service.id,
            controlled,
            entered: self.entries,
        };
        self.entries += 1;
        // Two connections of one client port with one server's port could not be told apart.
        let twin = self.conns.iter().enumerate().position(|(at, held)| {
            Some(at) != old
                && held.mode == Mode::Nat
                && conn.mode == Mode::Nat
                && held.proto == conn.proto
                && (held.addr, held.port) == (conn.addr, conn.port)
                && (held.client, held.cport) == (conn.client, conn.cport)
        });
        if let Some(twin) = twin
            && !matches!(self.conns[twin].state, "TIME_WAIT" | "CLOSE")
        {
            return Fate::Dropped("reply_taken");
        }
        let gone: Vec<usize> = [old, twin].into_iter().flatten().collect();
        let (mut stay, mut left) = (Vec::new(), Vec::new());
        for (at, conn) in self.conns.drain(..).enumerate() {
            if gone.contains(&at) { left.push(conn) } else { stay.push(conn) }
        }
        self.conns = stay;
        left.iter().for_each(|conn| self.leave(conn));
        if old.is_none() && !self.make_room(of) {
            return self.by_hash(pkt, of);
        }
        self.conns.push(conn);
        self.opened = true;
        self.forward(pkt, self.conns.len() - 1, true)
    }

    fn forward(&mut self, pkt: &Pkt, at: usize, inbound: bool) -> Fate {
        let conn = &self.conns[at];
        let towards = if inbound { conn.addr } else { conn.client };
        let (port, mac) = match self.way(towards) {
            Way::Known(port, mac) => (port, mac),
            Way::Silent => return Fate::Dropped("next_hop_unresolved"),
            Way::NoRoute => return Fate::Dropped("no_route"),
        };
        if pkt.ttl <= 1 {
            return Fate::Dropped("ttl_exceeded");
        }
        let mut sent = pkt.clone();
        (sent.port, sent.src_mac, sent.dst_mac) = (port, self.own[usize::from(port)], mac);
        sent.ttl -= 1;
        let (sport, dport) = pkt.ports();
        if conn.mode == Mode::Nat && inbound {
            sent.dst = conn.addr;
            sent.set_ports(sport, conn.port);
        } else if conn.mode == Mode::Nat {
            sent.src = conn.vip;
            sent.set_ports(conn.vport, dport);
        }
        let row = if conn.proto == Proto::Udp { Row::Nothing } else { pkt.row() };
        self.met = Some(Cell {
            ipv6: pkt.src.is_ipv6(),
            mode: conn.mode,
            proto: conn.proto,
            inbound,
            state: conn.state,
            row,
        });
        let now = self.now;
        let conn = &mut self.conns[at];
        let was = conn.worth();
        conn.seen = now;
        if conn.proto == Proto::Tcp {
            conn.state = step(conn.state, conn.mode, inbound, row);
        }
        conn.packets += u64::from(inbound);
        conn.assured |= conn.packets > 1 || !inbound;
        if conn.worth() != was {
            conn.entered = self.entries;
            self.entries += 1;
        }
        Fate::Sent(sent)
    }

    fn relay(&self, pkt: &Pkt) -> Fate {
        if pkt.src_mac == self.peer && pkt.port == 0 {
            return Fate::Dropped("relay_loop");
        }
        if pkt.port != 0 {
            // The holder's address is known on the first interface alone.
            return Fate::Dropped("no_holder");
        }
        let mut sent = pkt.clone();
        (sent.src_mac, sent.dst_mac) = (self.own[0], self.peer);
        Fate::Sent(sent)
    }

    fn reject(&mut self, pkt: &Pkt) -> Fate {
        if pkt.row() == Row::Rst {
            return Fate::Dropped("unknown_reset");
        }
        // A thousand answers a second, a hundred at once.
        let from = self.paid.max(self.now.saturating_sub(SECOND / 10));
        if from + SECOND / 1000 > self.now {
            return Fate::Dropped("rate_limited");
        }
        self.paid = from + SECOND / 1000;
        let body = match &pkt.body {
            Body::Tcp { sport, dport, seq, ack, flags, data, .. } => {
                let has_ack = flags & ACK != 0;
                let ends = u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
                let len = data.len() as u32 + ends;
                Body::Tcp {
                    sport: *dport,
                    dport: *sport,
                    seq: if has_ack { *ack } else { 0 },
                    ack: if has_ack { 0 } else { seq.wrapping_add(len) },
                    flags: if has_ack { RST } else { RST | ACK },
                    window: 0,
                    data: Vec::new(),
                }
            }
            _ => {
                let mut rest = vec![0; 4];
                rest.extend(pkt.packet());
                let (kind, code) = if pkt.src.is_ipv6() { (1, 4) } else { (3, 3) };
                Body::Icmp { kind, code, rest }
            }
        };
        self.answer(pkt, body, 0)
    }

    fn answer(&self, pkt: &Pkt, body: Body, tos: u8) -> Fate {
        let (port, mac) = match self.way(pkt.src) {
            Way::Known(port, mac) => (port, mac),
            // Nobody to answer to but who sent it, unless that is another node.
            _ if pkt.src_mac == self.peer => return Fate::Dropped("next_hop_unresolved"),
            _ => (pkt.port, pkt.src_mac),
        };
        let src_mac = self.own[usize::from(port)];
        let (src, dst, dst_mac) = (pkt.dst, pkt.src, mac);
        Fate::Sent(Pkt { port, src_mac, dst_mac, src, dst, ttl: 64, tos, body })
    }

    fn way(&self, addr: IpAddr) -> Way {
        let found = self.neighbours.iter().find(|(known, _)| *known == addr);
        found.map_or(Way::NoRoute, |(_, way)| *way)
    }

    fn is_known(&self, server: u32) -> bool {
        self.services.iter().flat_map(|service| &service.servers).any(|s| s.id == server)
    }

    fn is_settled(&self) -> bool {
        match self.role {
            Role::Holder { since, complete } => complete && self.now >= since + 3 * SECOND,
            _ => false,
        }
    }

    /// Active and inactive connections of a server.
    fn load(&self, server: u32) -> (u64, u64) {
        let of = self.conns.iter().filter(|conn| conn.server == server);
        let is_active =
            |conn: &&Conn| matches!(conn.state, "ESTABLISHED" | "SYN_SENT" | "SYN_RECV" | "SYNACK");
        let (active, rest): (Vec<_>, Vec<_>) = of.partition(is_active);
        (active.len() as u64, rest.len() as u64)
    }
}
