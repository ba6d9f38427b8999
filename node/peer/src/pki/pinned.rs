//! Trust in a cluster of which only the authority's fingerprint is known: before the join.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};

use super::{Fingerprint, NODE_DNS_NAME, PkiError, ca};
use crate::tls;

/// Accepts a server whose certificate is signed by the authority with this fingerprint. The
/// server must send the authority's certificate along ([`super::IdentityPem::chain`]).
///
/// The name that was dialed does not matter (any node will do); the server's certificate must be
/// a node's all the same.
#[derive(Debug)]
pub struct PinnedCa {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl PinnedCa {
    /// A verifier for this fingerprint.
    pub fn new(fingerprint: Fingerprint) -> Arc<Self> {
        Arc::new(Self { fingerprint, provider: tls::provider() })
    }

    /// The pinned authority's certificate, if it is among these.
    fn find<'a>(&self, certs: &'a [CertificateDer<'a>]) -> Option<&'a CertificateDer<'a>> {
        certs.iter().find(|cert| Fingerprint::of(cert) == self.fingerprint)
    }
}

impl ServerCertVerifier for PinnedCa {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ca = self.find(intermediates).ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(ca.clone().into_owned())?;
        let name = ServerName::try_from(NODE_DNS_NAME)
            .map_err(|error| Error::General(error.to_string()))?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A TLS client configuration (1.3 only, no client certificate) that accepts exactly the clusters
/// of this authority.
pub fn pinned_client_config(fingerprint: Fingerprint) -> Result<ClientConfig, Error> {
    Ok(ClientConfig::builder_with_provider(tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(PinnedCa::new(fingerprint))
        .with_no_client_auth())
}

/// Shakes hands with the API at `addr` and returns the authority's certificate in PEM, if it is
/// the one with this fingerprint. With it, any TLS client can connect to [`NODE_DNS_NAME`].
///
/// Blocks for up to `timeout` per network step: call it from a blocking task.
pub fn fetch_ca(
    addr: SocketAddr,
    fingerprint: Fingerprint,
    timeout: Duration,
) -> Result<String, PkiError> {
    let fetch = |source: io::Error| {
        let tls = source.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        match tls {
            Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
                PkiError::OtherAuthority { addr, expected: fingerprint }
            }
            Some(error) => PkiError::Fetch {
                addr,
                source: io::Error::new(ErrorKind::InvalidData, tls::explain_tls(error)),
            },
            None => PkiError::Fetch { addr, source },
        }
    };
    let mut socket = TcpStream::connect_timeout(&addr, timeout).map_err(fetch)?;
    socket.set_read_timeout(Some(timeout)).map_err(fetch)?;
    socket.set_write_timeout(Some(timeout)).map_err(fetch)?;
    let config = pinned_client_config(fingerprint)
        .and_then(|mut config| {
            config.alpn_protocols = vec![b"h2".to_vec()];
            let name = ServerName::try_from(NODE_DNS_NAME)
                .map_err(|error| Error::General(error.to_string()))?;
            ClientConnection::new(Arc::new(config), name)
        })
        .map_err(|error| PkiError::Crypto(error.to_string()));
    let mut tls = config?;
    while tls.is_handshaking() {
        tls.complete_io(&mut socket).map_err(fetch)?;
    }
    let certs = tls.peer_certificates().unwrap_or_default();
    let ca = certs
        .iter()
        .find(|cert| Fingerprint::of(cert) == fingerprint)
        .ok_or(PkiError::OtherAuthority { addr, expected: fingerprint })?;
    ca::ca_cluster(ca)?;
    let pem = to_pem(ca);
    tls.send_close_notify();
    // Courtesy only: what we came for is already here.
    let _ = tls.write_tls(&mut socket);
    Ok(pem)
}

fn to_pem(cert: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let text = STANDARD.encode(cert);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}
