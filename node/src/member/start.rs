//! How the parts of a member start, and how they end again when not all of them can.
//!
//! Guarantees: what is started here is known to nobody until [`Started::publish`]; until then it
//! can be taken back without a trace on this node.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context;
use steadfast_consensus as raft;
use steadfast_model::ClusterState;
use steadfast_peer::{EndpointConfig, Membership, OpenSocket, Purpose, pki};
use steadfast_replication::{Copies, DirtySet, Local, ReplicationHook};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use super::{
    Member, REQUESTS_MAX, StartSettings, settings,
    transport::{Calls, QuicTransport},
};
use crate::{
    api::{self, TlsApi},
    daemon::Node,
    health::Health,
    hold_down,
    identity::{Identity, Keys},
    join::Start,
    listeners::Listeners,
    owner::{Owner, OwnerConfig, Roles},
    plane::{DataPlane, Pins},
    propose::Proposer,
    replicate::{Parts, Replicator},
    replicated::Replicated,
};

/// A member that runs and that the API of this node does not show yet.
#[must_use = "publish or abandon it"]
pub(crate) struct Started {
    pub(crate) member: Arc<Member>,
    transport: Arc<QuicTransport>,
    api: TlsApi,
}

impl Started {
    /// From now on the API shows it, and is served to other machines.
    pub(crate) fn publish(self) -> Arc<Member> {
        let Self { member, api, .. } = self;
        member.node.set_member(&member);
        api.serve();
        info!(id = %member.identity.node, cluster = member.identity.cluster_name, "member");
        member
    }

    /// Ends every part and forgets who this node would have become.
    pub(crate) async fn abandon(self) {
        let Self { member, transport, api } = self;
        drop(api);
        member.abort_tasks();
        member.end_parts().await;
        transport.disconnect();
        forget(&member.node);
    }
}

fn forget(node: &Node) {
    if let Err(error) = node.data.forget() {
        warn!("empty the data folder before the next try: {error:#}");
    }
}

/// What everything else is built on, and what has to be stopped when that fails.
struct Base {
    raft: Arc<raft::Consensus<Replicated>>,
    transport: Arc<QuicTransport>,
    plane: Arc<DataPlane>,
    dirty: Arc<DirtySet>,
    copies: Arc<Copies>,
}

impl Member {
    /// Starts every part.
    ///
    /// # Errors
    /// What could not be opened, and what to do; nothing runs then, and a node that was none
    /// before has forgotten who it would have been.
    pub(crate) async fn start(
        node: &Arc<Node>,
        identity: Identity,
        keys: Keys,
        start: Start,
        listeners: Listeners,
    ) -> anyhow::Result<Started> {
        let started = Self::start_parts(node, identity, keys, start, listeners).await;
        if started.is_err() && start != Start::Again {
            forget(node);
        }
        started
    }

    async fn start_parts(
        node: &Arc<Node>,
        identity: Identity,
        keys: Keys,
        start: Start,
        listeners: Listeners,
    ) -> anyhow::Result<Started> {
        let shown = pki::Identity::from_pem(&keys.cert, &keys.key, &keys.ca)?;
        shown.check()?;
        let Listeners { api, control, replication } = listeners;
        let api = TlsApi::new(Arc::clone(node), api, &shown).await?;
        let base = open_base(node, &identity, start).await?;
        let (raft, plane) = (Arc::clone(&base.raft), Arc::clone(&base.plane));
        let transport = Arc::clone(&base.transport);
        let sockets = (control, replication);
        let member = match Self::assemble(node, identity, keys, base, shown, sockets).await {
            Ok(member) => member,
            Err(error) => {
                raft.shutdown().await;
                transport.disconnect();
                stop_plane(&plane).await;
                return Err(error);
            }
        };
        let started = Started { member, transport, api };
        if start == Start::New {
            let member = &started.member;
            let first = member.raft.bootstrap(&member.identity.name).await;
            if let Err(error) = first {
                started.abandon().await;
                return Err(error).context("the first vote");
            }
        }
        Ok(started)
    }

    async fn assemble(
        node: &Arc<Node>,
        identity: Identity,
        keys: Keys,
        base: Base,
        shown: pki::Identity,
        (control, replication): (OpenSocket, OpenSocket),
    ) -> anyhow::Result<Arc<Self>> {
        let Base { raft, transport, plane, dirty, copies } = base;
        let peers = identity.first_peers.iter().map(|p| p.node);
        let membership = Membership::new(peers.chain([identity.node]).collect::<BTreeSet<_>>());
        let state = raft.state();
        let started_with = StartSettings::of(&state);
        let beacon_ms = u64::from(started_with.beacon.interval_ms);
        plane.set_beacon(Duration::from_millis(beacon_ms));
        let roles = Arc::new(Roles::new());
        let health = Health::start(identity.node, node.boot);
        let (requests, request_queue) = mpsc::channel(REQUESTS_MAX);
        let beacon_key = state.cluster.as_ref().map(|c| c.beacon_key.clone());
        let (key, key_receiver) = watch::channel(beacon_key);
        let macs_changed = Arc::new(tokio::sync::Notify::new());
        let calls = Arc::new(Calls::new(Arc::clone(&raft), Arc::clone(&health)));
        let listen = &node.local.listen;
        let endpoint = |purpose, listen, socket| EndpointConfig {
            socket: Some(socket),
            ..EndpointConfig::new(purpose, listen, shown.clone(), membership.clone())
        };
        let owner = Owner::start(OwnerConfig {
            node: identity.node,
            boot: node.boot,
            cluster: identity.cluster_id,
            settings: settings(&state),
            endpoint: endpoint(Purpose::Control, listen.control, control),
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
            news: owner.news.clone(),
        };
        let replication = endpoint(Purpose::Replication, listen.replication, replication);
        let replicator = Replicator::start(parts, replication)?;
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
            pauses: api::pauses::History::default(),
            hold_down: hold_down::Watch::default(),
            membership,
            key,
            macs_changed,
            tasks: Mutex::default(),
        });
        calls.connect(&member);
        member.spawn_tasks(request_queue);
        Ok(member)
    }
}

async fn open_base(node: &Arc<Node>, identity: &Identity, start: Start) -> anyhow::Result<Base> {
    let (raft, transport) = open_raft(node, identity, start).await?;
    match make_plane(node, &raft.state()) {
        Ok((plane, HookParts { dirty, copies })) => {
            Ok(Base { raft, transport, plane, dirty, copies })
        }
        Err(error) => {
            raft.shutdown().await;
            Err(error)
        }
    }
}

/// Ends the workers; joining threads blocks.
pub(super) async fn stop_plane(plane: &Arc<DataPlane>) {
    let plane = Arc::clone(plane);
    // Fails only where a thread has panicked, which has said so.
    let _ = tokio::task::spawn_blocking(move || plane.stop()).await;
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
    let transport = Arc::new(QuicTransport::default());
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
    let settings = state.settings();
    let shared = DataPlane::shared(settings.connections_max, settings.half_open_max)?;
    let (dirty, copies) = (Arc::new(DirtySet::new()), Arc::new(Copies::new()));
    let hook = ReplicationHook::new(Arc::clone(&shared), Arc::clone(&dirty));
    let pins = Pins { bpffs: node.local.bpffs.clone(), instance: node.local.instance.clone() };
    let plane = DataPlane::new(pins, shared, hook, node.prober.clone());
    Ok((Arc::new(plane), HookParts { dirty, copies }))
}
