//! The cluster's certificates: authority, nodes, users, join tokens.
//!
//! Guarantees: who a certificate speaks for is chosen by the issuer and by nobody else; of a
//! signing request only the public key is used, after its owner has proven to hold the private
//! one. A name in a certificate is read one way only, strictly.
//!
//! Does not guarantee secrecy of the authority's key: it is replicated, so every node that can
//! read the cluster's state can issue certificates.
//!
//! Names follow SPIFFE (<https://github.com/spiffe/spiffe/blob/main/standards/X509-SVID.md>):
//! `spiffe://CLUSTER/node/ID` for a node, `spiffe://CLUSTER/ROLE/NAME` for a person or a program.

mod ca;
mod fingerprint;
mod identity;
mod name;
mod pinned;
mod request;
mod token;

use std::{io, net::SocketAddr};

pub use ca::{Ca, Issued};
pub use fingerprint::Fingerprint;
pub use identity::{Identity, IdentityPem};
pub use name::{NODE_DNS_NAME, PeerIdentity, Role, check_cluster_name, check_user_name};
pub use pinned::{PinnedCa, fetch_ca, pinned_client_config};
pub use request::JoinRequest;
pub use token::{JOIN_ADDRESSES_MAX, Token, TokenError, token_hash};

/// Something is wrong with a key, a certificate or a name.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A name that cannot stand in a certificate.
    #[error("`{name}` cannot be {what}: {rule}")]
    Name {
        /// The name given.
        name: String,
        /// What it was to name.
        what: &'static str,
        /// What is allowed.
        rule: &'static str,
    },
    /// PEM text without what was looked for.
    #[error("no valid {what} found: expected PEM text (-----BEGIN ...): {why}")]
    Pem {
        /// What was looked for.
        what: &'static str,
        /// Why it is not one.
        why: String,
    },
    /// A certificate that cannot be read, or names nobody.
    #[error("certificate: {0}")]
    Certificate(String),
    /// Key and certificate are not a pair.
    #[error("the private key does not belong to {0}: the two files are from different places")]
    KeyMismatch(String),
    /// Not signed by this authority, or out of its time.
    #[error("the certificate of {who} is not valid under this authority: {why}")]
    NotValid {
        /// Whom the certificate names.
        who: String,
        /// Why.
        why: String,
    },
    /// A signing request that proves nothing.
    #[error("signing request: {0}")]
    Request(String),
    /// Key generation or signing.
    #[error("cannot make a key or sign a certificate: {0}")]
    Crypto(String),
    /// The cluster's certificate could not be fetched.
    #[error("cannot reach the API at {addr}: {source}")]
    Fetch {
        /// Where.
        addr: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
    /// Somebody else answers there.
    #[error(
        "{addr} is not a node of the cluster that issued the token (its authority is not {expected})"
    )]
    OtherAuthority {
        /// Where.
        addr: SocketAddr,
        /// The fingerprint in the token.
        expected: Fingerprint,
    },
}
