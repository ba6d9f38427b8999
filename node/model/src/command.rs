//! The commands that go through the Raft log, and what they answer.

use serde::{Deserialize, Serialize};

use crate::{BootId, CookieSecret, Epoch, GroupId, NodeId};

/// A change of the replicated state. What depends on time or chance (a clock, a key, a random id)
/// is decided by the node that proposes and carried here, so that applying stays deterministic.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Command {
    /// The first entry of a new cluster.
    Initialise(Box<Initialise>),
    /// A new single-use join token.
    CreateToken {
        /// SHA-256 of the token's secret, in hex: the secret itself is in no log.
        hash: String,
        /// Unix time in seconds after which it is void.
        expires_unix_s: u64,
    },
    /// A node joins and spends its token.
    AdmitNode {
        /// Hash of the secret it showed.
        token_hash: String,
        /// Unix time in seconds at the proposing node.
        now_unix_s: u64,
        /// What it says of itself.
        node: NodeSpec,
    },
    /// A node leaves for ever; its id is never used again.
    RemoveNode {
        /// Which.
        node: NodeId,
    },
    /// A cordoned node consents but claims nothing and gets no grants.
    Cordon {
        /// Which.
        node: NodeId,
        /// On or off.
        cordoned: bool,
    },
    /// A node that failed again and again gets no groups and claims last, or is trusted again.
    HoldDown {
        /// Which.
        node: NodeId,
        /// On or off.
        held: bool,
    },
    /// A new configuration.
    Apply {
        /// The YAML document.
        text: String,
        /// Refuse unless this is the current revision.
        expected_revision: Option<u64>,
        /// Who sent it, for the history.
        source: String,
        /// Unix time in seconds at the proposing node.
        now_unix_s: u64,
    },
    /// Gives a VIP group to a node.
    Grant {
        /// Which group.
        group: GroupId,
        /// The committed grant it replaces, claims on it included; `None`: there was none.
        expected: Option<Epoch>,
        /// The new holder.
        holder: NodeId,
        /// The run of the holder's daemon the grant is bound to.
        boot: BootId,
        /// Nodes that may claim, best first.
        candidates: Vec<NodeId>,
    },
    /// A new slot of SYN cookies begins.
    RotateCookieKey {
        /// Its number: one more than the present one, or somebody else was first.
        slot: u64,
        /// Its key, drawn by the node that proposes.
        secret: CookieSecret,
    },
}

/// What a new cluster starts with.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Initialise {
    /// Name of the cluster.
    pub name: String,
    /// Random; it separates clusters that share a segment.
    pub cluster: u64,
    /// Certificate of the cluster's own authority.
    pub ca_cert_pem: String,
    /// Its key. It is in the replicated state, so it is on every node's disk (mode 0600).
    pub ca_key_pem: String,
    /// Key of the beacons' HMAC.
    pub beacon_key: Vec<u8>,
    /// The node that initialised the cluster.
    pub node: NodeSpec,
}

/// What a node says of itself when it joins.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct NodeSpec {
    /// Instance name.
    pub name: String,
    /// gRPC address.
    pub api: std::net::SocketAddr,
    /// QUIC address for Raft, consent and beacons.
    pub control: std::net::SocketAddr,
    /// QUIC address for connection records.
    pub replication: std::net::SocketAddr,
}

/// What a command did.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Response {
    /// It was applied.
    Done,
    /// A node was admitted under this id.
    Admitted(NodeId),
    /// A configuration was committed, or was the current one already.
    Applied {
        /// Its revision.
        revision: u64,
        /// Whether it differs from the one before.
        changed: bool,
    },
    /// A group was granted.
    Granted(Epoch),
    /// Nothing was changed.
    Rejected(Rejection),
}

/// Why a command changed nothing.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize, thiserror::Error)]
pub enum Rejection {
    /// A second `Initialise`.
    #[error("the cluster exists already")]
    AlreadyInitialised,
    /// No `Initialise` yet.
    #[error("the cluster is not initialised: run `clusterctl init`")]
    NotInitialised,
    /// No such token, spent, or past its time.
    #[error(
        "the join token is unknown, used or expired: make a new one with `clusterctl token create`"
    )]
    Token,
    /// The cluster has as many nodes as it may have.
    #[error("the cluster has {0} nodes, which is the most it can have: remove one first")]
    TooManyNodes(usize),
    /// No such node.
    #[error("there is no node {0}: `clusterctl node list` shows those there are")]
    NoSuchNode(NodeId),
    /// No such group.
    #[error("there is no group {0}")]
    NoSuchGroup(GroupId),
    /// Somebody else applied a configuration first.
    #[error(
        "the configuration is at revision {current}, not {expected}: get it, merge, apply again"
    )]
    Revision {
        /// What the sender built on.
        expected: u64,
        /// What is committed.
        current: u64,
    },
    /// The document does not parse or does not fit together.
    #[error("the configuration is refused: {}", .0.join("; "))]
    Document(Vec<String>),
    /// Somebody else began that slot.
    #[error("the slot of SYN cookies is {current} already: nothing is to be done")]
    CookieSlot {
        /// The present one.
        current: u64,
    },
    /// The group moved meanwhile.
    #[error("the group is at epoch {}, the grant was for another: look again", .current.map_or_else(|| "none".to_owned(), |e| e.to_string()))]
    EpochConflict {
        /// Epoch of the committed grant.
        current: Option<Epoch>,
    },
}
