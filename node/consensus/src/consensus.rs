//! The handle: what the daemon calls.

mod change;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::ServerState;
use openraft::error::{CheckIsLeaderError, Fatal, RaftError};
use tokio::sync::watch;

use crate::error::{OpenError, ProposeError, ReadError};
use crate::frame::SNAPSHOT_CHUNK_BYTES;
use crate::inbound::Inbound;
use crate::network::{Network, Peers};
use crate::options::Options;
use crate::quorum::QuorumAck;
use crate::raft_types::{Raft, RaftMetrics, narrow};
use crate::state_machine::StateMachine;
use crate::status::{Membership, Metrics, Role};
use crate::store::{LogStore, Machine, Published, Rules, Store};
use crate::transport::Transport;

/// A leader that no majority has answered for this long takes no writes, whatever the timing:
/// a write without a quorum fails within about a second.
const QUORUM_ACK_AGE_MAX: Duration = Duration::from_millis(800);
/// Entries in one replication request.
const ENTRIES_PER_REQUEST_MAX: u64 = 300;
/// Deadline of one piece of a snapshot, the last of which includes its installation.
const SNAPSHOT_PIECE_DEADLINE: Duration = Duration::from_secs(5);

/// A node's Raft role. Clones are handles to the same role.
///
/// Needs a tokio runtime with time enabled. Call [`shutdown`](Self::shutdown) before the store is
/// opened again; when the last clone is dropped without it, the role stops taking part at once
/// and its store is closed a moment later.
pub struct Consensus<S: StateMachine> {
    inner: Arc<Inner<S>>,
}

impl<S: StateMachine> Clone for Consensus<S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<S: StateMachine> {
    options: Options,
    raft: Raft,
    store: Store,
    published: Arc<Published<S>>,
    peers: Arc<Peers>,
    inbound: Inbound,
    quorum_ack: QuorumAck,
    stopping: AtomicBool,
}

impl<S: StateMachine> Drop for Inner<S> {
    fn drop(&mut self) {
        self.store.stop();
    }
}

impl<S: StateMachine> Consensus<S> {
    /// Opens or creates the store, checks every record in it, restores the state (snapshot plus
    /// committed entries) and starts to take part.
    ///
    /// A new node does nothing until [`bootstrap`](Self::bootstrap) is called on it, or a leader
    /// that was told to [`add_learner`](Self::add_learner) reaches it.
    pub async fn open(options: Options, transport: Arc<dyn Transport>) -> Result<Self, OpenError> {
        options.timing.validate()?;
        let config = raft_config(&options)?;
        let store = Store::open(&options.dir, options.identity, options.on_missing).await?;
        match Self::start(options, config, store.clone(), transport).await {
            Ok(consensus) => Ok(consensus),
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    async fn start(
        options: Options,
        config: openraft::Config,
        store: Store,
        transport: Arc<dyn Transport>,
    ) -> Result<Self, OpenError> {
        let raft_error = |e: &dyn std::fmt::Display| OpenError::Raft(e.to_string());
        let identity = options.identity;
        let published = Arc::new(Published::new());
        let machine = Machine::<S>::restore(store.clone(), published.clone())
            .await
            .map_err(|e| raft_error(&e))?;
        let peers = Arc::new(Peers::new(identity, transport));
        let log = LogStore::new(store.clone(), Rules::Strict);
        let network = Network { peers: peers.clone() };
        let raft = Raft::new(u64::from(identity.node), Arc::new(config), network, log, machine)
            .await
            .map_err(|e| raft_error(&e))?;
        // Until its first report, openraft knows neither the term nor the members.
        if raft.metrics().changed().await.is_err() {
            return Err(raft_error(&"it ended at once; the log says why"));
        }
        let quorum_ack = QuorumAck::default();
        tokio::spawn(quorum_ack.clone().follow(raft.metrics()));
        let inbound = Inbound { raft: raft.clone(), identity, instance: store.instance() };
        Ok(Self {
            inner: Arc::new(Inner {
                options,
                raft,
                store,
                published,
                peers,
                inbound,
                quorum_ack,
                stopping: AtomicBool::new(false),
            }),
        })
    }

    /// Answers a request that the transport of node `from` carried here.
    ///
    /// The caller has authenticated `from`. Never fails: what cannot be understood or must not be
    /// done is answered with a refusal.
    pub async fn handle_rpc(&self, from: u32, request: &[u8]) -> Vec<u8> {
        let removed = self.inner.published.removed.load_full();
        self.inner.inbound.handle(from, request, |node| removed.contains(&node)).await
    }

    /// Whether this node believes that it leads. A hint for where to send writes, no more.
    pub fn is_leader(&self) -> bool {
        self.reports().borrow().state == ServerState::Leader
    }

    /// The leader, as far as this node knows.
    pub fn leader(&self) -> Option<u32> {
        self.reports().borrow().current_leader.map(narrow)
    }

    /// On the leader: milliseconds since a majority of the voters last answered. None on other
    /// nodes, and on a leader that none has answered yet.
    pub fn millis_since_quorum_ack(&self) -> Option<u64> {
        let age = self.inner.quorum_ack.age()?;
        Some(u64::try_from(age.as_millis()).unwrap_or(u64::MAX))
    }

    /// Returns once this node is sure that it led, and had applied everything committed, at some
    /// moment after the call. What [`state`](Self::state) then shows is not stale.
    pub async fn ensure_linearizable(&self, timeout: Duration) -> Result<(), ReadError> {
        match tokio::time::timeout(timeout, self.inner.raft.ensure_linearizable()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward)))) => {
                Err(ReadError::NotLeader { leader: forward.leader_id.map(narrow) })
            }
            Ok(Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_)))) => {
                Err(ReadError::NoQuorum)
            }
            Ok(Err(RaftError::Fatal(fatal))) => Err(match self.ended(&fatal) {
                ProposeError::Fatal(reason) => ReadError::Fatal(reason),
                _ => ReadError::Shutdown,
            }),
            Err(_) => Err(ReadError::Timeout),
        }
    }

    /// The applied state of this node. Possibly older than the leader's.
    pub fn state(&self) -> Arc<S> {
        self.inner.published.state.load_full()
    }

    /// The position of the last applied entry, and a notice of every change. 0 at the start.
    ///
    /// When a position is seen, [`state`](Self::state) contains it.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.inner.published.applied.subscribe()
    }

    /// The members, as of the last membership entry in this node's log.
    pub fn membership(&self) -> Membership {
        let reports = self.reports();
        let report = reports.borrow();
        let membership = report.membership_config.membership();
        Membership {
            voters: membership.voter_ids().map(narrow).collect(),
            learners: membership.learner_ids().map(narrow).collect(),
            infos: (membership.nodes())
                .map(|(node, record)| (narrow(*node), record.info.clone()))
                .collect(),
            changing: membership.get_joint_config().len() > 1,
        }
    }

    /// Figures for status output.
    pub fn metrics(&self) -> Metrics {
        let reports = self.reports();
        let report = reports.borrow();
        let fatal = report.running_state.as_ref().err();
        Metrics {
            node: self.inner.options.identity.node,
            role: match report.state {
                _ if fatal.is_some() => Role::Stopped,
                ServerState::Learner => Role::Learner,
                ServerState::Follower => Role::Follower,
                ServerState::Candidate => Role::Candidate,
                ServerState::Leader => Role::Leader,
                ServerState::Shutdown => Role::Stopped,
            },
            term: report.current_term,
            vote: (narrow(report.vote.leader_id.node_id), report.vote.committed),
            leader: report.current_leader.map(narrow),
            last_log_index: report.last_log_index,
            applied_index: report.last_applied.map(|id| id.index),
            snapshot_index: report.snapshot.map(|id| id.index),
            purged_index: report.purged.map(|id| id.index),
            quorum_ack_age_ms: self.millis_since_quorum_ack(),
            matched: (report.replication.iter().flatten())
                .map(|(node, id)| (narrow(*node), id.map(|id| id.index)))
                .collect(),
            told_removed: self.inner.peers.told_removed(),
            fatal: fatal.map(ToString::to_string),
        }
    }

    /// Stops taking part, and returns when the store is closed.
    pub async fn shutdown(&self) {
        self.inner.stopping.store(true, Ordering::Relaxed);
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not end cleanly");
        }
        self.inner.store.close().await;
    }

    fn reports(&self) -> watch::Receiver<RaftMetrics> {
        self.inner.raft.metrics()
    }

    /// What the end of the role is called: a shutdown that was asked for, or a failure.
    fn ended(&self, fatal: &Fatal<u64>) -> ProposeError {
        if self.inner.stopping.load(Ordering::Relaxed) {
            return ProposeError::Shutdown;
        }
        ProposeError::Fatal(fatal.to_string())
    }
}

fn raft_config(options: &Options) -> Result<openraft::Config, OpenError> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let config = openraft::Config {
        cluster_name: format!("{:016x}", options.identity.cluster),
        heartbeat_interval: millis(options.timing.heartbeat),
        election_timeout_min: millis(options.timing.election_min),
        election_timeout_max: millis(options.timing.election_max),
        install_snapshot_timeout: millis(SNAPSHOT_PIECE_DEADLINE),
        max_payload_entries: ENTRIES_PER_REQUEST_MAX,
        snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(options.snapshots.every.max(1)),
        // openraft wants it above the snapshot interval, else a snapshot may not help a follower.
        replication_lag_threshold: options.snapshots.every.saturating_add(options.snapshots.keep),
        snapshot_max_chunk_size: SNAPSHOT_CHUNK_BYTES,
        max_in_snapshot_log_to_keep: options.snapshots.keep,
        ..openraft::Config::default()
    };
    config.validate().map_err(|e| OpenError::Timing { reason: e.to_string() })
}

#[cfg(test)]
#[path = "consensus/fatal_test.rs"]
mod tests;

#[cfg(test)]
#[path = "consensus/disk_fault_test.rs"]
mod disk_faults;

/// The cluster of the tests beside the crate, for nodes whose disks fail.
#[cfg(test)]
#[path = "../tests/cluster/harness.rs"]
#[allow(dead_code)]
mod harness;
