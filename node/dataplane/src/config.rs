//! The configuration as packets see it: compiled once, then only read.
//!
//! Guarantees: server order, and so every hash table, follows from the committed configuration
//! alone (address, then port), so that all nodes build the same; health and drain only skip.
//! Scheduler positions and counters live on over a recompilation. Not here: validation that needs
//! more than one service (the control side does it before anything is committed).

use std::{
    collections::HashSet,
    net::IpAddr,
    ops::Add,
    sync::{Arc, OnceLock},
};

use steadfast_packet::{Protocol, Tunnel};

use crate::{
    Asked, ClientAddress, ConfigSpec, ExcessTotals, FlowCounters, FlowKey, FlowTotals, Forwarding,
    Ftp, GroupId, GroupSpec, Listen, LocalPorts, PortSlot, Record, Scheduler, ServerId, ServerLoad,
    ServerOrder, ServerSpec, ServiceId, ServiceSpec, Slot, SynProxy, Target, Timeouts, Unserved,
    WORKERS_MAX,
    bucket::SharedBucket,
    fast::{ByAddr, Map},
    limits::Defence,
    listen::{Intervals, Listeners, RANGES_MAX},
    quic::QuicRouter,
};

/// A compiled configuration.
#[derive(Debug, Default)]
pub struct Config {
    generation: u64,
    servers_given: ServerId,
    addresses: ByAddr<Address>,
    listeners: Listeners,
    services: Map<ServiceId, Arc<Service>>,
    servers: Map<ServerId, (Arc<Service>, usize)>,
    pools: Map<(Protocol, IpAddr), Intervals<GroupId>>,
    pool_addrs: Map<IpAddr, GroupId>,
    /// The one service whose replies come from there; none where there are two.
    answering: Map<(Protocol, IpAddr, u16), Option<ServiceId>>,
    /// The FTP servers behind NAT.
    ftp: Map<IpAddr, (ServiceId, usize)>,
    /// Whose replies no connection tells: the NAT servers of one-packet services.
    once: Map<IpAddr, Intervals<(ServiceId, usize)>>,
    /// The tunnels that lead to a server.
    tunnels: Map<IpAddr, Vec<Tunnel>>,
}

/// An address of a VIP group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Address {
    /// Its group.
    pub group: GroupId,
    /// VIP, gateway or local address.
    pub kind: AddressKind,
    /// What unserved ports answer.
    pub unserved: Unserved,
}

/// What an address of a group is for.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum AddressKind {
    /// Services listen there.
    Vip,
    /// Servers route through it.
    Gateway,
    /// Servers of full-NAT services answer to it.
    Local,
}

/// A compiled service.
#[derive(Debug)]
pub struct Service {
    /// What it was compiled from; servers are in canonical order.
    pub spec: ServiceSpec,
    scheduler: Scheduler,
    counters: Vec<Arc<FlowCounters>>,
    /// What servers counted that are gone.
    retired: FlowTotals,
    first_copies: Arc<SharedBucket>,
    pub(crate) defence: Arc<Defence>,
    /// The local ports that this node may give its connections, if they need any.
    pub(crate) local_ports: Option<Arc<LocalPorts>>,
    quic: Option<Arc<QuicRouter>>,
    loads: OnceLock<Box<[Arc<ServerLoad>]>>,
}

/// Flows of one datagram so far that a service may have copied in a second, and at once. Anybody
/// can make such flows; without a bound they would fill the tables of all nodes.
const FIRST_COPIES_PER_SECOND: u64 = 200;
const FIRST_COPIES_BURST: u64 = 2_000;

/// What is wrong with a [`ConfigSpec`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// An address stands twice.
    #[error("address {0} belongs to two VIP groups or stands twice: give it to one group")]
    AddressTaken(IpAddr),
    /// Two services listen on the same address and port.
    #[error("services {0} and {1} listen on the same address, port and protocol: change one")]
    ListenerTaken(ServiceId, ServiceId),
    /// Too many port ranges at one address.
    #[error("address {0} has more than {RANGES_MAX} port ranges: join some")]
    Ranges(IpAddr),
    /// A service listens nowhere.
    #[error("service {0} listens nowhere: give it an address and a port")]
    Nowhere(ServiceId),
    /// A service listens on an address that is no VIP of its group.
    #[error("service {service}: {vip} is no VIP of group {group}: add it to the group")]
    NotAVip {
        /// The service.
        service: ServiceId,
        /// Its address.
        vip: IpAddr,
        /// Its group.
        group: GroupId,
    },
    /// A server id stands twice.
    #[error("server id {0} stands twice: ids are allocated once and never reused")]
    ServerIdTaken(ServerId),
    /// A service id stands twice.
    #[error("service id {0} stands twice: ids are allocated once and never reused")]
    ServiceIdTaken(ServiceId),
    /// Two servers of a service have the same address and port.
    #[error("service {service}: servers {first} and {second} have the same address and port")]
    ServerTaken {
        /// The service.
        service: ServiceId,
        /// A server.
        first: ServerId,
        /// The other.
        second: ServerId,
    },
    /// Under DR and over tunnels the server must listen on the service's port.
    #[error("server {0}: under dr and tun its port must be the service's port")]
    FixedPort(ServerId),
    /// A server's port stands for several.
    #[error("server {0}: its port cannot stand for the several ports of its service")]
    PortOfMany(ServerId),
    /// Data connections could not be told from others.
    #[error(
        "service {0}: ftp needs nat, persistence, and one TCP port of one VIP beside its data ports"
    )]
    Ftp(ServiceId),
    /// Packets of connections must not be scheduled one by one.
    #[error("service {0}: one-packet scheduling is for UDP alone")]
    OnePacket(ServiceId),
    /// Where replies do not come through here nobody can translate their numbers.
    #[error("service {0}: cookies need TCP, and nat or full-NAT")]
    SynProxy(ServiceId),
    /// Nothing would tell which VIP a server answers for.
    #[error("service {0}: with nat, one-packet scheduling needs a single VIP")]
    OneVip(ServiceId),
    /// Server and VIP are of different families.
    #[error("server {0}: its address is of another family than the VIP")]
    Family(ServerId),
    /// A full-NAT service whose group has no local address of its family.
    #[error("service {0}: its group has no local address of the VIP's family for full-NAT")]
    NoLocalAddress(ServiceId),
    /// Too many workers.
    #[error("{0} workers: at most {WORKERS_MAX} are counted for")]
    Workers(usize),
}

impl Config {
    /// Compiles `spec`. `previous` lends scheduler positions, hash tables and counters.
    pub fn compile(spec: ConfigSpec, previous: Option<&Self>) -> Result<Self, ConfigError> {
        if spec.workers > WORKERS_MAX {
            return Err(ConfigError::Workers(spec.workers));
        }
        let (generation, servers_given) = (spec.generation, spec.servers_given);
        let mut config = Self { generation, servers_given, ..Self::default() };
        let mut pools = Map::default();
        for group in &spec.groups {
            config.add_group(group)?;
            pools.insert(group.id, &group.locals[..]);
        }
        for mut service in spec.services {
            set_up_since(&mut service, spec.now_ns, previous);
            let local_ports = match service.forwarding {
                Forwarding::FullNat => {
                    let locals = pools.get(&service.group).copied().unwrap_or_default();
                    Some(local_ports(&service, locals, (spec.port_slot, spec.now_ns), previous)?)
                }
                _ => None,
            };
            config.add_service(service, local_ports.flatten(), spec.workers, previous)?;
        }
        Ok(config)
    }

    /// Servers of all services.
    pub(crate) fn servers_len(&self) -> usize {
        self.servers.len()
    }

    /// The generation of the specification.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What an address is, if it is one of a group.
    #[must_use]
    pub fn address(&self, addr: IpAddr) -> Option<Address> {
        self.addresses.get(addr).copied()
    }

    /// The service that listens there.
    #[must_use]
    pub fn listener(&self, protocol: Protocol, vip: IpAddr, port: u16) -> Option<&Arc<Service>> {
        self.listeners.find(protocol, vip, port)
    }

    /// A service by id.
    #[must_use]
    pub fn service(&self, id: ServiceId) -> Option<&Arc<Service>> {
        self.services.get(&id)
    }

    /// All services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// A server by id, as its service and its index there.
    #[must_use]
    pub fn server(&self, id: ServerId) -> Option<(&Arc<Service>, usize)> {
        self.servers.get(&id).map(|(service, index)| (service, *index))
    }

    /// Whether a server was removed; not so one that this configuration does not know yet.
    #[must_use]
    pub fn is_gone(&self, id: ServerId) -> bool {
        id <= self.servers_given && !self.servers.contains_key(&id)
    }

    /// The group whose NAT connections packets from there may belong to.
    ///
    /// A server that serves two groups is found under one of them: a packet of a known connection
    /// does not depend on it.
    #[must_use]
    pub fn pool_group(&self, protocol: Protocol, addr: IpAddr, port: u16) -> Option<GroupId> {
        let pool = self.pools.get(&(protocol, addr)).and_then(|pool| pool.find(port));
        pool.copied().or_else(|| {
            let (service, index) = self.ftp(addr).filter(|_| protocol == Protocol::Tcp)?;
            let server = service.spec.servers.get(index)?;
            service.spec.data_vip_port(server, port).map(|_| service.spec.group)
        })
    }

    /// The FTP service of a NAT server, and which server it is.
    pub(crate) fn ftp(&self, addr: IpAddr) -> Option<(&Service, usize)> {
        let (id, index) = *self.ftp.get(&addr)?;
        Some((self.services.get(&id)?, index))
    }

    /// A tunnel of which this holds leads to a server.
    pub(crate) fn has_tunnel(&self, server: IpAddr, holds: impl Fn(Tunnel) -> bool) -> bool {
        self.tunnels.get(&server).is_some_and(|tunnels| tunnels.iter().copied().any(holds))
    }

    /// As [`Self::pool_group`], for a packet that shows no port.
    #[must_use]
    pub fn pool_group_of(&self, addr: IpAddr) -> Option<GroupId> {
        self.pool_addrs.get(&addr).copied()
    }

    /// The service whose NAT replies come from there, if no other one's do: then the address tells
    /// what the connection would have told.
    pub(crate) fn answering(
        &self,
        protocol: Protocol,
        addr: IpAddr,
        port: u16,
    ) -> Option<&Arc<Service>> {
        let id = self.answering.get(&(protocol, addr, port)).copied().flatten()?;
        self.service(id)
    }

    /// The one-packet service of a NAT server, which server it is, and what its clients know it as.
    pub(crate) fn once(&self, addr: IpAddr, port: u16) -> Option<(&Service, usize, IpAddr, u16)> {
        let (id, index) = self.once.get(&addr)?.find(port)?;
        let service = self.services.get(id)?;
        let vip_port = match service.spec.servers.get(*index)?.port {
            0 => port,
            _ => service.spec.single_port()?,
        };
        Some((service, *index, service.spec.listen.first()?.vip, vip_port))
    }

    /// Where the server of this id is, for a record of a connection to `vip_port` that names it.
    #[must_use]
    pub fn target(&self, id: ServerId, vip_port: u16) -> Option<Target> {
        let (service, index) = self.server(id)?;
        let server = service.spec.servers.get(index)?;
        let forwarding = service.spec.forwarding;
        let port = service.spec.server_port(server, vip_port);
        Some(Target { addr: server.addr, port, forwarding })
    }

    /// Where the server of this record is. A record with a local address is of full-NAT, whatever its
    /// service says by now; without one it cannot be, and where its server is remains unknown.
    #[must_use]
    pub fn target_of(&self, record: &Record) -> Option<Target> {
        let target = self.target(record.server, record.key.vip_port)?;
        match (record.local, target.forwarding) {
            (None, Forwarding::FullNat) => None,
            (None, _) => Some(target),
            (Some(_), _) => Some(Target { forwarding: Forwarding::FullNat, ..target }),
        }
    }

    /// Time-outs of a service; the defaults of IPVS when it is gone.
    #[must_use]
    pub fn timeouts(&self, id: ServiceId) -> Timeouts {
        self.services.get(&id).map_or_else(Timeouts::default, |service| service.spec.timeouts)
    }

    /// The server is what hashing alone would choose for this client: any node finds it again
    /// without having been told. Nobody finds a local port again.
    #[must_use]
    pub fn is_derivable(&self, server: ServerId, key: &FlowKey) -> bool {
        self.server(server).is_some_and(|(service, index)| service.derives(index, key))
    }

    /// A copy in which nothing is shared that a packet changes; what it counts is its own.
    pub(crate) fn copy(&self) -> Self {
        let services: Map<_, _> =
            self.services.iter().map(|(id, service)| (*id, Arc::new(service.copy()))).collect();
        let copy_of = |service: &Arc<Service>| {
            services.get(&service.spec.id).map_or_else(|| Arc::clone(service), Arc::clone)
        };
        let servers =
            self.servers.iter().map(|(id, (service, index))| (*id, (copy_of(service), *index)));
        Self {
            generation: self.generation,
            servers_given: self.servers_given,
            addresses: self.addresses.clone(),
            listeners: self.listeners.map(copy_of),
            servers: servers.collect(),
            pools: self.pools.clone(),
            pool_addrs: self.pool_addrs.clone(),
            answering: self.answering.clone(),
            ftp: self.ftp.clone(),
            once: self.once.clone(),
            tunnels: self.tunnels.clone(),
            services,
        }
    }

    fn add_group(&mut self, group: &GroupSpec) -> Result<(), ConfigError> {
        let of = |addrs: &[IpAddr], kind| addrs.iter().map(|addr| (*addr, kind)).collect();
        let addresses: [Vec<_>; 3] = [
            of(&group.vips, AddressKind::Vip),
            of(&group.gateways, AddressKind::Gateway),
            of(&group.locals, AddressKind::Local),
        ];
        for (addr, kind) in addresses.into_iter().flatten() {
            let address = Address { group: group.id, kind, unserved: group.unserved };
            if self.addresses.insert(addr, address).is_some() {
                return Err(ConfigError::AddressTaken(addr));
            }
        }
        Ok(())
    }

    fn add_service(
        &mut self,
        mut spec: ServiceSpec,
        local_ports: Option<Arc<LocalPorts>>,
        workers: usize,
        previous: Option<&Self>,
    ) -> Result<(), ConfigError> {
        if spec.listen.is_empty() {
            return Err(ConfigError::Nowhere(spec.id));
        }
        for listen in &spec.listen {
            let found = self.addresses.get(listen.vip);
            if !found.is_some_and(|at| at.kind == AddressKind::Vip && at.group == spec.group) {
                let (service, vip, group) = (spec.id, listen.vip, spec.group);
                return Err(ConfigError::NotAVip { service, vip, group });
            }
        }
        if self.services.contains_key(&spec.id) {
            return Err(ConfigError::ServiceIdTaken(spec.id));
        }
        match spec.order {
            ServerOrder::Canonical => spec.servers.sort_by_key(|server| (server.addr, server.port)),
            // Ids are given in the order in which servers come, and never again.
            ServerOrder::NewestFirst => spec.servers.sort_by_key(|s| std::cmp::Reverse(s.id)),
        }
        if let Some(ftp) = spec.ftp {
            check_ftp(&spec, ftp)?;
        }
        if spec.one_packet {
            check_one_packet(&spec)?;
        }
        let has_tcp = spec.listen.iter().any(|at| at.protocol == Protocol::Tcp);
        if spec.syn_proxy != SynProxy::Off && !(has_tcp && spec.forwarding.is_nat()) {
            return Err(ConfigError::SynProxy(spec.id));
        }
        check_servers(&spec)?;
        let service = Service::compile(spec, workers, previous);
        let service = Arc::new(Service { local_ports, ..service });
        for (index, server) in service.spec.servers.iter().enumerate() {
            if self.servers.insert(server.id, (Arc::clone(&service), index)).is_some() {
                return Err(ConfigError::ServerIdTaken(server.id));
            }
            if service.spec.ftp.is_some() {
                // Of two services with the same server the first: see `pool_group`.
                self.ftp.entry(server.addr).or_insert((service.spec.id, index));
            }
            if let Forwarding::Tunnel(tunnel) = service.spec.forwarding {
                let tunnels = self.tunnels.entry(server.addr).or_default();
                if !tunnels.contains(&tunnel) {
                    tunnels.push(tunnel);
                }
            }
            if service.spec.forwarding == Forwarding::Nat {
                self.pool_addrs.entry(server.addr).or_insert(service.spec.group);
                // Of a service of several addresses or ports the reply does not say which.
                if let [listen] = service.spec.listen.as_slice()
                    && listen.ports.first == listen.ports.last
                {
                    let port = server.port_for(listen.ports.first);
                    let source = (listen.protocol, server.addr, port);
                    let id = Some(service.spec.id);
                    self.answering.entry(source).and_modify(|one| *one = None).or_insert(id);
                }
                for listen in &service.spec.listen {
                    let own = (server.port != 0).then(|| server.port.into());
                    if service.spec.one_packet {
                        let once = self.once.entry(server.addr).or_default();
                        once.fill(own.unwrap_or(listen.ports), (service.spec.id, index));
                    }
                    let pool = self.pools.entry((listen.protocol, server.addr)).or_default();
                    // Ports of two services are the first one's: see `pool_group`.
                    pool.fill(own.unwrap_or(listen.ports), service.spec.group);
                }
            }
        }
        for listen in &service.spec.listen {
            self.listeners.add(*listen, &service)?;
        }
        if let (Some(ftp), Some(control)) = (service.spec.ftp, service.spec.listen.first()) {
            self.listeners.add(Listen { ports: ftp.data, ..*control }, &service)?;
        }
        self.services.insert(service.spec.id, service);
        Ok(())
    }
}

impl Service {
    /// Chooses a server for a new connection, as an index into `spec.servers`.
    #[must_use]
    pub fn schedule(&self, asked: &Asked) -> Option<usize> {
        let loads = self.loads.get().map_or(&[][..], |loads| &loads[..]);
        self.scheduler.pick(&self.spec.servers, loads, asked)
    }

    /// The server of a connection that is not in the table, as an index into `spec.servers`.
    pub(crate) fn by_hash(&self, asked: &Asked) -> Option<usize> {
        let loads = self.loads.get().map_or(&[][..], |loads| &loads[..]);
        self.scheduler.pick_by_hash(&self.spec.servers, loads, asked)
    }

    /// The server at `index` is what hashing alone would choose for this client, and nothing else
    /// about the connection has to be known.
    pub(crate) fn derives(&self, index: usize, key: &FlowKey) -> bool {
        let hashed = || self.scheduler.first_choice(key.client, key.client_port, key.vip);
        let is_known = self.spec.forwarding == Forwarding::FullNat
            || self.spec.client_address == ClientAddress::ProxyV2;
        !is_known && hashed() == Some(index)
    }

    /// The server that a connection has if hashing alone chose it, as an index into `spec.servers`;
    /// none if that could not be all there is to know of it.
    pub(crate) fn derived(&self, key: &FlowKey) -> Option<usize> {
        let spec = &self.spec;
        let is_told =
            spec.persistence.is_some() || spec.syn_proxy != SynProxy::Off || self.quic.is_some();
        let index = self.scheduler.first_choice(key.client, key.client_port, key.vip)?;
        (!is_told && self.derives(index, key)).then_some(index)
    }

    /// What was above its limits, at this node.
    #[must_use]
    pub fn excess(&self) -> ExcessTotals {
        self.defence.totals()
    }

    /// Which server a connection ID of QUIC names, for a service that looks at them.
    pub(crate) fn quic(&self) -> Option<&Arc<QuicRouter>> {
        self.quic.as_ref()
    }

    /// What the server at `index` carries at this node.
    #[must_use]
    pub fn load(&self, index: usize) -> Option<&Arc<ServerLoad>> {
        self.loads.get()?.get(index)
    }

    /// Shows the scheduler what the servers carry; only the first call counts.
    pub(crate) fn attach_loads(&self, of: impl Fn(ServerId) -> Arc<ServerLoad>) {
        self.loads.get_or_init(|| {
            let attached = self.spec.servers.iter().map(|server| {
                let load = of(server.id);
                load.set_thresholds(server.upper, server.lower);
                load
            });
            attached.collect()
        });
    }

    /// Whether one more flow may be copied on its first datagram.
    #[must_use]
    pub fn take_first_copy(&self, now_ns: u64) -> bool {
        self.first_copies.take(now_ns)
    }

    /// Counters of the server at `index`.
    #[must_use]
    pub fn counters(&self, index: usize) -> Option<&Arc<FlowCounters>> {
        self.counters.get(index)
    }

    /// What it has counted, servers that are gone included.
    #[must_use]
    pub fn totals(&self) -> FlowTotals {
        self.counters.iter().map(|counters| counters.totals()).fold(self.retired, Add::add)
    }

    /// Where hashing looks first for a client.
    #[must_use]
    pub fn slot(&self, client: IpAddr, client_port: u16, vip: IpAddr) -> Option<Slot> {
        self.scheduler.slot(client, client_port, vip)
    }

    fn copy(&self) -> Self {
        let loads = OnceLock::new();
        if let Some(attached) = self.loads.get() {
            let copies = attached.iter().map(|load| Arc::new(load.copy())).collect();
            loads.get_or_init(|| copies);
        }
        let workers = self.counters.first().map_or(1, |counters| counters.workers());
        Self {
            spec: self.spec.clone(),
            scheduler: self.scheduler.copy(),
            counters: self.counters.iter().map(|_| Arc::new(FlowCounters::new(workers))).collect(),
            retired: FlowTotals::default(),
            first_copies: Arc::new(SharedBucket::new(FIRST_COPIES_PER_SECOND, FIRST_COPIES_BURST)),
            defence: Arc::new(self.defence.copy()),
            local_ports: self.local_ports.as_ref().map(|ports| Arc::new(ports.copy())),
            quic: self.quic.clone(),
            loads,
        }
    }

    fn compile(spec: ServiceSpec, workers: usize, previous: Option<&Config>) -> Self {
        let old = previous.and_then(|config| config.service(spec.id));
        let scheduler = Scheduler::compile(
            spec.scheduler,
            &spec.servers,
            old.map(|old| (&old.scheduler, old.spec.servers.as_slice())),
        )
        .with_slow_start(spec.slow_start_ns);
        let counters: Vec<_> = spec
            .servers
            .iter()
            .map(|server| {
                previous
                    .and_then(|config| config.server(server.id))
                    .and_then(|(service, index)| service.counters(index))
                    .filter(|counters| counters.workers() == workers.clamp(1, WORKERS_MAX))
                    .map_or_else(|| Arc::new(FlowCounters::new(workers)), Arc::clone)
            })
            .collect();
        let first_copies = old.map_or_else(
            || Arc::new(SharedBucket::new(FIRST_COPIES_PER_SECOND, FIRST_COPIES_BURST)),
            |old| Arc::clone(&old.first_copies),
        );
        let new_per_s = spec.limits.new_per_s;
        let defence = match old {
            Some(old) if old.defence.is_for(new_per_s, workers) => Arc::clone(&old.defence),
            _ => {
                let new = Defence::new(new_per_s, workers);
                old.inspect(|old| new.continue_from(&old.defence));
                Arc::new(new)
            }
        };
        // What workers still count under the configuration before goes on in counters that live on;
        // of those that do not it is lost, which is what a few packets are.
        let gone = old.map_or(&[][..], |old| &old.counters);
        let kept: HashSet<_> = counters.iter().map(Arc::as_ptr).collect();
        let gone = gone.iter().filter(|old| !kept.contains(&Arc::as_ptr(old)));
        let retired = old.map_or_else(FlowTotals::default, |old| old.retired);
        let retired = gone.map(|counters| counters.totals()).fold(retired, Add::add);
        let loads = OnceLock::new();
        let local_ports = None;
        let quic = QuicRouter::compile(&spec.quic, &spec.servers).map(Arc::new);
        Self { spec, scheduler, counters, retired, first_copies, defence, local_ports, quic, loads }
    }
}

/// Notes which servers take connections only from now on. Those of a service that nobody knew
/// before come up together: none of them needs to be spared.
fn set_up_since(service: &mut ServiceSpec, now_ns: u64, previous: Option<&Config>) {
    let known = previous.filter(|config| config.service(service.id).is_some());
    for server in &mut service.servers {
        let before = known.and_then(|config| config.server(server.id));
        let before = before.and_then(|(service, index)| service.spec.servers.get(index));
        server.up_since_ns = match (known, before) {
            (None, _) => 0,
            (_, Some(before)) if before.is_available() => before.up_since_ns,
            _ => now_ns,
        };
    }
}

/// The local ports of a full-NAT service at the node with this slot: those it had, if they are still
/// the same.
fn local_ports(
    service: &ServiceSpec,
    locals: &[IpAddr],
    (slot, now_ns): (Option<PortSlot>, u64),
    previous: Option<&Config>,
) -> Result<Option<Arc<LocalPorts>>, ConfigError> {
    // All listeners of a service are of one family.
    let is_ipv4 = service.listen.first().map(|listen| listen.vip.is_ipv4());
    let mut addrs: Vec<_> =
        locals.iter().filter(|addr| Some(addr.is_ipv4()) == is_ipv4).copied().collect();
    if addrs.is_empty() {
        return Err(ConfigError::NoLocalAddress(service.id));
    }
    addrs.sort_unstable();
    let Some(slot) = slot else { return Ok(None) };
    let old = previous.and_then(|config| config.service(service.id)?.local_ports.clone());
    let kept = old.filter(|ports| ports.are_of(slot, &addrs));
    // Any number will do that is another one after a restart.
    let seed = (now_ns >> 10) as u32;
    Ok(Some(kept.unwrap_or_else(|| Arc::new(LocalPorts::new(slot, addrs.into(), seed)))))
}

fn check_ftp(spec: &ServiceSpec, ftp: Ftp) -> Result<(), ConfigError> {
    let control = match spec.listen[..] {
        [at] if at.protocol == Protocol::Tcp => at.ports.single(),
        _ => None,
    };
    let apart = |control: u16| control > 1 && (control < ftp.data.first || control > ftp.data.last);
    let good = spec.forwarding == Forwarding::Nat && spec.persistence.is_some();
    match control {
        Some(control) if good && apart(control) => Ok(()),
        _ => Err(ConfigError::Ftp(spec.id)),
    }
}

fn check_one_packet(spec: &ServiceSpec) -> Result<(), ConfigError> {
    if spec.listen.iter().any(|at| at.protocol != Protocol::Udp) {
        return Err(ConfigError::OnePacket(spec.id));
    }
    let vip = spec.listen.first().map(|at| at.vip);
    if spec.forwarding == Forwarding::Nat && spec.listen.iter().any(|at| Some(at.vip) != vip) {
        return Err(ConfigError::OneVip(spec.id));
    }
    Ok(())
}

fn check_servers(spec: &ServiceSpec) -> Result<(), ConfigError> {
    let single = spec.single_port();
    for server in &spec.servers {
        let is_tunnel = matches!(spec.forwarding, Forwarding::Tunnel(_));
        let is_of_family = |at: &Listen| at.vip.is_ipv4() == server.addr.is_ipv4();
        if !is_tunnel && !spec.listen.iter().all(is_of_family) {
            return Err(ConfigError::Family(server.id));
        }
        match (server.port, single) {
            (0, _) => {}
            (_, None) => return Err(ConfigError::PortOfMany(server.id)),
            (port, Some(own)) if !spec.forwarding.is_nat() && port != own => {
                return Err(ConfigError::FixedPort(server.id));
            }
            _ => {}
        }
    }
    let same = |pair: &&[ServerSpec]| (pair[0].addr, pair[0].port) == (pair[1].addr, pair[1].port);
    match spec.servers.windows(2).find(same) {
        Some(pair) => Err(ConfigError::ServerTaken {
            service: spec.id,
            first: pair[0].id,
            second: pair[1].id,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GroupSpec, HashOptions, Ports, SchedulerKind};

    const IPIP: Forwarding = Forwarding::Tunnel(steadfast_packet::Tunnel::IpIp);

    fn addr(last: u8) -> IpAddr {
        IpAddr::from([198, 18, 0, last])
    }

    fn server(id: u32, last: u8) -> ServerSpec {
        let (id, addr) = (ServerId(id), addr(last));
        ServerSpec { id, addr, port: 80, ..ServerSpec::default() }
    }

    fn service(id: u32, port: u16, servers: Vec<ServerSpec>) -> ServiceSpec {
        ServiceSpec {
            id: ServiceId(id),
            group: GroupId(1),
            listen: vec![Listen::new(Protocol::Tcp, addr(100), port)],
            scheduler: SchedulerKind::Mh(HashOptions { port: true, fallback: true }),
            order: ServerOrder::Canonical,
            forwarding: Forwarding::Nat,
            servers,
            ..ServiceSpec::default()
        }
    }

    fn spec() -> ConfigSpec {
        let group =
            |id, vip| GroupSpec { id: GroupId(id), vips: vec![addr(vip)], ..GroupSpec::default() };
        ConfigSpec {
            generation: 1,
            groups: vec![group(1, 100), group(2, 200)],
            services: vec![
                service(1, 80, vec![server(3, 3), server(1, 1), server(2, 2)]),
                service(2, 81, vec![server(4, 1)]),
            ],
            now_ns: 0,
            workers: 2,
            port_slot: None,
            servers_given: ServerId(0),
        }
    }

    #[test]
    fn contradictions_are_refused() {
        type Change = fn(&mut ConfigSpec);
        let cases: [(Change, &str); 16] = [
            (
                |s| s.services[1].ftp = Some(Ftp { data: Ports { first: 1024, last: 2048 } }),
                "service 2: ftp needs nat, persistence",
            ),
            (|s| s.services[1].one_packet = true, "service 2: one-packet scheduling is for UDP"),
            (
                |s| {
                    s.groups[0].vips.push(addr(101));
                    let service = &mut s.services[1];
                    service.one_packet = true;
                    service.listen[0].protocol = Protocol::Udp;
                    let other = Listen { vip: addr(101), ..service.listen[0] };
                    service.listen.push(other);
                },
                "service 2: with nat, one-packet scheduling needs a single VIP",
            ),
            (|s| s.groups[1].vips = vec![addr(100)], "address 198.18.0.100 belongs to two"),
            (|s| s.groups[0].gateways = vec![addr(100)], "address 198.18.0.100 belongs to two"),
            (|s| s.services[1].listen[0].ports = 80.into(), "services 1 and 2 listen on the same"),
            (
                |s| s.services[1].listen[0].vip = addr(200),
                "service 2: 198.18.0.200 is no VIP of group 1",
            ),
            (|s| s.services[1].listen.clear(), "service 2 listens nowhere"),
            (|s| s.services[1].listen[0].ports = Ports::ANY, "server 4: its port cannot stand for"),
            (
                |s| {
                    for (service, first) in s.services.iter_mut().zip([80, 89]) {
                        service.listen[0].ports = Ports { first, last: 90 };
                        service.servers.iter_mut().for_each(|server| server.port = 0);
                    }
                },
                "services 1 and 2 listen on the same",
            ),
            (|s| s.services[1].id = ServiceId(1), "service id 1 stands twice"),
            (|s| s.services[1].servers[0].id = ServerId(3), "server id 3 stands twice"),
            (|s| s.services[0].servers[0].addr = addr(2), "have the same address and port"),
            (|s| s.services[1].forwarding = Forwarding::Dr, "server 4: under dr and tun its port"),
            (|s| s.services[1].forwarding = IPIP, "server 4: under dr and tun its port"),
            (|s| s.workers = 65, "65 workers"),
        ];
        assert!(Config::compile(spec(), None).is_ok());
        for (change, expected) in cases {
            let mut spec = spec();
            change(&mut spec);
            let error = Config::compile(spec, None).unwrap_err().to_string();
            assert!(error.contains(expected), "{error:?} should say {expected:?}");
        }
        let mut spec = spec();
        spec.services[0].servers[0].addr = "2001:db8::1".parse().unwrap();
        assert_eq!(
            Config::compile(spec.clone(), None).unwrap_err(),
            ConfigError::Family(ServerId(3))
        );
        spec.services[0].forwarding = IPIP;
        assert!(Config::compile(spec, None).is_ok(), "a tunnel leads to either family");
    }

    #[test]
    fn every_node_builds_the_same_whatever_the_order() {
        let config = Config::compile(spec(), None).unwrap();
        let mut other = spec();
        other.services[0].servers.rotate_left(1);
        other.services[0].servers[0].up = false;
        let other = Config::compile(other, None).unwrap();
        for client in 0..200u8 {
            let key = crate::FlowKey {
                protocol: Protocol::Tcp,
                client: addr(client),
                client_port: 4000,
                vip: addr(100),
                vip_port: 80,
            };
            let derivable = |config: &Config, server| config.is_derivable(ServerId(server), &key);
            let choices = [1, 2, 3].map(|server| derivable(&config, server));
            assert_eq!(choices.iter().filter(|choice| **choice).count(), 1);
            assert_eq!(choices, [1, 2, 3].map(|server| derivable(&other, server)), "health skips");
        }
    }

    #[test]
    fn a_server_warms_up_from_when_it_came_up() {
        let up_since = |config: &Config| -> Vec<u64> {
            (1..=3)
                .map(|id| {
                    let (service, index) = config.server(ServerId(id)).unwrap();
                    service.spec.servers[index].up_since_ns
                })
                .collect()
        };
        let next = |previous: &Config, now_ns, change: fn(&mut Vec<ServerSpec>)| {
            let mut spec = ConfigSpec { now_ns, ..spec() };
            change(&mut spec.services[0].servers);
            Config::compile(spec, Some(previous)).unwrap()
        };
        let first = Config::compile(ConfigSpec { now_ns: 5, ..spec() }, None).unwrap();
        assert_eq!(up_since(&first), [0, 0, 0], "a daemon that starts spares nobody");
        let down = next(&first, 6, |servers| servers[0].up = false);
        let back = next(&down, 7, |_| ());
        assert_eq!(up_since(&back), [0, 0, 7]);
        let same = next(&back, 8, |_| ());
        assert_eq!(up_since(&same), [0, 0, 7], "it has not come up again");
        let gone = next(&same, 9, |servers| servers.retain(|s| s.id != ServerId(1)));
        assert_eq!(up_since(&next(&gone, 10, |_| ())), [10, 0, 7], "an added one");
        let drained = next(&same, 11, |servers| servers[1].weight = 0);
        assert_eq!(up_since(&next(&drained, 12, |_| ())), [12, 0, 7], "one that was drained");
    }

    #[test]
    fn counters_live_on_and_lookups_answer() {
        let config = Config::compile(spec(), None).unwrap();
        let (service, index) = config.server(ServerId(2)).unwrap();
        assert_eq!((service.spec.id, index), (ServiceId(1), 1), "canonical order");
        service.counters(index).unwrap().count_in(1, 60);
        let mut next = spec();
        next.generation = 2;
        next.services[0].servers.retain(|server| server.id != ServerId(1));
        let next = Config::compile(next, Some(&config)).unwrap();
        assert_eq!(next.service(ServiceId(1)).unwrap().totals().in_bytes, 60);
        let mut fewer = spec();
        fewer.services[0].servers.retain(|server| server.id == ServerId(3));
        let fewer = Config::compile(fewer, Some(&next)).unwrap();
        let service = fewer.service(ServiceId(1)).unwrap();
        service.counters(0).unwrap().count_in(0, 40);
        assert_eq!(service.totals().in_bytes, 100, "what a server counted that is gone stays");
        let again = Config::compile(spec(), Some(&fewer)).unwrap();
        assert_eq!(again.service(ServiceId(1)).unwrap().totals().in_bytes, 100, "once");
        let more_workers = ConfigSpec { workers: 3, ..spec() };
        let more = Config::compile(more_workers, Some(&again)).unwrap();
        assert_eq!(more.service(ServiceId(1)).unwrap().totals().in_bytes, 100);
        assert_eq!(next.server(ServerId(1)).map(|(_, index)| index), None);
        let pool = |protocol| next.pool_group(protocol, addr(1), 80);
        assert_eq!(pool(Protocol::Tcp), Some(GroupId(1)), "still in service 2");
        assert_eq!(pool(Protocol::Udp), None);
        assert!(next.listener(Protocol::Tcp, addr(100), 81).is_some());
        assert!(next.listener(Protocol::Tcp, addr(200), 81).is_none());
        assert_eq!((next.generation(), next.services().count()), (2, 2));
    }
}
