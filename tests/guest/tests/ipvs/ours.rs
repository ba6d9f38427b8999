//! The same steps through our data plane.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use steadfast_dataplane::{
    Actions, ClientAddress, Config, ConfigSpec, FlowKey, Forwarding, GroupId, GroupSpec,
    HashOptions, Limits, Listen, MssClamp, NextHops, NextHopsSpec, NoHook, OnServerGone, Origin,
    Policies, PortSpec, Protocol, Role, Route, SchedulerKind, ServerId, ServerOrder, ServerSpec,
    ServiceId, ServiceSpec, Shared, SyncSettings, TableOptions, Timeouts, Unserved, Verdict,
    Worker,
};
use steadfast_guest::ipvs::{
    Entry, Flow, Scenario, Seen, Sent, Server, Step, VIP, VIP_PORT, server_addr, server_port,
    to_client, to_vip,
};
use steadfast_packet::ANSWER_LEN_MAX;

const GROUP: GroupId = GroupId(1);
const SERVICE: ServiceId = ServiceId(1);
const SECOND: u64 = 1_000_000_000;
const START: u64 = 5_000 * SECOND;
/// Between two steps; no connection expires in a scenario.
const STEP_NS: u64 = SECOND / 1000;

const FRONT: [u8; 6] = [2, 0, 0, 0, 1, 0];
const BACK: [u8; 6] = [2, 0, 0, 0, 2, 0];
const CLIENT: [u8; 6] = [2, 0, 0, 0, 1, 2];
const GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// A holder that serves the scenario's service.
pub(crate) struct Ours<'a> {
    scenario: &'a Scenario,
    shared: Arc<Shared>,
    worker: Worker<NoHook>,
    /// In the order in which they were added.
    servers: Vec<Present>,
    /// Ids are in the order of addition, and never come again.
    ids: u32,
    numbers: HashMap<ServerId, u8>,
    generation: u64,
    now: u64,
}

struct Present {
    server: Server,
    id: ServerId,
    /// The last weight that was not 0.
    last_weight: u16,
}

/// What a step did.
pub(crate) struct Done {
    pub(crate) seen: Seen,
    /// It opened a connection.
    pub(crate) created: bool,
}

impl<'a> Ours<'a> {
    pub(crate) fn new(scenario: &'a Scenario) -> Self {
        let shared = Arc::new(Shared::new(TableOptions {
            connections_max: 10_000,
            half_open_max: 10_000,
            seed: [1, 2],
        }));
        shared.set_next_hops(NextHops::new(next_hops()));
        let worker = Worker::new(0, Arc::clone(&shared), NoHook);
        let mut ours = Self {
            scenario,
            shared,
            worker,
            servers: Vec::new(),
            ids: 0,
            numbers: HashMap::new(),
            generation: 0,
            now: START,
        };
        ours.configure();
        // One by one, as the kernel got them: some schedulers remember their history.
        for server in &scenario.servers {
            ours.change(&Step::Add(*server));
        }
        let epoch = Origin { generation: 1, grant_index: 7, claim: 0, node: 1 };
        let role = Role::Holder { epoch, since_ns: START - 60 * SECOND, copy_complete: true };
        ours.shared.groups.group(GROUP).set_role(role);
        ours
    }

    pub(crate) fn step(&mut self, step: &Step) -> Done {
        self.now += STEP_NS;
        let before = step.flow().and_then(|flow| self.incarnation(self.scenario.flows[flow]));
        let sent = match *step {
            Step::Send { flow, flags } => {
                let flow = self.scenario.flows[flow];
                let frame = to_vip(self.scenario, flow, flags, (CLIENT, FRONT));
                self.handle(0, &frame)
            }
            Step::Reply { flow, flags } => {
                let flow = self.scenario.flows[flow];
                self.connection(flow).and_then(|Entry { server, .. }| {
                    let macs = (server_mac(server), BACK);
                    let frame = to_client(self.scenario, flow, server, flags, macs);
                    self.handle(1, &frame)
                })
            }
            Step::Weigh(_) | Step::Add(_) | Step::Remove { .. } => {
                self.change(step);
                None
            }
        };
        let flow = step.flow().map(|flow| self.scenario.flows[flow]);
        let after = flow.and_then(|flow| self.incarnation(flow));
        let connection = flow.and_then(|flow| self.connection(flow));
        let seen = Seen { connection, sent, loads: self.loads() };
        Done { seen, created: after.is_some() && after != before }
    }

    /// The flow has a connection, and its server was removed.
    pub(crate) fn is_orphan(&self, flow: usize) -> bool {
        let gone = |entry: Entry| !self.servers.iter().any(|s| s.server.number == entry.server);
        self.connection(self.scenario.flows[flow]).is_some_and(gone)
    }

    /// A SYN of the flow opens a new connection in the place of an old one.
    pub(crate) fn is_reusable(&self, flow: usize) -> bool {
        let found = self.shared.table.find(&self.key(self.scenario.flows[flow]));
        found.is_some_and(|found| found.state().is_reusable())
    }

    fn change(&mut self, step: &Step) {
        match *step {
            Step::Add(server) => {
                self.ids += 1;
                let id = ServerId(self.ids);
                self.numbers.insert(id, server.number);
                self.servers.push(Present { server, id, last_weight: server.weight });
            }
            Step::Weigh(server) => {
                for present in &mut self.servers {
                    if present.server.number == server.number {
                        present.server = server;
                        if server.weight > 0 {
                            present.last_weight = server.weight;
                        }
                    }
                }
            }
            Step::Remove { number } => self.servers.retain(|s| s.server.number != number),
            Step::Send { .. } | Step::Reply { .. } => {}
        }
        self.configure();
    }

    fn configure(&mut self) {
        self.generation += 1;
        let previous = self.shared.config.load_full();
        let config = Config::compile(self.spec(), Some(&previous)).unwrap();
        self.shared.set_config(config);
    }

    fn spec(&self) -> ConfigSpec {
        let group = GroupSpec {
            id: GROUP,
            vips: vec![VIP.into()],
            gateways: vec![IpAddr::from([198, 18, 1, 254])],
            locals: vec![],
            unserved: Unserved::Drop,
        };
        let service = ServiceSpec {
            id: SERVICE,
            group: GROUP,
            listen: vec![Listen::new(self.protocol(), VIP.into(), VIP_PORT)],
            scheduler: scheduler(self.scenario),
            order: ServerOrder::NewestFirst,
            forwarding: if self.scenario.dr { Forwarding::Dr } else { Forwarding::Nat },
            servers: self.servers.iter().map(|server| self.server_spec(server)).collect(),
            client_address: ClientAddress::None,
            mss_clamp: MssClamp::Off,
            syn_proxy: Default::default(),
            slow_start_ns: 0,
            limits: Limits::default(),
            // expire_nodest_conn=0, conn_reuse_mode=1, sloppy_tcp=0, sloppy_sctp=0
            policies: Policies {
                on_server_gone: OnServerGone::Drop,
                reuse: true,
                sloppy_tcp: false,
                sloppy_sctp: false,
            },
            persistence: None,
            quic: Default::default(),
            one_packet: false,
            ftp: None,
            timeouts: Timeouts::default(),
            sync: SyncSettings::default(),
        };
        ConfigSpec {
            generation: self.generation,
            groups: vec![group],
            services: vec![service],
            now_ns: self.now,
            workers: 1,
            port_slot: None,
        }
    }

    fn server_spec(&self, present: &Present) -> ServerSpec {
        let Server { number, weight } = present.server;
        // In mh a server of weight 0 keeps its place, in sh it keeps one bucket.
        //= Linux net/netfilter/ipvs/ip_vs_mh.c, ip_vs_mh_populate(): last_weight
        let last_weight = if self.scenario.scheduler == "mh" { present.last_weight } else { 0 };
        ServerSpec {
            id: present.id,
            addr: server_addr(number).into(),
            port: server_port(self.scenario.dr),
            weight,
            last_weight,
            drained: false,
            up: true,
            upper: 0,
            lower: 0,
            up_since_ns: 0,
        }
    }

    fn handle(&mut self, port: u16, frame: &[u8]) -> Option<Sent> {
        let mut buffer = frame.to_vec();
        buffer.resize(frame.len().max(ANSWER_LEN_MAX), 0);
        let mut actions = Actions::new();
        let place = (0, frame.len());
        let verdict = self.worker.handle_frame(self.now, port, &mut buffer, place, &mut actions);
        // A port other than the one it came from: an answer to the sender is none of IPVS's.
        match verdict {
            Verdict::Transmit { port: 1, start, .. } if port == 0 => {
                Some(Sent::Server(buffer[start + 5]))
            }
            Verdict::Transmit { port: 0, .. } if port == 1 => Some(Sent::Client),
            Verdict::Transmit { .. } | Verdict::Drop(_) => None,
        }
    }

    fn connection(&self, flow: Flow) -> Option<Entry> {
        let connection = self.shared.table.find(&self.key(flow))?;
        let state = connection.state();
        Some(Entry {
            server: self.numbers[&connection.server()],
            state: state.name().to_owned(),
            expires_s: Timeouts::default().of_ns(state) / SECOND,
        })
    }

    fn incarnation(&self, flow: Flow) -> Option<u64> {
        self.shared.table.find(&self.key(flow)).map(|found| found.incarnation())
    }

    fn loads(&self) -> Vec<(u8, u32, u32)> {
        let config = self.shared.config.load();
        let load = |present: &Present| {
            let (service, index) = config.server(present.id)?;
            let load = service.load(index)?;
            Some((present.server.number, load.active(), load.inactive()))
        };
        let mut loads: Vec<_> = self.servers.iter().filter_map(load).collect();
        loads.sort_unstable();
        loads
    }

    fn key(&self, flow: Flow) -> FlowKey {
        FlowKey {
            protocol: self.protocol(),
            client: flow.addr.into(),
            client_port: flow.port,
            vip: VIP.into(),
            vip_port: VIP_PORT,
        }
    }

    fn protocol(&self) -> Protocol {
        if self.scenario.udp { Protocol::Udp } else { Protocol::Tcp }
    }
}

fn scheduler(scenario: &Scenario) -> SchedulerKind {
    let name = scenario.scheduler.as_str();
    let has = |flag: &str| scenario.flags.iter().any(|f| *f == format!("{name}-{flag}"));
    let options = HashOptions { port: has("port"), fallback: has("fallback") };
    match name {
        "rr" => SchedulerKind::Rr,
        "wrr" => SchedulerKind::Wrr,
        "lc" => SchedulerKind::Lc,
        "wlc" => SchedulerKind::Wlc,
        "sed" => SchedulerKind::Sed,
        "nq" => SchedulerKind::Nq,
        "fo" => SchedulerKind::Fo,
        "ovf" => SchedulerKind::Ovf,
        "lblc" => SchedulerKind::Lblc,
        "lblcr" => SchedulerKind::Lblcr,
        "dh" => SchedulerKind::Dh,
        "sh" => SchedulerKind::Sh(options),
        "mh" => SchedulerKind::Mh(options),
        other => panic!("no scheduler {other}"),
    }
}

fn server_mac(number: u8) -> [u8; 6] {
    // The first octets tell nothing; `Ours::handle` reads the last.
    [2, 0, 0, 0, 3, number]
}

fn next_hops() -> NextHopsSpec {
    let route = |prefix: [u8; 4], prefix_len, port, gateway: Option<Ipv4Addr>| Route {
        prefix: prefix.into(),
        prefix_len,
        port,
        gateway: gateway.map(IpAddr::from),
        src: None,
        mtu: None,
    };
    let servers = (1..=u8::MAX).map(|n| (1, server_addr(n).into(), server_mac(n)));
    NextHopsSpec {
        generation: 1,
        ports: vec![
            PortSpec {
                mac: FRONT,
                addrs: vec![IpAddr::from([198, 18, 0, 1])],
                ..PortSpec::default()
            },
            PortSpec { mac: BACK, ..PortSpec::default() },
        ],
        routes: vec![
            route([198, 18, 0, 0], 24, Some(0), None),
            route([198, 18, 1, 0], 24, Some(1), None),
            route([10, 0, 0, 0], 8, Some(0), Some(GATEWAY)),
        ],
        neighbours: servers.chain([(0, GATEWAY.into(), CLIENT)]).collect(),
    }
}
