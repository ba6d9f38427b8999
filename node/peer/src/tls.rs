//! TLS 1.3 for both sides, and what its refusals mean in words.

use std::{sync::Arc, time::SystemTime};

use quinn::ConnectionError;
use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, ServerConfig,
    client::{Resumption, WebPkiServerVerifier},
    crypto::CryptoProvider,
    pki_types::CertificateDer,
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
};

use crate::{
    limits::REASON_BYTES_MAX,
    pki::{Identity, PkiError},
    slots::CLOSE_NOT_A_MEMBER,
};

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Accepts certificates of this authority that may be used by clients.
pub(crate) fn client_verifier(
    ca: &CertificateDer<'static>,
) -> Result<Arc<dyn ClientCertVerifier>, PkiError> {
    WebPkiClientVerifier::builder_with_provider(roots(ca)?, provider())
        .build()
        .map_err(|error| PkiError::Certificate(error.to_string()))
}

/// The side that is dialed. Session tickets are off: a resumed session would skip the check of
/// the certificate's validity.
pub(crate) fn server_config(identity: &Identity, alpn: &[u8]) -> Result<ServerConfig, PkiError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_client_cert_verifier(client_verifier(identity.ca_der())?)
        .with_single_cert(identity.chain_der(), identity.key_der())
        .map_err(unusable)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// The side of the gRPC API: who shows no certificate is let in and has no role, who shows one of
/// another authority is not.
///
/// # Errors
/// TLS refuses the certificate or the key.
pub fn api_server_config(identity: &Identity) -> Result<ServerConfig, PkiError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(identity.ca_der())?, provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| PkiError::Certificate(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain_der(), identity.key_der())
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// The side that dials.
pub(crate) fn client_config(identity: &Identity, alpn: &[u8]) -> Result<ClientConfig, PkiError> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(identity.ca_der())?, provider())
            .build()
            .map_err(|error| PkiError::Certificate(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable)?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(identity.chain_der(), identity.key_der())
        .map_err(unusable)?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// What a refused certificate means.
pub fn explain_tls(error: &Error) -> String {
    let Error::InvalidCertificate(error) = error else { return error.to_string() };
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "it is signed by the authority of another cluster".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("it has expired (this machine's clock says {})", clock())
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("it is not valid yet (this machine's clock says {})", clock())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "it is not made for this use (a user's in place of a node's?)".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it is not a node's".into()
        }
        other => other.to_string(),
    }
}

/// Why a connection failed or went, for a person.
pub(crate) fn explain(error: &ConnectionError) -> String {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            let reason = String::from_utf8_lossy(&close.reason);
            let reason: String = reason.chars().take(REASON_BYTES_MAX).collect();
            format!("closed by the peer: {}", reason.escape_debug())
        }
        ConnectionError::ConnectionClosed(close) => {
            let code = u64::from(close.error_code);
            match u8::try_from(code.wrapping_sub(CRYPTO_ERROR)) {
                Ok(alert) => format!("the peer refused our certificate: {}", explain_alert(alert)),
                Err(_) => format!("closed by the peer: {close}"),
            }
        }
        ConnectionError::TransportError(error) => {
            let alert = u8::try_from(u64::from(error.code).wrapping_sub(CRYPTO_ERROR));
            match alert {
                // For an expired certificate the library's text names the second: never twice the
                // same, and the clocks are to be compared in any case.
                Ok(alert @ 45) => {
                    format!("we refused the peer's certificate: {}", explain_alert(alert))
                }
                Ok(alert) => format!(
                    "we refused the peer's certificate: {} ({})",
                    explain_alert(alert),
                    error.reason
                ),
                Err(_) => error.to_string(),
            }
        }
        ConnectionError::TimedOut => "silent for longer than the idle timeout".into(),
        ConnectionError::Reset => "the peer has restarted".into(),
        ConnectionError::LocallyClosed => "closed by this node".into(),
        other => other.to_string(),
    }
}

/// Whether this is a verdict about certificates or membership, not a failure of the network.
pub(crate) fn is_refusal(error: &ConnectionError) -> bool {
    let crypto = |code: u64| u8::try_from(code.wrapping_sub(CRYPTO_ERROR)).is_ok();
    match error {
        ConnectionError::ApplicationClosed(_) => true,
        ConnectionError::ConnectionClosed(close) => crypto(close.error_code.into()),
        ConnectionError::TransportError(error) => crypto(error.code.into()),
        _ => false,
    }
}

/// Whether the peer said that this node is no member of the cluster.
pub(crate) fn is_disowned(error: &ConnectionError) -> bool {
    matches!(error, ConnectionError::ApplicationClosed(close)
        if close.error_code == CLOSE_NOT_A_MEMBER)
}

/// RFC 9001 section 4.8: a TLS alert travels as 0x0100 plus its number.
const CRYPTO_ERROR: u64 = 0x100;

/// RFC 8446 section 6: alert numbers.
fn explain_alert(alert: u8) -> String {
    let text = match alert {
        42 | 43 => "not valid for this use",
        45 => "expired or not yet valid: compare the clocks and the certificate's dates",
        48 => "signed by the authority of another cluster",
        49 => "access denied",
        51 => "its signature is wrong: another cluster's authority with the same name",
        116 => "none was sent",
        120 => "no common protocol: a control endpoint was dialed for replication, or the reverse",
        _ => return format!("TLS alert {alert}"),
    };
    text.into()
}

fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, PkiError> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone()).map_err(unusable)?;
    Ok(Arc::new(roots))
}

fn unusable(error: Error) -> PkiError {
    PkiError::Certificate(explain_tls(&error))
}

/// Unix time is enough to see a clock that is years off.
fn clock() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("{} s after 1970", now.as_secs())
}
