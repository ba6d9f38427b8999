//! Authorities, certificates, and trust in a fingerprint alone.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread,
    time::Duration,
};

use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use steadfast_model::NodeId;
use steadfast_peer::pki::{
    Ca, Fingerprint, Identity, JoinRequest, PeerIdentity, PkiError, Role, fetch_ca,
};

#[test]
fn an_authority_survives_being_written_and_read() {
    let ca = Ca::generate("prod").unwrap();
    let again = Ca::from_pem(ca.cert_pem(), ca.key_pem()).unwrap();
    assert_eq!(again.cluster(), "prod");
    assert_eq!(again.fingerprint(), ca.fingerprint());
    let request = JoinRequest::generate().unwrap();
    let cert = again.issue_node(NodeId(7), request.csr_pem()).unwrap();
    let identity = Identity::from_pem(&cert, request.key_pem(), ca.cert_pem()).unwrap();
    identity.check().unwrap();
    assert_eq!(identity.ca_fingerprint(), ca.fingerprint());
    let node = PeerIdentity::Node { cluster: "prod".into(), id: NodeId(7) };
    assert_eq!(identity.who(), &node);
    assert_eq!(identity.pem().chain.matches("BEGIN CERTIFICATE").count(), 2);
}

#[test]
fn key_and_certificate_must_be_a_pair() {
    let (ca, other) = (Ca::generate("prod").unwrap(), Ca::generate("prod").unwrap());
    let error = Ca::from_pem(ca.cert_pem(), other.key_pem()).unwrap_err();
    assert!(matches!(error, PkiError::KeyMismatch(_)), "{error}");
    let request = JoinRequest::generate().unwrap();
    let stranger = JoinRequest::generate().unwrap();
    let cert = ca.issue_node(NodeId(1), request.csr_pem()).unwrap();
    let error = Identity::from_pem(&cert, stranger.key_pem(), ca.cert_pem()).unwrap_err();
    assert!(matches!(error, PkiError::KeyMismatch(_)), "{error}");
    // The other authority of the same name: read, but not accepted.
    let mixed = Identity::from_pem(&cert, request.key_pem(), other.cert_pem()).unwrap();
    let error = mixed.check().unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
}

#[test]
fn a_leaf_is_no_authority() {
    let ca = Ca::generate("prod").unwrap();
    let request = JoinRequest::generate().unwrap();
    let cert = ca.issue_node(NodeId(1), request.csr_pem()).unwrap();
    assert!(Ca::from_pem(&cert, request.key_pem()).is_err());
    assert!(Identity::from_pem(&cert, request.key_pem(), &cert).is_err());
}

#[test]
fn a_request_that_asks_for_more_gets_what_the_issuer_chose() {
    let ca = Ca::generate("prod").unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut wish = rcgen::CertificateParams::new(vec!["evil.example".into()]).unwrap();
    let uri = "spiffe://prod/admin/root".to_owned().try_into().unwrap();
    wish.subject_alt_names.push(rcgen::SanType::URI(uri));
    wish.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let csr = wish.serialize_request(&key).unwrap().pem().unwrap();
    let cert = ca.issue_node(NodeId(9), &csr).unwrap();
    let der = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
    let node = PeerIdentity::Node { cluster: "prod".into(), id: NodeId(9) };
    assert_eq!(PeerIdentity::from_cert_der(&der).unwrap(), node);
    let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
    assert!(!parsed.is_ca());
    assert!(!format!("{:?}", parsed.subject_alternative_name()).contains("evil"));
}

#[test]
fn a_request_without_proof_of_the_key_is_refused() {
    let ca = Ca::generate("prod").unwrap();
    let csr = JoinRequest::generate().unwrap().csr_pem().to_owned();
    // The last bytes are the signature.
    let mut lines: Vec<_> = csr.lines().map(str::to_owned).collect();
    let at = lines.len() - 2;
    lines[at] = lines[at].chars().rev().collect();
    for bad in [lines.join("\n"), String::new(), "x".repeat(20 << 10)] {
        let error = ca.issue_node(NodeId(1), &bad).unwrap_err();
        assert!(matches!(error, PkiError::Request(_)), "{error}");
    }
}

#[test]
fn names_are_checked_where_certificates_are_made() {
    assert!(Ca::generate("Prod/x").is_err());
    let ca = Ca::generate("prod").unwrap();
    assert!(ca.issue_user("a/b", Role::Viewer).is_err());
    let issued = ca.issue_user("anna", Role::Operator).unwrap();
    let der = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
    let PeerIdentity::User { name, role, cluster } = PeerIdentity::from_cert_der(&der).unwrap()
    else {
        panic!("not a user");
    };
    assert_eq!((name.as_str(), role, cluster.as_str()), ("anna", Role::Operator, "prod"));
    let foreign = PeerIdentity::Node { cluster: "test".into(), id: NodeId(1) };
    let csr = JoinRequest::generate().unwrap();
    let now = std::time::SystemTime::now();
    assert!(ca.issue(&foreign, csr.csr_pem(), now, Duration::from_secs(60)).is_err());
    assert!(!format!("{issued:?} {ca:?} {csr:?}").contains("PRIVATE"));
}

/// A TLS server on TCP, as the API is, that shakes hands once.
fn serve(chain_pem: &str, key_pem: &str) -> SocketAddr {
    let chain: Vec<_> =
        CertificateDer::pem_slice_iter(chain_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        let _ = stream.read(&mut [0; 1]);
        let _ = stream.flush();
    });
    addr
}

#[test]
fn a_cluster_is_known_by_its_fingerprint_alone() {
    let timeout = Duration::from_secs(5);
    let ca = Ca::generate("prod").unwrap();
    let impostor = Ca::generate("prod").unwrap();
    let node = |ca: &Ca| {
        let request = JoinRequest::generate().unwrap();
        let cert = ca.issue_node(NodeId(1), request.csr_pem()).unwrap();
        (cert, request.key_pem().to_owned())
    };
    let chain = |cert: &str, ca: &Ca| format!("{cert}\n{}", ca.cert_pem());

    let (cert, key) = node(&ca);
    let addr = serve(&chain(&cert, &ca), &key);
    let pem = fetch_ca(addr, ca.fingerprint(), timeout).unwrap();
    let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    assert_eq!(Fingerprint::of(&der), ca.fingerprint());

    // Another authority, openly.
    let (cert, key) = node(&impostor);
    let error = fetch_ca(serve(&chain(&cert, &impostor), &key), ca.fingerprint(), timeout);
    assert!(matches!(error, Err(PkiError::OtherAuthority { .. })), "{error:?}");
    // Another authority's node that shows the right authority's certificate.
    let error = fetch_ca(serve(&chain(&cert, &ca), &key), ca.fingerprint(), timeout);
    assert!(error.unwrap_err().to_string().contains("another cluster"));
    // The right node, but it does not show its authority.
    let (cert, key) = node(&ca);
    let error = fetch_ca(serve(&cert, &key), ca.fingerprint(), timeout);
    assert!(matches!(error, Err(PkiError::OtherAuthority { .. })), "{error:?}");
    // A user of the right cluster that plays node.
    let user = ca.issue_user("anna", Role::Admin).unwrap();
    let error =
        fetch_ca(serve(&chain(&user.cert_pem, &ca), &user.key_pem), ca.fingerprint(), timeout);
    assert!(matches!(error, Err(PkiError::Fetch { .. })), "{error:?}");
    // Nobody there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fetch_ca(free, ca.fingerprint(), timeout).unwrap_err();
    assert!(error.to_string().contains("cannot reach the API"), "{error}");
}
