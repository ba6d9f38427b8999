//! A cluster in one process: nodes with real stores, and a wire between them that can be cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_consensus::{
    BoxFuture, Consensus, Identity, OnMissing, OpenError, Options, SnapshotPolicy, StateMachine,
    Transport, TransportError,
};
use tokio::time::Instant;

/// Longest wait for something that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long something that must not happen is watched for: several elections.
pub(crate) const WATCH: Duration = Duration::from_secs(4);

pub(crate) const CLUSTER: u64 = 0xfeed;

/// The replicated value: the lines ever written, in order, each with its position.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Ledger {
    pub(crate) lines: Vec<(u64, String)>,
}

impl StateMachine for Ledger {
    type Command = String;
    type Response = usize;

    fn apply(&mut self, index: u64, command: String) -> usize {
        self.lines.push((index, command));
        self.lines.len()
    }
}

impl Ledger {
    pub(crate) fn texts(&self) -> Vec<&str> {
        self.lines.iter().map(|(_, text)| text.as_str()).collect()
    }
}

pub(crate) type Node = Consensus<Ledger>;

/// Carries requests between the nodes that are up and not cut off.
#[derive(Default)]
pub(crate) struct Wire {
    nodes: Mutex<HashMap<u32, Node>>,
    /// Directions in which nothing passes.
    cut: Mutex<BTreeSet<(u32, u32)>>,
    /// One copy of each kind of request ever sent, by its kind byte.
    pub(crate) samples: Mutex<BTreeMap<u8, Vec<u8>>>,
}

impl Wire {
    fn passes(&self, from: u32, to: u32) -> bool {
        !self.cut.lock().unwrap().contains(&(from, to))
    }

    fn set_cut(&self, from: u32, to: u32, cut: bool) {
        let mut cuts = self.cut.lock().unwrap();
        if cut {
            cuts.insert((from, to))
        } else {
            cuts.remove(&(from, to))
        };
    }
}

struct End {
    node: u32,
    wire: Arc<Wire>,
}

impl Transport for End {
    fn call(
        &self,
        target: u32,
        request: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        let (from, wire) = (self.node, self.wire.clone());
        Box::pin(async move {
            if request.len() < 8192 {
                wire.samples.lock().unwrap().entry(request[3]).or_insert_with(|| request.clone());
            }
            let peer = wire.nodes.lock().unwrap().get(&target).cloned();
            let Some(peer) = peer else {
                return Err(TransportError::Unreachable("it is down".to_owned()));
            };
            if !wire.passes(from, target) {
                tokio::time::sleep(ttl).await;
                return Err(TransportError::Timeout);
            }
            // A task of its own: the peer goes on when the caller has given up.
            let reply = tokio::spawn(async move { peer.handle_rpc(from, &request).await }).await;
            if !wire.passes(target, from) {
                tokio::time::sleep(ttl).await;
                return Err(TransportError::Timeout);
            }
            reply.map_err(|e| TransportError::Broken(e.to_string()))
        })
    }
}

pub(crate) struct Cluster {
    pub(crate) wire: Arc<Wire>,
    root: PathBuf,
    snapshots: SnapshotPolicy,
}

impl Cluster {
    pub(crate) fn new(snapshots: SnapshotPolicy) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("steadfast-consensus-cluster-{}-{number}", std::process::id());
        let root = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&root).unwrap();
        Self { wire: Arc::default(), root, snapshots }
    }

    /// Nodes 1, 2 and 3, all voters; 1 leads.
    pub(crate) async fn three_voters(snapshots: SnapshotPolicy) -> Self {
        let cluster = Self::new(snapshots);
        for node in 1..=3 {
            cluster.create(node).await;
        }
        cluster.make_three_voters().await;
        cluster
    }

    /// Makes one cluster of nodes 1, 2 and 3, which are up; 1 leads.
    pub(crate) async fn make_three_voters(&self) {
        let first = self.node(1);
        first.bootstrap("node 1").await.unwrap();
        first.add_learner(2, "node 2", PATIENCE).await.unwrap();
        first.add_learner(3, "node 3", PATIENCE).await.unwrap();
        first.promote(&[2, 3], PATIENCE).await.unwrap();
    }

    pub(crate) fn dir(&self, node: u32) -> PathBuf {
        self.root.join(format!("node-{node}"))
    }

    pub(crate) async fn open(&self, node: u32, on_missing: OnMissing) -> Result<Node, OpenError> {
        Consensus::open(self.options(node, on_missing), self.transport(node)).await
    }

    pub(crate) fn options(&self, node: u32, on_missing: OnMissing) -> Options {
        let identity = Identity { cluster: CLUSTER, node };
        let mut options = Options::new(self.dir(node), identity, on_missing);
        options.snapshots = self.snapshots;
        options
    }

    pub(crate) fn transport(&self, node: u32) -> Arc<dyn Transport> {
        Arc::new(End { node, wire: self.wire.clone() })
    }

    /// Starts a new node.
    pub(crate) async fn create(&self, node: u32) -> Node {
        let opened = self.open(node, OnMissing::Create).await.unwrap();
        self.plug(node, opened)
    }

    /// Starts a node that was stopped.
    pub(crate) async fn restart(&self, node: u32) -> Node {
        let opened = self.open(node, OnMissing::Refuse).await.unwrap();
        self.plug(node, opened)
    }

    /// Has the others reach a node that was started.
    pub(crate) fn plug(&self, node: u32, opened: Node) -> Node {
        self.wire.nodes.lock().unwrap().insert(node, opened.clone());
        opened
    }

    /// Stops a node. Its peers find it unreachable from the first moment.
    pub(crate) async fn stop(&self, node: u32) {
        let stopped = self.wire.nodes.lock().unwrap().remove(&node).unwrap();
        stopped.shutdown().await;
    }

    pub(crate) fn node(&self, node: u32) -> Node {
        self.wire.nodes.lock().unwrap()[&node].clone()
    }

    pub(crate) fn nodes(&self) -> Vec<(u32, Node)> {
        let nodes = self.wire.nodes.lock().unwrap();
        let mut nodes: Vec<_> = nodes.iter().map(|(id, node)| (*id, node.clone())).collect();
        nodes.sort_by_key(|(id, _)| *id);
        nodes
    }

    /// Cuts a node off from all others, or joins it again.
    pub(crate) fn isolate(&self, node: u32, cut: bool) {
        for other in 1..=9 {
            self.wire.set_cut(node, other, cut);
            self.wire.set_cut(other, node, cut);
        }
    }

    /// Swallows what a node says, and lets through what is said to it.
    pub(crate) fn mute(&self, node: u32, cut: bool) {
        for other in 1..=9 {
            self.wire.set_cut(node, other, cut);
        }
    }

    /// Waits for a leader that a majority has answered.
    pub(crate) async fn leader(&self) -> (u32, Node) {
        let mut found = None;
        wait("a leader with a quorum", || {
            found = self.nodes().into_iter().find(|(_, node)| {
                node.is_leader() && node.millis_since_quorum_ack().is_some_and(|age| age < 500)
            });
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    /// Writes a line through whoever leads, again after every failure that certainly had no
    /// effect.
    pub(crate) async fn write(&self, line: &str) -> u64 {
        let started = Instant::now();
        loop {
            let (_, leader) = self.leader().await;
            match leader.propose(line.to_owned(), PATIENCE).await {
                Ok((index, _)) => return index,
                Err(error) if !error.outcome_unknown() && started.elapsed() < PATIENCE => {}
                Err(error) => panic!("cannot write {line:?}: {error}"),
            }
        }
    }

    /// Waits until all nodes that are up have the same state, with these lines.
    pub(crate) async fn converge(&self, lines: &[&str]) {
        wait("the same lines on all nodes", || {
            let nodes = self.nodes();
            nodes.iter().all(|(_, node)| node.state().texts() == lines)
                && nodes.windows(2).all(|pair| pair[0].1.state() == pair[1].1.state())
        })
        .await;
    }

    pub(crate) async fn stop_all(&self) {
        for (node, _) in self.nodes() {
            self.stop(node).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Best effort: a failing test must not panic twice.
        self.wire.nodes.lock().map(|mut nodes| nodes.clear()).ok();
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

pub(crate) async fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < PATIENCE, "still waiting for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Watches that something does not happen.
pub(crate) async fn never(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < WATCH {
        assert!(!condition(), "{what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) fn remove_store(dir: &Path) {
    std::fs::remove_dir_all(dir).unwrap();
}
