//! A node under load, without a network: what all workers share, one worker, and packet memory laid
//! out as an AF_XDP worker has it.
//!
//! Guarantees: the table, the caches, the counters, the timers and the replication hook are those
//! of the daemon; two peers follow the group, so that marks are taken.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use anyhow::Context;
use steadfast_dataplane::{
    Actions, ClientAddress, Config, ConfigSpec, FlowKey, GroupId, GroupSpec, Limits, Listen,
    MssClamp, NextHops, NextHopsSpec, PORTS_PER_SLOT, Policies, PortSlot, PortSpec, Protocol,
    QuicSpec, Role, Route, SchedulerKind, ServerId, ServerOrder, ServerSpec, ServiceId,
    ServiceSpec, Shared, SyncSettings, TableOptions, Timeouts, Unserved, Verdict, Worker,
};
use steadfast_model::{BootId, Epoch, NodeId};
use steadfast_packet::{Mac, internet_checksum};
use steadfast_replication::{
    DirtySet, GroupRole, Local, ReplicationHook, SHARDS, Sender, adapter::origin_of,
};

use crate::mode::Mode;

/// Bytes in front of a frame, as the kernel leaves them.
const HEADROOM: usize = 256;
/// Bytes of a frame of packet memory, as in the daemon.
const FRAME: usize = 4096;
/// Frames of a ring.
pub(crate) const RING: usize = 2048;
/// Frames that a driver takes from a socket at once (af-xdp: `RECEIVE_BURST_MAX`).
const BURST: usize = 64;
/// Length of what is sent.
pub(crate) const LEN: usize = 64;
/// That of IPv6.
const LEN6: usize = 84;
/// A quarter as many half-open connections as others, as by default, and at least as many as are
/// opened at a time.
const HALF_OPEN_MIN: usize = 1 << 17;
/// Some time after start.
const START_NS: u64 = 5_000_000_000_000;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN_ACK: u8 = 0x12;
pub(crate) const RST: u8 = 0x04;

pub(crate) const GROUP: GroupId = GroupId(1);
pub(crate) const FRONT: Mac = [2, 0, 0, 0, 1, 0];
const BACK: Mac = [2, 0, 0, 0, 2, 0];
const ROUTER: Mac = [2, 0, 0, 0, 1, 1];
const ROUTER_ADDR: [u8; 4] = [198, 18, 255, 1];
const OWN_ADDR: [u8; 4] = [10, 255, 0, 1];
/// Of all addresses of IPv6; the IPv4 address that stands for one is its end.
const NET6: u128 = 0x2001_0db8 << 96;
const PORT: u16 = 80;

/// What is measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) mode: Mode,
    pub(crate) services: u32,
    pub(crate) servers: u32,
    pub(crate) scheduler: SchedulerKind,
    pub(crate) connections_max: usize,
}

/// Which way packets go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    In,
    Out,
}

pub(crate) struct World {
    pub(crate) shape: Shape,
    pub(crate) shared: Arc<Shared>,
    pub(crate) worker: Worker<ReplicationHook>,
    pub(crate) now_ns: u64,
    pub(crate) dirty: Arc<DirtySet>,
    memory: Vec<u8>,
    actions: Actions,
}

pub(crate) fn epoch() -> Epoch {
    Epoch { generation: 1, grant_index: 7, claim: 0, node: NodeId(1) }
}

pub(crate) fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc612_0000 + service)
}

/// The address of IPv6 in place of one of IPv4.
fn v6(addr: Ipv4Addr) -> Ipv6Addr {
    Ipv6Addr::from_bits(NET6 | u128::from(addr.to_bits()))
}

fn server_addr(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

fn server_mac(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    [2, 1, a, b, c, d]
}

impl Shape {
    /// An address, in the family that is measured.
    fn addr(&self, addr: Ipv4Addr) -> IpAddr {
        if self.mode.is_v6() { v6(addr).into() } else { addr.into() }
    }

    /// Length of the frames that come.
    fn len(&self) -> usize {
        if self.mode.is_v6() { LEN6 } else { LEN }
    }

    /// Local addresses of full-NAT: half as many ports again as there may be connections.
    fn locals(&self) -> Vec<IpAddr> {
        let ports = usize::from(PORTS_PER_SLOT) * (self.services * self.servers) as usize;
        let count =
            if self.mode == Mode::FullNat { self.connections_max * 3 / 2 / ports + 1 } else { 0 };
        (0..count as u32).map(|number| Ipv4Addr::from_bits(0x0afe_0000 + number).into()).collect()
    }
}

fn config(shape: &Shape) -> ConfigSpec {
    let server = |service: u32, index: u32| {
        let number = service * shape.servers + index;
        let (id, addr) = (ServerId(number + 1), shape.addr(server_addr(number)));
        ServerSpec {
            id,
            addr,
            port: PORT,
            weight: 1,
            last_weight: 0,
            drained: false,
            up: true,
            upper: 0,
            lower: 0,
            up_since_ns: 0,
        }
    };
    let service = |service: u32| ServiceSpec {
        id: ServiceId(service + 1),
        group: GROUP,
        listen: vec![Listen::new(Protocol::Tcp, shape.addr(vip(service)), PORT)],
        scheduler: shape.scheduler,
        order: ServerOrder::Canonical,
        forwarding: shape.mode.forwarding(),
        servers: (0..shape.servers).map(|index| server(service, index)).collect(),
        persistence: None,
        quic: QuicSpec::default(),
        one_packet: false,
        ftp: None,
        timeouts: Timeouts::default(),
        client_address: ClientAddress::None,
        mss_clamp: MssClamp::Off,
        syn_proxy: Default::default(),
        slow_start_ns: 0,
        limits: Limits::default(),
        policies: Policies::default(),
        sync: SyncSettings::default(),
    };
    ConfigSpec {
        generation: 1,
        groups: vec![GroupSpec {
            id: GROUP,
            vips: (0..shape.services).map(|number| shape.addr(vip(number))).collect(),
            gateways: vec![],
            locals: shape.locals(),
            unserved: Unserved::Reject,
        }],
        services: (0..shape.services).map(service).collect(),
        now_ns: 0,
        workers: 2,
        port_slot: PortSlot::new(0),
        servers_given: Default::default(),
    }
}

fn next_hops(shape: &Shape) -> NextHopsSpec {
    let servers = shape.services * shape.servers;
    // Lengths of prefixes are those of IPv4; for IPv6 they count from the end of what all have in common.
    let more = if shape.mode.is_v6() { 96 } else { 0 };
    let addr = |addr: [u8; 4]| shape.addr(addr.into());
    let route = |prefix: [u8; 4], prefix_len: u8, port, gateway: Option<[u8; 4]>| Route {
        prefix: addr(prefix),
        prefix_len: prefix_len + more,
        port: Some(port),
        gateway: gateway.map(addr),
        src: None,
        mtu: None,
    };
    let mut neighbours = vec![(0, addr(ROUTER_ADDR), ROUTER)];
    let server = |number: u32| (1, shape.addr(server_addr(number)), server_mac(number));
    neighbours.extend((0..servers).map(server));
    NextHopsSpec {
        generation: 1,
        ports: vec![
            PortSpec { mac: FRONT, ..PortSpec::default() },
            PortSpec { mac: BACK, addrs: vec![addr(OWN_ADDR)], ..PortSpec::default() },
        ],
        routes: vec![
            route([198, 18, 0, 0], 16, 0, None),
            route([10, 0, 0, 0], 8, 1, None),
            route([0, 0, 0, 0], 0, 0, Some(ROUTER_ADDR)),
        ],
        neighbours,
    }
}

impl World {
    pub(crate) fn new(shape: Shape) -> anyhow::Result<Self> {
        let connections_max = shape.connections_max;
        let seed = [0x5eed_0001, 0x5eed_0002];
        let shared = Arc::new(Shared::new(TableOptions {
            connections_max,
            half_open_max: (connections_max / 4).max(HALF_OPEN_MIN),
            seed,
        }));
        shared.set_config(Config::compile(config(&shape), None)?);
        shared.set_next_hops(NextHops::new(next_hops(&shape)));
        let role = Role::Holder { epoch: origin_of(epoch()), since_ns: 0, copy_complete: true };
        shared.groups.group(GROUP).set_role(role);
        let dirty = Arc::new(DirtySet::new());
        let hook = ReplicationHook::new(Arc::clone(&shared), Arc::clone(&dirty));
        let worker = Worker::new(0, Arc::clone(&shared), hook);
        let memory = vec![1; FRAME * RING];
        let actions = Actions::new();
        Ok(Self { shape, shared, worker, now_ns: START_NS, dirty, memory, actions })
    }

    /// Two peers follow the group from here on; what waited for them is forgotten. The lanes hold
    /// more than one measurement marks, so no mark is saved by an overflow.
    pub(crate) fn set_peers(&self) -> anyhow::Result<()> {
        let local = Local { cluster: 1, node: NodeId(1), boot: BootId(1) };
        for peer in [NodeId(2), NodeId(3)] {
            self.dirty.release(peer);
            let slot = self.dirty.slot(peer).context("no place for a peer")?;
            for shard in 0..SHARDS {
                let mut sender = Sender::new(local, slot, shard, Arc::clone(&self.dirty));
                let group = steadfast_model::GroupId(GROUP.0);
                sender.handle_role(self.now_ns, group, GroupRole::Send { epoch: epoch() });
            }
        }
        Ok(())
    }

    /// Keys that wait for the peers, and whether some were forgotten.
    pub(crate) fn marks(&self) -> (u64, u64) {
        let metrics = self.dirty.metrics();
        (metrics.waiting, metrics.overflows)
    }

    /// The key of flow number `flow`.
    pub(crate) fn key(&self, flow: u64) -> FlowKey {
        FlowKey {
            protocol: Protocol::Tcp,
            client: self.shape.addr(Ipv4Addr::from_bits(0x1000_0000 + (flow / 16) as u32)),
            client_port: 1024 + (flow % 16) as u16 * 4001,
            vip: self.shape.addr(vip((flow % u64::from(self.shape.services)) as u32)),
            vip_port: PORT,
        }
    }

    /// Writes the frame of a flow into place `place` of the ring.
    pub(crate) fn put(&mut self, place: usize, flow: u64, way: Way, flags: u8) {
        let frame = self.build(flow, way, flags);
        let len = self.shape.len();
        self.memory[place * FRAME + HEADROOM..][..len].copy_from_slice(&frame[..len]);
    }

    /// The frame of a flow, and zeros.
    pub(crate) fn build(&self, flow: u64, way: Way, flags: u8) -> [u8; LEN6] {
        let key = self.key(flow);
        let from = (key.client, key.client_port);
        let (src, dst, mac) = match way {
            Way::In => (from, (key.vip, key.vip_port), FRONT),
            Way::Out => {
                let found = self.shared.table.find(&key);
                let target = found.as_ref().and_then(|found| found.target());
                let server = target.map_or(key.vip, |target| target.addr);
                let local = found.and_then(|found| found.local());
                let to = local.map_or(from, |local| (local.addr, local.port));
                ((server, PORT), to, BACK)
            }
        };
        let mut frame = [0; LEN6];
        frame[..6].copy_from_slice(&mac);
        frame[6..12].copy_from_slice(&ROUTER);
        let l4 = match (src.0, dst.0) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame[12..14].copy_from_slice(&[8, 0]);
                frame[14..26].copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0]);
                frame[26..30].copy_from_slice(&src.octets());
                frame[30..34].copy_from_slice(&dst.octets());
                let checksum = internet_checksum(0, &frame[14..34]);
                frame[24..26].copy_from_slice(&checksum.to_be_bytes());
                34
            }
            (src, dst) => {
                frame[12..14].copy_from_slice(&[0x86, 0xdd]);
                frame[14..22].copy_from_slice(&[0x60, 0, 0, 0, 0, 20, 6, 64]);
                frame[22..38].copy_from_slice(&octets(src));
                frame[38..54].copy_from_slice(&octets(dst));
                54
            }
        };
        frame[l4..l4 + 2].copy_from_slice(&src.1.to_be_bytes());
        frame[l4 + 2..l4 + 4].copy_from_slice(&dst.1.to_be_bytes());
        frame[l4 + 12] = 0x50;
        frame[l4 + 13] = flags;
        frame
    }

    /// The frame in place `place`.
    pub(crate) fn frame(&self, place: usize) -> &[u8] {
        &self.memory[place * FRAME + HEADROOM..][..self.shape.len()]
    }

    /// Hands the first `count` frames of the ring to the worker, as the driver does; returns how
    /// many it sent on.
    pub(crate) fn turn(&mut self, way: Way, count: usize) -> usize {
        let port = if way == Way::In { 0 } else { 1 };
        let len = self.shape.len();
        let mut sent = 0;
        for burst in self.memory[..count * FRAME].chunks_mut(BURST * FRAME) {
            self.now_ns += 10_000;
            self.worker.prepare(burst.chunks(FRAME).map(|buffer| &buffer[HEADROOM..][..len]));
            for buffer in burst.chunks_mut(FRAME) {
                let actions = &mut self.actions;
                let verdict =
                    self.worker.handle_frame(self.now_ns, port, buffer, (HEADROOM, len), actions);
                sent += usize::from(matches!(verdict, Verdict::Transmit { .. }));
            }
        }
        sent
    }
}

fn octets(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}
