//! This node as a member of its cluster: every part that needs an identity, wired together.

mod follow;
mod transport;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use anyhow::Context;
use steadfast_consensus as raft;
use steadfast_model::{
    BootId, ClusterState, Command, GroupId, NodeId, Response, document::BeaconSpec,
};
use steadfast_ownership::Settings;
use steadfast_peer::{EndpointConfig, Membership, Purpose, pki};
use steadfast_replication::{Copies, DirtySet, Local, ReplicationHook};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

pub(crate) use self::transport::CALL_VIEW;
use self::transport::{CALL_MOVE, Calls, QuicTransport};
use crate::{
    api,
    daemon::Node,
    health::Health,
    identity::{Identity, Keys},
    join::Start,
    owner::{self, Owner, OwnerConfig, Roles},
    plane::{DataPlane, Pins},
    propose::{ProposeError, Proposer},
    replicate::{Parts, Replicator},
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
    membership: Membership,
    key: watch::Sender<Option<Vec<u8>>>,
    macs_changed: Arc<tokio::sync::Notify>,
}

impl Member {
    /// Starts every part.
    ///
    /// # Errors
    /// What could not be opened, and what to do.
    pub(crate) async fn start(
        node: &Arc<Node>,
        identity: Identity,
        keys: Keys,
        start: Start,
    ) -> anyhow::Result<Arc<Self>> {
        let shown = pki::Identity::from_pem(&keys.cert, &keys.key, &keys.ca)?;
        shown.check()?;
        let peers = identity.first_peers.iter().map(|p| p.node);
        let membership = Membership::new(peers.chain([identity.node]).collect::<BTreeSet<_>>());
        let (raft, transport) = open_raft(node, &identity, start).await?;
        let state = raft.state();
        let started_with = StartSettings::of(&state.0);
        let (plane, hook_parts) = make_plane(node, &state.0)?;
        let HookParts { dirty, copies } = hook_parts;
        let beacon_ms = u64::from(started_with.beacon.interval_ms);
        plane.set_beacon(Duration::from_millis(beacon_ms));
        let roles = Arc::new(Roles::new());
        let health = Health::start(identity.node, node.boot);
        let (requests, request_queue) = mpsc::channel(REQUESTS_MAX);
        let beacon_key = state.0.cluster.as_ref().map(|c| c.beacon_key.clone());
        let (key, key_receiver) = watch::channel(beacon_key);
        let macs_changed = Arc::new(tokio::sync::Notify::new());
        let calls = Arc::new(Calls::new(Arc::clone(&raft), Arc::clone(&health)));
        let listen = &node.local.listen;
        let endpoint = |purpose, listen| {
            EndpointConfig::new(purpose, listen, shown.clone(), membership.clone())
        };
        let owner = Owner::start(OwnerConfig {
            node: identity.node,
            boot: node.boot,
            cluster: identity.cluster_id,
            settings: settings(&state.0),
            endpoint: endpoint(Purpose::Control, listen.control),
            handler: calls.handler(),
            plane: Arc::clone(&plane),
            copies: Arc::clone(&copies),
            key: key_receiver,
            requests,
            roles: Arc::clone(&roles),
            macs_changed: Arc::clone(&macs_changed),
        })
        .await?;
        transport.connect(owner.links.clone());
        let local = Local { cluster: identity.cluster_id, node: identity.node, boot: node.boot };
        let parts = Parts {
            local,
            shared: Arc::clone(&plane.shared),
            dirty,
            copies,
            roles: Arc::clone(&roles),
        };
        let replicator =
            Replicator::start(parts, endpoint(Purpose::Replication, listen.replication))?;
        let proposer = Proposer::new(
            identity.node,
            Arc::clone(&raft),
            owner.links.clone(),
            owner.news.clone(),
        );
        let member = Arc::new(Self {
            node: Arc::clone(node),
            identity,
            keys,
            raft,
            proposer,
            owner,
            plane,
            replicator,
            roles,
            health,
            started_with,
            membership,
            key,
            macs_changed,
        });
        calls.connect(&member);
        member.spawn_tasks(request_queue);
        if start == Start::New {
            member.raft.bootstrap(&member.identity.name).await.context("the first vote")?;
        }
        node.set_member(&member);
        api::serve_tls(Arc::clone(node), shown.pem()).await?;
        info!(id = %member.identity.node, cluster = member.identity.cluster_name, "member");
        Ok(member)
    }

    fn spawn_tasks(self: &Arc<Self>, mut requests: mpsc::Receiver<owner::Request>) {
        tokio::spawn(follow::follow(Arc::clone(self)));
        tokio::spawn(steward::run(Arc::clone(self)));
        tokio::spawn(Arc::clone(&self.health).report(self.owner.links.clone()));
        let plane = Arc::clone(&self.plane);
        tokio::spawn(async move { plane.expire().await });
        let member = Arc::clone(self);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                let member = Arc::clone(&member);
                // Each by itself: one that waits for a quorum must not hold up the others. The
                // core proposes a group again only after this has failed or taken effect.
                tokio::spawn(async move { member.carry_out(request).await });
            }
        });
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
                    match self.ask_move(group, None).await {
                        Ok(to) => info!(%group, %to, "moves away"),
                        Err(error) => warn!(%group, "cannot move away: {error}"),
                    }
                }
            }
        }
    }

    /// Has the leader plan a move; answers whom it goes to.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(crate) async fn ask_move(
        &self,
        group: GroupId,
        target: Option<NodeId>,
    ) -> Result<NodeId, String> {
        let Some(leader) = self.raft.leader().map(NodeId) else {
            return Err("there is no leader".to_owned());
        };
        if leader == self.id() {
            return self.owner.plan_move(group, target).await;
        }
        let request = serde_json::to_vec(&(group, target)).map_err(|e| e.to_string())?;
        let within = Duration::from_secs(1);
        let answer = self
            .owner
            .links
            .call(leader, CALL_MOVE, &request, within)
            .await
            .map_err(|e| e.to_string())?;
        serde_json::from_slice::<Result<NodeId, String>>(&answer).map_err(|e| e.to_string())?
    }

    /// Commits a command from this node.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn propose(&self, command: Command) -> Result<Response, ProposeError> {
        self.proposer.commit(command).await
    }

    /// The applied state.
    pub(crate) fn state(&self) -> Arc<ClusterState> {
        // A clone of the inner part would copy it all.
        let replicated = self.raft.state();
        Arc::new(replicated.0.clone())
    }

    /// This node.
    pub(crate) fn id(&self) -> NodeId {
        self.identity.node
    }

    /// This run.
    pub(crate) fn boot(&self) -> BootId {
        self.node.boot
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
        self.raft.shutdown().await;
        self.replicator.close().await;
        self.owner.links.close().await;
        let plane = Arc::clone(&self.plane);
        // Joining threads blocks.
        let _ = tokio::task::spawn_blocking(move || plane.stop()).await;
    }
}

async fn open_raft(
    node: &Arc<Node>,
    identity: &Identity,
    start: Start,
) -> anyhow::Result<(Arc<raft::Consensus<Replicated>>, Arc<QuicTransport>)> {
    let on_missing = match start {
        Start::Again => raft::OnMissing::Refuse,
        Start::New | Start::Joined => raft::OnMissing::Create,
    };
    let who = raft::Identity { cluster: identity.cluster_id, node: identity.node.0 };
    let options = raft::Options::new(node.data.raft(), who, on_missing);
    let transport = Arc::new(QuicTransport { links: OnceLock::new() });
    let raft = raft::Consensus::open(options, transport.clone()).await?;
    Ok((Arc::new(raft), transport))
}

struct HookParts {
    dirty: Arc<DirtySet>,
    copies: Arc<Copies>,
}

fn make_plane(
    node: &Arc<Node>,
    state: &ClusterState,
) -> anyhow::Result<(Arc<DataPlane>, HookParts)> {
    let shared = DataPlane::shared(state.settings().connections_max)?;
    let (dirty, copies) = (Arc::new(DirtySet::new()), Arc::new(Copies::new()));
    let hook = ReplicationHook::new(Arc::clone(&shared), Arc::clone(&dirty));
    let pins = Pins { bpffs: node.local.bpffs.clone(), instance: node.local.instance.clone() };
    let plane = DataPlane::new(pins, shared, hook, node.prober.clone());
    Ok((Arc::new(plane), HookParts { dirty, copies }))
}

/// Settings that take effect when a daemon starts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct StartSettings {
    pub(crate) connections_max: u32,
    pub(crate) beacon: BeaconSpec,
}

impl StartSettings {
    /// Those that the cluster has committed.
    pub(crate) fn of(state: &ClusterState) -> Self {
        let settings = state.settings();
        Self { connections_max: settings.connections_max, beacon: settings.beacon.clone() }
    }
}

/// The ownership core's settings from the committed ones.
pub(crate) fn settings(state: &ClusterState) -> Settings {
    let beacon = &state.settings().beacon;
    let beacon_us = u64::from(beacon.interval_ms) * 1_000;
    let defaults = Settings::default();
    Settings {
        beacon: beacon_us,
        silent_after: beacon.silent_after,
        announce_beacons: defaults.announce_beacons.min(beacon.silent_after.saturating_sub(1)),
        mute_gap_beacons: defaults.mute_gap_beacons.min(beacon.silent_after.saturating_sub(1)),
        ..defaults
    }
}
