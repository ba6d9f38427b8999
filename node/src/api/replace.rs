//! `NodeDemote` and `NodeReplace`.

use std::collections::BTreeSet;

use steadfast_model::{ClusterState, NodeId};
use steadfast_proto::v1::{NodeDemoteReply, NodeReplaceReply, NodeReplaceRequest, Reason};
use tonic::Status;

use super::{
    error::{propose_failure, refuse},
    nodes::{Left, find, holds_nothing, judge_left, node_ref, take_out},
};
use crate::member::Member;

/// Takes a voter's vote.
pub(crate) async fn demote(member: &Member, reference: &str) -> Result<NodeDemoteReply, Status> {
    let state = member.state();
    let id = find(&state, reference)?;
    let node = Some(node_ref(&state, id));
    if !member.is_voter(id) {
        return Ok(NodeDemoteReply { node, changed: false });
    }
    let left = Left::without(id.0, &member.raft.membership().voters, &silent(member).await);
    judge_left(&node_ref(&state, id).name, &left)?;
    let exchanged = member.proposer.exchange(Vec::new(), vec![id]).await;
    exchanged.map_err(|e| propose_failure(&e))?;
    Ok(NodeDemoteReply { node, changed: true })
}

/// Puts a member in the place of another, and removes that one.
pub(crate) async fn replace(
    member: &Member,
    request: &NodeReplaceRequest,
) -> Result<NodeReplaceReply, Status> {
    let state = member.state();
    let old = find(&state, &request.old_node)?;
    let new = find(&state, &request.new_node)?;
    let silent = silent(member).await;
    judge_successor(&state, old, new, &silent)?;
    holds_nothing(member, &state, old)?;
    let voters = member.raft.membership().voters;
    if voters.contains(&old.0) {
        let mut after = voters;
        after.insert(new.0);
        judge_left(&node_ref(&state, old).name, &Left::without(old.0, &after, &silent))?;
        let exchanged = member.proposer.exchange(vec![new], vec![old]).await;
        exchanged.map_err(|e| propose_failure(&e))?;
    }
    take_out(member, old).await?;
    Ok(NodeReplaceReply {
        old_node: Some(node_ref(&state, old)),
        new_node: Some(node_ref(&state, new)),
        voter: member.is_voter(new),
    })
}

/// Whether a member can take the place of another.
fn judge_successor(
    state: &ClusterState,
    old: NodeId,
    new: NodeId,
    silent: &BTreeSet<u32>,
) -> Result<(), Status> {
    let (old_name, node) = (node_ref(state, old).name, node_ref(state, new));
    if old == new {
        return Err(refuse(
            Reason::InvalidArgument,
            format!("{old_name} cannot take its own place"),
            "a machine that was made anew joins first and gets a new id: clusterctl token create, \
             then clusterctl join TOKEN there",
        ));
    }
    if silent.contains(&new.0) {
        return Err(refuse(
            Reason::NotReady,
            format!("{} (id {}) is not heard", node.name, node.id),
            "is its clusterd running, and its network up? `clusterctl get nodes` shows it",
        ));
    }
    if state.nodes.get(&new).is_some_and(|n| n.cordoned) {
        return Err(refuse(
            Reason::NotReady,
            format!("{} (id {}) is cordoned, so it could take no group", node.name, node.id),
            format!("end that first: clusterctl node uncordon {}", node.id),
        ));
    }
    Ok(())
}

/// Nodes that this one does not hear.
async fn silent(member: &Member) -> BTreeSet<u32> {
    let view = member.owner.status().await;
    let peers = view.map(|view| view.peers).unwrap_or_default();
    peers.iter().filter(|peer| peer.silent).map(|peer| peer.node.0).collect()
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use steadfast_model::Node;

    use super::*;

    fn state() -> ClusterState {
        let at = SocketAddr::from(([198, 18, 2, 1], 7));
        let node = |id: u32| Node {
            id: NodeId(id),
            name: format!("n{id}"),
            api: at,
            control: at,
            replication: at,
            cordoned: id == 4,
            held_down: false,
        };
        let mut state = ClusterState::default();
        state.nodes = (1..=5).map(|id| (NodeId(id), node(id))).collect();
        state
    }

    #[test]
    fn a_successor_is_another_node_that_is_heard_and_takes_groups() {
        let silent = BTreeSet::from([2, 5]);
        let refusal = |old, new| {
            let judged = judge_successor(&state(), NodeId(old), NodeId(new), &silent);
            judged.err().map(|status| status.message().to_owned())
        };
        assert_eq!(refusal(2, 3), None, "the old one may be dead");
        assert!(refusal(2, 2).unwrap().contains("its own place"));
        assert!(refusal(2, 4).unwrap().contains("cordoned"));
        assert!(refusal(2, 5).unwrap().contains("not heard"));
    }
}
