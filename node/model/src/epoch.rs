//! The fencing token of a VIP group.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::NodeId;

/// Who may announce a VIP group, in an order every node agrees on.
///
/// Compared field by field in declaration order. A committed grant carries the log index of its
/// entry and claim 0; a claim by consent keeps the index of the grant it builds on and adds one to
/// `claim`. Raft's term is no part of it: several leaders may exist within one term.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
pub struct Epoch {
    /// Raised when a cluster is restored from a backup.
    pub generation: u32,
    /// Raft log index of the grant; 0 before the first grant.
    pub grant_index: u64,
    /// Claims made on top of that grant.
    pub claim: u32,
    /// The node that holds under this epoch.
    pub node: NodeId,
}

impl fmt::Display for Epoch {
    /// `generation.grant.claim@node`, as `clusterctl status` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, grant_index, claim, node } = self;
        write!(f, "{generation}.{grant_index}.{claim}@{node}")
    }
}
