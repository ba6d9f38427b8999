//! Watches which nodes fail again and again; the leader commits who is held down.
//!
//! A leader that fails comes back as the leader and sees nothing of itself: what concerns the leader
//! is asked for by the others. Doing that twice is the same as once.
//!
//! Level-triggered: what could not be committed is found again at the next look.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use steadfast_model::{ClusterState, Command, NodeId};
use steadfast_ownership::{HoldDown, Time, Verdict};
use tracing::{debug, info, warn};

use crate::{clock, member::Member};

/// Between two looks: a node that stops says so for longer, so none of its stops is missed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What this node has seen, for the API too.
#[derive(Default)]
pub(crate) struct Watch(Mutex<HoldDown>);

impl Watch {
    fn lock(&self) -> MutexGuard<'_, HoldDown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long a node that is held down has to stay well, in milliseconds.
    pub(crate) fn left_ms(&self, state: &ClusterState, node: NodeId) -> Option<u64> {
        let left = self.lock().left(now(), &state.settings().hold_down, node)?;
        Some(left / 1_000)
    }

    /// Failures that count against a node.
    pub(crate) fn failures(&self, state: &ClusterState, node: NodeId) -> usize {
        self.lock().failures(now(), &state.settings().hold_down, node)
    }
}

/// Runs until the daemon ends.
pub(crate) async fn run(member: Arc<Member>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(status) = member.owner.status().await else { return };
        let state = member.state();
        let held: BTreeSet<NodeId> =
            state.nodes.values().filter(|n| n.held_down).map(|n| n.id).collect();
        let verdicts = {
            let mut watch = member.hold_down.lock();
            watch.handle_status(now(), &status, &held);
            watch.verdicts(now(), &state.settings().hold_down)
        };
        let leader = member.raft.leader().map(NodeId);
        for verdict in verdicts {
            if asks(member.id(), leader, subject(verdict)) {
                commit(&member, verdict).await;
            }
        }
    }
}

/// Whether it is this node that has a verdict committed.
fn asks(here: NodeId, leader: Option<NodeId>, subject: NodeId) -> bool {
    leader.is_some_and(|leader| leader == here || leader == subject)
}

fn subject(verdict: Verdict) -> NodeId {
    match verdict {
        Verdict::Hold(node) | Verdict::LetGo(node) => node,
    }
}

async fn commit(member: &Member, verdict: Verdict) {
    let (node, held) = (subject(verdict), matches!(verdict, Verdict::Hold(_)));
    match member.propose(Command::HoldDown { node, held }).await {
        Ok(_) if held => warn!(%node, "failed again and again: held down"),
        Ok(_) => info!(%node, "has been stable: held down no more"),
        Err(error) => debug!(%node, held, "not committed: {error}"),
    }
}

fn now() -> Time {
    Time(clock::now_ns() / 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_leader_speaks_for_all_but_itself() {
        let [one, two, three] = [1, 2, 3].map(NodeId);
        assert!(asks(one, Some(one), three));
        assert!(!asks(two, Some(one), three));
        assert!(asks(two, Some(one), one), "a leader does not see itself fail");
        assert!(!asks(one, None, three));
    }
}
