//! What a joining node makes: a key that never leaves it, and a request to sign.

use std::fmt;

use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair, PublicKey};

use super::PkiError;

/// A fresh private key (ECDSA P-256) and the signing request for it.
pub struct JoinRequest {
    key_pem: String,
    csr_pem: String,
}

impl JoinRequest {
    /// Makes a key and a signing request. The request names nobody: the issuer decides.
    pub fn generate() -> Result<Self, PkiError> {
        let crypto = |error: rcgen::Error| PkiError::Crypto(error.to_string());
        let key = KeyPair::generate().map_err(crypto)?;
        let request = CertificateParams::default().serialize_request(&key).map_err(crypto)?;
        Ok(Self { key_pem: key.serialize_pem(), csr_pem: request.pem().map_err(crypto)? })
    }

    /// The private key, PKCS #8 in PEM. To be written with mode 0600 before the request is sent.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The signing request, PKCS #10 in PEM.
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }
}

impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinRequest").field("csr_pem", &self.csr_pem).finish_non_exhaustive()
    }
}

/// Longest signing request that is looked at.
const CSR_BYTES_MAX: usize = 16 << 10;

/// The public key of a request whose sender has proven to hold the private one. Everything else
/// in the request is the sender's wish and is not read.
pub(super) fn requested_key(csr_pem: &str) -> Result<PublicKey, PkiError> {
    if csr_pem.len() > CSR_BYTES_MAX {
        return Err(PkiError::Request(format!("longer than {CSR_BYTES_MAX} bytes")));
    }
    CertificateSigningRequestParams::from_pem(csr_pem)
        .map(|request| request.public_key)
        .map_err(|error| PkiError::Request(error.to_string()))
}
