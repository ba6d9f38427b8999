//! A node under load, without a network: what all workers share, one worker, and packet memory laid
//! out as an AF_XDP worker has it.
//!
//! Guarantees: the table, the caches, the counters, the timers and the replication hook are those
//! of the daemon; two peers follow the group, so that marks are taken.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::Context;
use steadfast_dataplane::{
    Actions, ClientAddress, Config, ConfigSpec, FlowKey, Forwarding, GroupId, GroupSpec, Limits,
    Listen, MssClamp, NextHops, NextHopsSpec, Policies, PortSpec, Protocol, QuicSpec, Role, Route,
    SchedulerKind, ServerId, ServerOrder, ServerSpec, ServiceId, ServiceSpec, Shared, SyncSettings,
    TableOptions, Timeouts, Unserved, Verdict, Worker,
};
use steadfast_model::{BootId, Epoch, NodeId};
use steadfast_packet::{Mac, internet_checksum};
use steadfast_replication::{
    DirtySet, GroupRole, Local, ReplicationHook, SHARDS, Sender, adapter::origin_of,
};

/// Bytes in front of a frame, as the kernel leaves them.
const HEADROOM: usize = 256;
/// Bytes of a frame of packet memory, as in the daemon.
const FRAME: usize = 4096;
/// Frames of a ring.
pub(crate) const RING: usize = 2048;
/// Frames that a driver takes from a socket at once (af-xdp: `RECEIVE_BURST_MAX`).
const BURST: usize = 64;
/// Length of what is sent.
const LEN: usize = 64;
/// Some time after start.
const START_NS: u64 = 5_000_000_000_000;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const SYN_ACK: u8 = 0x12;
pub(crate) const RST: u8 = 0x04;

const GROUP: GroupId = GroupId(1);
pub(crate) const FRONT: Mac = [2, 0, 0, 0, 1, 0];
const BACK: Mac = [2, 0, 0, 0, 2, 0];
const ROUTER: Mac = [2, 0, 0, 0, 1, 1];
const ROUTER_ADDR: [u8; 4] = [198, 18, 255, 1];
const PORT: u16 = 80;

/// What is measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) forwarding: Forwarding,
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
    dirty: Arc<DirtySet>,
    memory: Vec<u8>,
    actions: Actions,
}

fn epoch() -> Epoch {
    Epoch { generation: 1, grant_index: 7, claim: 0, node: NodeId(1) }
}

pub(crate) fn vip(service: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0xc612_0000 + service)
}

fn server_addr(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a00_0000 + number)
}

fn server_mac(number: u32) -> Mac {
    let [a, b, c, d] = number.to_be_bytes();
    [2, 1, a, b, c, d]
}

fn config(shape: &Shape) -> ConfigSpec {
    let server = |service: u32, index: u32| {
        let number = service * shape.servers + index;
        let (id, addr) = (ServerId(number + 1), server_addr(number).into());
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
        listen: vec![Listen::new(Protocol::Tcp, vip(service).into(), PORT)],
        scheduler: shape.scheduler,
        order: ServerOrder::Canonical,
        forwarding: shape.forwarding,
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
            vips: (0..shape.services).map(|number| vip(number).into()).collect(),
            gateways: vec![],
            locals: vec![],
            unserved: Unserved::Reject,
        }],
        services: (0..shape.services).map(service).collect(),
        now_ns: 0,
        workers: 2,
        port_slot: None,
    }
}

fn next_hops(shape: &Shape) -> NextHopsSpec {
    let servers = shape.services * shape.servers;
    let route = |prefix: [u8; 4], prefix_len, port, gateway: Option<[u8; 4]>| Route {
        prefix: prefix.into(),
        prefix_len,
        port: Some(port),
        gateway: gateway.map(Into::into),
        src: None,
        mtu: None,
    };
    let mut neighbours = vec![(0, ROUTER_ADDR.into(), ROUTER)];
    neighbours.extend((0..servers).map(|n| (1, server_addr(n).into(), server_mac(n))));
    NextHopsSpec {
        generation: 1,
        ports: vec![
            PortSpec { mac: FRONT, ..PortSpec::default() },
            PortSpec { mac: BACK, ..PortSpec::default() },
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
            half_open_max: connections_max,
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
            client: Ipv4Addr::from_bits(0x1000_0000 + (flow / 16) as u32).into(),
            client_port: 1024 + (flow % 16) as u16 * 4001,
            vip: vip((flow % u64::from(self.shape.services)) as u32).into(),
            vip_port: PORT,
        }
    }

    /// Writes the frame of a flow into place `place` of the ring.
    pub(crate) fn put(&mut self, place: usize, flow: u64, way: Way, flags: u8) {
        let frame = self.build(flow, way, flags);
        self.memory[place * FRAME + HEADROOM..][..LEN].copy_from_slice(&frame);
    }

    /// The frame of a flow.
    pub(crate) fn build(&self, flow: u64, way: Way, flags: u8) -> [u8; LEN] {
        let key = self.key(flow);
        let (client, vip) = (bits(key.client), bits(key.vip));
        let (src, dst, ports, mac) = match way {
            Way::In => (client, vip, [key.client_port, key.vip_port], FRONT),
            Way::Out => {
                let target = self.shared.table.find(&key).and_then(|found| found.target());
                let target = target.map_or(0, |target| bits(target.addr));
                (target, client, [PORT, key.client_port], BACK)
            }
        };
        let mut frame = [0; LEN];
        frame[..6].copy_from_slice(&mac);
        frame[6..12].copy_from_slice(&ROUTER);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14..34]
            .copy_from_slice(&[0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        frame[26..30].copy_from_slice(&src.to_be_bytes());
        frame[30..34].copy_from_slice(&dst.to_be_bytes());
        let checksum = internet_checksum(0, &frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame[34..36].copy_from_slice(&ports[0].to_be_bytes());
        frame[36..38].copy_from_slice(&ports[1].to_be_bytes());
        frame[46] = 0x50;
        frame[47] = flags;
        frame
    }

    /// The frame in place `place`.
    pub(crate) fn frame(&self, place: usize) -> &[u8] {
        &self.memory[place * FRAME + HEADROOM..][..LEN]
    }

    /// Hands the first `count` frames of the ring to the worker, as the driver does; returns how
    /// many it sent on.
    pub(crate) fn turn(&mut self, way: Way, count: usize) -> usize {
        let port = if way == Way::In { 0 } else { 1 };
        let mut sent = 0;
        for burst in self.memory[..count * FRAME].chunks_mut(BURST * FRAME) {
            self.now_ns += 10_000;
            self.worker.prepare(burst.chunks(FRAME).map(|buffer| &buffer[HEADROOM..][..LEN]));
            for buffer in burst.chunks_mut(FRAME) {
                let actions = &mut self.actions;
                let verdict =
                    self.worker.handle_frame(self.now_ns, port, buffer, (HEADROOM, LEN), actions);
                sent += usize::from(matches!(verdict, Verdict::Transmit { .. }));
            }
        }
        sent
    }
}

fn bits(addr: std::net::IpAddr) -> u32 {
    match addr {
        std::net::IpAddr::V4(addr) => addr.to_bits(),
        std::net::IpAddr::V6(_) => 0,
    }
}
