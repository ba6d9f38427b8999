//! The data plane against a slow, naive model of it that shares no code: the same packets and events
//! to both, and each packet's fate, byte for byte, and the whole table must agree.
//!
//! `STEADFAST_SEED=n` replays a run; `STEADFAST_PACKETS=n` makes it longer or shorter.
#![allow(clippy::unwrap_used)]

#[path = "../lab/mod.rs"]
mod lab;
mod naive;
mod packet;
mod world;

use std::{collections::BTreeMap, sync::Arc};

use naive::{Cell, Fate, Gone, Kept, Mode, Naive, Role, Sched, Way, step};
use packet::{Proto, Row};
use steadfast_dataplane as dp;
use world::{BACK, FRONT, PEER, World};

const PACKETS: u64 = 1_000_000;

/// Fewer packets in a cell that can be reached, or of a reason that can occur, and the run shows
/// too little.
const HITS_MIN: u64 = 100;

/// Each so many packets one is rehearsed before it is handled: that must tell what will happen, and
/// change nothing that the model would notice.
const REHEARSED_EVERY: u64 = 61;

/// Packets of live connections among all, in percent.
const LIVE_MIN: u64 = 60;

const CONNECTIONS_MAX: usize = 1 << 16;

/// Few, so that they are often too many.
const HALF_OPEN_MAX: usize = 16;

/// The crate under test.
struct Plane {
    shared: Arc<dp::Shared>,
    worker: dp::Worker<dp::NoHook>,
    actions: dp::Actions,
    generation: u64,
}

impl Plane {
    fn new() -> Self {
        let options = dp::TableOptions {
            connections_max: CONNECTIONS_MAX,
            half_open_max: HALF_OPEN_MAX,
            seed: [1, 2],
        };
        let shared = Arc::new(dp::Shared::new(options));
        let worker = dp::Worker::new(0, Arc::clone(&shared), dp::NoHook);
        Self { shared, worker, actions: dp::Actions::new(), generation: 0 }
    }

    fn configure(&mut self, naive: &Naive) {
        self.generation += 1;
        let spec = dp::ConfigSpec {
            now_ns: naive.now,
            groups: vec![dp::GroupSpec {
                id: dp::GroupId(1),
                vips: naive.vips.clone(),
                gateways: Vec::new(),
                locals: vec![],
                unserved: dp::Unserved::Reject,
            }],
            services: naive.services.iter().map(service_spec).collect(),
            workers: 1,
            ..lab::config_spec(self.generation)
        };
        let previous = self.shared.config.load_full();
        self.shared.set_config(dp::Config::compile(spec, Some(&previous)).unwrap());
    }

    fn set_hops(&self, naive: &Naive) {
        let link = |prefix: &str, prefix_len, port| dp::Route {
            prefix: prefix.parse().unwrap(),
            prefix_len,
            port: Some(port),
            gateway: None,
            src: None,
            mtu: None,
        };
        let known = naive.neighbours.iter().filter_map(|(addr, way)| match way {
            Way::Known(port, mac) => Some((*port, *addr, *mac)),
            Way::Silent | Way::NoRoute => None,
        });
        // A route for each neighbour alone: who is not listed has none.
        let routes = naive.neighbours.iter().filter_map(|(addr, way)| {
            let in_front =
                !addr.to_string().contains(".1.") && !addr.to_string().contains("db8:1:");
            let len = if addr.is_ipv6() { 128 } else { 32 };
            let port = u16::from(!in_front);
            (!matches!(way, Way::NoRoute)).then(|| link(&addr.to_string(), len, port))
        });
        self.shared.set_next_hops(dp::NextHops::new(dp::NextHopsSpec {
            generation: 1,
            ports: vec![
                dp::PortSpec { mac: FRONT, cluster_macs: vec![PEER], ..Default::default() },
                dp::PortSpec { mac: BACK, ..Default::default() },
            ],
            routes: routes.collect(),
            neighbours: known.collect(),
        }));
    }

    fn set_role(&self, role: Role) {
        let epoch = dp::Origin { generation: 1, grant_index: 7, claim: 0, node: 1 };
        self.shared.groups.group(dp::GroupId(1)).set_role(match role {
            Role::Holder { since, complete } => {
                dp::Role::Holder { epoch, since_ns: since, copy_complete: complete }
            }
            Role::Other => dp::Role::Other { relay: vec![Some(PEER), None] },
            Role::Nobody => dp::Role::NoHolder { since_ns: 0 },
        });
    }

    fn expire(&self, now_ns: u64) {
        while self.shared.advance(now_ns, 10_000, &dp::NoHook).more {}
    }

    fn packet(&mut self, now_ns: u64, port: u16, frame: &[u8]) -> Result<(u16, Vec<u8>), &str> {
        const HEADROOM: usize = 64;
        let mut buffer = vec![0xee; HEADROOM];
        buffer.extend_from_slice(frame);
        buffer.resize(HEADROOM + frame.len() + 200, 0xee);
        let span = (HEADROOM, frame.len());
        match self.worker.handle_frame(now_ns, port, &mut buffer, span, &mut self.actions) {
            dp::Verdict::Transmit { port, start, len } => {
                Ok((port, buffer[start..start + len].to_vec()))
            }
            dp::Verdict::Drop(reason) => Err(reason.name()),
        }
    }

    /// What the packet path says would become of a frame.
    fn rehearse(
        &self,
        now_ns: u64,
        port: u16,
        frame: &[u8],
    ) -> Result<(u16, Vec<u8>), &'static str> {
        let rehearsal = self.shared.rehearse(now_ns, port, frame);
        match rehearsal.verdict {
            dp::Verdict::Transmit { port, .. } => Ok((port, rehearsal.frame)),
            dp::Verdict::Drop(reason) => Err(reason.name()),
        }
    }

    /// The templates, in an order of their own.
    fn templates(&self) -> Vec<String> {
        let (mut lines, mut from) = (Vec::new(), Some(0));
        while let Some(at) = from {
            let (found, next) = self.shared.table.templates.walk(at, 256);
            lines.extend(found.iter().map(|template| {
                let dp::TemplateRecord { key, server, .. } = template.record;
                template_line(key.service.0, key.client, server.0)
            }));
            from = next;
        }
        lines.sort();
        lines
    }

    /// What is in the table, in an order of its own.
    fn connections(&self) -> Vec<String> {
        let (mut lines, mut cursor) = (Vec::new(), Some(dp::Cursor::default()));
        while let Some(at) = cursor {
            let (found, next) = self.shared.table.walk(at, 256);
            lines.extend(found.iter().map(|c| {
                let key = c.key();
                let (client, vip) = ((key.client, key.client_port), (key.vip, key.vip_port));
                line(&key.protocol.to_string(), client, vip, c.server().0, c.state().name())
            }));
            cursor = next;
        }
        lines.sort();
        lines
    }
}

fn line(
    proto: &str,
    client: (std::net::IpAddr, u16),
    vip: (std::net::IpAddr, u16),
    server: u32,
    state: &str,
) -> String {
    format!("{proto} {client:?} {vip:?} server {server} {state}")
}

fn template_line(service: u32, network: std::net::IpAddr, server: u32) -> String {
    format!("service {service} {network} server {server}")
}

fn service_spec(service: &naive::Service) -> dp::ServiceSpec {
    let hash = |port, fallback| dp::HashOptions { port, fallback };
    let protocol = match service.proto {
        Proto::Tcp => dp::Protocol::Tcp,
        Proto::Udp => dp::Protocol::Udp,
    };
    dp::ServiceSpec {
        group: dp::GroupId(1),
        listen: vec![dp::Listen::new(protocol, service.vip, service.port)],
        scheduler: match service.sched {
            Sched::Rr => dp::SchedulerKind::Rr,
            Sched::Wrr => dp::SchedulerKind::Wrr,
            Sched::Lc => dp::SchedulerKind::Lc,
            Sched::Wlc => dp::SchedulerKind::Wlc,
            Sched::Sed => dp::SchedulerKind::Sed,
            Sched::Nq => dp::SchedulerKind::Nq,
            Sched::Fo => dp::SchedulerKind::Fo,
            Sched::Ovf => dp::SchedulerKind::Ovf,
            Sched::Dh => dp::SchedulerKind::Dh,
            Sched::Sh { port, fallback } => dp::SchedulerKind::Sh(hash(port, fallback)),
            Sched::Mh { port, fallback } => dp::SchedulerKind::Mh(hash(port, fallback)),
        },
        forwarding: match service.mode {
            Mode::Dr => dp::Forwarding::Dr,
            Mode::Nat => dp::Forwarding::Nat,
        },
        policies: dp::Policies {
            on_server_gone: match service.gone {
                Gone::Drop => dp::OnServerGone::Drop,
                Gone::Reset => dp::OnServerGone::Reset,
                Gone::Reschedule => dp::OnServerGone::Reschedule,
            },
            ..dp::Policies::default()
        },
        client_address: dp::ClientAddress::None,
        persistence: service.persist.map(|persist| dp::Persistence {
            timeout_ns: persist.timeout,
            prefix_v4: 30,
            prefix_v6: 126,
            expire_quiescent_template: persist.quiescent_goes,
        }),
        mss_clamp: dp::MssClamp::Off,
        // The order in which servers come must not matter.
        servers: service
            .servers
            .iter()
            .rev()
            .map(|server| dp::ServerSpec {
                weight: server.weight,
                up: server.up,
                ..lab::server(server.id, &server.addr.to_string(), server.port)
            })
            .collect(),
        ..lab::service(service.id, protocol, service.port, Vec::new())
    }
}

/// How often what was met.
#[derive(Default)]
struct Coverage {
    cells: BTreeMap<Cell, u64>,
    verdicts: BTreeMap<String, u64>,
    live: u64,
    rehearsed: u64,
}

#[test]
fn agrees_with_a_naive_model() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = number("STEADFAST_SEED").unwrap_or(20_261_123);
    let packets = number("STEADFAST_PACKETS").unwrap_or(PACKETS);
    println!(
        "replay: STEADFAST_SEED={seed} STEADFAST_PACKETS={packets} cargo test -p steadfast-dataplane --test model"
    );
    let (mut world, mut plane) = (World::new(seed), Plane::new());
    world.naive.half_open_max = HALF_OPEN_MAX;
    plane.set_hops(&world.naive);
    let mut coverage = Coverage::default();
    for count in 0..packets {
        if world.happen() {
            world.naive.expire();
            plane.expire(world.naive.now);
        }
        if std::mem::take(&mut world.is_reconfigured) {
            plane.configure(&world.naive);
        }
        if std::mem::take(&mut world.is_new_role) {
            plane.set_role(world.naive.role);
        }
        let pkt = world.packet();
        let expected = world.naive.packet(&pkt);
        let now = world.naive.now;
        let rehearsed =
            (count % REHEARSED_EVERY == 0).then(|| plane.rehearse(now, pkt.port, &pkt.frame()));
        let found = plane.packet(now, pkt.port, &pkt.frame());
        if let Some(rehearsed) = rehearsed.filter(|_| found != Err("rate_limited")) {
            assert_eq!(rehearsed, found, "rehearsal of packet {count}, seed {seed}: {pkt:?}");
            coverage.rehearsed += 1;
        }
        let fate = match &expected {
            Fate::Sent(pkt) => Ok((pkt.port, pad(pkt.frame(), &found))),
            Fate::Dropped(reason) => Err(*reason),
        };
        assert_eq!(
            found, fate,
            "packet {count}, role {:?}, at {now}, seed {seed}: {pkt:?}\nexpected {expected:?}",
            world.naive.role
        );
        coverage.note(&world.naive, &pkt, &expected);
        if count % 2000 == 0 {
            compare_tables(&plane, &world.naive, count, seed);
        }
    }
    compare_tables(&plane, &world.naive, packets, seed);
    coverage.print(packets);
    let config = plane.shared.config.load_full();
    let adopted: u64 = config.services().map(|service| service.excess().adopted).sum();
    println!("templates: {:?}", world.naive.kept);
    println!("{adopted} connections went by the hash and then into the table");
    if packets >= PACKETS {
        coverage.check(packets);
        for kept in KEPT {
            let hits = world.naive.kept.get(&kept).copied().unwrap_or(0);
            assert!(hits >= HITS_MIN, "{hits} templates {kept:?}: too few");
        }
        assert!(adopted >= HITS_MIN, "{adopted} connections adopted: too few");
    }
}

/// Answers shorter than the shortest frame are padded with zeroes.
fn pad(mut frame: Vec<u8>, found: &Result<(u16, Vec<u8>), &str>) -> Vec<u8> {
    if frame.len() < 60 && found.as_ref().is_ok_and(|(_, found)| found.len() == 60) {
        frame.resize(60, 0);
    }
    frame
}

fn compare_tables(plane: &Plane, naive: &Naive, count: u64, seed: u64) {
    let mut expected: Vec<String> = naive
        .conns
        .iter()
        .map(|c| {
            let proto = if c.proto == Proto::Tcp { "tcp" } else { "udp" };
            line(proto, (c.client, c.cport), (c.vip, c.vport), c.server, c.state)
        })
        .collect();
    expected.sort();
    let found = plane.connections();
    let differs = expected.iter().zip(&found).find(|(expected, found)| expected != found);
    assert_eq!(differs, None, "tables after packet {count}, seed {seed}");
    let templates = naive.templates.iter();
    let mut templates: Vec<String> =
        templates.map(|t| template_line(t.service, t.network, t.server)).collect();
    templates.sort();
    assert_eq!(plane.templates(), templates, "templates after packet {count}, seed {seed}");
    assert_eq!(expected.len(), found.len(), "connections after packet {count}, seed {seed}");
}

impl Coverage {
    fn note(&mut self, naive: &Naive, pkt: &packet::Pkt, fate: &Fate) {
        if let Some(cell) = naive.met {
            *self.cells.entry(cell).or_default() += 1;
            self.live += 1;
        }
        let family = if pkt.src.is_ipv6() { "IPv6" } else { "IPv4" };
        let verdict = match fate {
            Fate::Dropped(reason) => reason,
            Fate::Sent(_) if naive.met.is_some() => "forwarded",
            Fate::Sent(sent) if sent.ttl == pkt.ttl && sent.dst == pkt.dst => "relayed",
            Fate::Sent(sent) if sent.ttl + 1 == pkt.ttl => "by_hash",
            Fate::Sent(_) => "answered",
        };
        *self.verdicts.entry(format!("{family} {verdict}")).or_default() += 1;
    }

    fn print(&self, packets: u64) {
        println!("{} of {packets} packets of live connections", self.live);
        println!("{} packets rehearsed first: what was told is what happened", self.rehearsed);
        for (verdict, hits) in &self.verdicts {
            println!("{hits:>8}  {verdict}");
        }
        for (cell, hits) in &self.cells {
            let Cell { ipv6, mode, proto, inbound, state, row } = cell;
            let family = if *ipv6 { "IPv6" } else { "IPv4" };
            let way = if *inbound { "in" } else { "out" };
            println!("{hits:>8}  {family} {mode:?} {proto:?} {way:<3} {state} {row:?}");
        }
    }

    fn check(&self, packets: u64) {
        assert!(self.live * 100 >= packets * LIVE_MIN, "too few packets of live connections");
        for cell in reachable() {
            let hits = self.cells.get(&cell).copied().unwrap_or(0);
            assert!(hits >= HITS_MIN, "{hits} packets in {cell:?}: too few to say anything");
        }
        for family in ["IPv4", "IPv6"] {
            for verdict in VERDICTS {
                let hits = self.verdicts.get(&format!("{family} {verdict}")).copied().unwrap_or(0);
                assert!(hits >= HITS_MIN, "{hits} packets {family} {verdict}: too few");
            }
        }
    }
}

/// What can become of a template.
const KEPT: [Kept; 6] =
    [Kept::New, Kept::Stayed, Kept::StayedQuiescent, Kept::Moved, Kept::Outlived, Kept::Ended];

/// What can become of a packet in this world.
const VERDICTS: [&str; 20] = [
    "answered",
    "forwarded",
    "by_hash",
    "relayed",
    "held_back",
    "malformed",
    "next_hop_unresolved",
    "no_holder",
    "no_route",
    "not_ours",
    "over_limit",
    "other_mac",
    "protocol",
    "rate_limited",
    "relay_loop",
    "reply_taken",
    "server_removed",
    "ttl_exceeded",
    "unknown_reset",
    "unknown_return",
];

/// All cells that packets can lead to from a new connection.
fn reachable() -> Vec<Cell> {
    let rows = [Row::Syn, Row::Fin, Row::Ack, Row::Rst, Row::Nothing];
    let mut cells = Vec::new();
    for ipv6 in [false, true] {
        for (mode, ways) in [(Mode::Dr, &[true][..]), (Mode::Nat, &[true, false])] {
            let mut states = vec!["NONE"];
            let mut at = 0;
            while let Some(state) = states.get(at).copied() {
                for (row, inbound) in
                    rows.iter().flat_map(|row| ways.iter().map(move |w| (row, *w)))
                {
                    let proto = Proto::Tcp;
                    let is_over = matches!(state, "TIME_WAIT" | "CLOSE");
                    // A SYN there opens a new connection instead.
                    if !(is_over && inbound && *row == Row::Syn) {
                        cells.push(Cell { ipv6, mode, proto, inbound, state, row: *row });
                    }
                    let next = step(state, mode, inbound, *row);
                    if !states.contains(&next) {
                        states.push(next);
                    }
                }
                at += 1;
            }
            for inbound in ways {
                let (proto, row) = (Proto::Udp, Row::Nothing);
                cells.push(Cell { ipv6, mode, proto, inbound: *inbound, state: "UDP", row });
            }
        }
    }
    cells
}
