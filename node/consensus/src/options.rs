//! What a node needs to know to take part.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::OpenError;

/// Heartbeats per election timeout, at least. etcd refuses less: one lost packet is no election.
const HEARTBEATS_PER_ELECTION_MIN: u32 = 5;

/// Who this node is. Written into a new store, compared with an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Random number of the cluster.
    pub cluster: u64,
    /// Id of this node. Ids come from a replicated counter and are never used twice.
    pub node: u32,
}

/// What to do when the data folder has no store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnMissing {
    /// Create it. Only for a node that has just been given a *new* id.
    Create,
    /// Refuse. For every other start: an identity without its log must not take part.
    Refuse,
}

/// How to open a node's Raft role.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folder of the store. Created if missing and `on_missing` allows it.
    pub dir: PathBuf,
    /// Who this node is.
    pub identity: Identity,
    /// What to do when the folder has no store.
    pub on_missing: OnMissing,
    /// Heartbeats and elections. The same on all nodes.
    pub timing: Timing,
    /// When the log is compacted.
    pub snapshots: SnapshotPolicy,
}

impl Options {
    /// Options with the default timing and snapshot policy.
    pub fn new(dir: impl Into<PathBuf>, identity: Identity, on_missing: OnMissing) -> Self {
        Self {
            dir: dir.into(),
            identity,
            on_missing,
            timing: Timing::default(),
            snapshots: SnapshotPolicy::default(),
        }
    }
}

/// Heartbeats and elections.
///
/// Followers refuse to vote for `election_max` after the last heartbeat, and campaign after
/// another random time between `election_min` and `election_max`. So a lost leader is replaced
/// after 0.9 to 1.2 s with the defaults (50, 300, 600 ms), and about 80 ms more for what the
/// disks cost. Shorter times replace it sooner and mistake a slow disk or a busy machine for a
/// dead leader more often. Nothing that forwards packets waits for an election.
///
/// `heartbeat` is also the deadline of one replication RPC (openraft's rule): a follower's two
/// disk flushes and one round trip must fit in three quarters of it, else entries are sent twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Interval of the leader's heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout, and how long a leader is believed after its last heartbeat.
    pub election_max: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(600),
        }
    }
}

impl Timing {
    /// Refuses times that make elections out of ordinary delays.
    pub fn validate(&self) -> Result<(), OpenError> {
        let invalid = |reason: String| Err(OpenError::Timing { reason });
        if self.heartbeat < Duration::from_millis(1) {
            return invalid(format!("heartbeat {:?} is below 1 ms", self.heartbeat));
        }
        if self.election_min < self.heartbeat * HEARTBEATS_PER_ELECTION_MIN {
            return invalid(format!(
                "election_min {:?} is below {HEARTBEATS_PER_ELECTION_MIN} heartbeats of {:?}",
                self.election_min, self.heartbeat
            ));
        }
        if self.election_max <= self.election_min {
            return invalid(format!(
                "election_max {:?} is not above election_min {:?}",
                self.election_max, self.election_min
            ));
        }
        Ok(())
    }
}

/// When the log is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotPolicy {
    /// A snapshot is taken after this many committed entries.
    pub every: u64,
    /// Entries kept although a snapshot contains them, for followers that are a little behind.
    pub keep: u64,
}

impl Default for SnapshotPolicy {
    fn default() -> Self {
        Self { every: 1000, keep: 200 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_that_confuses_delay_with_death_is_refused() {
        let ms = Duration::from_millis;
        let timing = |heartbeat, min, max| Timing {
            heartbeat: ms(heartbeat),
            election_min: ms(min),
            election_max: ms(max),
        };
        let cases = [
            (timing(50, 300, 600), true),
            (timing(50, 250, 251), true),
            (timing(50, 249, 600), false),
            (timing(50, 300, 300), false),
            (timing(0, 300, 600), false),
        ];
        for (timing, valid) in cases {
            assert_eq!(timing.validate().is_ok(), valid, "{timing:?}");
        }
        assert!(Timing::default().validate().is_ok());
    }
}
