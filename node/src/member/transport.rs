//! What goes over the control connections besides beacons: Raft, questions to the leader, views.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use steadfast_consensus as raft;
use steadfast_model::{GroupId, NodeId};
use steadfast_peer::{CallError, Handler, Links};

use super::Member;
use crate::{
    api,
    health::Health,
    propose::{Answer, Ask, CALL_ASK, PROPOSE_WITHIN, ProposeError},
    replicated::Replicated,
};

/// Kind of call: a Raft message.
const CALL_RAFT: u8 = 1;
/// Kind of call: what the sender's health checks see.
pub(crate) const CALL_VIEW: u8 = 3;
/// Kind of call: plan a move, for the leader.
pub(crate) const CALL_MOVE: u8 = 4;

/// Kind of call: plan a move whatever the copy at the target is, for the leader.
pub(crate) const CALL_FORCED_MOVE: u8 = 6;
/// Kind of call: how good the peer's copy of a group is.
pub(crate) const CALL_COPY: u8 = 7;

/// Raft's messages over the control connection.
#[derive(Default)]
pub(crate) struct QuicTransport {
    links: ArcSwapOption<Links>,
}

impl QuicTransport {
    /// From now on there are connections.
    pub(crate) fn connect(&self, links: Links) {
        self.links.store(Some(Arc::new(links)));
    }

    /// Lets the connections go: their handler knows Raft and Raft knows them, so that neither
    /// would ever be dropped, nor the socket closed.
    pub(crate) fn disconnect(&self) {
        self.links.store(None);
    }
}

impl raft::Transport for QuicTransport {
    fn call(
        &self,
        target: u32,
        request: Vec<u8>,
        ttl: Duration,
    ) -> raft::BoxFuture<'_, Result<Vec<u8>, raft::TransportError>> {
        Box::pin(async move {
            let Some(links) = self.links.load_full() else {
                return Err(raft::TransportError::Unreachable("not started".to_owned()));
            };
            links.call(NodeId(target), CALL_RAFT, &request, ttl).await.map_err(|e| match e {
                CallError::NotConnected { .. } => raft::TransportError::Unreachable(e.to_string()),
                CallError::Timeout { .. } => raft::TransportError::Timeout,
                _ => raft::TransportError::Broken(e.to_string()),
            })
        })
    }
}

/// Kind of call: what the peer would do with a packet.
pub(crate) const CALL_TRACE: u8 = 5;

/// Answers the calls of peers.
pub(crate) struct Calls {
    raft: Arc<raft::Consensus<Replicated>>,
    health: Arc<Health>,
    member: OnceLock<Weak<Member>>,
}

impl Calls {
    pub(crate) fn new(raft: Arc<raft::Consensus<Replicated>>, health: Arc<Health>) -> Self {
        Self { raft, health, member: OnceLock::new() }
    }

    /// From now on questions to the leader can be answered.
    pub(crate) fn connect(&self, member: &Arc<Member>) {
        // Called once, at the end of the start.
        let _ = self.member.set(Arc::downgrade(member));
    }

    /// For the endpoint.
    pub(crate) fn handler(self: &Arc<Self>) -> Handler {
        let calls = Arc::clone(self);
        Arc::new(move |from, kind, bytes| {
            let calls = Arc::clone(&calls);
            Box::pin(async move { calls.answer(from, kind, bytes).await })
        })
    }

    async fn answer(&self, from: NodeId, kind: u8, bytes: Vec<u8>) -> Vec<u8> {
        let member = self.member.get().and_then(Weak::upgrade);
        match (kind, member) {
            (CALL_RAFT, _) => self.raft.handle_rpc(from.0, &bytes).await,
            (CALL_VIEW, _) => {
                self.health.handle_view(from, &bytes);
                Vec::new()
            }
            (CALL_ASK, Some(member)) => {
                let answer = match serde_json::from_slice::<Ask>(&bytes) {
                    Ok(ask) if member.raft.is_leader() => {
                        member.proposer.answer(ask, PROPOSE_WITHIN).await
                    }
                    Ok(_) => Answer::NotLeader,
                    Err(error) => Answer::Failed(ProposeError::Stopped(error.to_string())),
                };
                serde_json::to_vec(&answer).unwrap_or_default()
            }
            (CALL_MOVE, Some(member)) => {
                let answer = match serde_json::from_slice::<(GroupId, Option<NodeId>)>(&bytes) {
                    Ok((group, target)) => member.owner.plan_move(group, target, false).await,
                    Err(error) => Err(error.to_string()),
                };
                serde_json::to_vec(&answer).unwrap_or_default()
            }
            (CALL_FORCED_MOVE, Some(member)) => {
                let answer = match serde_json::from_slice::<(GroupId, NodeId)>(&bytes) {
                    Ok((group, target)) => member.owner.plan_move(group, Some(target), true).await,
                    Err(error) => Err(error.to_string()),
                };
                serde_json::to_vec(&answer).unwrap_or_default()
            }
            (CALL_COPY, Some(member)) => {
                let answer = match serde_json::from_slice::<GroupId>(&bytes) {
                    Ok(group) => api::copy::own(&member, group).await,
                    Err(_) => None,
                };
                serde_json::to_vec(&answer).unwrap_or_default()
            }
            (CALL_TRACE, Some(member)) => api::trace::answer(&member, &bytes).await,
            // An empty answer is none that any of the kinds above gives.
            _ => Vec::new(),
        }
    }
}
