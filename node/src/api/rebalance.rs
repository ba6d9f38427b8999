//! `PlanRebalance`.

use steadfast_model::{ClusterState, NodeId};
use steadfast_ownership::{
    Exclusion, Plan, PlannedMove, REBALANCE_MOVES_MAX, RebalanceInput, Why, plan,
};
use steadfast_proto::v1::{self, NodeLoad, PlanRebalanceReply};
use tonic::Status;

use super::{error::propose_failure, nodes::node_ref};
use crate::{member::Member, propose::ProposeError};

/// Which groups to move, as this node sees the cluster.
pub(crate) async fn plan_moves(member: &Member) -> Result<PlanRebalanceReply, Status> {
    let ended = || Status::internal("the ownership thread has ended; see the log");
    let view = member.owner.status().await.ok_or_else(ended)?;
    if !super::status::has_quorum(member, &view) {
        let why = "no majority of the voters answers, so no group could be moved".to_owned();
        return Err(propose_failure(&ProposeError::NoQuorum(why)));
    }
    let input = member.owner.placement().await.ok_or_else(ended)?;
    let plan = plan(&input, REBALANCE_MOVES_MAX);
    Ok(reply(&member.state(), &input, &plan))
}

fn reply(state: &ClusterState, input: &RebalanceInput, plan: &Plan) -> PlanRebalanceReply {
    let nodes = plan.loads.iter().map(|(node, (holds, will_hold))| NodeLoad {
        node: Some(node_ref(state, *node)),
        holds: count(*holds),
        will_hold: count(*will_hold),
        excluded: match input.nodes.get(node) {
            Some(why) => why.map(excluded).unwrap_or_default().to_owned(),
            None => "no member any more".to_owned(),
        },
    });
    PlanRebalanceReply {
        moves: plan.moves.iter().map(|planned| message(state, planned)).collect(),
        more: count(plan.more),
        nodes: nodes.collect(),
        notes: notes(state, input, plan),
    }
}

fn message(state: &ClusterState, planned: &PlannedMove) -> v1::PlannedMove {
    let from = node_ref(state, planned.from);
    let why = match planned.why {
        Why::Excluded(why) => format!("{} {}", from.name, is_excluded(why)),
        Why::Uneven { from_holds, to_holds } => {
            format!("{} holds {from_holds}, {} {to_holds}", from.name, name(state, planned.to))
        }
    };
    v1::PlannedMove {
        group_id: planned.group.0,
        group: state.groups.get(&planned.group).map(|g| g.spec.name.clone()).unwrap_or_default(),
        from: Some(from),
        to: Some(node_ref(state, planned.to)),
        why,
    }
}

fn notes(state: &ClusterState, input: &RebalanceInput, plan: &Plan) -> Vec<String> {
    let mut notes = Vec::new();
    if input.nodes.values().all(Option::is_some) {
        notes.push("no node takes groups now: `clusterctl get nodes` says why".to_owned());
    }
    let busy = input.groups.iter().filter(|placed| placed.busy).count();
    if busy > 0 {
        notes.push(format!("{busy} groups change hands now and stay out of this plan"));
    }
    if plan.stranded > 0 {
        let stranded = plan.stranded;
        notes.push(format!(
            "{stranded} groups should leave their holder, but no node could take them without loss: \
             `clusterctl get groups` shows the copies"
        ));
    }
    if let Some((from, to)) = plan.stuck {
        let (from, to) = (name(state, from), name(state, to));
        notes.push(format!(
            "{from} would still hold more than {to}: {to} has no complete copy, or not every segment, \
             of what is left there; `clusterctl get groups` shows the copies"
        ));
    }
    notes
}

fn name(state: &ClusterState, node: NodeId) -> String {
    let node = node_ref(state, node);
    if node.name.is_empty() { format!("node {}", node.id) } else { node.name }
}

fn excluded(why: Exclusion) -> &'static str {
    match why {
        Exclusion::Witness => "a witness",
        Exclusion::Cordoned => "cordoned",
        Exclusion::HeldDown => "held down",
        Exclusion::Silent => "silent",
        Exclusion::Leaving => "stopping",
    }
}

fn is_excluded(why: Exclusion) -> String {
    format!("is {}", excluded(why))
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
