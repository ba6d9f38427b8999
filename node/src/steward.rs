//! What the leader keeps in order: the Raft members follow the cluster's nodes.
//!
//! Level-triggered: whatever was interrupted is found again at the next look.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tracing::{debug, info, warn};

use crate::member::Member;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One change of the membership may take so long.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);

/// A young cluster makes its nodes voters by itself up to this number; later ones are promoted by
/// an operator.
const FIRST_VOTERS: usize = 3;

/// Runs until the daemon ends.
pub(crate) async fn run(member: Arc<Member>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if member.raft.is_leader() {
            look(&member).await;
        }
    }
}

async fn look(member: &Member) {
    let state = member.raft.state();
    let nodes: BTreeSet<u32> = state.0.nodes.keys().map(|n| n.0).collect();
    let raft = member.raft.membership();
    if raft.changing || nodes.is_empty() {
        return;
    }
    let known: BTreeSet<u32> = raft.voters.union(&raft.learners).copied().collect();
    for id in nodes.difference(&known) {
        let name = state.0.nodes.get(&steadfast_model::NodeId(*id)).map_or("", |n| &n.name);
        match member.raft.add_learner(*id, name, CHANGE_WITHIN).await {
            Ok(()) => info!(id, name, "follows the log now"),
            Err(error) => debug!(id, "not added: {error}"),
        }
    }
    for id in known.difference(&nodes) {
        match member.raft.remove(*id, CHANGE_WITHIN).await {
            Ok(()) => info!(id, "no longer follows the log"),
            Err(error) => warn!(id, "not removed: {error}"),
        }
    }
    // One voter and two learners become three voters, in one step: two voters would be worse
    // than one.
    if raft.voters.len() == 1 && nodes.len() >= FIRST_VOTERS && nodes.is_superset(&known) {
        let learners: Vec<u32> =
            raft.learners.intersection(&nodes).take(FIRST_VOTERS - 1).copied().collect();
        if learners.len() == FIRST_VOTERS - 1 {
            match member.raft.promote(&learners, CHANGE_WITHIN).await {
                Ok(()) => info!(?learners, "vote now"),
                Err(error) => debug!(?learners, "do not vote yet: {error}"),
            }
        }
    }
}
