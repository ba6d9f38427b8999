//! The data plane of this node: interfaces, workers, and what they share.

pub(crate) mod compile;
mod hops;
mod port;
mod worker;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use af_xdp::{AddressRole, NatSource, Steering};
use anyhow::Context;
use steadfast_dataplane::{Config, Forwarding, NextHops, Shared, TableOptions};
use steadfast_model::{ClusterState, NodeId};
use steadfast_ownership::SegmentId;
use steadfast_replication::ReplicationHook;
use tracing::{error, info, warn};

pub(crate) use self::{
    compile::UpFn,
    port::PortInfo,
    worker::{PORTS_MAX, WorkerStatus},
};
use self::{
    compile::config_spec,
    hops::{PeerMacs, next_hops_spec},
    worker::{Command, WorkerHandle},
};
use crate::{
    clock,
    join::random_u64,
    kernel::{KernelView, Prober},
};

/// How often connections are expired.
const EXPIRE_EVERY: Duration = Duration::from_millis(50);

/// Timers looked at in one go.
const EXPIRE_BUDGET: usize = 10_000;

/// Rounds of [`EXPIRE_BUDGET`] in one go.
const EXPIRE_ROUNDS: usize = 20;

/// Where the pins of this instance are.
#[derive(Clone, Debug)]
pub(crate) struct Pins {
    pub(crate) bpffs: PathBuf,
    pub(crate) instance: String,
}

/// The data plane.
pub(crate) struct DataPlane {
    pub(crate) shared: Arc<Shared>,
    hook: ReplicationHook,
    pins: Pins,
    stop: Arc<AtomicBool>,
    workers: Mutex<Vec<WorkerHandle>>,
    ports: Mutex<Vec<Arc<PortInfo>>>,
    /// Held while an interface is attached, which takes its time; `ports` never is.
    attaching: Mutex<()>,
    macs: Mutex<PeerMacs>,
    generation: AtomicU64,
    /// What could not be set up, by what it concerns; shown as warnings.
    troubles: Mutex<BTreeMap<String, String>>,
}

impl DataPlane {
    /// Starts `workers` workers, without interfaces.
    ///
    /// # Errors
    /// When threads or memory cannot be had.
    pub(crate) fn start(
        pins: Pins,
        shared: Arc<Shared>,
        hook: ReplicationHook,
        workers: u32,
        prober: &Prober,
    ) -> anyhow::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let handles = (0..workers).map(|queue| {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            WorkerHandle::start(queue, shared, hook.clone(), prober.clone(), stop)
                .with_context(|| format!("cannot start the worker of queue {queue}"))
        });
        Ok(Self {
            workers: Mutex::new(handles.collect::<anyhow::Result<_>>()?),
            shared,
            hook,
            pins,
            stop,
            ports: Mutex::default(),
            attaching: Mutex::new(()),
            macs: Mutex::default(),
            generation: AtomicU64::new(1),
            troubles: Mutex::default(),
        })
    }

    /// The table of a node, sized by the settings; its hash key is new in every run.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub(crate) fn shared(connections_max: u32) -> anyhow::Result<Arc<Shared>> {
        let options = TableOptions {
            connections_max: connections_max as usize,
            seed: [random_u64()?, random_u64()?],
        };
        Ok(Arc::new(Shared::new(options)))
    }

    /// Expires connections until the data plane stops.
    pub(crate) async fn expire(&self) {
        while !self.stop.load(Ordering::Acquire) {
            tokio::time::sleep(EXPIRE_EVERY).await;
            for _ in 0..EXPIRE_ROUNDS {
                if !self.shared.advance(clock::now_ns(), EXPIRE_BUDGET, &self.hook).more {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
    }

    /// Swaps in what the cluster has committed and what the checks say.
    pub(crate) fn configure(&self, state: &ClusterState, up: &UpFn<'_>) {
        let workers = lock(&self.workers).len();
        let spec = config_spec(state, up, workers, self.next_generation());
        let current = self.shared.config.load_full();
        match Config::compile(spec, Some(&current)) {
            Ok(config) => {
                self.shared.set_config(config);
                self.cured("configuration");
            }
            // Validation should have refused it: forwarding goes on with the one before.
            Err(error) => self.trouble("configuration", format!("not taken over: {error}")),
        }
    }

    /// Attaches the interfaces of new segments and tells all steering programs what is ours.
    /// Blocks: call it where that is allowed.
    pub(crate) fn steer(&self, state: &ClusterState, view: &KernelView) {
        for (number, segment) in &state.segments {
            let number = SegmentId(*number);
            let used = state.groups.values().any(|g| g.segments.contains(&number.0));
            let Some(interface) = view.interface_in(segment.prefix) else { continue };
            let known = lock(&self.ports).iter().any(|p| p.interface == interface.index);
            if !used || known {
                continue;
            }
            match self.attach(&interface.name, number, state, view) {
                Ok(()) => self.cured(&segment.name),
                Err(error) => self.trouble(&segment.name, format!("{error:#}")),
            }
        }
        for port in self.ports() {
            if let Err(error) = set_tables(&mut port.steering(), state, view) {
                self.trouble(&port.name, format!("{error:#}"));
            } else {
                self.cured(&port.name);
            }
        }
    }

    fn attach(
        &self,
        name: &str,
        segment: SegmentId,
        state: &ClusterState,
        view: &KernelView,
    ) -> anyhow::Result<()> {
        let _one_at_a_time = lock(&self.attaching);
        if lock(&self.ports).len() >= PORTS_MAX {
            anyhow::bail!("{name} is one interface more than the {PORTS_MAX} that are possible");
        }
        let facts = af_xdp::Interface::by_name(name)?;
        let mut steering = Steering::open(&self.pins.bpffs, &self.pins.instance, name)?;
        // What is pinned from an earlier run must not let ARP through for it.
        steering.set_announce_until(0)?;
        set_tables(&mut steering, state, view)?;
        let port = Arc::new(PortInfo::new(&facts, segment, steering));
        let workers = lock(&self.workers);
        for worker in workers.iter() {
            if worker.commands.send(Command::AddPort(Arc::clone(&port))).is_err() {
                anyhow::bail!("worker {} has ended", worker.status.queue);
            }
        }
        if (workers.len() as u32) < port.queues {
            warn!(
                "{name} has {} queues and this daemon {} workers: restart it to serve all",
                port.queues,
                workers.len()
            );
        }
        drop(workers);
        // Sockets first, then the program: packets that arrive in between reach somebody.
        let until = clock::now_ns() + 3_000_000_000;
        while port.sockets().len() < port.queues as usize && clock::now_ns() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
        let how = port.steering().attach()?;
        info!(interface = name, ?how, queues = port.queues, "steering program attached");
        lock(&self.ports).push(port);
        Ok(())
    }

    /// Swaps in routes and neighbours.
    pub(crate) fn route(&self, view: &KernelView) {
        let ports = lock(&self.ports);
        let infos: Vec<_> = ports.iter().map(Arc::as_ref).collect();
        let spec = next_hops_spec(view, &infos, &lock(&self.macs), self.next_generation());
        self.shared.set_next_hops(NextHops::new(spec));
    }

    /// A beacon came from this MAC address; says whether that is news.
    pub(crate) fn learn_mac(&self, node: NodeId, segment: SegmentId, mac: [u8; 6]) -> bool {
        lock(&self.macs).insert((node, segment), mac) != Some(mac)
    }

    /// The MAC address of a node by port, where it is known.
    pub(crate) fn macs_of(&self, node: NodeId) -> Vec<Option<[u8; 6]>> {
        let macs = lock(&self.macs);
        lock(&self.ports).iter().map(|p| macs.get(&(node, p.segment)).copied()).collect()
    }

    /// Data interfaces, by number.
    pub(crate) fn ports(&self) -> Vec<Arc<PortInfo>> {
        lock(&self.ports).clone()
    }

    /// What each worker shows.
    pub(crate) fn workers(&self) -> Vec<Arc<WorkerStatus>> {
        lock(&self.workers).iter().map(|w| Arc::clone(&w.status)).collect()
    }

    /// Whether every worker's loop has turned since `since_ns`.
    pub(crate) fn workers_turned_since(&self, since_ns: u64) -> bool {
        lock(&self.workers).iter().all(|w| w.status.turned_ns.load(Ordering::Acquire) >= since_ns)
    }

    /// Tells the workers the beacon interval.
    pub(crate) fn set_beacon(&self, interval: Duration) {
        for worker in lock(&self.workers).iter() {
            // A worker that has ended shows in `workers_turned_since`.
            let _ = worker.commands.send(Command::Beacon(interval));
        }
    }

    /// Until when ARP for addresses of ours may reach the workers.
    pub(crate) fn announce_until(&self, until_ns: u64) {
        for port in lock(&self.ports).iter() {
            if let Err(error) = port.steering().set_announce_until(until_ns) {
                error!(interface = port.name, "ARP cannot be let through: {error}");
            }
        }
    }

    /// What could not be set up.
    pub(crate) fn troubles(&self) -> BTreeMap<String, String> {
        lock(&self.troubles).clone()
    }

    /// Frames received by all workers so far.
    pub(crate) fn received(&self) -> u64 {
        lock(&self.workers).iter().map(|w| w.status.counters.received()).sum()
    }

    /// Ends the workers. The steering programs stay, so that nobody answers for the VIPs.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        for worker in lock(&self.workers).iter_mut() {
            worker.join();
        }
    }

    /// Takes the steering programs off all interfaces of this instance.
    ///
    /// # Errors
    /// The first interface where it failed.
    pub(crate) fn detach(pins: &Pins, interfaces: &[String]) -> anyhow::Result<()> {
        for name in interfaces {
            Steering::detach(&pins.bpffs, &pins.instance, name)?;
        }
        Ok(())
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn trouble(&self, what: &str, why: String) {
        let news = lock(&self.troubles).insert(what.to_owned(), why.clone()) != Some(why.clone());
        if news {
            error!("{what}: {why}");
        }
    }

    fn cured(&self, what: &str) {
        if lock(&self.troubles).remove(what).is_some() {
            info!("{what}: works now");
        }
    }
}

fn set_tables(
    steering: &mut Steering,
    state: &ClusterState,
    view: &KernelView,
) -> anyhow::Result<()> {
    let addresses = state.groups.values().flat_map(|g| {
        let vips = g.spec.addresses.iter().map(|a| (*a, AddressRole::Vip));
        vips.chain(g.spec.gateways.iter().map(|a| (*a, AddressRole::Gateway)))
    });
    let local: Vec<IpAddr> =
        view.interfaces.values().flat_map(|i| i.addresses.iter().copied()).collect();
    let sources = state.services.values().flat_map(|service| {
        let spec = &service.spec;
        let nat = compile::forwarding(spec.forwarding) == Forwarding::Nat;
        spec.servers.iter().filter(move |_| nat).map(move |server| NatSource {
            address: server.address,
            protocol: compile::ip_protocol(spec.protocol),
            port: server.port,
        })
    });
    steering.set_local_addresses(local)?;
    steering.set_nat_sources(sources.collect::<Vec<_>>())?;
    steering.set_addresses(addresses.collect::<Vec<_>>())?;
    Ok(())
}

/// A panic elsewhere must not end forwarding: what these locks guard is valid between statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
