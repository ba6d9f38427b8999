//! `NodeRemove`, `NodePromote`, `NodeCordon` and `Detach`.

use std::{collections::BTreeSet, time::Duration};

use steadfast_model::{ClusterState, Command, NodeId, Response};
use steadfast_ownership::Role;
use steadfast_proto::v1::{
    DetachReply, NodeCordonReply, NodeCordonRequest, NodePromoteReply, NodeRef, NodeRemoveReply,
    Reason,
};
use tonic::Status;

use super::error::{local_failure, propose_failure, refuse, rejected};
use crate::{
    daemon::Node,
    member::Member,
    plane::{DataPlane, Pins},
    propose::ProposeError,
};

/// Groups that are named when a node holds many.
const HELD_SHOWN: usize = 5;

/// A node by name or id.
pub(crate) fn find(state: &ClusterState, reference: &str) -> Result<NodeId, Status> {
    state.find_node(reference).map_err(|why| {
        let ambiguous = why.contains("are called");
        let reason = if ambiguous { Reason::AmbiguousName } else { Reason::NotFound };
        refuse(reason, why, "`clusterctl node list` shows them")
    })
}

/// A node for the API; one that is gone keeps its number.
pub(crate) fn node_ref(state: &ClusterState, id: NodeId) -> NodeRef {
    let name = state.nodes.get(&id).map(|n| n.name.clone()).unwrap_or_default();
    NodeRef { id: id.0, name }
}

/// Takes a node out of the cluster for good.
pub(crate) async fn remove(member: &Member, reference: &str) -> Result<NodeRemoveReply, Status> {
    let state = member.state();
    let id = find(&state, reference)?;
    holds_nothing(member, &state, id)?;
    judge_removal(member, &state, id).await?;
    let node = Some(node_ref(&state, id));
    take_out(member, id).await?;
    Ok(NodeRemoveReply { node })
}

/// Refuses while a node holds groups.
pub(super) fn holds_nothing(
    member: &Member,
    state: &ClusterState,
    id: NodeId,
) -> Result<(), Status> {
    let held: Vec<&str> = state
        .groups
        .values()
        .filter(|g| super::groups::role_of(member, g.id).is_some_and(|(holder, _)| holder == id))
        .map(|g| g.spec.name.as_str())
        .collect();
    if held.is_empty() {
        return Ok(());
    }
    let more = held.len().saturating_sub(HELD_SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown = held.iter().take(HELD_SHOWN).copied().collect::<Vec<_>>().join(", ");
    Err(refuse(
        Reason::NodeInUse,
        format!("node {id} holds {shown}{more}"),
        format!("move them away first: clusterctl node cordon {id}, then clusterctl vip rebalance"),
    ))
}

/// Removes a node, and waits until it follows the log no more.
pub(super) async fn take_out(member: &Member, id: NodeId) -> Result<(), Status> {
    match member.propose(Command::RemoveNode { node: id }).await {
        // Asked for twice, as when the leader fell silent, it is gone all the same.
        Ok(Response::Rejected(why)) if member.state().nodes.contains_key(&id) => {
            return Err(rejected(&why, ""));
        }
        Ok(_) => {}
        // A leader that removes itself is cut off by this very change, often before it can answer.
        Err(ProposeError::Unknown(_)) if is_gone(member, id).await => {}
        Err(error) => return Err(propose_failure(&error)),
    }
    // The leader takes it out of the Raft members next; wait so that what follows, such as a
    // promotion, counts without it.
    let out = holds_soon(OUT_WITHIN, || !member.raft.membership().contains(id.0));
    if !out.await {
        tracing::warn!(%id, "removed, but still among the Raft members");
    }
    Ok(())
}

/// A removed node leaves the Raft members within so long, an election included.
const OUT_WITHIN: Duration = Duration::from_secs(5);

/// What one node has committed is known to another within so long.
const KNOWN_WITHIN: Duration = Duration::from_secs(1);

/// Whether this node learns in time that another was removed.
async fn is_gone(member: &Member, id: NodeId) -> bool {
    holds_soon(KNOWN_WITHIN, || !member.state().nodes.contains_key(&id)).await
}

/// Whether something becomes true in time.
async fn holds_soon(within: Duration, is_so: impl Fn() -> bool) -> bool {
    let holds = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(within, holds).await.is_ok()
}

/// Whether the cluster can do without a node.
async fn judge_removal(member: &Member, state: &ClusterState, id: NodeId) -> Result<(), Status> {
    let name = node_ref(state, id).name;
    if state.nodes.len() == 1 {
        return Err(refuse(
            Reason::NodeInUse,
            format!("{name} is the last node of the cluster"),
            "to end the cluster, stop clusterd there and empty its data_dir",
        ));
    }
    let Some(view) = member.owner.status().await else { return Ok(()) };
    if !super::status::has_quorum(member, &view) {
        // Nothing can be committed, and that is what the caller is told.
        return Ok(());
    }
    let silent: BTreeSet<u32> = view.peers.iter().filter(|p| p.silent).map(|p| p.node.0).collect();
    judge_left(&name, &Left::without(id.0, &member.raft.membership().voters, &silent))
}

/// Whether the voters that are left decide.
pub(super) fn judge_left(name: &str, left: &Left) -> Result<(), Status> {
    if left.voters == 0 {
        return Err(refuse(
            Reason::NodeInUse,
            format!("{name} is the only voter: without it nothing can be decided any more"),
            "make another node a voter first: clusterctl node promote NODE",
        ));
    }
    if !left.decides() {
        return Err(refuse(
            Reason::NodeInUse,
            format!(
                "without {name} only {} of {} voters are heard: nothing could be decided any more",
                left.heard, left.voters
            ),
            "bring the silent voters back first, or remove those",
        ));
    }
    Ok(())
}

/// The voters that are left after a removal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Left {
    voters: usize,
    heard: usize,
}

impl Left {
    pub(super) fn without(node: u32, voters: &BTreeSet<u32>, silent: &BTreeSet<u32>) -> Self {
        let left = || voters.iter().filter(|voter| **voter != node);
        let heard = left().filter(|voter| !silent.contains(voter)).count();
        Self { voters: left().count(), heard }
    }

    fn decides(self) -> bool {
        self.heard * 2 > self.voters
    }
}

/// Makes a learner a voter.
pub(crate) async fn promote(member: &Member, reference: &str) -> Result<NodePromoteReply, Status> {
    let state = member.state();
    let id = find(&state, reference)?;
    let node = Some(node_ref(&state, id));
    if member.is_voter(id) {
        return Ok(NodePromoteReply { node, changed: false });
    }
    member.proposer.promote(vec![id]).await.map_err(|e| propose_failure(&e))?;
    Ok(NodePromoteReply { node, changed: true })
}

/// Cordons a node or ends that.
pub(crate) async fn cordon(
    member: &Member,
    request: &NodeCordonRequest,
) -> Result<NodeCordonReply, Status> {
    let state = member.state();
    let id = find(&state, &request.node)?;
    let was = state.nodes.get(&id).is_some_and(|n| n.cordoned);
    let held_down = state.nodes.get(&id).is_some_and(|n| n.held_down);
    let cordoned = request.cordon;
    match member.propose(Command::Cordon { node: id, cordoned }).await {
        Ok(Response::Rejected(why)) => Err(rejected(&why, "")),
        Ok(_) => {
            let node = Some(node_ref(&state, id));
            let let_go = held_down && !cordoned;
            Ok(NodeCordonReply { node, cordoned, changed: was != cordoned, let_go })
        }
        Err(error) => Err(propose_failure(&error)),
    }
}

/// Takes the steering programs off this node's interfaces.
pub(crate) fn detach(node: &Node) -> Result<DetachReply, Status> {
    let member = node.member();
    let holds =
        member.as_ref().is_some_and(|m| m.roles.all().values().any(|now| now.role == Role::Holder));
    if holds {
        return Err(refuse(
            Reason::NodeInUse,
            "this node holds groups: without the steering program nobody would serve them",
            "move them away first: clusterctl vip move GROUP --to NODE",
        ));
    }
    let pins = Pins { bpffs: node.local.bpffs.clone(), instance: node.local.instance.clone() };
    let taken_off = match &member {
        // Waits for an interface that is just being attached.
        Some(member) => tokio::task::block_in_place(|| member.plane.take_off()),
        None => DataPlane::detach(&pins),
    };
    let pinned = taken_off.map_err(|e| local_failure(&e))?;
    let node = member.map(|m| node_ref(&m.state(), m.id()));
    Ok(DetachReply { node, interfaces: pinned })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removal_leaves_a_majority_that_is_heard() {
        // Who is removed, the voters, who of them is silent, whether the rest decides.
        let cases: [(u32, &[u32], &[u32], bool); 8] = [
            (3, &[1, 2, 3], &[], true),
            (3, &[1, 2, 3], &[3], true),
            (2, &[1, 2, 3], &[3], false),
            (2, &[1, 2], &[2], true),
            (1, &[1], &[], false),
            (4, &[1, 2, 3], &[3], true),
            (5, &[1, 2, 3, 4, 5], &[4], true),
            (3, &[1, 2, 3, 4, 5], &[4, 5], false),
        ];
        for (node, voters, silent, decides) in cases {
            let set = |ids: &[u32]| ids.iter().copied().collect();
            let left = Left::without(node, &set(voters), &set(silent));
            assert_eq!(left.decides(), decides, "{node} of {voters:?} without {silent:?}");
        }
    }
}
