//! The types openraft is told to work with.

use std::io::Cursor;

use serde::{Deserialize, Serialize};
use serde_json::Value;

openraft::declare_raft_types!(
    /// Commands and responses travel as JSON values, so that this part need not be generic.
    pub(crate) TypeConfig:
        D = Value,
        R = Option<Value>,
        NodeId = u64,
        Node = NodeInfo,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = Cursor<Vec<u8>>,
        AsyncRuntime = openraft::TokioRuntime,
);

/// What the membership records about a node.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub(crate) struct NodeInfo {
    pub(crate) info: String,
}

pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type LogId = openraft::LogId<u64>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type RaftMetrics = openraft::RaftMetrics<u64, NodeInfo>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<u64, NodeInfo>;
pub(crate) type StorageError = openraft::StorageError<u64>;
pub(crate) type StoredMembership = openraft::StoredMembership<u64, NodeInfo>;
pub(crate) type Vote = openraft::Vote<u64>;

/// Node ids are 32 bits wide here and 64 bits wide in openraft, where only ours are ever stored.
pub(crate) fn narrow(node: u64) -> u32 {
    u32::try_from(node).unwrap_or(u32::MAX)
}
