//! How connections are copied between the nodes of a cluster.

use serde::{Deserialize, Serialize};

/// Bytes a second that one Mbit/s is.
const BYTES_PER_MBIT: u64 = 125_000;

/// Bounds of copying. Each node has them for itself.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CopiesSpec {
    /// What a node sends of snapshots, to all its peers together, in Mbit/s; 0: no limit. Changes are
    /// never held up by it.
    pub snapshot_mbit_per_s: u32,
    /// A copy that is behind its holder by more, in milliseconds, is not complete: planned moves and
    /// grants wait for it, claims by it come later.
    pub lag_max_ms: u32,
}

impl Default for CopiesSpec {
    fn default() -> Self {
        Self { snapshot_mbit_per_s: 400, lag_max_ms: 200 }
    }
}

impl CopiesSpec {
    /// The limit of snapshots in bytes a second; 0: none.
    #[must_use]
    pub fn snapshot_bytes_per_s(&self) -> u64 {
        u64::from(self.snapshot_mbit_per_s) * BYTES_PER_MBIT
    }
}
