//! What a node shows to its peers: its certificate, its key, and the authority it trusts.

use std::fmt;

use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};

use super::{Fingerprint, PeerIdentity, PkiError, ca};
use crate::tls;

/// A certificate with its key, and the authority whose certificates are accepted.
pub struct Identity {
    who: PeerIdentity,
    cert: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    ca: CertificateDer<'static>,
    pem: IdentityPem,
}

/// The same in PEM, for TLS stacks that are configured with text.
#[derive(Clone)]
pub struct IdentityPem {
    /// Own certificate followed by the authority's. A server must send both, so that a node that
    /// only knows the authority's fingerprint can check them.
    pub chain: String,
    /// Private key, PKCS #8.
    pub key: String,
    /// The authority's certificate.
    pub ca: String,
}

impl Identity {
    /// Reads an identity. The key must belong to the certificate; whether the certificate is
    /// valid under the authority and now is a question of its own: [`Identity::check`].
    pub fn from_pem(cert_pem: &str, key_pem: &str, ca_pem: &str) -> Result<Self, PkiError> {
        let cert = certificate(cert_pem, "certificate")?;
        let ca = certificate(ca_pem, "certificate of the authority")?;
        ca::ca_cluster(&ca)?;
        let who = PeerIdentity::from_cert_der(&cert)?;
        let pem_error = |why: String| PkiError::Pem { what: "private key", why };
        let pair = KeyPair::from_pem(key_pem).map_err(|error| pem_error(error.to_string()))?;
        if ca::public_key_of(&cert)? != pair.der_bytes() {
            return Err(PkiError::KeyMismatch(format!("the certificate of {who}")));
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|error| pem_error(error.to_string()))?;
        let chain = format!("{}\n{}\n", cert_pem.trim_end(), ca_pem.trim_end());
        let pem = IdentityPem { chain, key: key_pem.to_owned(), ca: ca_pem.to_owned() };
        Ok(Self { who, cert, key, ca, pem })
    }

    /// Whether peers will accept this certificate now: signed by the authority, within its time.
    pub fn check(&self) -> Result<(), PkiError> {
        tls::client_verifier(&self.ca)?
            .verify_client_cert(&self.cert, &[], UnixTime::now())
            .map(|_| ())
            .map_err(|error| PkiError::NotValid {
                who: self.who.to_string(),
                why: tls::explain_tls(&error),
            })
    }

    /// Whom the certificate names.
    pub fn who(&self) -> &PeerIdentity {
        &self.who
    }

    /// Everything in PEM.
    pub fn pem(&self) -> &IdentityPem {
        &self.pem
    }

    /// The authority's fingerprint.
    pub fn ca_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.ca)
    }

    pub(crate) fn chain_der(&self) -> Vec<CertificateDer<'static>> {
        vec![self.cert.clone(), self.ca.clone()]
    }

    pub(crate) fn key_der(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub(crate) fn ca_der(&self) -> &CertificateDer<'static> {
        &self.ca
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self {
            who: self.who.clone(),
            cert: self.cert.clone(),
            key: self.key.clone_key(),
            ca: self.ca.clone(),
            pem: self.pem.clone(),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("who", &self.who)
            .field("ca", &self.ca_fingerprint())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IdentityPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityPem").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// The first certificate in a PEM text.
fn certificate(pem: &str, what: &'static str) -> Result<CertificateDer<'static>, PkiError> {
    CertificateDer::from_pem_slice(pem.as_bytes())
        .map_err(|error| PkiError::Pem { what, why: error.to_string() })
}
