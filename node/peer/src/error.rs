//! What can go wrong, and what to do about it.

use std::{io, net::SocketAddr, time::Duration};

use steadfast_model::NodeId;

use crate::{
    limits,
    pki::PkiError,
    slots::{CLOSE_NOT_A_MEMBER, CLOSE_REFUSED},
};

/// An endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The identity is not a node's.
    #[error(
        "the certificate of this machine is {found}, not a node's: run `clusterctl join` again"
    )]
    NotANode {
        /// What the certificate says.
        found: String,
    },
    /// The identity cannot be used.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// TLS refuses the certificate or the key.
    #[error("TLS refuses this node's certificate or key: {0}")]
    Tls(#[from] rustls::Error),
    /// The socket.
    #[error("cannot listen on UDP {addr} for {purpose}{}", hint(.source))]
    Socket {
        /// The address asked for.
        addr: SocketAddr,
        /// Name of the endpoint.
        purpose: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Called outside a tokio runtime.
    #[error("an endpoint must be opened inside a tokio runtime")]
    NoRuntime,
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => "; another process has this port (`ss -lunp` names it)",
        io::ErrorKind::AddrNotAvailable => "; no interface has this address (`ip address`)",
        _ => "",
    }
}

/// A call did not bring an answer. It may still have been executed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallError {
    /// No connection at the moment.
    #[error("node {peer} is not connected{}", because(.last))]
    NotConnected {
        /// The node asked for.
        peer: NodeId,
        /// Why the last attempt failed.
        last: Option<String>,
    },
    /// No answer in time.
    #[error("node {peer} did not answer within {timeout:?}")]
    Timeout {
        /// The node asked.
        peer: NodeId,
        /// The time it was given.
        timeout: Duration,
    },
    /// The request is too long to be sent.
    #[error("a request of {bytes} bytes is above the bound of {}", limits::REQUEST_BYTES_MAX)]
    RequestTooLong {
        /// Its length.
        bytes: usize,
    },
    /// The answer is longer than allowed.
    #[error("the answer of node {peer} is above the bound of {} bytes", limits::RESPONSE_BYTES_MAX)]
    ResponseTooLong {
        /// The node asked.
        peer: NodeId,
    },
    /// The peer gave this request up.
    #[error("node {peer} refused the request: {why}")]
    Refused {
        /// The node asked.
        peer: NodeId,
        /// Its reason.
        why: String,
    },
    /// The connection went while waiting.
    #[error("lost the connection to node {peer}: {why}")]
    Lost {
        /// The node asked.
        peer: NodeId,
        /// What the transport says.
        why: String,
    },
}

fn because(last: &Option<String>) -> String {
    last.as_ref().map(|last| format!(" ({last})")).unwrap_or_default()
}

/// A datagram was not sent.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DatagramError {
    /// No connection at the moment.
    #[error("node {peer} is not connected")]
    NotConnected {
        /// The node asked for.
        peer: NodeId,
    },
    /// It does not fit in one packet on this path.
    #[error("a datagram of {bytes} bytes does not fit: the path to node {peer} takes {max}")]
    TooLarge {
        /// The node asked for.
        peer: NodeId,
        /// Its length.
        bytes: usize,
        /// What fits now.
        max: usize,
    },
    /// This endpoint's purpose has no datagrams.
    #[error("datagrams are only sent over the control endpoint")]
    Unsupported,
}

/// An ordered stream failed. It is of no use afterwards; open another.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StreamError {
    /// No connection at the moment.
    #[error("node {peer} is not connected")]
    NotConnected {
        /// The node asked for.
        peer: NodeId,
    },
    /// A frame above the bound, ours or the peer's.
    #[error("a frame of {bytes} bytes is above the bound of {max}")]
    FrameTooLong {
        /// Its length, as announced.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// The stream ended inside a frame.
    #[error("the stream of node {peer} ended inside a frame ({have} of {want} bytes)")]
    Truncated {
        /// The node at the other end.
        peer: NodeId,
        /// Bytes received of it.
        have: usize,
        /// Bytes announced.
        want: usize,
    },
    /// The peer or the connection ended it.
    #[error("the stream of node {peer} broke: {why}")]
    Broken {
        /// The node at the other end.
        peer: NodeId,
        /// What the transport says.
        why: String,
    },
}

/// Why a connection is not admitted although its certificate is good. The text goes to both sides.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The certificate names nobody we understand.
    #[error("the certificate is of no use here: {0}")]
    Identity(String),
    /// A person's certificate.
    #[error("{0} may use the API, not the connections between nodes")]
    NotANode(String),
    /// Another cluster, though signed by the same authority.
    #[error("node {node} belongs to cluster `{theirs}`, this is `{ours}`")]
    OtherCluster {
        /// The node.
        node: NodeId,
        /// Its cluster.
        theirs: String,
        /// This cluster.
        ours: String,
    },
    /// Not, not yet or no longer a member.
    #[error("node {node} is not a member of cluster `{cluster}` (removed, or not yet joined)")]
    NotAMember {
        /// The node.
        node: NodeId,
        /// This cluster.
        cluster: String,
    },
    /// Another node than the one that was dialed.
    #[error("dialed node {dialed}, node {found} answered: compare the addresses of both")]
    OtherNode {
        /// The node meant.
        dialed: NodeId,
        /// The node that answered.
        found: NodeId,
    },
    /// A node that uses our id: a copied data folder.
    #[error("node {0} has the same id as this node: two machines share one identity")]
    Ourselves(NodeId),
    /// Another version of these messages.
    #[error("speaks version {theirs} of the peer protocol, this node speaks {ours}")]
    Version {
        /// Theirs.
        theirs: u8,
        /// Ours.
        ours: u8,
    },
    /// Something else than a hello.
    #[error("sent no valid hello")]
    Hello,
}

impl Refusal {
    /// What the connection is closed with. A node that was removed must be able to tell that from
    /// every other refusal.
    pub(crate) fn close_code(&self) -> quinn::VarInt {
        match self {
            Self::NotAMember { .. } => CLOSE_NOT_A_MEMBER,
            _ => CLOSE_REFUSED,
        }
    }
}
