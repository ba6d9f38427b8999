//! Node-to-node QUIC with mutual TLS, and the cluster's certificates.
//!
//! Guarantees: nobody is heard who does not hold a certificate of this cluster's CA *and* is a
//! current member; a node that is dialed is the node that answers; every message, queue, stream
//! and handshake has a bound, and they all stand in [`limits`].
//!
//! Does not guarantee delivery: a call may have been executed although its answer was lost, a
//! datagram may be dropped anywhere, and a connection may go at any time. What must survive that
//! lives above this crate. Certificates are not revoked one by one: a node loses its rights by
//! leaving the membership.
//!
//! Parts: [`pki`] (authority, certificates, join tokens), [`Endpoint`] (one socket, one purpose),
//! [`Links`] (a connection to every peer, calls, datagrams, framed streams).
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod accept;
mod admission;
mod call;
mod dial;
mod endpoint;
mod error;
mod hello;
pub mod limits;
mod links;
mod membership;
pub mod pki;
mod serve;
mod slots;
mod stream;
mod tls;

pub use endpoint::{Endpoint, EndpointConfig, OpenSocket, Purpose, Timing};
pub use error::{BindError, CallError, DatagramError, Refusal, StreamError};
pub use links::{
    BoxFuture, Counters, Datagram, Handler, Incoming, IncomingStream, Links, LinksConfig, Peer,
    PeerEvent, PeerStatus,
};
pub use membership::Membership;
pub use stream::{FrameReader, FrameWriter, PeerStream};
pub use tls::{api_server_config, explain_tls};
