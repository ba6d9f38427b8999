//! A node: its table, its dirty set, its copies, its senders and receivers.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use steadfast_dataplane::{
    Carried, Class, Config, ConfigSpec, Connection, FlowKey, Listen, NewConnection, Protocol,
    Provenance, Record, Removal, ServerSpec, ServiceSpec, Shared, State, SyncHook, TableOptions,
    Timeouts,
};
use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_replication::{
    Copies, DirtySet, Local, Receiver, ReceiverMetrics, ReplicationHook, Sender, SnapshotBudget,
    adapter::origin_of,
};

use crate::world::CLUSTER;

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) boot: BootId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dirty: Arc<DirtySet>,
    pub(crate) copies: Arc<Copies>,
    pub(crate) hook: ReplicationHook,
    pub(crate) budget: Arc<SnapshotBudget>,
    pub(crate) senders: BTreeMap<(usize, u8), Sender>,
    pub(crate) receivers: BTreeMap<(usize, u8), Receiver>,
    pub(crate) donations_ended: Vec<(usize, GroupId)>,
    incarnation: u64,
}

/// Key, server, incarnation, state: what must be the same on all nodes.
pub(crate) type Contents = BTreeMap<FlowKey, (u32, u64, State)>;

pub(crate) fn config(servers: u32) -> Config {
    let server = |id: u32, ipv6: bool| ServerSpec {
        id: (id + if ipv6 { IPV6 } else { 0 }).into(),
        addr: addr(ipv6, 10 + id as u8),
        port: 80,
        ..ServerSpec::default()
    };
    let service = |id: u32, ipv6: bool| ServiceSpec {
        id: (id + if ipv6 { IPV6 } else { 0 }).into(),
        group: id.into(),
        listen: vec![Listen::new(Protocol::Tcp, addr(ipv6, 100 + id as u8), 80)],
        servers: (1..=servers).map(|n| server(id * 10 + n, ipv6)).collect(),
        ..ServiceSpec::default()
    };
    let group = |id: u32| steadfast_dataplane::GroupSpec {
        id: id.into(),
        vips: vec![addr(false, 100 + id as u8), addr(true, 100 + id as u8)],
        ..Default::default()
    };
    let spec = ConfigSpec {
        generation: 1,
        groups: vec![group(1), group(2)],
        services: [1, 2]
            .into_iter()
            .flat_map(|id| [service(id, false), service(id, true)])
            .collect(),
        now_ns: 0,
        workers: 1,
        port_slot: None,
        servers_given: Default::default(),
    };
    Config::compile(spec, None).expect("the test's configuration compiles")
}

/// Added to the ids of what is IPv6.
const IPV6: u32 = 1000;

fn addr(ipv6: bool, last: u8) -> IpAddr {
    if ipv6 {
        [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last)].into()
    } else {
        [198, 18, 0, last].into()
    }
}

/// One port in three talks IPv6: what a test draws has both families.
fn is_ipv6(client_port: u16) -> bool {
    client_port % 3 == 2
}

pub(crate) fn key(group: GroupId, client_port: u16) -> FlowKey {
    let ipv6 = is_ipv6(client_port);
    FlowKey {
        protocol: Protocol::Tcp,
        client: addr(ipv6, 1),
        client_port,
        vip: addr(ipv6, 100 + group.0 as u8),
        vip_port: 80,
    }
}

impl Node {
    pub(crate) fn new(id: u32, boot: u64, connections_max: usize, dirty: DirtySet) -> Self {
        let options =
            TableOptions { connections_max, half_open_max: connections_max, seed: [1, 2] };
        let shared = Arc::new(Shared::new(options));
        shared.set_config(config(3));
        let dirty = Arc::new(dirty);
        Self {
            id: NodeId(id),
            boot: BootId(boot),
            hook: ReplicationHook::new(Arc::clone(&shared), Arc::clone(&dirty)),
            shared,
            dirty,
            copies: Arc::default(),
            budget: Arc::default(),
            senders: BTreeMap::new(),
            receivers: BTreeMap::new(),
            donations_ended: Vec::new(),
            incarnation: 0,
        }
    }

    pub(crate) fn local(&self) -> Local {
        Local { cluster: CLUSTER, node: self.id, boot: self.boot }
    }

    /// A SYN and what answers it: the connection is established here.
    pub(crate) fn connect(
        &mut self,
        now: u64,
        group: GroupId,
        port: u16,
        server: u32,
        epoch: Epoch,
    ) {
        let half_open = self.open(now, group, port, server, epoch);
        self.packet(now, &half_open, State::Established);
    }

    /// A SYN.
    pub(crate) fn open(
        &mut self,
        now: u64,
        group: GroupId,
        port: u16,
        server: u32,
        epoch: Epoch,
    ) -> Connection {
        self.incarnation += 1;
        let family = if is_ipv6(port) { IPV6 } else { 0 };
        let record = Record {
            key: key(group, port),
            server: (family + group.0 * 10 + server).into(),
            target: None,
            local: None,
            service: (family + group.0).into(),
            group: group.0.into(),
            incarnation: self.incarnation,
            origin: origin_of(epoch),
        };
        let target = self.shared.config.load().target(record.server, record.key.vip_port);
        let record = Record { target, ..record };
        let connection = NewConnection::new(record, State::None, Provenance::Local, now);
        let mut evicted = Vec::new();
        let connection = self
            .shared
            .table
            .insert(connection, &Timeouts::default(), &mut evicted)
            .expect("the key is free and the table has room");
        assert!(evicted.is_empty());
        self.hook.created(&connection, now);
        self.packet(now, &connection, State::SynRecv);
        connection
    }

    /// An inbound packet that moves a connection to `state`.
    pub(crate) fn packet(&self, now: u64, connection: &Connection, state: State) {
        let old = connection.state();
        assert!(connection.swap_state(old, state));
        connection.touch(now);
        let count = connection.count_in(0);
        let gone = self.shared.table.changed(connection, &Timeouts::default());
        assert!(gone.is_none(), "the tables are large enough");
        let config = self.shared.config.load();
        // A service that is gone has no peers to tell.
        let Some((service, _)) = config.server(connection.server()) else { return };
        self.hook.forwarded(&Carried {
            connection,
            old,
            new: state,
            in_pkts: count,
            now_ns: now,
            service,
            config: &config,
        });
    }

    pub(crate) fn find(&self, group: GroupId, port: u16) -> Option<Connection> {
        self.shared.table.find(&key(group, port))
    }

    /// A connection ends here by itself.
    pub(crate) fn remove(&self, now: u64, group: GroupId, port: u16, why: Removal) -> bool {
        let Some(found) = self.find(group, port) else { return false };
        let gone = self.shared.table.remove(&found.key(), found.incarnation());
        let gone = gone.expect("nobody else removes here");
        self.hook.removed(&gone, why, now);
        true
    }

    /// Conversations of a group.
    pub(crate) fn contents(&self, group: GroupId) -> Contents {
        let mut contents = Contents::new();
        let mut cursor = Some(steadfast_dataplane::Cursor::default());
        while let Some(at) = cursor {
            let (found, next) = self.shared.table.walk(at, 1000);
            cursor = next;
            for connection in found {
                let record = connection.record();
                let state = connection.state();
                if record.group.0 == group.0 && state.class() != Class::HalfOpen {
                    contents.insert(record.key, (record.server.0, record.incarnation, state));
                }
            }
        }
        contents
    }

    /// A connection is lost here, and nobody is told: a fault.
    pub(crate) fn lose(&self, group: GroupId, port: u16) -> bool {
        let Some(found) = self.find(group, port) else { return false };
        self.shared.table.remove(&found.key(), found.incarnation()).is_some()
    }

    /// What was received from a peer.
    pub(crate) fn received(&self, from: usize) -> ReceiverMetrics {
        let mut all = ReceiverMetrics::default();
        let streams = self.receivers.iter().filter(|((peer, _), _)| *peer == from);
        streams.for_each(|(_, receiver)| all.add(&receiver.metrics()));
        all
    }

    pub(crate) fn sum<T>(&self, count: impl Fn(&Sender) -> T) -> T
    where
        T: std::iter::Sum,
    {
        self.senders.values().map(count).sum()
    }
}
