//! `MoveGroup`.

use std::time::Duration;

use steadfast_model::{Epoch, NodeId};
use steadfast_ownership::Role;
use steadfast_proto::v1::{self, MoveGroupReply, MoveGroupRequest, Reason};
use tokio::time::{Instant, sleep};
use tonic::Status;

use super::{
    copy,
    error::{propose_failure, refuse},
    nodes::{find, node_ref},
};
use crate::{
    member::Member,
    propose::{PROPOSE_WITHIN, ProposeError},
};

const WAIT_DEFAULT: Duration = Duration::from_secs(5);
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Moves a group as planned.
pub(crate) async fn move_group(
    member: &Member,
    request: MoveGroupRequest,
) -> Result<MoveGroupReply, Status> {
    let state = member.state();
    let group = state
        .find_group(&request.group)
        .or_else(|| state.groups.values().find(|g| g.id.0.to_string() == request.group))
        .ok_or_else(|| {
            let known: Vec<&str> = state.groups.values().map(|g| g.spec.name.as_str()).collect();
            refuse(
                Reason::NotFound,
                format!("there is no group `{}`", request.group),
                format!("known: {}", known.join(", ")),
            )
        })?
        .clone();
    let target = find(&state, &request.to_node)?;
    let before = role_of(member, group.id);
    if before.is_some_and(|(holder, _)| holder == target) {
        let epoch = before.map(|(_, epoch)| epoch).unwrap_or_default();
        let holder = Some(node_ref(&state, target));
        return Ok(MoveGroupReply { epoch: Some(epoch_message(epoch)), holder, moved: false });
    }
    let wait = request.wait_ms.map_or(WAIT_DEFAULT, Duration::from_millis).min(WAIT_MAX);
    let deadline = Instant::now() + wait;
    let mut undecided_since = None;
    loop {
        match member.ask_move(group.id, Some(target), request.force).await {
            Ok(_) => break,
            // An earlier move there is under way: this one waits for it.
            Err(_) if is_granted(member, group.id, target) => break,
            // Whatever else it says, this comes first: a leader alone sees no complete copy.
            Err(_) if !decides(member).await => {
                let since = *undecided_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= PROPOSE_WITHIN || Instant::now() >= deadline {
                    let why = format!("group `{}` was not moved", group.spec.name);
                    return Err(propose_failure(&ProposeError::NoQuorum(why)));
                }
                sleep(LOOK_EVERY * 5).await;
            }
            // The copy may be a moment behind, or a leader may be about to be elected.
            Err(_) if Instant::now() < deadline => sleep(LOOK_EVERY * 5).await,
            Err(why) => {
                let copy = copy::of(member, target, group.id).await;
                let poor = copy.and_then(|copy| copy.trouble(&state));
                let (why, help) = match poor {
                    Some(poor) => (poor, copy::HELP),
                    None => (why, "`clusterctl status` shows leader, holder and copies"),
                };
                let what =
                    format!("group `{}` cannot move to {}", group.spec.name, request.to_node);
                return Err(refuse(Reason::MoveRefused, format!("{what}: {why}"), help));
            }
        }
    }
    loop {
        let state = member.state();
        let granted = state.groups.get(&group.id).and_then(|g| g.grant.as_ref());
        let held = role_of(member, group.id);
        if let (Some(grant), Some((holder, epoch))) = (granted, held)
            && holder == target
            && epoch >= grant.epoch
            && grant.epoch.node == target
        {
            let holder = Some(node_ref(&state, target));
            return Ok(MoveGroupReply { epoch: Some(epoch_message(epoch)), holder, moved: true });
        }
        if Instant::now() >= deadline {
            return Err(refuse(
                Reason::OutcomeUnknown,
                format!("the move was begun, but {} does not hold it yet", request.to_node),
                "look with `clusterctl status`",
            ));
        }
        sleep(LOOK_EVERY).await;
    }
}

fn is_granted(member: &Member, group: steadfast_model::GroupId, target: NodeId) -> bool {
    let state = member.state();
    let grant = state.groups.get(&group).and_then(|group| group.grant.as_ref());
    grant.is_some_and(|grant| grant.epoch.node == target)
}

async fn decides(member: &Member) -> bool {
    let view = member.owner.status().await;
    view.is_some_and(|view| super::status::has_quorum(member, &view))
}

/// Who holds a group as this node knows, and under which epoch.
pub(crate) fn role_of(member: &Member, group: steadfast_model::GroupId) -> Option<(NodeId, Epoch)> {
    let now = *member.roles.all().get(&group)?;
    match now.role {
        Role::Holder => Some((member.id(), now.epoch)),
        Role::Other { node } => Some((node, now.epoch)),
        Role::NoHolder => None,
    }
}

/// An epoch for the API.
pub(crate) fn epoch_message(epoch: Epoch) -> v1::Epoch {
    v1::Epoch {
        generation: epoch.generation,
        grant_index: epoch.grant_index,
        claim: epoch.claim,
        node: epoch.node.0,
        text: epoch.to_string(),
    }
}
