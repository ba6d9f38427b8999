//! What the Raft role reports about itself.

use std::collections::{BTreeMap, BTreeSet};

/// Part a node plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receives the log, has no vote.
    Learner,
    /// Receives the log and votes.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads, as far as it knows.
    Leader,
    /// The role has ended.
    Stopped,
}

/// The members, as of the last membership entry in this node's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Nodes that vote. During a change, those of the old and of the new set.
    pub voters: BTreeSet<u32>,
    /// Nodes that receive the log and do not vote.
    pub learners: BTreeSet<u32>,
    /// What was recorded for each of them.
    pub infos: BTreeMap<u32, String>,
    /// A change of the voters has begun and is not finished. Calling it again finishes it.
    pub changing: bool,
}

impl Membership {
    /// Whether the node votes or learns.
    pub fn contains(&self, node: u32) -> bool {
        self.voters.contains(&node) || self.learners.contains(&node)
    }
}

/// Figures for status output and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// This node.
    pub node: u32,
    /// Its part.
    pub role: Role,
    /// Current term. No fencing token.
    pub term: u64,
    /// The vote: for which node in `term`, and whether it is known to have won.
    pub vote: (u32, bool),
    /// The leader, as far as this node knows.
    pub leader: Option<u32>,
    /// Position of the last entry in the log.
    pub last_log_index: Option<u64>,
    /// Position of the last applied entry.
    pub applied_index: Option<u64>,
    /// Position up to which a snapshot exists.
    pub snapshot_index: Option<u64>,
    /// Position up to which the log was purged.
    pub purged_index: Option<u64>,
    /// On the leader: milliseconds since a majority last answered.
    pub quorum_ack_age_ms: Option<u64>,
    /// On the leader: the last position each member is known to have.
    pub matched: BTreeMap<u32, Option<u64>>,
    /// A peer refused this node's request for a vote because its id was removed.
    pub told_removed: bool,
    /// Why the role has ended, if it has.
    pub fatal: Option<String>,
}
