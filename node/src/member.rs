//! This node as a member of its cluster: every part that needs an identity, wired together.

mod follow;
mod start;
mod transport;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use steadfast_consensus as raft;
use steadfast_model::{
    BootId, ClusterState, Command, GroupId, NodeId, Response, document::BeaconSpec,
};
use steadfast_ownership::Settings;
use steadfast_peer::Membership;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinHandle},
};
use tracing::{info, warn};

use self::transport::{CALL_FORCED_MOVE, CALL_MOVE};
pub(crate) use self::{
    follow::ranks,
    start::Started,
    transport::{CALL_COPY, CALL_TRACE, CALL_VIEW},
};
use crate::{
    api,
    daemon::Node,
    health::Health,
    hold_down,
    identity::{Identity, Keys},
    owner::{self, Owner, Roles},
    plane::DataPlane,
    propose::{ProposeError, Proposer},
    replicate::Replicator,
    replicated::Replicated,
    steward,
};

/// Grants and moves that wait to be proposed.
const REQUESTS_MAX: usize = 4_096;

/// A stop waits so long for its groups to move away; the core resigns what is left before.
const MOVE_AWAY_WITHIN: Duration = Duration::from_secs(4);

/// A stopping node forwards until nothing came for so long,
const QUIET_FOR: Duration = Duration::from_secs(1);
/// but no longer than this.
const LINGER_MAX: Duration = Duration::from_secs(10);

/// Everything that runs on a member.
pub(crate) struct Member {
    node: Arc<Node>,
    identity: Identity,
    keys: Keys,
    pub(crate) raft: Arc<raft::Consensus<Replicated>>,
    pub(crate) proposer: Proposer,
    pub(crate) owner: Owner,
    pub(crate) plane: Arc<DataPlane>,
    pub(crate) replicator: Replicator,
    pub(crate) roles: Arc<Roles>,
    pub(crate) health: Arc<Health>,
    /// Settings that a running daemon does not change: those it was started with.
    pub(crate) started_with: StartSettings,
    pub(crate) pauses: api::pauses::History,
    pub(crate) hold_down: hold_down::Watch,
    membership: Membership,
    key: watch::Sender<Option<Vec<u8>>>,
    macs_changed: Arc<tokio::sync::Notify>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Member {
    fn spawn_tasks(self: &Arc<Self>, mut requests: mpsc::Receiver<owner::Request>) {
        let (plane, estimated) = (Arc::clone(&self.plane), Arc::clone(&self.plane));
        let hearing = Arc::clone(&self.plane);
        let member = Arc::clone(self);
        let carry_out = async move {
            while let Some(request) = requests.recv().await {
                let member = Arc::clone(&member);
                // Each by itself: one that waits for a quorum must not hold up the others. The
                // core proposes a group again only after this has failed or taken effect.
                tokio::spawn(async move { member.carry_out(request).await });
            }
        };
        let tasks = [
            tokio::spawn(follow::follow(Arc::clone(self))),
            tokio::spawn(steward::run(Arc::clone(self))),
            tokio::spawn(hold_down::run(Arc::clone(self))),
            tokio::spawn(api::pauses::sample(Arc::clone(self))),
            tokio::spawn(Arc::clone(&self.health).report(self.owner.links.clone())),
            tokio::spawn(async move { plane.expire().await }),
            tokio::spawn(async move { estimated.estimate().await }),
            tokio::spawn(async move { hearing.hear_errors().await }),
            tokio::spawn(carry_out),
        ];
        let mut handles = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        handles.extend(tasks.iter().map(JoinHandle::abort_handle));
    }

    fn abort_tasks(&self) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.drain(..).for_each(|task| task.abort());
    }

    async fn carry_out(&self, request: owner::Request) {
        match request {
            owner::Request::Grant(command) => {
                let Command::Grant { group, .. } = command else { return };
                match self.proposer.commit(command).await {
                    Ok(Response::Granted(epoch)) => info!(%group, %epoch, "granted"),
                    Ok(Response::Rejected(why)) => {
                        info!(%group, "not granted: {why}");
                        self.owner.tell(owner::Command::ProposalFailed(group)).await;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        warn!(%group, "not granted: {error}");
                        self.owner.tell(owner::Command::ProposalFailed(group)).await;
                    }
                }
            }
            owner::Request::MoveAway(groups) => {
                for group in groups {
                    match self.ask_move(group, None, false).await {
                        Ok(to) => info!(%group, %to, "moves away"),
                        Err(error) => warn!(%group, "cannot move away: {error}"),
                    }
                }
            }
        }
    }

    /// Has the leader plan a move; answers whom it goes to. `force`, to a named target: whatever its
    /// copy is.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn ask_move(
        &self,
        group: GroupId,
        target: Option<NodeId>,
        force: bool,
    ) -> Result<NodeId, String> {
        let Some(leader) = self.raft.leader().map(NodeId) else {
            return Err("there is no leader".to_owned());
        };
        if leader == self.id() {
            return self.owner.plan_move(group, target, force).await;
        }
        let (kind, request) = match target.filter(|_| force) {
            Some(target) => (CALL_FORCED_MOVE, serde_json::to_vec(&(group, target))),
            None => (CALL_MOVE, serde_json::to_vec(&(group, target))),
        };
        let request = request.map_err(|e| e.to_string())?;
        let within = Duration::from_secs(1);
        let answer = self
            .owner
            .links
            .call(leader, kind, &request, within)
            .await
            .map_err(|e| e.to_string())?;
        if answer.is_empty() {
            return Err("the leader runs a release that does not know this wish".to_owned());
        }
        serde_json::from_slice::<Result<NodeId, String>>(&answer).map_err(|e| e.to_string())?
    }

    /// Commits a command from this node.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn propose(&self, command: Command) -> Result<Response, ProposeError> {
        self.proposer.commit(command).await
    }

    /// The applied state, as it is now.
    pub(crate) fn state(&self) -> Arc<Replicated> {
        self.raft.state()
    }

    /// This node.
    pub(crate) fn id(&self) -> NodeId {
        self.identity.node
    }

    /// This run.
    pub(crate) fn boot(&self) -> BootId {
        self.node.boot
    }

    /// How long this run has lasted.
    pub(crate) fn runs_for(&self) -> Duration {
        self.node.started.elapsed()
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether a node votes.
    pub(crate) fn is_voter(&self, node: NodeId) -> bool {
        self.raft.membership().voters.contains(&node.0)
    }

    /// Persists who this node is: from now on a restart brings it back.
    ///
    /// # Errors
    /// When the data folder cannot be written.
    pub(crate) fn save_identity(&self) -> anyhow::Result<()> {
        self.node.data.save(&self.identity, &self.keys)
    }

    /// Returns once the log has told this node that it is a member.
    pub(crate) async fn applied_own_admission(&self) {
        let mut applied = self.raft.watch();
        loop {
            if self.raft.state().0.nodes.contains_key(&self.id()) {
                return;
            }
            if applied.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// A planned stop: groups move away, what still arrives is forwarded, then all parts end.
    pub(crate) async fn stop(&self) {
        self.owner.tell(owner::Command::Shutdown).await;
        let mut news = self.owner.news.clone();
        let nothing = news.wait_for(|news| news.holds_nothing);
        let moved = tokio::time::timeout(MOVE_AWAY_WITHIN, nothing).await;
        if moved.is_err() {
            warn!("some groups could not be moved away: given up");
        }
        let (started, mut quiet_since, mut seen) =
            (Instant::now(), Instant::now(), self.plane.received());
        while quiet_since.elapsed() < QUIET_FOR && started.elapsed() < LINGER_MAX {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let now = self.plane.received();
            if now != seen {
                (seen, quiet_since) = (now, Instant::now());
            }
        }
        self.end_parts().await;
    }

    async fn end_parts(&self) {
        self.raft.shutdown().await;
        self.replicator.close().await;
        self.owner.links.close().await;
        start::stop_plane(&self.plane).await;
    }
}

/// Settings that take effect when a daemon starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct StartSettings {
    pub(crate) connections_max: u32,
    pub(crate) half_open_max: u32,
    pub(crate) beacon: BeaconSpec,
}

impl StartSettings {
    /// Those that the cluster has committed.
    pub(crate) fn of(state: &ClusterState) -> Self {
        let settings = state.settings();
        Self {
            connections_max: settings.connections_max,
            half_open_max: settings.half_open_max,
            beacon: settings.beacon.clone(),
        }
    }
}

/// The ownership core's settings from the committed ones.
pub(crate) fn settings(state: &ClusterState) -> Settings {
    let beacon = &state.settings().beacon;
    let beacon_us = u64::from(beacon.interval_ms) * 1_000;
    let defaults = Settings::default();
    let margin = Settings::margin(beacon_us.saturating_mul(u64::from(beacon.silent_after)));
    Settings {
        beacon: beacon_us,
        strict_margin: margin,
        silent_after: beacon.silent_after,
        announce_beacons: defaults.announce_beacons.min(beacon.silent_after.saturating_sub(1)),
        mute_gap_beacons: defaults.mute_gap_beacons.min(beacon.silent_after.saturating_sub(1)),
        ..defaults
    }
}
