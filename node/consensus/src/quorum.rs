//! When a majority last answered this node as leader.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::raft_types::RaftMetrics;

/// Remembers the moment of the last answer, because openraft's figure is as old as its last
/// report, and a stuck leader reports nothing.
#[derive(Clone, Default)]
pub(crate) struct QuorumAck {
    at: Arc<Mutex<Option<Instant>>>,
}

impl QuorumAck {
    /// Follows openraft's reports until Raft ends.
    pub(crate) async fn follow(self, mut reports: watch::Receiver<RaftMetrics>) {
        loop {
            let age_ms = reports.borrow_and_update().millis_since_quorum_ack;
            self.set(age_ms.map(Duration::from_millis));
            if reports.changed().await.is_err() {
                self.set(None);
                return;
            }
        }
    }

    /// Time since a majority last answered. None if this node does not lead, or none ever did.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    fn set(&self, age: Option<Duration>) {
        let at = age.and_then(|age| Instant::now().checked_sub(age));
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }
}
