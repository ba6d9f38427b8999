//! `Init`, `Join`, `CreateToken` and `Admit`: how a cluster begins and nodes come to it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use steadfast_model::{Command, NodeId, NodeSpec, Rejection, Response, TOKENS_MAX};
use steadfast_peer::pki::{Ca, Token, token_hash};
use steadfast_proto::v1::{
    AdminCredentials, AdmitReply, AdmitRequest, CreateTokenReply, InitReply, InitRequest,
    JoinReply, JoinRequest, Member as MemberMessage, NodeAddresses, NodeRole, Reason,
};
use tokio::sync::Semaphore;
use tonic::Status;

use super::{
    error::{local_failure, propose_failure, refuse, rejected},
    log_limit::LogLimit,
};
use crate::{clock, daemon::Node, join, member::Member};

/// A token is good for so long unless told otherwise.
const TOKEN_TTL: Duration = Duration::from_secs(3600);

/// The longest a token may be good for.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A token that was made on another node is applied here by then.
const TOKEN_LATE_MAX: Duration = Duration::from_millis(300);

/// So many callers with an unknown token may wait for that; further ones are refused at once.
const STRANGERS_MAX: usize = 8;

/// API addresses put into a token and into credentials.
const ENDPOINTS_MAX: usize = steadfast_peer::pki::JOIN_ADDRESSES_MAX;

/// Makes a cluster of this one node.
pub(crate) async fn init(node: &Arc<Node>, request: InitRequest) -> Result<InitReply, Status> {
    let _one_at_a_time = node.joining.lock().await;
    if node.member().is_some() {
        return Err(already_member());
    }
    let name = request.node_name.unwrap_or_else(|| node.local.instance.clone());
    let started =
        join::init(node, &request.cluster_name, &name).await.map_err(|e| local_failure(&e))?;
    // A cluster whose maker got no credentials would be nobody's.
    match first_reply(node, &started.member).await {
        Ok(reply) => {
            started.publish();
            Ok(reply)
        }
        Err(status) => {
            started.abandon().await;
            Err(status)
        }
    }
}

async fn first_reply(node: &Node, member: &Member) -> Result<InitReply, Status> {
    let token = create_token(member, None).await?;
    let state = member.state();
    let cluster = state.cluster.as_ref().ok_or_else(super::error::not_a_member)?;
    let ca = Ca::from_pem(&cluster.ca_cert_pem, &cluster.ca_key_pem)
        .map_err(|e| local_failure(&e.into()))?;
    let admin = ca
        .issue_user("admin", steadfast_peer::pki::Role::Admin)
        .map_err(|e| local_failure(&e.into()))?;
    Ok(InitReply {
        cluster_id: format!("{:016x}", cluster.id),
        node_id: member.id().0,
        join_token: token.token,
        join_token_expires_in_ms: token.expires_in_ms,
        admin: Some(AdminCredentials {
            ca_pem: cluster.ca_cert_pem.clone(),
            cert_pem: admin.cert_pem,
            key_pem: admin.key_pem,
            endpoints: vec![node.local.listen.api.to_string()],
        }),
        cluster_name: cluster.name.clone(),
    })
}

/// Makes this node a member of the cluster that the token names.
pub(crate) async fn join(node: &Arc<Node>, request: JoinRequest) -> Result<JoinReply, Status> {
    let _one_at_a_time = node.joining.lock().await;
    if node.member().is_some() {
        return Err(already_member());
    }
    let token: Token = request.token.parse().map_err(|e: steadfast_peer::pki::TokenError| {
        refuse(Reason::BadToken, e.to_string(), "make a new one with `clusterctl token create`")
    })?;
    let member = join::join(node, &token).await?;
    let voter = member.is_voter(member.id());
    Ok(JoinReply {
        node_id: member.id().0,
        cluster_id: format!("{:016x}", member.identity().cluster_id),
        cluster_name: member.identity().cluster_name.clone(),
        role: role(voter).into(),
    })
}

/// Makes a single-use token.
pub(crate) async fn create_token(
    member: &Member,
    ttl_ms: Option<u64>,
) -> Result<CreateTokenReply, Status> {
    let ttl = ttl_ms.map_or(TOKEN_TTL, Duration::from_millis);
    if ttl < Duration::from_secs(1) || ttl > TOKEN_TTL_MAX {
        return Err(refuse(
            Reason::InvalidArgument,
            format!("a token cannot be good for {} s", ttl.as_secs_f64()),
            "choose 1 s to 30 days",
        ));
    }
    let state = member.state();
    let cluster = state.cluster.as_ref().ok_or_else(super::error::not_a_member)?;
    if state.tokens.len() >= TOKENS_MAX {
        tracing::warn!("{TOKENS_MAX} tokens are unspent: the oldest becomes void");
    }
    let ca = Ca::from_pem(&cluster.ca_cert_pem, &cluster.ca_key_pem)
        .map_err(|e| local_failure(&e.into()))?;
    // This node first: it is the one that is known to answer.
    let own = member.id();
    let mut api: Vec<SocketAddr> = state.nodes.get(&own).map(|n| n.api).into_iter().collect();
    api.extend(state.nodes.values().filter(|n| n.id != own).map(|n| n.api));
    api.truncate(ENDPOINTS_MAX);
    let token = Token::generate(ca.fingerprint(), api).map_err(|e| local_failure(&e.into()))?;
    let text = token.encode().map_err(|e| local_failure(&e.into()))?;
    let command = Command::CreateToken {
        hash: token.hash(),
        expires_unix_s: clock::unix_s() + ttl.as_secs(),
    };
    match member.propose(command).await.map_err(|e| propose_failure(&e))? {
        Response::Rejected(rejection) => Err(rejected(&rejection, "")),
        _ => Ok(CreateTokenReply { token: text, expires_in_ms: ttl.as_millis() as u64 }),
    }
}

/// Refuses callers of `Admit`, which needs no certificate, without asking the cluster: what is
/// proposed costs every node a write to its disk. The log decides again, so that a token is good
/// for one node.
pub(crate) struct Door {
    waiting: Semaphore,
    refusals: LogLimit,
}

impl Door {
    pub(crate) fn new() -> Self {
        Self { waiting: Semaphore::new(STRANGERS_MAX), refusals: LogLimit::new() }
    }

    async fn check(&self, member: &Member, hash: &str) -> Result<(), Status> {
        let mut applied = member.raft.watch();
        let verdict = || member.state().check_admission(hash, clock::unix_s());
        applied.borrow_and_update();
        let mut now = verdict();
        if now == Err(Rejection::Token)
            && let Ok(_place) = self.waiting.try_acquire()
        {
            let late = async {
                while now.is_err() && applied.changed().await.is_ok() {
                    now = verdict();
                }
            };
            let _ = tokio::time::timeout(TOKEN_LATE_MAX, late).await;
        }
        now.map_err(|rejection| {
            self.refusals.pass(|more| {
                tracing::warn!(target: "audit", more, "a node was not admitted: {rejection}");
            });
            rejected(&rejection, "")
        })
    }
}

/// Admits a node that shows a valid token.
pub(crate) async fn admit_by_token(
    member: &Member,
    door: &Door,
    request: AdmitRequest,
) -> Result<AdmitReply, Status> {
    let bad_token =
        || refuse(Reason::BadToken, "the token's secret is malformed", "copy the token again");
    let secret = hex(&request.token_secret).ok_or_else(bad_token)?;
    let hash = token_hash(&secret);
    door.check(member, &hash).await?;
    let spec = node_spec(&request)?;
    let state = member.state();
    let cluster = state.cluster.as_ref().ok_or_else(super::error::not_a_member)?;
    let ca = Ca::from_pem(&cluster.ca_cert_pem, &cluster.ca_key_pem)
        .map_err(|e| local_failure(&e.into()))?;
    let bad_request = |e: steadfast_peer::pki::PkiError| {
        refuse(Reason::InvalidArgument, format!("the signing request: {e}"), "join again")
    };
    // With a request that cannot be signed the token would be spent for nothing.
    ca.issue_node(NodeId(u32::MAX), &request.csr_pem).map_err(bad_request)?;
    let command = Command::AdmitNode { token_hash: hash, now_unix_s: clock::unix_s(), node: spec };
    let id = match member.propose(command).await.map_err(|e| propose_failure(&e))? {
        Response::Admitted(id) => id,
        Response::Rejected(rejection) => return Err(rejected(&rejection, "")),
        other => return Err(Status::internal(format!("unexpected answer {other:?}"))),
    };
    let cert_pem = ca.issue_node(id, &request.csr_pem).map_err(bad_request)?;
    tracing::info!(target: "audit", node = %id, name = request.node_name, "admitted a node");
    let state = member.state();
    let members = state.nodes.values().map(|n| MemberMessage {
        id: n.id.0,
        name: n.name.clone(),
        addresses: Some(NodeAddresses {
            api: n.api.to_string(),
            control: n.control.to_string(),
            replication: n.replication.to_string(),
        }),
        voter: member.is_voter(n.id),
    });
    Ok(AdmitReply {
        node_id: id.0,
        cert_pem,
        ca_pem: cluster.ca_cert_pem.clone(),
        cluster_id: format!("{:016x}", cluster.id),
        cluster_name: cluster.name.clone(),
        members: members.collect(),
        generation: cluster.generation,
    })
}

/// The role a node has in the Raft cluster.
pub(crate) fn role(voter: bool) -> NodeRole {
    if voter { NodeRole::Voter } else { NodeRole::Learner }
}

fn node_spec(request: &AdmitRequest) -> Result<NodeSpec, Status> {
    let addresses = request.addresses.clone().unwrap_or_default();
    let parse = |what: &str, text: &str| -> Result<SocketAddr, Status> {
        text.parse().map_err(|_| {
            refuse(
                Reason::InvalidArgument,
                format!("the node's {what} address `{text}` is none"),
                "write ADDRESS:PORT in the local file of the joining node",
            )
        })
    };
    let name = request.node_name.clone();
    if name.is_empty() || name.len() > 63 {
        return Err(refuse(
            Reason::InvalidArgument,
            "a node needs a name of 1 to 63 characters",
            "set `instance` in the local file of the joining node",
        ));
    }
    Ok(NodeSpec {
        name,
        api: parse("API", &addresses.api)?,
        control: parse("control", &addresses.control)?,
        replication: parse("replication", &addresses.replication)?,
    })
}

/// The 16 bytes of a token's secret from 32 hexadecimal digits.
fn hex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}

fn already_member() -> Status {
    refuse(
        Reason::AlreadyMember,
        "this node belongs to a cluster already",
        "to move it, remove it there, stop clusterd, and empty its data folder",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_32_digits() {
        assert_eq!(hex("000102030405060708090a0b0c0d0e0f").unwrap()[15], 15);
        for bad in
            ["", "00", "000102030405060708090a0b0c0d0e0g", "+00102030405060708090a0b0c0d0e0f"]
        {
            assert_eq!(hex(bad), None, "{bad}");
        }
    }
}
