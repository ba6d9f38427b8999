//! What can go wrong, and what to do about it.

use std::path::PathBuf;

/// Why a store or a Raft role was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The timing is not usable.
    #[error("Raft timing is not usable: {reason}")]
    Timing {
        /// Which rule it breaks.
        reason: String,
    },
    /// There is no store, and none was to be created.
    #[error(
        "{}: no Raft store, but this node has an identity. It must not take part without its log: \
         remove node from the cluster and let it join again as a new one", path.display()
    )]
    Missing {
        /// File that was looked for.
        path: PathBuf,
    },
    /// There is a store, but a new one was to be created.
    #[error(
        "{}: there is a Raft store already. A new node needs an empty data folder; \
         to start the node that owns this store, start it without joining", path.display()
    )]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The store is in use by another process.
    #[error("{}: the Raft store is in use by another process", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The store belongs to another node or cluster.
    #[error(
        "{}: the Raft store belongs to node {found_node} of cluster {found_cluster:016x}, \
         this is node {node} of cluster {cluster:016x}. \
         Check which data folder belongs to this instance", path.display()
    )]
    OtherIdentity {
        /// The file.
        path: PathBuf,
        /// Node the store was created for.
        found_node: u32,
        /// Cluster the store was created for.
        found_cluster: u64,
        /// Node that wants to open it.
        node: u32,
        /// Cluster of the node that wants to open it.
        cluster: u64,
    },
    /// The store was written in a format this version does not know.
    #[error(
        "{}: the Raft store has format {found}, this version reads {known}. \
         Start the version that wrote it", path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Format of the store.
        found: u32,
        /// Format of this version.
        known: u32,
    },
    /// The store is damaged.
    #[error(
        "{}: the Raft store is damaged: {what}. This node may have forgotten a vote or an entry it \
         acknowledged, so it must not take part again: remove the node from the cluster, move \
         the data folder away, and join as a new node. If the disk is failing, replace it first",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is damaged, and where.
        what: String,
    },
    /// The store could not be read or written.
    #[error("{}: {what}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// What failed.
        what: String,
    },
    /// The Raft role did not start.
    #[error("Raft did not start: {0}")]
    Raft(String),
}

/// Why a command was not acknowledged.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ProposeError {
    /// This node is not the leader. The command had no effect.
    #[error("this node is not the leader{}", leader_hint(*leader))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<u32>,
    },
    /// The leader does not reach a majority of the voters.
    #[error(
        "no quorum: {}; {}",
        age_hint(*quorum_ack_age_ms),
        if *submitted { "the change may still take effect when the quorum returns" }
        else { "the change had no effect" }
    )]
    NoQuorum {
        /// Milliseconds since a majority last answered, if one ever did in this leadership.
        quorum_ack_age_ms: Option<u64>,
        /// The command is in the leader's log: it may be committed later. If not, it had no
        /// effect.
        submitted: bool,
    },
    /// No acknowledgement in time although there is a quorum. The outcome is unknown.
    #[error("not acknowledged in time; the change may still take effect")]
    Timeout,
    /// This node lost the leadership while the command was on its way. The outcome is unknown.
    #[error("leadership was lost during the change, which may still take effect{}", leader_hint(*leader))]
    LeadershipLost {
        /// The leader, as far as this node knows.
        leader: Option<u32>,
    },
    /// The command is too large. It had no effect.
    #[error("the change has {bytes} bytes, at most {bytes_max} are accepted")]
    TooLarge {
        /// Its encoded size.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// The command or its response cannot be encoded. A mistake in their types.
    #[error("cannot encode or decode: {0}")]
    Codec(String),
    /// The Raft role was shut down.
    #[error("Raft is shut down on this node")]
    Shutdown,
    /// The Raft role of this node has ended after an error; forwarding goes on.
    #[error("Raft has stopped on this node: {0}. Look at the disk, then restart the node")]
    Fatal(String),
}

impl ProposeError {
    /// Whether the command may still take effect. Otherwise it certainly had none, and may be
    /// proposed again without applying it twice.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::NotLeader { .. } | Self::TooLarge { .. } => false,
            Self::NoQuorum { submitted, .. } => *submitted,
            // Also a command that was applied and whose response could not be decoded.
            Self::Timeout
            | Self::LeadershipLost { .. }
            | Self::Codec(_)
            | Self::Shutdown
            | Self::Fatal(_) => true,
        }
    }
}

/// Why a change of the membership was not acknowledged.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ChangeError {
    /// As for any write.
    #[error(transparent)]
    Write(#[from] ProposeError),
    /// The store has entries already: only a new cluster is bootstrapped.
    #[error("this node is part of a cluster already")]
    AlreadyInitialized,
    /// A change is under way.
    #[error("another membership change is under way; try again when it is done")]
    InProgress,
    /// The node is not a member.
    #[error("node {0} is not a member")]
    NotMember(u32),
    /// The node was removed; ids are never used twice.
    #[error("node id {0} was removed and cannot come back; the node must join with a new id")]
    RemovedBefore(u32),
    /// The node is a member with other information.
    #[error("node {0} is a member already, with other information")]
    OtherInfo(u32),
    /// The node is too far behind to become a voter.
    #[error("node {node} is {lag} entries behind; it becomes a voter when it has caught up")]
    Behind {
        /// The node.
        node: u32,
        /// Entries it lacks.
        lag: u64,
    },
    /// The last voter cannot be removed.
    #[error("node {0} is the only voter; a cluster needs one")]
    LastVoter(u32),
}

/// Why a linearizable read was refused.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReadError {
    /// This node is not the leader.
    #[error("this node is not the leader{}", leader_hint(*leader))]
    NotLeader {
        /// The leader, as far as this node knows.
        leader: Option<u32>,
    },
    /// No majority of the voters confirmed the leadership.
    #[error("no quorum confirmed that this node still leads")]
    NoQuorum,
    /// No answer in time.
    #[error("not confirmed in time")]
    Timeout,
    /// The Raft role was shut down.
    #[error("Raft is shut down on this node")]
    Shutdown,
    /// The Raft role of this node has ended after an error.
    #[error("Raft has stopped on this node: {0}. Look at the disk, then restart the node")]
    Fatal(String),
}

fn leader_hint(leader: Option<u32>) -> String {
    leader.map_or_else(
        || "; there is none at the moment".to_owned(),
        |node| format!("; node {node} is"),
    )
}

fn age_hint(age_ms: Option<u64>) -> String {
    age_ms.map_or_else(
        || "no majority has answered since this node leads".to_owned(),
        |age| format!("the last majority answered {age} ms ago"),
    )
}
