//! A node with two interfaces, one group and some services, for tests of whole packets.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::{
    fmt,
    net::SocketAddrV4,
    sync::{Arc, Mutex, OnceLock},
};

use etherparse::{PacketBuilder, TcpHeader};
use steadfast_dataplane::{
    Action, Actions, Carried, Config, ConfigSpec, Connection, ConnectionTable, Cursor, FlowKey,
    Forwarding, Gone, GroupId, GroupSpec, Listen, NextHops, NextHopsSpec, NoHook, Origin, PortSpec,
    Protocol, Reason, Record, Removal, Replica, Role, Route, ServerId, ServerSpec, ServiceId,
    ServiceSpec, Shared, State, SyncHook, TableOptions, Target, Template, Unserved, Verdict,
    Worker,
};
use steadfast_packet::{ANSWER_LEN_MAX, gratuitous_arp};

/// Bytes in front of a frame, as in packet memory.
const HEADROOM: usize = 256;

pub const SECOND: u64 = 1_000_000_000;
/// Some time after start, so that nothing passes only because it is early.
pub const START: u64 = 5_000 * SECOND;

pub type Mac = [u8; 6];

pub const FRONT: [u8; 6] = [2, 0, 0, 0, 1, 0];
pub const BACK: [u8; 6] = [2, 0, 0, 0, 2, 0];
pub const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 2];
pub const PEER: [u8; 6] = [2, 0, 0, 0, 1, 12];
pub const DR_1: [u8; 6] = [2, 0, 0, 0, 1, 21];
pub const DR_2: [u8; 6] = [2, 0, 0, 0, 1, 22];
pub const NAT_1: [u8; 6] = [2, 0, 0, 0, 2, 21];
pub const BROADCAST: [u8; 6] = [0xff; 6];

pub const SYN: u8 = 0x02;
pub const ACK: u8 = 0x10;
pub const SYN_ACK: u8 = 0x12;
pub const FIN_ACK: u8 = 0x11;
pub const RST: u8 = 0x04;

pub const GROUP: GroupId = GroupId(1);

pub struct Lab {
    pub shared: Arc<Shared>,
    pub worker: Worker<Arc<Log>>,
    pub log: Arc<Log>,
    pub now: u64,
    pub actions: Vec<Action>,
    /// What left after the frame of the verdict.
    pub also: Vec<(u16, Vec<u8>)>,
    /// Frames are prepared before they are handled, as the driver does.
    pub prepares: bool,
}

/// What became of a frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Outcome {
    Sent(u16, Vec<u8>),
    Dropped(Reason),
}

/// Writes down what the hook hears, and passes it on to another one, if there is one.
#[derive(Debug, Default)]
pub struct Log(pub Mutex<Vec<String>>, Next);

#[derive(Default)]
struct Next(OnceLock<Box<dyn SyncHook + Send + Sync>>);

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Next")
    }
}

impl Log {
    /// From now on `next` hears all that this one hears.
    pub fn pass_on(&self, next: impl SyncHook + Send + Sync + 'static) {
        let _ = self.1.0.set(Box::new(next));
    }

    fn next(&self) -> &dyn SyncHook {
        self.1.0.get().map_or(&NoHook, |next| &**next)
    }

    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }
}

impl SyncHook for Log {
    fn forwarded(&self, carried: &Carried<'_>) {
        let Carried { connection, old, new, in_pkts, .. } = carried;
        self.push(format!("forwarded {} {old}>{new} {in_pkts}", connection.key().client_port));
        self.next().forwarded(carried);
    }

    fn replied(&self, carried: &Carried<'_>) {
        let Carried { connection, old, new, .. } = carried;
        self.push(format!("replied {} {old}>{new}", connection.key().client_port));
        self.next().replied(carried);
    }

    fn renumbered(&self, c: &Connection) {
        self.push(format!("renumbered {}", c.key().client_port));
        self.next().renumbered(c);
    }

    fn created(&self, c: &Connection, now_ns: u64) {
        self.push(format!("created {} server {}", c.key().client_port, c.server()));
        self.next().created(c, now_ns);
    }

    fn template(&self, template: &Template, now_ns: u64) {
        self.next().template(template, now_ns);
    }

    fn template_removed(&self, template: &Template) {
        self.next().template_removed(template);
    }

    fn removed(&self, c: &Gone, removal: Removal, now_ns: u64) {
        self.push(format!("removed {} {removal:?}", c.key().client_port));
        self.next().removed(c, removal, now_ns);
    }
}

pub fn epoch(claim: u32) -> Origin {
    Origin { generation: 1, grant_index: 7, claim, node: 1 }
}

pub fn holder() -> Role {
    Role::Holder { epoch: epoch(0), since_ns: START - 60 * SECOND, copy_complete: true }
}

pub fn server(id: u32, addr: &str, port: u16) -> ServerSpec {
    ServerSpec { id: ServerId(id), addr: addr.parse().unwrap(), port, ..ServerSpec::default() }
}

pub fn service(id: u32, protocol: Protocol, port: u16, servers: Vec<ServerSpec>) -> ServiceSpec {
    ServiceSpec {
        id: ServiceId(id),
        group: GROUP,
        listen: vec![Listen::new(protocol, "198.18.0.100".parse().unwrap(), port)],
        forwarding: Forwarding::Nat,
        servers,
        ..ServiceSpec::default()
    }
}

/// DR on 80, NAT on 8080 (TCP) and 53 (UDP), nobody up on 81.
pub fn config_spec(generation: u64) -> ConfigSpec {
    let dr = vec![server(12, "198.18.0.22", 80), server(11, "198.18.0.21", 80)];
    let down = vec![ServerSpec { up: false, ..server(41, "198.18.1.21", 81) }];
    ConfigSpec {
        generation,
        groups: vec![GroupSpec {
            id: GROUP,
            vips: vec!["198.18.0.100".parse().unwrap()],
            gateways: vec!["198.18.1.1".parse().unwrap()],
            locals: vec![],
            unserved: Unserved::Reject,
        }],
        services: vec![
            ServiceSpec { forwarding: Forwarding::Dr, ..service(1, Protocol::Tcp, 80, dr) },
            service(2, Protocol::Tcp, 8080, vec![server(21, "198.18.1.21", 80)]),
            service(3, Protocol::Udp, 53, vec![server(31, "198.18.1.21", 5353)]),
            service(4, Protocol::Tcp, 81, down.clone()),
            service(5, Protocol::Udp, 81, vec![ServerSpec { id: ServerId(51), ..down[0] }]),
        ],
        now_ns: 0,
        workers: 2,
        port_slot: None,
        servers_given: Default::default(),
    }
}

pub fn next_hops(generation: u64) -> NextHopsSpec {
    let ip = |text: &str| text.parse().unwrap();
    let link = |prefix, port| Route {
        prefix: ip(prefix),
        prefix_len: 24,
        port: Some(port),
        gateway: None,
        src: None,
        mtu: None,
    };
    NextHopsSpec {
        generation,
        ports: vec![
            PortSpec {
                mac: FRONT,
                addrs: vec![ip("198.18.0.11")],
                cluster_macs: vec![PEER],
                ..PortSpec::default()
            },
            PortSpec { mac: BACK, ..PortSpec::default() },
        ],
        routes: vec![link("198.18.0.0", 0), link("198.18.1.0", 1)],
        neighbours: vec![
            (0, ip("198.18.0.2"), CLIENT),
            (0, ip("198.18.0.21"), DR_1),
            (0, ip("198.18.0.22"), DR_2),
            (1, ip("198.18.1.21"), NAT_1),
        ],
    }
}

impl Lab {
    pub fn new() -> Self {
        Self::with(config_spec(1), 1000)
    }

    pub fn with(spec: ConfigSpec, connections_max: usize) -> Self {
        Self::bounded(spec, connections_max, connections_max)
    }

    pub fn bounded(spec: ConfigSpec, connections_max: usize, half_open_max: usize) -> Self {
        let options = TableOptions { connections_max, half_open_max, seed: [1, 2] };
        let shared = Arc::new(Shared::new(options));
        shared.set_config(Config::compile(spec, None).unwrap());
        shared.set_next_hops(NextHops::new(next_hops(1)));
        let log = Arc::new(Log::default());
        let worker = Worker::new(0, Arc::clone(&shared), Arc::clone(&log));
        let lab = Self {
            shared,
            worker,
            log,
            now: START,
            actions: Vec::new(),
            also: Vec::new(),
            prepares: true,
        };
        lab.set_role(holder());
        lab.shared.groups.group(GROUP).set_announce_until_ns(START + SECOND);
        lab
    }

    pub fn set_role(&self, role: Role) {
        self.shared.groups.group(GROUP).set_role(role);
    }

    pub fn set_config(&self, spec: ConfigSpec) {
        let previous = self.shared.config.load_full();
        self.shared.set_config(Config::compile(spec, Some(&previous)).unwrap());
    }

    pub fn handle(&mut self, port: u16, frame: &[u8]) -> Outcome {
        let mut buffer = vec![0xee; HEADROOM];
        buffer.extend_from_slice(frame);
        buffer.resize(HEADROOM + frame.len().max(ANSWER_LEN_MAX), 0);
        let mut actions = Actions::new();
        let (now, worker) = (self.now, &mut self.worker);
        if self.prepares {
            worker.prepare(std::iter::once(frame));
        }
        let verdict =
            worker.handle_frame(now, port, &mut buffer, (HEADROOM, frame.len()), &mut actions);
        self.also.clear();
        actions.send_frames(|port, frame| self.also.push((port, frame.to_vec())));
        self.actions = actions.drain().collect();
        match verdict {
            Verdict::Transmit { port, start, len } => {
                Outcome::Sent(port, buffer[start..start + len].to_vec())
            }
            Verdict::Drop(reason) => Outcome::Dropped(reason),
        }
    }

    pub fn find(&self, protocol: Protocol, client: &str, vip: &str) -> Option<Connection> {
        self.shared.table.find(&key(protocol, client, vip))
    }
}

pub fn key(protocol: Protocol, client: &str, vip: &str) -> FlowKey {
    let (client, vip): (SocketAddrV4, SocketAddrV4) =
        (client.parse().unwrap(), vip.parse().unwrap());
    FlowKey {
        protocol,
        client: (*client.ip()).into(),
        client_port: client.port(),
        vip: (*vip.ip()).into(),
        vip_port: vip.port(),
    }
}

/// A TCP frame, checksums by etherparse.
pub fn tcp(macs: ([u8; 6], [u8; 6]), src: &str, dst: &str, ttl: u8, flags: u8) -> Vec<u8> {
    let (src, dst): (SocketAddrV4, SocketAddrV4) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut header = TcpHeader::new(src.port(), dst.port(), 1000, 512);
    header.acknowledgment_number = if flags & ACK != 0 { 2000 } else { 0 };
    (header.fin, header.syn) = (flags & 1 != 0, flags & 2 != 0);
    (header.rst, header.ack) = (flags & 4 != 0, flags & 0x10 != 0);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(src.ip().octets(), dst.ip().octets(), ttl)
        .tcp_header(header)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

/// A UDP frame, checksums by etherparse.
pub fn udp(macs: ([u8; 6], [u8; 6]), src: &str, dst: &str, ttl: u8) -> Vec<u8> {
    let (src, dst): (SocketAddrV4, SocketAddrV4) = (src.parse().unwrap(), dst.parse().unwrap());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(src.ip().octets(), dst.ip().octets(), ttl)
        .udp(src.port(), dst.port())
        .write(&mut frame, b"datagram")
        .unwrap();
    frame
}

/// A SYN or the like from the client to the VIP.
pub fn from_client(port: u16, vip_port: u16, flags: u8) -> Vec<u8> {
    let (src, dst) = (format!("198.18.0.2:{port}"), format!("198.18.0.100:{vip_port}"));
    tcp((CLIENT, FRONT), &src, &dst, 64, flags)
}

pub fn table(connections_max: usize) -> ConnectionTable {
    bounded_table(connections_max, connections_max)
}

pub fn bounded_table(connections_max: usize, half_open_max: usize) -> ConnectionTable {
    ConnectionTable::new(TableOptions { connections_max, half_open_max, seed: [3, 4] })
}

pub fn flow(client_port: u16) -> FlowKey {
    key(Protocol::Tcp, &format!("198.18.0.2:{client_port}"), "198.18.0.100:8080")
}

pub fn record(client_port: u16, incarnation: u64) -> Record {
    Record {
        key: flow(client_port),
        server: ServerId(21),
        target: Some(Target {
            addr: "198.18.1.21".parse().unwrap(),
            port: 80,
            forwarding: Forwarding::Nat,
        }),
        local: None,
        service: ServiceId(2),
        group: GROUP,
        incarnation,
        origin: epoch(0),
    }
}

pub fn config() -> Config {
    Config::compile(config_spec(1), None).unwrap()
}

pub fn walk_all(table: &ConnectionTable, step: usize) -> Vec<Connection> {
    let (mut all, mut cursor) = (Vec::new(), Some(Cursor::default()));
    while let Some(at) = cursor {
        let (found, next) = table.walk(at, step);
        assert!(found.len() <= step);
        all.extend(found);
        cursor = next;
    }
    all
}

pub fn replica(client_port: u16, incarnation: u64, state: State) -> Replica {
    let record = Record { target: None, ..record(client_port, incarnation) };
    Replica { record, state, in_pkts: 3, assured: true, donated: false, snapshot: 0, deltas: None }
}

/// Runs frames one after the other through one node.
pub fn run(lab: &mut Lab, cases: &[(&str, u16, Vec<u8>, Outcome)]) {
    for (description, port, frame, expected) in cases {
        assert_eq!(&lab.handle(*port, frame), expected, "{description}");
    }
}

pub fn dropped(reason: Reason) -> Outcome {
    Outcome::Dropped(reason)
}

pub fn arp_request(target: [u8; 4], dst: [u8; 6]) -> Vec<u8> {
    let mut frame = gratuitous_arp(CLIENT, target.into()).to_vec();
    frame[..6].copy_from_slice(&dst);
    frame[28..32].copy_from_slice(&[198, 18, 0, 2]);
    frame
}

pub fn echo(macs: ([u8; 6], [u8; 6]), src: [u8; 4], dst: [u8; 4], reply: bool) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(src, dst, 64);
    let mut frame = Vec::new();
    let builder =
        if reply { builder.icmpv4_echo_reply(1, 2) } else { builder.icmpv4_echo_request(1, 2) };
    builder.write(&mut frame, b"twenty-two octets here").unwrap();
    frame
}

/// The reset that answers a segment with an ACK: SEQ=SEG.ACK (RFC 9293), no payload, padded.
pub fn reset(port: u16, vip_port: u16) -> Outcome {
    let mut header = TcpHeader::new(vip_port, port, 2000, 0);
    header.rst = true;
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(FRONT, CLIENT)
        .ipv4([198, 18, 0, 100], [198, 18, 0, 2], 64)
        .tcp_header(header)
        .write(&mut frame, b"")
        .unwrap();
    frame.resize(60, 0);
    Outcome::Sent(0, frame)
}
