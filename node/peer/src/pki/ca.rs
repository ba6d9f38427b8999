//! The cluster's certificate authority.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use steadfast_model::NodeId;
use x509_parser::prelude::FromDer;

use super::{
    Fingerprint, NODE_DNS_NAME, PeerIdentity, PkiError, Role,
    name::{self, check_cluster_name},
    request::requested_key,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How long an authority is valid.
const CA_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How long nodes' and users' certificates are valid.
const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// Certificates are valid from some time before they are made: the clocks of a cluster that is
/// being set up are often wrong, and a joining node would refuse what it was just given.
const BACKDATED: Duration = DAY;

/// The authority of one cluster: its certificate and its key.
pub struct Ca {
    cluster: String,
    cert: CertificateDer<'static>,
    cert_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, made together for a user.
#[derive(Clone)]
pub struct Issued {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The private key, PKCS #8 in PEM.
    pub key_pem: String,
}

impl Ca {
    /// Makes the authority of a new cluster.
    pub fn generate(cluster: &str) -> Result<Self, PkiError> {
        check_cluster_name(cluster)?;
        let now = SystemTime::now();
        let key = KeyPair::generate().map_err(crypto)?;
        let mut params =
            params(&format!("Steadfast {cluster} authority"), now - BACKDATED, CA_VALIDITY)?;
        params.subject_alt_names = vec![uri_name(&format!("spiffe://{cluster}"))?];
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).map_err(crypto)?;
        Self::from_pem(&cert.pem(), &key.serialize_pem())
    }

    /// Reads an authority back. The key must belong to the certificate, and the certificate must
    /// be one that [`Ca::generate`] made.
    pub fn from_pem(cert_pem: &str, key_pem: &str) -> Result<Self, PkiError> {
        let cert = CertificateDer::from_pem_slice(cert_pem.as_bytes()).map_err(|error| {
            PkiError::Pem { what: "certificate of the authority", why: error.to_string() }
        })?;
        let key = KeyPair::from_pem(key_pem).map_err(|error| PkiError::Pem {
            what: "private key of the authority",
            why: error.to_string(),
        })?;
        let cluster = ca_cluster(&cert)?;
        if public_key_of(&cert)? != key.der_bytes() {
            return Err(PkiError::KeyMismatch(format!("the authority of cluster `{cluster}`")));
        }
        let issuer = Issuer::from_ca_cert_der(&cert, key)
            .map_err(|error| PkiError::Certificate(error.to_string()))?;
        Ok(Self {
            cluster,
            cert,
            cert_pem: cert_pem.to_owned(),
            key_pem: key_pem.to_owned(),
            issuer,
        })
    }

    /// A certificate for a node, from its signing request. Of the request only the public key is
    /// used.
    pub fn issue_node(&self, id: NodeId, csr_pem: &str) -> Result<String, PkiError> {
        let identity = PeerIdentity::Node { cluster: self.cluster.clone(), id };
        let not_before = SystemTime::now() - BACKDATED;
        self.issue(&identity, csr_pem, not_before, LEAF_VALIDITY + BACKDATED)
    }

    /// A certificate for a user, from a signing request.
    pub fn issue_user_for(
        &self,
        name: &str,
        role: Role,
        csr_pem: &str,
    ) -> Result<String, PkiError> {
        let identity =
            PeerIdentity::User { cluster: self.cluster.clone(), name: name.to_owned(), role };
        let not_before = SystemTime::now() - BACKDATED;
        self.issue(&identity, csr_pem, not_before, LEAF_VALIDITY + BACKDATED)
    }

    /// A certificate for a user together with a new key.
    pub fn issue_user(&self, name: &str, role: Role) -> Result<Issued, PkiError> {
        let request = super::JoinRequest::generate()?;
        let cert_pem = self.issue_user_for(name, role, request.csr_pem())?;
        Ok(Issued { cert_pem, key_pem: request.key_pem().to_owned() })
    }

    /// A certificate for anybody of this cluster, valid for a time of choice.
    pub fn issue(
        &self,
        identity: &PeerIdentity,
        csr_pem: &str,
        not_before: SystemTime,
        validity: Duration,
    ) -> Result<String, PkiError> {
        identity.check()?;
        if identity.cluster() != self.cluster {
            return Err(PkiError::NotValid {
                who: identity.to_string(),
                why: format!("it is the authority of cluster `{}`", self.cluster),
            });
        }
        let key = requested_key(csr_pem)?;
        let mut params = params(&identity.to_string(), not_before, validity)?;
        params.subject_alt_names = vec![uri_name(&identity.uri())?];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if matches!(identity, PeerIdentity::Node { .. }) {
            // Only nodes serve: a user's certificate cannot pose as a node towards clients.
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            let name = NODE_DNS_NAME.to_owned().try_into().map_err(crypto)?;
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&key, &self.issuer).map_err(crypto)?.pem())
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The authority's certificate, PEM. Public.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The authority's private key, PEM. Whoever has it can make members and admins.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// The fingerprint that a join token carries.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.cert)
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ca")
            .field("cluster", &self.cluster)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Issued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issued").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The cluster that an authority's certificate names.
pub(super) fn ca_cluster(cert_der: &[u8]) -> Result<String, PkiError> {
    let uris = name::uris(cert_der)?;
    let [uri] = uris.as_slice() else {
        return Err(PkiError::Certificate("is not a Steadfast authority's".into()));
    };
    let cluster = uri.strip_prefix("spiffe://").unwrap_or_default();
    check_cluster_name(cluster)
        .map_err(|_| PkiError::Certificate("is not a Steadfast authority's".into()))?;
    Ok(cluster.to_owned())
}

/// The raw public key in a certificate.
pub(super) fn public_key_of(cert_der: &[u8]) -> Result<Vec<u8>, PkiError> {
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(cert_der)
        .map_err(|error| PkiError::Certificate(format!("cannot be read: {error}")))?;
    Ok(cert.public_key().subject_public_key.data.to_vec())
}

fn params(
    common_name: &str,
    not_before: SystemTime,
    validity: Duration,
) -> Result<CertificateParams, PkiError> {
    let not_before = not_before.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    let mut serial = [0; 16];
    SystemRandom::new().fill(&mut serial).map_err(|_| crypto("no random numbers"))?;
    // A serial number is positive (RFC 5280, 4.1.2.2).
    serial[0] &= 0x7f;
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = date_time_ymd(1970, 1, 1) + not_before;
    params.not_after = params.not_before + validity;
    Ok(params)
}

fn uri_name(uri: &str) -> Result<SanType, PkiError> {
    Ok(SanType::URI(uri.to_owned().try_into().map_err(crypto)?))
}

fn crypto(error: impl fmt::Display) -> PkiError {
    PkiError::Crypto(error.to_string())
}
