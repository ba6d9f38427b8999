//! The same steps through our data plane.

mod asked;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use steadfast_dataplane::{
    Actions, ClientAddress, Config, ConfigSpec, ConnReuse, FlowKey, FlowTotals, Forwarding,
    GroupId, GroupSpec, Limits, Listen, MssClamp, NextHops, NoHook, OnServerGone, Origin,
    Persistence, Policies, Protocol, Role, ServerId, ServerOrder, ServerSpec, ServiceId,
    ServiceSpec, Shared, SyncSettings, TableOptions, TemplateKey, Timeouts, Unserved, Verdict,
    Worker,
};
use steadfast_guest::ipvs::{
    self as oracle, Counts, Entry, Flow, Method, Scenario, Seen, Sent, Server, Step, VIP_PORT,
    VIP_PORTS, carried, hexadecimal, server_addr, server_port, to_client, to_vip, vip,
};
use steadfast_packet::{ANSWER_LEN_MAX, Content, Tunnel, parse};

use super::settings::{BACK, CLIENT, FRONT, next_hops, scheduler, server_mac};

const GROUP: GroupId = GroupId(1);
const SERVICE: ServiceId = ServiceId(1);
const SECOND: u64 = 1_000_000_000;
const START: u64 = 5_000 * SECOND;
/// Between two steps; no connection expires in a scenario.
const STEP_NS: u64 = SECOND / 1000;
/// Octets in front of a frame, for another header.
const HEADROOM: usize = 64;
/// How often timers are looked at, of which there are fewer than these.
const TICKS_PER_SECOND: u32 = 10;
const TIMERS_AT_ONCE: usize = 1000;

/// A holder that serves the scenario's service.
pub(super) struct Ours<'a> {
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
pub(super) struct Done {
    pub(super) seen: Seen,
    /// It opened a connection.
    pub(super) created: bool,
}

impl<'a> Ours<'a> {
    pub(super) fn new(scenario: &'a Scenario) -> Self {
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

    pub(super) fn step(&mut self, step: &Step) -> Done {
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
            Step::Wait { seconds } => {
                // In the order in which things end.
                for _ in 0..seconds * TICKS_PER_SECOND {
                    self.now += SECOND / u64::from(TICKS_PER_SECOND);
                    self.shared.advance(self.now, TIMERS_AT_ONCE, &NoHook);
                }
                None
            }
        };
        let (sent, packet) = sent.map_or((None, String::new()), |(to, packet)| (Some(to), packet));
        let flow = step.flow().map(|flow| self.scenario.flows[flow]);
        let after = flow.and_then(|flow| self.incarnation(flow));
        let connection = flow.and_then(|flow| self.connection(flow));
        let template = flow.and_then(|flow| self.template(flow));
        let (loads, templates) = (self.loads(), self.templates());
        let counts = self.counts();
        // A datagram on its own is one that leaves no connection.
        let created =
            after.is_some() && after != before || self.scenario.one_packet && sent.is_some();
        Done {
            seen: Seen { connection, sent, packet, loads, template, templates, counts },
            created,
        }
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
            Step::Send { .. } | Step::Reply { .. } | Step::Wait { .. } => {}
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
            vips: vec![self.vip()],
            gateways: vec![],
            locals: vec![],
            unserved: Unserved::Drop,
        };
        let service = ServiceSpec {
            id: SERVICE,
            group: GROUP,
            listen: self
                .ports()
                .iter()
                .map(|port| Listen::new(self.protocol(), self.vip(), *port))
                .collect(),
            scheduler: scheduler(self.scenario),
            order: ServerOrder::NewestFirst,
            forwarding: match self.scenario.method {
                Method::Nat => Forwarding::Nat,
                Method::Dr => Forwarding::Dr,
                Method::IpIp => Forwarding::Tunnel(Tunnel::IpIp),
            },
            servers: self.servers.iter().map(|server| self.server_spec(server)).collect(),
            client_address: ClientAddress::None,
            mss_clamp: MssClamp::Off,
            syn_proxy: Default::default(),
            slow_start_ns: 0,
            limits: Limits::default(),
            // expire_nodest_conn=0, conn_reuse_mode=1, sloppy_tcp=0, sloppy_sctp=0
            policies: Policies {
                on_server_gone: OnServerGone::Drop,
                reuse: ConnReuse::Always,
                sloppy_tcp: false,
                sloppy_sctp: false,
            },
            persistence: self.persistence(),
            quic: Default::default(),
            one_packet: self.scenario.one_packet,
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
            servers_given: Default::default(),
        }
    }

    fn server_spec(&self, present: &Present) -> ServerSpec {
        let Server { number, weight, upper, lower } = present.server;
        // In mh a server of weight 0 keeps its place, in sh it keeps one bucket.
        //= Linux net/netfilter/ipvs/ip_vs_mh.c, ip_vs_mh_populate(): last_weight
        let last_weight = if self.scenario.scheduler == "mh" { present.last_weight } else { 0 };
        ServerSpec {
            id: present.id,
            addr: server_addr(self.scenario.v6, number),
            port: if self.scenario.marked { 0 } else { server_port(self.scenario, VIP_PORT) },
            weight,
            last_weight,
            drained: false,
            up: true,
            upper,
            lower,
            up_since_ns: 0,
        }
    }

    fn handle(&mut self, port: u16, frame: &[u8]) -> Option<(Sent, String)> {
        let mut buffer = [&[0; HEADROOM], frame].concat();
        buffer.resize(HEADROOM + frame.len().max(ANSWER_LEN_MAX), 0);
        let mut actions = Actions::new();
        let place = (HEADROOM, frame.len());
        self.worker.prepare(std::iter::once(frame));
        let verdict = self.worker.handle_frame(self.now, port, &mut buffer, place, &mut actions);
        // A port other than the one it came from: an answer to the sender is none of IPVS's.
        let (to, frame) = match verdict {
            Verdict::Transmit { port: 1, start, len } if port == 0 => {
                (Sent::Server(buffer[start + 5]), &buffer[start..start + len])
            }
            Verdict::Transmit { port: 0, start, len } if port == 1 => {
                (Sent::Client, &buffer[start..start + len])
            }
            Verdict::Transmit { .. } | Verdict::Drop(_) => return None,
        };
        let inner = match (self.scenario.method, to) {
            (Method::IpIp, Sent::Server(number)) => {
                Some(carried(frame, server_addr(self.scenario.v6, number))?)
            }
            _ => None,
        };
        let frame = inner.as_deref().unwrap_or(frame);
        let Content::Ip(packet) = parse(frame).unwrap().content else { return None };
        Some((to, hexadecimal(&frame[packet.l3..packet.end])))
    }

    fn persistence(&self) -> Option<Persistence> {
        let oracle::Persistence { timeout_s, prefix_len, expire_quiescent } =
            self.scenario.persistence?;
        Some(Persistence {
            timeout_ns: u64::from(timeout_s) * SECOND,
            prefix_v4: prefix_len,
            prefix_v6: prefix_len,
            expire_quiescent_template: expire_quiescent,
        })
    }

    fn template(&self, flow: Flow) -> Option<Entry> {
        let client = self.persistence()?.network(flow.addr);
        let template =
            self.shared.table.templates.find(&TemplateKey { service: SERVICE, client })?;
        let state = if template.record.assured { "ASSURED" } else { "NONE" };
        Some(Entry {
            server: self.numbers[&template.record.server],
            state: state.to_owned(),
            expires_s: template.until_ns.saturating_sub(self.now) / SECOND,
        })
    }

    fn templates(&self) -> Vec<(u8, usize)> {
        let mut counts = BTreeMap::new();
        let (found, rest) = self.shared.table.templates.walk(0, 10_000);
        assert_eq!(rest, None, "more templates than a scenario makes");
        for template in found {
            *counts.entry(self.numbers[&template.record.server]).or_default() += 1;
        }
        counts.into_iter().collect()
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
            client: flow.addr,
            client_port: flow.port,
            vip: self.vip(),
            vip_port: flow.vip_port,
        }
    }

    fn ports(&self) -> &'static [u16] {
        if self.scenario.marked { &VIP_PORTS } else { &VIP_PORTS[..1] }
    }

    fn counts(&self) -> Counts {
        let config = self.shared.config.load();
        counts(config.service(SERVICE).unwrap().totals())
    }

    /// What each server that is left counted, by number.
    pub(super) fn server_counts(&self) -> Vec<(u8, Counts)> {
        let config = self.shared.config.load();
        let of = |present: &Present| {
            let (service, index) = config.server(present.id)?;
            Some((present.server.number, counts(service.counters(index)?.totals())))
        };
        let mut all: Vec<_> = self.servers.iter().filter_map(of).collect();
        all.sort_by_key(|(number, _)| *number);
        all
    }

    fn vip(&self) -> IpAddr {
        vip(self.scenario.v6)
    }

    fn protocol(&self) -> Protocol {
        match self.scenario.protocol {
            oracle::Protocol::Tcp => Protocol::Tcp,
            oracle::Protocol::Udp => Protocol::Udp,
            oracle::Protocol::Sctp => Protocol::Sctp,
        }
    }
}

fn counts(totals: FlowTotals) -> Counts {
    let FlowTotals { conns, in_pkts, in_bytes, out_pkts, out_bytes } = totals;
    Counts { conns, in_pkts, in_bytes, out_pkts, out_bytes }
}
