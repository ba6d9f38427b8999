//! The methods of the control API: who may call, then the part of the daemon that does it.

use std::{pin::Pin, sync::Arc};

use futures_util::Stream;
use steadfast_proto::v1::{
    AdmitReply, AdmitRequest, ApplyReply, ApplyRequest, CreateTokenReply, CreateTokenRequest,
    DetachReply, DetachRequest, GetConfigReply, GetConfigRequest, InitReply, InitRequest,
    JoinReply, JoinRequest, ListConnectionsReply, ListConnectionsRequest, MoveGroupReply,
    MoveGroupRequest, NodeCordonReply, NodeCordonRequest, NodeDemoteReply, NodeDemoteRequest,
    NodePromoteReply, NodePromoteRequest, NodeRemoveReply, NodeRemoveRequest, NodeReplaceReply,
    NodeReplaceRequest, PlanRebalanceReply, PlanRebalanceRequest, StatusReply, StatusRequest,
    TraceReply, TraceRequest, control_server::Control,
};
use tonic::{Request, Response, Status};

use super::{
    auth::{Caller, Method, authorise},
    config, connections, error, groups,
    membership::{self, Door},
    nodes, rebalance, replace, status, trace,
};
use crate::{daemon::Node, member::Member};

/// The service, on every listener.
#[derive(Clone)]
pub(crate) struct ControlService {
    node: Arc<Node>,
    door: Arc<Door>,
}

impl ControlService {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, door: Arc::new(Door::new()) }
    }

    fn admitted<T>(
        &self,
        method: Method,
        request: Request<T>,
    ) -> Result<(Arc<Member>, Caller, T), Status> {
        let caller = authorise(method, &request)?;
        let member = self.node.member().ok_or_else(error::not_a_member)?;
        Ok((member, caller, request.into_inner()))
    }
}

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Control for ControlService {
    async fn init(&self, request: Request<InitRequest>) -> Reply<InitReply> {
        authorise(Method::Init, &request)?;
        membership::init(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn join(&self, request: Request<JoinRequest>) -> Reply<JoinReply> {
        authorise(Method::Join, &request)?;
        membership::join(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Reply<CreateTokenReply> {
        let (member, _, request) = self.admitted(Method::CreateToken, request)?;
        membership::create_token(&member, request.ttl_ms).await.map(Response::new)
    }

    async fn admit(&self, request: Request<AdmitRequest>) -> Reply<AdmitReply> {
        let (member, _, request) = self.admitted(Method::Admit, request)?;
        membership::admit_by_token(&member, &self.door, request).await.map(Response::new)
    }

    async fn apply(&self, request: Request<ApplyRequest>) -> Reply<ApplyReply> {
        let (member, caller, request) = self.admitted(Method::Apply, request)?;
        config::apply(&member, &caller, request).await.map(Response::new)
    }

    async fn get_config(&self, request: Request<GetConfigRequest>) -> Reply<GetConfigReply> {
        let (member, _, request) = self.admitted(Method::GetConfig, request)?;
        config::get(&member, &request).map(Response::new)
    }

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusReply> {
        let (member, _, _) = self.admitted(Method::Status, request)?;
        status::status(&self.node, &member).await.map(Response::new)
    }

    async fn move_group(&self, request: Request<MoveGroupRequest>) -> Reply<MoveGroupReply> {
        let (member, _, request) = self.admitted(Method::MoveGroup, request)?;
        groups::move_group(&member, request).await.map(Response::new)
    }

    async fn plan_rebalance(
        &self,
        request: Request<PlanRebalanceRequest>,
    ) -> Reply<PlanRebalanceReply> {
        let (member, _, _) = self.admitted(Method::PlanRebalance, request)?;
        rebalance::plan_moves(&member).await.map(Response::new)
    }

    type ListConnectionsStream =
        Pin<Box<dyn Stream<Item = Result<ListConnectionsReply, Status>> + Send>>;

    async fn list_connections(
        &self,
        request: Request<ListConnectionsRequest>,
    ) -> Reply<Self::ListConnectionsStream> {
        let (member, _, request) = self.admitted(Method::ListConnections, request)?;
        let batches = connections::list(&member, &request)?;
        let stream = futures_util::stream::iter(batches.into_iter().map(Ok));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn trace(&self, request: Request<TraceRequest>) -> Reply<TraceReply> {
        let (member, _, request) = self.admitted(Method::Trace, request)?;
        trace::trace(&member, request).await.map(Response::new)
    }

    async fn node_remove(&self, request: Request<NodeRemoveRequest>) -> Reply<NodeRemoveReply> {
        let (member, _, request) = self.admitted(Method::NodeRemove, request)?;
        nodes::remove(&member, &request.node).await.map(Response::new)
    }

    async fn node_promote(&self, request: Request<NodePromoteRequest>) -> Reply<NodePromoteReply> {
        let (member, _, request) = self.admitted(Method::NodePromote, request)?;
        nodes::promote(&member, &request.node).await.map(Response::new)
    }

    async fn node_demote(&self, request: Request<NodeDemoteRequest>) -> Reply<NodeDemoteReply> {
        let (member, _, request) = self.admitted(Method::NodeDemote, request)?;
        replace::demote(&member, &request.node).await.map(Response::new)
    }

    async fn node_replace(&self, request: Request<NodeReplaceRequest>) -> Reply<NodeReplaceReply> {
        let (member, _, request) = self.admitted(Method::NodeReplace, request)?;
        replace::replace(&member, &request).await.map(Response::new)
    }

    async fn node_cordon(&self, request: Request<NodeCordonRequest>) -> Reply<NodeCordonReply> {
        let (member, _, request) = self.admitted(Method::NodeCordon, request)?;
        nodes::cordon(&member, &request).await.map(Response::new)
    }

    async fn detach(&self, request: Request<DetachRequest>) -> Reply<DetachReply> {
        authorise(Method::Detach, &request)?;
        nodes::detach(&self.node).map(Response::new)
    }
}
