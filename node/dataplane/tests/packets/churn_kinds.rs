//! P19 for the other ways: servers come, go, change weight and health, and no connection whose
//! server is in the configuration moves, in either direction, whatever its family, protocol,
//! forwarding and scheduler. Persistent clients stay with their server while it may keep them.
//!
//! `STEADFAST_SEED=n` replays a run;
//! `cargo test -p steadfast-dataplane --test packets churn -- --nocapture` prints its table.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use steadfast_dataplane::{
    ConfigSpec, FlowKey, Forwarding, HashOptions, Listen, NextHops, Persistence, PortSlot,
    Protocol, SchedulerKind, ServerId, ServerSpec, ServiceId, ServiceSpec,
};
use steadfast_packet::{Content, Tunnel, parse};

use crate::{
    both::{self, NETS, Net, ends::Segment, framed, packet},
    churn::Random,
    lab::*,
};

const ROUNDS: u64 = 3_000;
/// Connections that each service has most of the time, and clients, where those matter.
const CONNECTIONS: usize = 50;
const CLIENTS: usize = 20;
/// Addresses that servers of a service may have, and how many servers it has.
const ADDRESSES: usize = 30;
const SERVERS_MIN: usize = 4;
const SERVERS_MAX: usize = 14;

const RR: SchedulerKind = SchedulerKind::Rr;
const WLC: SchedulerKind = SchedulerKind::Wlc;
const SH: SchedulerKind = SchedulerKind::Sh(HashOptions { port: true, fallback: true });
const MH: SchedulerKind = SchedulerKind::Mh(HashOptions { port: true, fallback: true });
const IPIP: Forwarding = Forwarding::Tunnel(Tunnel::IpIp);

/// Family (an index of [`NETS`]), protocol, forwarding, scheduler, and whether clients stay.
type Kind = (usize, Protocol, Forwarding, SchedulerKind, bool);

const KINDS: [Kind; 14] = [
    (0, Protocol::Tcp, Forwarding::Nat, RR, false),
    (0, Protocol::Udp, Forwarding::Nat, WLC, false),
    (1, Protocol::Tcp, Forwarding::Nat, SH, false),
    (1, Protocol::Udp, Forwarding::Nat, MH, false),
    (0, Protocol::Tcp, Forwarding::FullNat, WLC, false),
    (0, Protocol::Udp, Forwarding::FullNat, SH, false),
    (1, Protocol::Tcp, Forwarding::FullNat, RR, false),
    (1, Protocol::Udp, Forwarding::FullNat, WLC, false),
    (0, Protocol::Udp, Forwarding::Dr, RR, false),
    (1, Protocol::Tcp, Forwarding::Dr, WLC, false),
    (1, Protocol::Udp, IPIP, WLC, false),
    (0, Protocol::Tcp, Forwarding::Nat, WLC, true),
    (1, Protocol::Tcp, Forwarding::Dr, RR, true),
    (0, Protocol::Udp, Forwarding::FullNat, RR, true),
];

/// A service, its servers, and what its clients see.
struct Served {
    number: usize,
    kind: Kind,
    servers: Vec<ServerSpec>,
    sessions: Vec<Session>,
    /// Where each persistent client went last.
    stays: HashMap<IpAddr, ServerId>,
    next_port: u16,
    count: Count,
}

#[derive(Debug, Default)]
struct Count {
    opened: u64,
    refused: u64,
    carried: u64,
    answered: u64,
    stayed: u64,
    ended: u64,
}

#[derive(Clone, Copy, Debug)]
struct Session {
    client: SocketAddr,
    server: ServerId,
    addr: IpAddr,
    /// Whom the server answers.
    peer: SocketAddr,
}

impl Served {
    fn net(&self) -> Net {
        NETS[self.kind.0]
    }

    fn vip(&self) -> SocketAddr {
        both::at(self.net().vip, 7000 + self.number as u16)
    }

    /// No two NAT services share a server's port.
    fn real_port(&self) -> u16 {
        if self.kind.2.is_nat() { 9000 + self.number as u16 } else { self.vip().port() }
    }

    fn spec(&self, turn: usize) -> ServiceSpec {
        let (_, protocol, forwarding, scheduler, stays) = self.kind;
        let mut servers = self.servers.clone();
        servers.rotate_left(turn % self.servers.len());
        let persistence = stays.then_some(Persistence {
            timeout_ns: 3600 * SECOND,
            prefix_v4: 32,
            prefix_v6: 128,
            expire_quiescent_template: false,
        });
        ServiceSpec {
            id: ServiceId(1 + self.number as u32),
            group: GROUP,
            listen: vec![Listen::new(protocol, self.vip().ip(), self.vip().port())],
            scheduler,
            forwarding,
            persistence,
            servers,
            ..ServiceSpec::default()
        }
    }

    fn add(&mut self, random: &mut Random, next_id: &mut u32) {
        let addr = address(self.kind, random.below(ADDRESSES));
        if self.servers.len() >= SERVERS_MAX || self.servers.iter().any(|s| s.addr == addr) {
            return;
        }
        // Ids are never used again, addresses are.
        *next_id += 1;
        let (id, port) = (ServerId(*next_id), self.real_port());
        let weight = 1 + random.below(5) as u16;
        self.servers.push(ServerSpec { id, addr, port, weight, ..ServerSpec::default() });
    }

    fn change(&mut self, random: &mut Random, next_id: &mut u32) {
        let place = random.below(self.servers.len());
        let many = self.servers.len() > SERVERS_MIN;
        let server = &mut self.servers[place];
        match random.below(10) {
            0..2 => self.add(random, next_id),
            2 if many => drop(self.servers.swap_remove(place)),
            2..5 => {
                server.last_weight = server.table_weight();
                server.weight = [0, 1, 2, 3, 9][random.below(5)];
            }
            5 => server.drained = random.below(4) == 0,
            _ => server.up = random.below(4) != 0,
        }
    }

    fn server(&self, id: ServerId) -> Option<&ServerSpec> {
        self.servers.iter().find(|server| server.id == id)
    }

    fn frame(&self, client: SocketAddr, flags: u8) -> Vec<u8> {
        framed((CLIENT, FRONT), &said(self.kind.1, (client, self.vip()), flags))
    }

    /// A new connection, and where it went.
    fn open(&mut self, lab: &mut Lab, random: &mut Random, seed: u64) {
        self.next_port = if self.next_port == u16::MAX { 1024 } else { self.next_port + 1 };
        let host = if self.kind.4 { random.below(CLIENTS) } else { 0 };
        let client = SocketAddr::new(client(self.kind, host), self.next_port);
        let stays = self.stays.get(&client.ip()).copied();
        let keeps = stays.and_then(|id| self.server(id)).filter(|server| server.up).copied();
        let Outcome::Sent(_, frame) = lab.handle(0, &self.frame(client, SYN)) else {
            assert!(self.servers.iter().all(|s| !s.is_available()), "seed {seed}: {:?}", self.kind);
            assert!(keeps.is_none(), "seed {seed}: {:?}", self.kind);
            self.count.refused += 1;
            return;
        };
        let Some(addr) = went_to(self.kind, &frame) else {
            // A reset or an unreachable port, for nobody takes any.
            assert!(self.servers.iter().all(|s| !s.is_available()), "seed {seed}: {:?}", self.kind);
            self.count.refused += 1;
            return;
        };
        let (vip, protocol) = (self.vip(), self.kind.1);
        let key = FlowKey {
            protocol,
            client: client.ip(),
            client_port: client.port(),
            vip: vip.ip(),
            vip_port: vip.port(),
        };
        let known = lab.shared.table.find(&key).unwrap();
        let server = *self.server(known.server()).unwrap();
        assert_eq!(server.addr, addr, "seed {seed}: {:?}", self.kind);
        match keeps {
            Some(kept) => {
                assert_eq!(server.id, kept.id, "seed {seed}: {client} stays, {:?}", self.kind);
                self.count.stayed += 1;
            }
            None => assert!(server.is_available(), "seed {seed}: {:?} {server:?}", self.kind),
        }
        if self.kind.4 {
            self.stays.insert(client.ip(), server.id);
        }
        let peer = known.local().map_or(client, |local| (local.addr, local.port).into());
        let session = Session { client, server: server.id, addr, peer };
        self.answer(lab, session, SYN_ACK, seed);
        assert_eq!(self.carry(lab, session), Some(addr), "seed {seed}: {:?}", self.kind);
        self.sessions.push(session);
        self.count.opened += 1;
    }

    /// Something in mid-connection; the server that it went to.
    fn carry(&self, lab: &mut Lab, session: Session) -> Option<IpAddr> {
        match lab.handle(0, &self.frame(session.client, ACK)) {
            Outcome::Sent(_, frame) => went_to(self.kind, &frame),
            Outcome::Dropped(_) => None,
        }
    }

    /// What the server of a connection says reaches the client, by NAT, as the VIP.
    fn answer(&mut self, lab: &mut Lab, session: Session, flags: u8, seed: u64) {
        let (_, protocol, forwarding, ..) = self.kind;
        if !forwarding.is_nat() {
            return;
        }
        let ends = (SocketAddr::new(session.addr, self.real_port()), session.peer);
        let outcome = lab.handle(1, &framed((NAT_1, BACK), &said(protocol, ends, flags)));
        let Outcome::Sent(0, frame) = &outcome else { panic!("seed {seed}: {outcome:?}") };
        let Content::Ip(packet) = parse(frame).unwrap().content else { panic!("{frame:?}") };
        let (_, src_port, dst_port) = packet.tuple().unwrap();
        let ends = ((packet.src, src_port).into(), (packet.dst, dst_port).into());
        assert_eq!(ends, (self.vip(), session.client), "seed {seed}: {:?}", self.kind);
        self.count.answered += 1;
    }

    /// One connection says something, and its server does.
    fn talk(&mut self, lab: &mut Lab, place: usize, seed: u64) {
        let session = self.sessions[place];
        let to = self.carry(lab, session);
        if self.server(session.server).is_none() {
            // Its client is told, or its next datagram goes elsewhere.
            let fits = |addr| self.kind.1 == Protocol::Udp && self.has(addr);
            assert!(to.is_none_or(fits), "seed {seed}: {:?} {session:?}", self.kind);
            if let Some(next) =
                self.servers.iter().find(|server| self.kind.4 && to == Some(server.addr))
            {
                self.stays.insert(session.client.ip(), next.id);
            }
            self.sessions.swap_remove(place);
            self.count.ended += 1;
            return;
        }
        assert_eq!(to, Some(session.addr), "seed {seed}: moved, {:?} {session:?}", self.kind);
        self.count.carried += 1;
        self.answer(lab, session, ACK, seed);
    }

    fn has(&self, addr: IpAddr) -> bool {
        self.servers.iter().any(|server| server.addr == addr)
    }
}

/// A TCP segment or a datagram.
fn said(protocol: Protocol, ends: (SocketAddr, SocketAddr), flags: u8) -> Vec<u8> {
    match protocol {
        Protocol::Tcp => Segment::new(flags, 1000, 2000, b"data").packet(ends, 64),
        Protocol::Udp | Protocol::Sctp => packet(protocol, ends, 64, b"data"),
    }
}

fn client((net, ..): Kind, host: usize) -> IpAddr {
    let text =
        if net == 0 { format!("198.18.0.{}", 150 + host) } else { format!("2001:db8::c{host:x}") };
    text.parse().unwrap()
}

/// Servers that are sent packets as they are stand beside the clients.
fn address((net, _, forwarding, ..): Kind, number: usize) -> IpAddr {
    let arm = u8::from(forwarding != Forwarding::Dr);
    let text = match net {
        0 => format!("198.18.{arm}.{}", 20 + number),
        _ => format!("2001:db8:{}::{:x}", if arm == 1 { "1" } else { "0" }, 0x20 + number),
    };
    text.parse().unwrap()
}

fn mac(number: usize) -> Mac {
    [2, 0, 0, 0, 9, number as u8]
}

/// The server that a frame goes to; none when it goes back to the client.
fn went_to(kind: Kind, frame: &[u8]) -> Option<IpAddr> {
    let addr = (frame[4] == 9).then(|| address(kind, frame[5].into()))?;
    let Content::Ip(packet) = parse(frame).unwrap().content else { panic!("{frame:?}") };
    // By DR, the packet itself says nothing.
    assert!(kind.2 == Forwarding::Dr || packet.dst == addr, "{} got {packet:?}", addr);
    Some(addr)
}

fn spec(all: &[Served], generation: u64, turn: usize) -> ConfigSpec {
    let mut spec = both::spec(generation);
    spec.port_slot = PortSlot::new(2);
    spec.groups[0].locals =
        vec!["198.18.1.200".parse().unwrap(), "2001:db8:1::200".parse().unwrap()];
    spec.services = all.iter().map(|served| served.spec(turn)).collect();
    spec
}

fn hops() -> NextHops {
    let mut hops = both::next_hops();
    hops.ports.iter_mut().for_each(|port| port.mtu = 1500);
    hops.ports[1].addrs = ["198.18.1.11", "2001:db8:1::11"].map(|a| a.parse().unwrap()).to_vec();
    hops.neighbours.clear();
    for net in [0, 1] {
        let of = |forwarding| (net, Protocol::Tcp, forwarding, RR, false);
        let servers = [(0, of(Forwarding::Dr)), (1, of(Forwarding::Nat))];
        for (port, kind) in servers {
            hops.neighbours.extend((0..ADDRESSES).map(|n| (port, address(kind, n), mac(n))));
        }
        let kind = of(Forwarding::Dr);
        hops.neighbours.extend((0..CLIENTS).map(|host| (0, client(kind, host), CLIENT)));
    }
    NextHops::new(hops)
}

#[test]
fn churn_moves_no_connection_of_any_kind() {
    let seed = std::env::var("STEADFAST_SEED").map_or(20_261_123, |text| text.parse().unwrap());
    println!(
        "replay: STEADFAST_SEED={seed} cargo test -p steadfast-dataplane --test packets churn"
    );
    let (mut random, mut next_id) = (Random(seed), 0);
    let mut all: Vec<_> = (KINDS.into_iter().enumerate())
        .map(|(number, kind)| Served {
            number,
            kind,
            servers: Vec::new(),
            sessions: Vec::new(),
            stays: HashMap::new(),
            next_port: 1024,
            count: Count::default(),
        })
        .collect();
    for served in &mut all {
        while served.servers.len() < 2 * SERVERS_MIN {
            served.add(&mut random, &mut next_id);
        }
    }
    let mut lab = Lab::with(spec(&all, 1, 0), 20_000);
    lab.shared.set_next_hops(hops());
    for round in 0..ROUNDS {
        lab.now += SECOND / 10;
        for served in &mut all {
            served.change(&mut random, &mut next_id);
        }
        // The order in which servers are given must not matter.
        lab.set_config(spec(&all, round + 2, random.below(SERVERS_MAX)));
        for served in &mut all {
            // No more than a few at once: they find different servers.
            for _ in 0..3 {
                if served.sessions.len() < CONNECTIONS {
                    served.open(&mut lab, &mut random, seed);
                }
            }
            for _ in 0..3 {
                if !served.sessions.is_empty() {
                    let place = random.below(served.sessions.len());
                    served.talk(&mut lab, place, seed);
                }
            }
            if random.below(20) == 0 && !served.sessions.is_empty() {
                let place = random.below(served.sessions.len());
                served.sessions.swap_remove(place);
            }
        }
        lab.log.take();
        lab.shared.advance(lab.now, 1_000, &lab.log);
    }
    for served in &mut all {
        for place in (0..served.sessions.len()).rev() {
            served.talk(&mut lab, place, seed);
        }
    }
    for Served { kind, count, .. } in &all {
        let (net, protocol, forwarding, scheduler, _) = kind;
        println!("{} {protocol} {forwarding:?} {scheduler:?}: {count:?}", NETS[*net].name);
        assert!(count.carried > 5_000 && count.opened > 200 && count.ended > 100, "{count:?}");
        assert!(count.answered > 5_000 || !forwarding.is_nat(), "{count:?}");
        assert!(count.stayed > 100 || !kind.4, "{count:?}");
    }
}
