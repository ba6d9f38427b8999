//! What `init` and `join` do on the node itself.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use rustix::rand::{GetRandomFlags, getrandom};
use steadfast_model::{Command, Initialise, NodeId, NodeSpec, Rejection, Response};
use steadfast_peer::pki::{self, Ca, Token};
use steadfast_proto::{
    NODE_TLS_NAME,
    v1::{AdmitReply, AdmitRequest, NodeAddresses, Reason, control_client::ControlClient},
};
use tonic::{
    Status,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};
use tracing::warn;

use crate::{
    api::error::{local_failure, refuse},
    daemon::Node,
    identity::{FirstPeer, Identity, Keys},
    listeners::Listeners,
    member::{Member, Started},
};

/// How a member comes to be running.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Start {
    /// The first node of a new cluster.
    New,
    /// Just admitted.
    Joined,
    /// It was one before.
    Again,
}

/// Each network step of a join may take so long.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a joined node waits for the log to reach it.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(15);

/// A random number from the kernel.
///
/// # Errors
/// When the kernel has none.
pub(crate) fn random_u64() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).context("no random numbers")?;
    Ok(u64::from_le_bytes(bytes))
}

/// Makes a cluster of this node. The caller publishes it, or abandons it.
///
/// # Errors
/// What could not be made; the node is then nobody still.
pub(crate) async fn init(
    node: &Arc<Node>,
    cluster_name: &str,
    node_name: &str,
) -> anyhow::Result<Started> {
    let listeners = Listeners::open(&node.local.listen).await?;
    let ca = Ca::generate(cluster_name)?;
    let id = NodeId(1);
    let request = pki::JoinRequest::generate()?;
    let cert = ca.issue_node(id, request.csr_pem())?;
    let keys = Keys { cert, key: request.key_pem().to_owned(), ca: ca.cert_pem().to_owned() };
    let identity = Identity {
        node: id,
        name: node_name.to_owned(),
        cluster_id: random_u64()?,
        cluster_name: cluster_name.to_owned(),
        first_peers: Vec::new(),
    };
    let mut beacon_key = vec![0; 32];
    getrandom(&mut beacon_key[..], GetRandomFlags::empty()).context("no random numbers")?;
    let listen = &node.local.listen;
    let initialise = Initialise {
        name: cluster_name.to_owned(),
        cluster: identity.cluster_id,
        ca_cert_pem: ca.cert_pem().to_owned(),
        ca_key_pem: ca.key_pem().to_owned(),
        beacon_key,
        node: NodeSpec {
            name: node_name.to_owned(),
            api: listen.api,
            control: listen.control,
            replication: listen.replication,
        },
    };
    node.data.prepare()?;
    let started = Member::start(node, identity, keys, Start::New, listeners).await?;
    match first_entry(&started.member, initialise).await {
        Ok(()) => Ok(started),
        Err(error) => {
            started.abandon().await;
            Err(error)
        }
    }
}

async fn first_entry(member: &Member, initialise: Initialise) -> anyhow::Result<()> {
    match member.propose(Command::Initialise(Box::new(initialise))).await? {
        Response::Admitted(given) if given == member.id() => {}
        Response::Rejected(Rejection::AlreadyInitialised) => {}
        other => anyhow::bail!("the first entry of the log was answered with {other:?}"),
    }
    member.save_identity()
}

/// Joins the cluster of the token. What can fail on this node is tried before the token is spent.
///
/// # Errors
/// A status that says which member was asked and what it said.
pub(crate) async fn join(node: &Arc<Node>, token: &Token) -> Result<Arc<Member>, Status> {
    let here = |e: anyhow::Error| local_failure(&e);
    let listeners = Listeners::open(&node.local.listen).await.map_err(here)?;
    let request = pki::JoinRequest::generate().map_err(|e| here(e.into()))?;
    node.data.prepare().and_then(|()| node.data.save_key(request.key_pem())).map_err(here)?;
    let (reply, asked) = match admission(node, token, &request).await {
        Ok(admitted) => admitted,
        Err(status) => {
            if let Err(error) = node.data.forget() {
                warn!("{error:#}");
            }
            return Err(status);
        }
    };
    let member = enter(node, &reply, &request, listeners).await.map_err(|error| {
        let why = format!("{asked} admitted this node as {}, but {error:#}", reply.node_id);
        let fix = format!(
            "once that is solved: `clusterctl node remove {}` there, and join with a new token",
            reply.node_id
        );
        refuse(Reason::LocalFailure, why, fix)
    })?;
    let caught_up = tokio::time::timeout(CATCH_UP_TIMEOUT, member.applied_own_admission()).await;
    if caught_up.is_err() {
        return Err(refuse(
            Reason::OutcomeUnknown,
            format!(
                "this node is member {} now, but the log has not reached it within {} s",
                member.id(),
                CATCH_UP_TIMEOUT.as_secs()
            ),
            "check that the members reach its control address (listen.control)",
        ));
    }
    Ok(member)
}

/// Starts as the node that was admitted; when that fails this node is nobody still.
async fn enter(
    node: &Arc<Node>,
    reply: &AdmitReply,
    request: &pki::JoinRequest,
    listeners: Listeners,
) -> anyhow::Result<Arc<Member>> {
    let peers = reply.members.iter().filter(|m| m.id != reply.node_id).map(|m| {
        let addresses = m.addresses.clone().unwrap_or_default();
        Ok(FirstPeer {
            node: NodeId(m.id),
            control: addresses.control.parse().context("control address of a member")?,
            replication: addresses.replication.parse().context("address of a member")?,
        })
    });
    let keys = Keys {
        cert: reply.cert_pem.clone(),
        key: request.key_pem().to_owned(),
        ca: reply.ca_pem.clone(),
    };
    let identity = Identity {
        node: NodeId(reply.node_id),
        name: node.local.instance.clone(),
        cluster_id: u64::from_str_radix(&reply.cluster_id, 16).context("cluster id")?,
        cluster_name: reply.cluster_name.clone(),
        first_peers: peers.collect::<anyhow::Result<_>>()?,
    };
    let started = Member::start(node, identity, keys, Start::Joined, listeners).await?;
    match started.member.save_identity() {
        Ok(()) => Ok(started.publish()),
        Err(error) => {
            started.abandon().await;
            Err(error)
        }
    }
}

/// Asks the members of the token one after the other.
async fn admission(
    node: &Arc<Node>,
    token: &Token,
    request: &pki::JoinRequest,
) -> Result<(AdmitReply, String), Status> {
    let mut failures = Vec::new();
    for address in &token.api {
        let (address, fingerprint) = (*address, token.ca);
        let fetched =
            tokio::task::spawn_blocking(move || pki::fetch_ca(address, fingerprint, STEP_TIMEOUT));
        let ca = match fetched.await {
            Ok(Ok(ca)) => ca,
            Ok(Err(error)) => {
                failures.push(error.to_string());
                continue;
            }
            Err(error) => {
                failures.push(format!("{address}: {error}"));
                continue;
            }
        };
        match ask(node, token, request, address, &ca).await {
            Ok(reply) => return Ok((reply, address.to_string())),
            // A member that answered has decided; asking another would not change it, except
            // where it could not decide at all.
            Err(status) if status.code() != tonic::Code::Unavailable => return Err(status),
            Err(status) => failures.push(format!("{address}: {}", status.message())),
        }
    }
    Err(refuse(
        Reason::NoQuorum,
        format!("no member of the token admitted this node: {}", failures.join("; ")),
        "check that the addresses are reachable, or make a new token on a live member",
    ))
}

async fn ask(
    node: &Arc<Node>,
    token: &Token,
    request: &pki::JoinRequest,
    address: std::net::SocketAddr,
    ca: &str,
) -> Result<AdmitReply, Status> {
    let unavailable = |e: tonic::transport::Error| Status::unavailable(format!("{e}"));
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name(NODE_TLS_NAME);
    let channel = Endpoint::from_shared(format!("https://{address}"))
        .map_err(unavailable)?
        .tls_config(tls)
        .map_err(unavailable)?
        .connect_timeout(STEP_TIMEOUT)
        .timeout(STEP_TIMEOUT)
        .connect()
        .await
        .map_err(unavailable)?;
    let listen = &node.local.listen;
    let admit = AdmitRequest {
        token_secret: format!("{:032x}", u128::from_be_bytes(token.secret)),
        csr_pem: request.csr_pem().to_owned(),
        node_name: node.local.instance.clone(),
        addresses: Some(NodeAddresses {
            api: listen.api.to_string(),
            control: listen.control.to_string(),
            replication: listen.replication.to_string(),
        }),
    };
    Ok(ControlClient::new(channel).admit(admit).await?.into_inner())
}
