//! openraft's requests to other nodes, over a [`Transport`].

use std::collections::HashMap;
use std::error::Error;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use openraft::RPCTypes;
use openraft::error::{
    InstallSnapshotError, PayloadTooLarge, RPCError, RaftError, RemoteError, Timeout, Unreachable,
};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{FrameError, Kind, Request, Response, Status, decode_json};
use crate::options::Identity;
use crate::raft_types::{NodeInfo, TypeConfig, narrow};
use crate::transport::{Transport, TransportError};

/// Pause before an unreachable node is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// What all connections share.
pub(crate) struct Peers {
    identity: Identity,
    transport: Arc<dyn Transport>,
    /// Store of each peer at first contact. An id never gets a second one.
    instances: Mutex<HashMap<u32, u64>>,
    told_removed: AtomicBool,
}

impl Peers {
    pub(crate) fn new(identity: Identity, transport: Arc<dyn Transport>) -> Self {
        Self {
            identity,
            transport,
            instances: Mutex::default(),
            told_removed: AtomicBool::new(false),
        }
    }

    /// Whether a peer has said that this node's id was removed.
    pub(crate) fn told_removed(&self) -> bool {
        self.told_removed.load(Ordering::Relaxed)
    }

    /// A node that comes back with another store has lost its log and its vote. Its old id still
    /// counts for a majority that relied on them, so nothing it says may be believed; and a
    /// leader that found its own knowledge of the log contradicted would stop.
    fn check_instance(&self, node: u32, instance: u64) -> Result<(), PeerError> {
        let mut instances = self.instances.lock().unwrap_or_else(PoisonError::into_inner);
        let known = *instances.entry(node).or_insert(instance);
        if known == instance {
            return Ok(());
        }
        Err(PeerError::OtherStore { node })
    }
}

/// Makes connections for openraft.
pub(crate) struct Network {
    pub(crate) peers: Arc<Peers>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Connection;

    async fn new_client(&mut self, target: u64, _node: &NodeInfo) -> Connection {
        Connection { target: narrow(target), peers: self.peers.clone() }
    }
}

/// Requests to one node.
pub(crate) struct Connection {
    target: u32,
    peers: Arc<Peers>,
}

/// Why a peer's answer is not used.
#[derive(Debug, thiserror::Error)]
enum PeerError {
    #[error("node {node}: {source}")]
    Transport { node: u32, source: TransportError },
    #[error("node {node} sent an unusable response: {source}")]
    Frame { node: u32, source: FrameError },
    #[error("node {node} refused: {reason}")]
    Refused { node: u32, reason: String },
    #[error(
        "node {node} has lost its Raft store and came back under its old id; it is not accepted. \
         Remove it from the cluster and let it join as a new node"
    )]
    OtherStore { node: u32 },
}

type CallResult<P, E> = Result<P, RPCError<u64, NodeInfo, RaftError<u64, E>>>;

impl Connection {
    /// Sends a request and decodes the response.
    async fn call<P, E>(
        &self,
        action: RPCTypes,
        frame: Result<Vec<u8>, FrameError>,
        ttl: Duration,
    ) -> CallResult<P, E>
    where
        P: DeserializeOwned,
        E: Error + DeserializeOwned,
    {
        let node = self.target;
        let unusable = |source| unreachable_peer(&PeerError::Frame { node, source });
        let frame = frame.map_err(unusable)?;
        let answer = tokio::time::timeout(ttl, self.peers.transport.call(node, frame, ttl)).await;
        let bytes = match answer.unwrap_or(Err(TransportError::Timeout)) {
            Ok(bytes) => bytes,
            Err(TransportError::Timeout) => {
                let id = u64::from(self.peers.identity.node);
                return Err(Timeout { action, id, target: node.into(), timeout: ttl }.into());
            }
            Err(source) => return Err(unreachable_peer(&PeerError::Transport { node, source })),
        };
        let response = Response::decode(&bytes).map_err(unusable)?;
        self.peers.check_instance(node, response.instance).map_err(|error| {
            tracing::error!(%error);
            unreachable_peer(&error)
        })?;
        match response.status {
            Status::Ok => decode_json(response.json).map_err(unusable),
            Status::Error => {
                let error: RaftError<u64, E> = decode_json(response.json).map_err(unusable)?;
                Err(RemoteError::new(node.into(), error).into())
            }
            Status::Refused | Status::Removed => {
                if response.status == Status::Removed {
                    self.peers.told_removed.store(true, Ordering::Relaxed);
                }
                let reason = decode_json(response.json).map_err(unusable)?;
                Err(unreachable_peer(&PeerError::Refused { node, reason }))
            }
        }
    }

    fn encode<T: Serialize>(
        &self,
        kind: Kind,
        content: &T,
        raw: &[u8],
    ) -> Result<Vec<u8>, FrameError> {
        Request::encode(kind, self.peers.identity.cluster, self.target, content, raw)
    }
}

impl RaftNetwork<TypeConfig> for Connection {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> CallResult<AppendEntriesResponse<u64>, openraft::error::Infallible> {
        let frame = self.encode(Kind::AppendEntries, &request, &[]);
        if let Err(FrameError::Long(_)) = frame
            && request.entries.len() > 1
        {
            let half = request.entries.len() as u64 / 2;
            return Err(PayloadTooLarge::new_entries_hint(half).into());
        }
        self.call(RPCTypes::AppendEntries, frame, option.soft_ttl()).await
    }

    async fn install_snapshot(
        &mut self,
        mut request: InstallSnapshotRequest<TypeConfig>,
        option: RPCOption,
    ) -> CallResult<InstallSnapshotResponse<u64>, InstallSnapshotError> {
        let data = std::mem::take(&mut request.data);
        let frame = self.encode(Kind::InstallSnapshot, &request, &data);
        self.call(RPCTypes::InstallSnapshot, frame, option.soft_ttl()).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> CallResult<VoteResponse<u64>, openraft::error::Infallible> {
        let frame = self.encode(Kind::Vote, &request, &[]);
        self.call(RPCTypes::Vote, frame, option.soft_ttl()).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_INTERVAL))
    }
}

/// "Unreachable" makes openraft pause before the next try, which suits every lasting error.
fn unreachable_peer<E: Error>(error: &PeerError) -> RPCError<u64, NodeInfo, E> {
    Unreachable::new(error).into()
}
