//! The data plane once more, slowly: lists that are searched from the front, tables typed in again
//! from the references, nothing shared with the crate.

mod admit;
mod excess;
mod forward;
mod fragments;
mod full_nat;
mod group;
mod icmp;
mod limits;
mod listen;
mod load;
mod locality;
mod mss;
mod once;
mod persist;
mod pieces;
mod room;
mod schedulers;
mod sctp;
mod service;
mod state;
mod tally;
mod tcp;
mod toa;
mod tunnel;
mod wire;

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

pub(crate) use fragments::{Fragments, Parted, SEED, set};
pub(crate) use group::{GROUPS, Group, Role};
pub(crate) use persist::{Across, Kept, Persist, Template, network};

pub(crate) use limits::{Above, Excess, Limits};
pub(crate) use listen::{Listen, Width};
pub(crate) use load::SLOW_START;
pub(crate) use locality::Place;
pub(crate) use mss::Clamp;
pub(crate) use room::Room;
pub(crate) use service::{Gone, Mode, Sched, Server, Service};
use state::{is_over, timeout};
pub(crate) use state::{reopens, step};
pub(crate) use tally::Tally;
pub(crate) use toa::Toa;
pub(crate) use tunnel::{Flow, Tunnel};
pub(crate) use wire::{PEERS, PORTS, Port, TRUNK, VLAN, VLAN_PORT};

use crate::packet::{Between, Mac, Pkt, Proto, Row};

pub(crate) const SECOND: u64 = 1_000_000_000;

pub(crate) type State = &'static str;

#[derive(Clone, Debug)]
pub(crate) struct Conn {
    pub(crate) proto: Proto,
    pub(crate) client: IpAddr,
    pub(crate) cport: u16,
    pub(crate) vip: IpAddr,
    pub(crate) vport: u16,
    gone: Gone,
    /// No other one ever has it.
    serial: u64,
    pub(crate) server: u32,
    pub(crate) addr: IpAddr,
    pub(crate) port: u16,
    pub(crate) mode: Mode,
    tunnel: Tunnel,
    /// From where a full-NAT connection goes to its server, once a packet of it showed that.
    pub(crate) local: Option<(IpAddr, u16)>,
    pub(crate) state: State,
    seen: u64,
    /// The holder was given its successor.
    superseded: bool,
    /// Inbound packets, and what the server answered.
    packets: u64,
    replies: u64,
    /// More than one inbound packet was seen, or a reply.
    assured: bool,
    /// It went by the hash before.
    adopted: bool,
    /// Of which service, and whether a template led it to its server.
    pub(crate) service: u32,
    controlled: bool,
    /// Its service had a limit of connections of a source.
    is_counted: bool,
    /// When it came into the class it is in, as a number.
    entered: u64,
}

impl Conn {
    /// It gives way to a new one.
    pub(crate) fn is_over(&self) -> bool {
        is_over(self.state)
    }
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
    Known(Port, Mac),
    Silent(Port),
    NoRoute,
}

pub(crate) struct Naive {
    pub(crate) now: u64,
    pub(crate) services: Vec<Service>,
    pub(crate) vips: Vec<IpAddr>,
    /// Those of the quiet group among them.
    pub(crate) quiet: Vec<IpAddr>,
    pub(crate) roles: [Role; GROUPS],
    pub(crate) conns: Vec<Conn>,
    pub(crate) own: Vec<Mac>,
    pub(crate) neighbours: Vec<(IpAddr, Way)>,
    /// The largest packet, by neighbour and by interface.
    pub(crate) mtus: Vec<(IpAddr, u16)>,
    pub(crate) port_mtus: Vec<u16>,
    /// Where tunnels start, IPv4 and IPv6.
    pub(crate) tunnel_ends: [IpAddr; 2],
    /// Clients that nobody has asked yet: where they send from, and when they last opened something.
    newcomers: HashMap<IpAddr, (Mac, u64)>,
    /// What the crate made of the packet at hand: what is its own choice is taken from there.
    pub(crate) seen: Vec<u8>,
    /// Local addresses, and the ports of this node there.
    pub(crate) locals: Vec<IpAddr>,
    pub(crate) local_ports: std::ops::Range<u16>,
    /// The crate found none for the packet at hand.
    pub(crate) seen_exhausted: bool,
    pub(crate) spread: HashMap<(bool, Flow), u32>,
    /// Pieces that follow the one that is the fate of the packet at hand.
    pub(crate) rest: Vec<Pkt>,
    /// What the crate made of the packet at hand beside that.
    pub(crate) seen_rest: Vec<Vec<u8>>,
    pub(crate) fragments: Fragments,
    /// Parts that waited for the packet at hand.
    released: Vec<Pkt>,
    outer_id: u16,
    paid: u64,
    told_paid: u64,
    /// Room for connections, and for half-open ones.
    pub(crate) connections_max: usize,
    pub(crate) half_open_max: usize,
    half_open_paid: u64,
    entries: u64,
    pub(crate) templates: Vec<Template>,
    /// A connection was opened by the packet at hand.
    opened: bool,
    /// Servers with as many connections as they may have.
    full: BTreeSet<u32>,
    /// The cell that the packet at hand met.
    pub(crate) met: Option<Cell>,
    /// It was an error about one of a live connection, and was passed on.
    pub(crate) passed: bool,
    /// It was a datagram without a connection, and went on.
    pub(crate) passed_once: bool,
    /// It was a later part of a packet, and followed the first.
    pub(crate) is_following: bool,
    pub(crate) tally: Tally,
}

impl Naive {
    pub(crate) fn new(own: Vec<Mac>) -> Self {
        Self {
            now: 0,
            services: Vec::new(),
            vips: Vec::new(),
            quiet: Vec::new(),
            roles: [Role::Nobody; GROUPS],
            conns: Vec::new(),
            own,
            neighbours: Vec::new(),
            mtus: Vec::new(),
            port_mtus: Vec::new(),
            tunnel_ends: [IpAddr::from([0; 4]); 2],
            newcomers: HashMap::new(),
            seen: Vec::new(),
            locals: Vec::new(),
            local_ports: 0..0,
            seen_exhausted: false,
            spread: HashMap::new(),
            rest: Vec::new(),
            seen_rest: Vec::new(),
            fragments: Fragments::default(),
            released: Vec::new(),
            outer_id: 0,
            paid: 0,
            told_paid: 0,
            connections_max: usize::MAX,
            half_open_max: usize::MAX,
            half_open_paid: 0,
            entries: 0,
            templates: Vec::new(),
            opened: false,
            full: BTreeSet::new(),
            tally: Tally::default(),
            met: None,
            passed: false,
            passed_once: false,
            is_following: false,
        }
    }

    pub(crate) fn expire(&mut self) {
        let now = self.now;
        // Templates first: one whose last connection ends now has been looked at before.
        self.expire_templates();
        let is_over = |conn: &Conn| conn.seen + timeout(conn.state) <= now;
        let gone: Vec<Conn> = self.conns.iter().filter(|conn| is_over(conn)).cloned().collect();
        self.conns.retain(|conn| !is_over(conn));
        gone.iter().for_each(|conn| self.leave(conn));
    }

    pub(crate) fn packet(&mut self, pkt: &Pkt) -> Fate {
        self.met = None;
        (self.passed, self.passed_once, self.is_following) = (false, false, false);
        self.rest.clear();
        let fate = match Self::untag(pkt) {
            Ok(untagged) => self.arrive(pkt, &untagged),
            Err(reason) => Fate::Dropped(reason),
        };
        self.release_parts();
        fate
    }

    fn arrive(&mut self, wire: &Pkt, pkt: &Pkt) -> Fate {
        let fate = self.decide(pkt);
        if let (Fate::Sent(sent), Some(_)) = (&fate, self.met) {
            let arms = (pkt.src.is_ipv6(), pkt.port, sent.port);
            *self.tally.arms.entry(arms).or_default() += 1;
            let is_marked = wire.port == pkt.port && !wire.tags.is_empty();
            self.tally.marked += u64::from(is_marked);
            if pkt.between != Between::Nothing {
                *self.tally.between.entry(pkt.src.is_ipv6()).or_default() += 1;
            }
        }
        fate
    }

    fn decide(&mut self, pkt: &Pkt) -> Fate {
        if let Some(reason) = pkt.unreadable().or_else(|| pkt.unfit()) {
            return Fate::Dropped(reason);
        }
        if !pkt.tags.is_empty() {
            return Fate::Dropped("ethertype");
        }
        if pkt.dst_mac != self.own[usize::from(pkt.port)] {
            return Fate::Dropped("other_mac");
        }
        if pkt.flaw.is_some() {
            return Fate::Dropped("ethertype");
        }
        if let Some(fate) = self.part(pkt) {
            return fate;
        }
        let Some(proto) = pkt.proto() else { return self.icmp(pkt) };
        if self.vips.contains(&pkt.dst) {
            return self.inbound(pkt, proto);
        }
        let (sport, dport) = pkt.ports();
        let Some(group) = self.group_of_answer(proto, pkt.dst, (pkt.src, sport)) else {
            return Fate::Dropped("not_ours");
        };
        let found = self.conns.iter().position(|conn| {
            let towards = match conn.mode {
                Mode::Nat => Some((conn.client, conn.cport)),
                _ => conn.local,
            };
            conn.port == sport
                && conn.proto == proto
                && conn.addr == pkt.src
                && towards == Some((pkt.dst, dport))
        });
        if found.is_none()
            && let Some(fate) = self.return_once(pkt)
        {
            return fate;
        }
        match (found, self.role(group)) {
            (Some(at), _) if !self.is_known(&self.conns[at]) => Fate::Dropped("server_removed"),
            (Some(at), _) => self.forward(pkt, at, false),
            (None, Role::Other) => self.relay(pkt),
            (None, Role::Holder { .. }) if self.hashed_return(pkt, proto).is_some() => {
                self.hashed_return(pkt, proto).unwrap()
            }
            (None, role @ Role::Holder { .. }) if !role.is_settled(self.now) => {
                Fate::Dropped("held_back")
            }
            (None, _) => Fate::Dropped("unknown_return"),
        }
    }

    fn inbound(&mut self, pkt: &Pkt, proto: Proto) -> Fate {
        let (cport, vport) = pkt.ports();
        let found = self.conns.iter().position(|conn| {
            (conn.cport, conn.vport) == (cport, vport)
                && conn.proto == proto
                && (conn.client, conn.vip) == (pkt.src, pkt.dst)
        });
        let Some(at) = found else { return self.unknown(pkt, proto, None) };
        let conn = &self.conns[at];
        let (known, drains) = match self.server_of(conn) {
            Some(server) => (true, server.weight == 0),
            None => (false, false),
        };
        let opens = proto != Proto::Udp && pkt.opens();
        let moves = reopens(conn.state, true, pkt.row())
            || opens && drains && conn.gone == Gone::Reschedule;
        if moves || conn.superseded || (!known && conn.gone != Gone::Drop) {
            return self.unknown(pkt, proto, Some(at));
        }
        if known { self.forward(pkt, at, true) } else { Fate::Dropped("server_removed") }
    }

    pub(crate) fn way(&self, addr: IpAddr) -> Way {
        let found = self.neighbours.iter().find(|(known, _)| *known == addr);
        found.map_or(Way::NoRoute, |(_, way)| *way)
    }

    /// The server of a connection, if it still is one.
    fn server_of(&self, conn: &Conn) -> Option<&Server> {
        let service = self.services.iter().find(|service| service.id == conn.service)?;
        service.servers.iter().find(|server| server.id == conn.server)
    }

    pub(crate) fn is_known(&self, conn: &Conn) -> bool {
        self.server_of(conn).is_some()
    }

    /// Active and inactive connections of a server.
    fn load(&self, server: u32) -> (u64, u64) {
        let is_active =
            |conn: &Conn| matches!(conn.state, "ESTABLISHED" | "SYN_SENT" | "SYN_RECV" | "SYNACK");
        let of = self.conns.iter().filter(|conn| conn.server == server);
        of.fold((0, 0), |(active, rest), conn| match is_active(conn) {
            true => (active + 1, rest),
            false => (active, rest + 1),
        })
    }
}
