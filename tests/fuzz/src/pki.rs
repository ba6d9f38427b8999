//! Join tokens and fingerprints, without the crate around them, which is built upon QUIC and TLS.
#![allow(dead_code, unreachable_pub, reason = "the daemon uses all of it")]

pub(crate) use self::{fingerprint::Fingerprint, token::Token};

#[path = "../../../node/peer/src/pki/fingerprint.rs"]
mod fingerprint;
#[path = "../../../node/peer/src/pki/token.rs"]
mod token;

/// What the token needs of the errors of the crate it is at home in.
#[derive(Debug)]
pub(crate) enum PkiError {
    /// No random numbers.
    Crypto(String),
}
