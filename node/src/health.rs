//! Health checks on this node, and what all nodes together think of each server.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use steadfast_health::{
    Checker, LastGood, Opinion, Settings, Target, VIEW_FRESH, VIEW_INTERVAL, View, Views,
};
use steadfast_model::{BootId, ClusterState, NodeId, ServerId, Service, ServiceId};
use steadfast_peer::Links;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{clock, member::CALL_VIEW};

/// A peer that takes longer to take a view gets the next one.
const SEND_WITHIN: Duration = Duration::from_millis(500);

/// What one node's check says of a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckView {
    pub(crate) up: Option<bool>,
    pub(crate) age_ms: Option<u64>,
    pub(crate) detail: String,
}

/// The checks of this node and the verdict of all.
pub(crate) struct Health {
    node: NodeId,
    boot: BootId,
    checker: Checker,
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

struct Inner {
    views: Views,
    last_good: BTreeMap<ServiceId, LastGood>,
    panicking: BTreeSet<ServiceId>,
    /// Each node's latest view, with the time it came, for `clusterctl status`.
    seen: BTreeMap<NodeId, (u64, View)>,
    sequence: u64,
    members: Vec<NodeId>,
}

impl Health {
    /// Starts without targets.
    pub(crate) fn start(node: NodeId, boot: BootId) -> Arc<Self> {
        let inner = Inner {
            views: Views::new(VIEW_FRESH),
            last_good: BTreeMap::new(),
            panicking: BTreeSet::new(),
            seen: BTreeMap::new(),
            sequence: 0,
            members: Vec::new(),
        };
        Arc::new(Self {
            node,
            boot,
            checker: Checker::start(node, clock::now_ns),
            inner: Mutex::new(inner),
            changes: watch::channel(0).0,
        })
    }

    /// Tells peers what this node sees, at every change and regularly, until the daemon ends.
    pub(crate) async fn report(self: Arc<Self>, links: Links) {
        let mut opinions = self.checker.opinions();
        loop {
            let view = self.own_view();
            self.take(self.node, view.clone());
            let bytes: Arc<[u8]> = view.encode().into();
            let members = self.lock().members.clone();
            for peer in members.into_iter().filter(|peer| *peer != self.node) {
                let (links, bytes) = (links.clone(), Arc::clone(&bytes));
                tokio::spawn(async move {
                    // A view that is lost is repeated.
                    let _ = links.call(peer, CALL_VIEW, &bytes, SEND_WITHIN).await;
                });
            }
            tokio::select! {
                changed = opinions.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(VIEW_INTERVAL) => {}
            }
        }
    }

    /// A peer's view has come.
    pub(crate) fn handle_view(&self, from: NodeId, bytes: &[u8]) {
        match View::decode(bytes) {
            Ok(view) => self.take(from, view),
            Err(error) => warn!(%from, "a view of health checks: {error}"),
        }
    }

    /// Checks the servers of this configuration, and counts these members' views.
    pub(crate) fn set_targets(&self, state: &ClusterState) {
        let mut targets: BTreeMap<Target, Settings> = BTreeMap::new();
        for service in state.services.values() {
            let Some(check) = &service.spec.check else { continue };
            for i in 0..service.spec.servers.len() {
                let Some(target) = target(service, i) else { continue };
                let settings = Settings::from(check);
                let merged = targets.get(&target).map_or(settings, |s| s.merge(settings));
                targets.insert(target, merged);
            }
        }
        let mut inner = self.lock();
        inner.views.set_targets(targets.keys().copied());
        inner.last_good.retain(|id, _| state.services.contains_key(id));
        drop(inner);
        self.checker.set_targets(targets);
        self.poll();
    }

    /// Whose views count.
    pub(crate) fn set_members(&self, members: &[NodeId]) {
        let mut inner = self.lock();
        inner.views.set_members(members.iter().copied());
        inner.members = members.to_vec();
        inner.seen.retain(|node, _| members.contains(node));
        drop(inner);
        self.poll();
    }

    /// Servers that may get new connections. When all of a service fail at once, the last good
    /// ones go on: more often the checks are wrong than every server.
    pub(crate) fn servers_up(&self, state: &ClusterState) -> HashSet<ServerId> {
        let now = clock::now_ns();
        let mut inner = self.lock();
        let mut up = HashSet::new();
        for service in state.services.values() {
            let verdicts: Vec<(ServerId, bool)> = service
                .servers
                .iter()
                .enumerate()
                .map(|(i, id)| (*id, target(service, i).is_none_or(|t| inner.views.backend_up(&t))))
                .collect();
            let window = service.spec.check.as_ref().map_or(Duration::ZERO, |c| {
                let ms = u64::from(c.interval_ms) * u64::from(c.fall) + u64::from(c.timeout_ms);
                Duration::from_millis(ms) + VIEW_INTERVAL
            });
            let chosen =
                inner.last_good.entry(service.id).or_default().select(now, window, &verdicts);
            let news = if chosen.panic {
                inner.panicking.insert(service.id)
            } else {
                inner.panicking.remove(&service.id)
            };
            if news {
                let name = &service.spec.name;
                if chosen.panic {
                    warn!(service = name, "every server fails its check: the last good ones go on");
                } else {
                    info!(service = name, "servers pass their checks again");
                }
            }
            up.extend(chosen.servers);
        }
        up
    }

    /// The verdict on one server.
    pub(crate) fn is_up(&self, service: &Service, i: usize) -> bool {
        target(service, i).is_none_or(|t| self.lock().views.backend_up(&t))
    }

    /// Services whose servers all fail.
    pub(crate) fn panicking(&self) -> BTreeSet<ServiceId> {
        self.lock().panicking.clone()
    }

    /// What each node's check says of a server.
    pub(crate) fn checks(&self, service: &Service, i: usize) -> BTreeMap<NodeId, CheckView> {
        let Some(target) = target(service, i) else { return BTreeMap::new() };
        let now = clock::now_ns();
        let opinions = self.checker.opinions();
        let why = match opinions.borrow().get(&target) {
            Some(Opinion::Down { why }) => why.clone(),
            _ => String::new(),
        };
        let inner = self.lock();
        let seen = inner.seen.iter().map(|(node, (at, view))| {
            let age_ns = now.saturating_sub(*at);
            let fresh = u128::from(age_ns) < VIEW_FRESH.as_nanos();
            let detail = if *node == self.node { why.clone() } else { String::new() };
            let up = view.up.get(&target).copied().filter(|_| fresh);
            (*node, CheckView { up, age_ms: Some(age_ns / 1_000_000), detail })
        });
        seen.collect()
    }

    /// Changes with every verdict.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn own_view(&self) -> View {
        let mut inner = self.lock();
        inner.sequence += 1;
        let opinions = self.checker.opinions().borrow().clone();
        View::of(self.boot, inner.sequence, opinions.iter().map(|(t, o)| (*t, o)))
    }

    fn take(&self, from: NodeId, view: View) {
        let now = clock::now_ns();
        let mut inner = self.lock();
        if inner.views.handle_view(now, from, view.clone()) {
            inner.seen.insert(from, (now, view));
        }
        drop(inner);
        self.poll();
    }

    fn poll(&self) {
        let changes = self.lock().views.poll(clock::now_ns());
        if changes.is_empty() {
            return;
        }
        for (target, up) in changes {
            info!(%target, up, "verdict of the nodes");
        }
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn target(service: &Service, i: usize) -> Option<Target> {
    let check = service.spec.check.as_ref()?;
    let server = service.spec.servers.get(i)?;
    // Validation wants a port in the check where the server has none.
    let port = service.spec.server_port(server).unwrap_or(0);
    Some(Target::new(SocketAddr::new(server.address, port), check))
}
