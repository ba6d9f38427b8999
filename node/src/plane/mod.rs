//! The data plane of this node: interfaces, workers, and what they share.

mod attach;
pub(crate) mod compile;
mod hear;
mod hops;
mod port;
mod segments;
mod solicited;
mod tables;
mod troubles;
mod vlan;
mod worker;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use af_xdp::Steering;
use arc_swap::ArcSwap;
use steadfast_dataplane::{Config, ESTIMATE_EVERY, Estimators, NextHops, Shared, TableOptions};
use steadfast_model::{ClusterState, NodeId};
use steadfast_ownership::SegmentId;
use steadfast_replication::ReplicationHook;
use tokio::sync::Notify;
use tracing::info;

use self::{
    attach::{Attaching, Hand},
    compile::{config_spec, cookie_keys},
    hops::{PeerMacs, next_hops_spec},
    port::lock,
    segments::Segments,
    tables::Tables,
    troubles::{Area, Troubles},
    worker::Command,
};
pub(crate) use self::{compile::UpFn, port::PortInfo, worker::WorkerStatus};
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
///
/// The ownership thread takes no lock of it that is held across a system call or a compilation.
pub(crate) struct DataPlane {
    pub(crate) shared: Arc<Shared>,
    hook: ReplicationHook,
    prober: Prober,
    pins: Pins,
    stop: Arc<AtomicBool>,
    /// Workers by queue: as many as the data interface with the most queues has, or had.
    crew: Mutex<Vec<Hand>>,
    statuses: ArcSwap<Vec<Arc<WorkerStatus>>>,
    ports: ArcSwap<Vec<Arc<PortInfo>>>,
    ports_changed: Notify,
    /// Held while interfaces are attached, which takes its time.
    attaching: Mutex<Attaching>,
    macs: Mutex<PeerMacs>,
    beacon_ns: AtomicU64,
    generation: AtomicU64,
    troubles: Troubles,
    estimators: Mutex<Estimators>,
}

impl DataPlane {
    /// Without interfaces and without workers: those come with the interfaces.
    pub(crate) fn new(
        pins: Pins,
        shared: Arc<Shared>,
        hook: ReplicationHook,
        prober: Prober,
    ) -> Self {
        Self {
            shared,
            hook,
            prober,
            pins,
            stop: Arc::new(AtomicBool::new(false)),
            crew: Mutex::default(),
            statuses: ArcSwap::default(),
            ports: ArcSwap::default(),
            ports_changed: Notify::new(),
            attaching: Mutex::default(),
            macs: Mutex::default(),
            beacon_ns: AtomicU64::new(25_000_000),
            generation: AtomicU64::new(1),
            troubles: Troubles::default(),
            estimators: Mutex::default(),
        }
    }

    /// The table of a node, sized by the settings; its hash key is new in every run.
    ///
    /// # Errors
    /// When the kernel has no random numbers.
    pub(crate) fn shared(connections_max: u32, half_open_max: u32) -> anyhow::Result<Arc<Shared>> {
        let options = TableOptions {
            connections_max: connections_max as usize,
            half_open_max: half_open_max as usize,
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

    /// Estimates rates until the data plane stops.
    pub(crate) async fn estimate(&self) {
        let mut ticks = tokio::time::interval(ESTIMATE_EVERY);
        // After a pause the averages would take what one look gave for what several did.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !self.stop.load(Ordering::Acquire) {
            ticks.tick().await;
            self.estimators().tick(&self.shared.config.load());
        }
    }

    /// The rates of services and servers.
    pub(crate) fn estimators(&self) -> MutexGuard<'_, Estimators> {
        lock(&self.estimators)
    }

    /// Swaps in what the cluster has committed and what the checks say.
    pub(crate) fn configure(&self, state: &ClusterState, node: NodeId, up: &UpFn<'_>) {
        let workers = self.statuses.load().len();
        let spec = config_spec(state, node, up, workers, self.next_generation(), clock::now_ns());
        let current = self.shared.config.load_full();
        match Config::compile(spec, Some(&current)) {
            Ok(config) => {
                self.shared.set_config(config);
                self.troubles.replace(Area::Configuration, BTreeMap::new());
            }
            // Validation should have refused it: forwarding goes on with the one before.
            Err(error) => {
                let why = format!("not taken over: {error}");
                let troubles = BTreeMap::from([("configuration".to_owned(), why)]);
                self.troubles.replace(Area::Configuration, troubles);
            }
        }
    }

    /// Swaps in the keys of cookies that the cluster has committed.
    pub(crate) fn set_cookie_keys(&self, state: &ClusterState) {
        let keys = state.cookies.as_ref().map(cookie_keys);
        if self.shared.cookie_keys.load().as_deref() != keys.as_ref() {
            self.shared.cookie_keys.store(keys.map(Arc::new));
        }
    }

    /// Notes which segments are on which port.
    pub(crate) fn assign(&self, state: &ClusterState, view: &KernelView) {
        let mut segments = Segments::of(state, view);
        for port in self.ports().iter() {
            let on = segments.on.remove(&port.interface).unwrap_or_default();
            if port.set_segments(on.clone()) {
                let names: Vec<_> = on.iter().filter_map(|s| state.segments.get(&s.0)).collect();
                let names: Vec<_> = names.iter().map(|s| s.name.as_str()).collect();
                info!(interface = port.name, segments = names.join(", "), "segments");
            }
        }
        lock(&self.macs).retain(|(_, segment), _| state.segments.contains_key(&segment.0));
    }

    /// Tells the steering programs what is ours; says whether all know it now. Blocks: call it
    /// where that is allowed.
    pub(crate) fn set_tables(&self, state: &ClusterState, view: &KernelView) -> bool {
        let tables = Tables::of(state, view);
        let mut troubles = BTreeMap::new();
        for port in self.ports().iter() {
            if let Err(error) = port.set_tables(&tables) {
                let why = format!("{:#}", anyhow::Error::from(error));
                troubles.insert(format!("interface {}", port.name), why);
            }
        }
        let all_know = troubles.is_empty();
        self.troubles.replace(Area::Tables, troubles);
        all_know
    }

    /// Swaps in routes and neighbours.
    pub(crate) fn route(&self, view: &KernelView) {
        let macs = lock(&self.macs).clone();
        let spec = next_hops_spec(view, &self.ports(), &macs, self.next_generation());
        self.shared.set_next_hops(NextHops::new(spec));
    }

    /// A beacon came from this MAC address; says whether that is news.
    pub(crate) fn learn_mac(&self, node: NodeId, segment: SegmentId, mac: [u8; 6]) -> bool {
        lock(&self.macs).insert((node, segment), mac) != Some(mac)
    }

    /// The MAC address of a node by number of the port, where it is known.
    pub(crate) fn macs_of(&self, node: NodeId) -> Vec<Option<[u8; 6]>> {
        let macs = lock(&self.macs);
        let ports = self.ports();
        let count = ports.iter().map(|port| usize::from(port.number) + 1).max().unwrap_or(0);
        let mut by_number = vec![None; count];
        for port in ports.iter() {
            let on = port.segments();
            let mac = on.iter().find_map(|segment| macs.get(&(node, *segment)).copied());
            if let Some(place) = by_number.get_mut(usize::from(port.number)) {
                *place = mac;
            }
        }
        by_number
    }

    /// Data interfaces, in any order.
    pub(crate) fn ports(&self) -> Arc<Vec<Arc<PortInfo>>> {
        self.ports.load_full()
    }

    /// Returns when ports have come or gone since it returned last.
    pub(crate) async fn ports_changed(&self) {
        self.ports_changed.notified().await;
    }

    /// What each worker shows.
    pub(crate) fn workers(&self) -> Arc<Vec<Arc<WorkerStatus>>> {
        self.statuses.load_full()
    }

    /// Whether every worker's loop has turned since `since_ns`.
    pub(crate) fn workers_turned_since(&self, since_ns: u64) -> bool {
        self.statuses.load().iter().all(|w| w.turned_ns.load(Ordering::Acquire) >= since_ns)
    }

    /// Tells the workers the beacon interval.
    pub(crate) fn set_beacon(&self, interval: Duration) {
        let ns = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        self.beacon_ns.store(ns, Ordering::Relaxed);
        for hand in lock(&self.crew).iter() {
            // A worker that has ended shows in `workers_turned_since`.
            let _ = hand.worker.commands.send(Command::Beacon(interval));
        }
    }

    /// What could not be set up.
    pub(crate) fn troubles(&self) -> BTreeMap<String, String> {
        self.troubles.all()
    }

    /// The kernel's changes are not seen any more.
    pub(crate) fn kernel_lost(&self) {
        let why = "no longer followed, netlink has closed: restart this daemon".to_owned();
        let troubles = BTreeMap::from([("routes and neighbours".to_owned(), why)]);
        self.troubles.replace(Area::Kernel, troubles);
    }

    /// Frames received by all workers so far.
    pub(crate) fn received(&self) -> u64 {
        self.statuses.load().iter().map(|w| w.counters.received()).sum()
    }

    /// Ends the workers. The steering programs stay, so that nobody answers for the VIPs.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        for hand in lock(&self.crew).iter_mut() {
            hand.worker.join();
        }
    }

    /// Takes pinned steering programs off; see [`Self::take_off`] for a running data plane.
    ///
    /// # Errors
    /// The first interface where it failed.
    pub(crate) fn detach(pins: &Pins) -> anyhow::Result<Vec<String>> {
        // What is pinned, not what the kernel has: an interface may have gone and its pins stayed.
        let pinned = Steering::pinned(&pins.bpffs, &pins.instance)?;
        for name in &pinned {
            Steering::detach(&pins.bpffs, &pins.instance, name)?;
        }
        Ok(pinned)
    }

    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Changes the list of ports.
    fn publish(&self, change: impl FnOnce(&mut Vec<Arc<PortInfo>>)) {
        let mut ports = Vec::clone(&self.ports());
        change(&mut ports);
        self.ports.store(Arc::new(ports));
        self.ports_changed.notify_one();
    }
}
