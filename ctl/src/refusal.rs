//! Why a node closed a TLS connection.
//!
//! With TLS 1.3 a client has finished its handshake before the server has judged the client's
//! certificate, so a refusal arrives as an alert on an open connection, and the HTTP/2 layer
//! reports it as "connection closed". This asks again, by hand, and reads the alert. Used only
//! after a call has failed: it costs a good call nothing.

use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, Stream};
use steadfast_proto::NODE_TLS_NAME;
use steadfast_proto::v1::AdminCredentials;

/// A node that accepts us sends its HTTP/2 settings or nothing; either way this is enough.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the node says when shown these credentials; `None` when it does not refuse them, or says
/// nothing. Blocks for some [`PROBE_TIMEOUT`]s at most.
pub(crate) fn cause(credentials: &AdminCredentials, address: &str) -> Option<String> {
    let config = config(credentials)?;
    let name = ServerName::try_from(NODE_TLS_NAME).ok()?;
    let mut tls = ClientConnection::new(Arc::new(config), name).ok()?;
    let address = address.to_socket_addrs().ok()?.next()?;
    let mut tcp = TcpStream::connect_timeout(&address, PROBE_TIMEOUT).ok()?;
    tcp.set_read_timeout(Some(PROBE_TIMEOUT)).ok()?;
    tcp.set_write_timeout(Some(PROBE_TIMEOUT)).ok()?;
    match Stream::new(&mut tls, &mut tcp).read(&mut [0; 1]) {
        // rustls reports alerts and its own verdicts so; the rest is the network's.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Some(error.to_string()),
        _ => None,
    }
}

fn config(credentials: &AdminCredentials) -> Option<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(credentials.ca_pem.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    let chain = CertificateDer::pem_slice_iter(credentials.cert_pem.as_bytes());
    let chain = chain.collect::<Result<Vec<_>, _>>().ok()?;
    let key = PrivateKeyDer::from_pem_slice(credentials.key_pem.as_bytes()).ok()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .ok()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .ok()?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Some(config)
}
