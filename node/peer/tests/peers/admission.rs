//! Who is let in, on the wire: every wrong certificate is refused, and both sides learn why.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::common::{Spec, handler, identity, members, next_event, next_refusal, peer, until};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use steadfast_model::NodeId;
use steadfast_peer::{
    BindError, CallError, Endpoint, EndpointConfig, PeerEvent, Purpose,
    pki::{Ca, Identity, JoinRequest, NODE_DNS_NAME, PeerIdentity, Role},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn expired(ca: &Ca, id: u32) -> Identity {
    let request = JoinRequest::generate().unwrap();
    let who = PeerIdentity::Node { cluster: ca.cluster().into(), id: NodeId(id) };
    let long_ago = SystemTime::now() - 30 * DAY;
    let cert = ca.issue(&who, request.csr_pem(), long_ago, 29 * DAY).unwrap();
    Identity::from_pem(&cert, request.key_pem(), ca.cert_pem()).unwrap()
}

struct Case {
    name: &'static str,
    /// Node 2, which dials.
    dialer: Identity,
    dialer_members: Vec<u32>,
    /// Which node it means to dial.
    dialed: u32,
    /// Node 1, which is dialed.
    listener: Identity,
    listener_members: Vec<u32>,
    dialer_says: &'static str,
    /// Empty when nothing may reach the listener.
    listener_says: &'static str,
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_certificates_are_refused_with_a_reason_on_both_sides() {
    let ca = Ca::generate("prod").unwrap();
    let impostor = Ca::generate("prod").unwrap();
    let other = Ca::generate("test").unwrap();
    let right = || Case {
        name: "",
        dialer: identity(&ca, 2),
        dialer_members: vec![1, 2, 3],
        dialed: 1,
        listener: identity(&ca, 1),
        listener_members: vec![1, 2, 3],
        dialer_says: "",
        listener_says: "",
    };
    let cases = [
        Case {
            name: "another authority with the same cluster name",
            dialer: identity(&impostor, 2),
            dialer_says: "another cluster",
            listener_says: "refused our certificate: ",
            ..right()
        },
        Case {
            name: "another cluster",
            dialer: identity(&other, 2),
            dialer_says: "signed by the authority of another cluster",
            listener_says: "refused our certificate: signed by the authority of another cluster",
            ..right()
        },
        Case {
            name: "the dialer's certificate has expired",
            dialer: expired(&ca, 2),
            dialer_says: "refused our certificate: expired",
            listener_says: "expired",
            ..right()
        },
        Case {
            name: "the listener's certificate has expired",
            listener: expired(&ca, 1),
            dialer_says: "expired",
            listener_says: "refused our certificate: expired",
            ..right()
        },
        Case {
            name: "the dialer is not a member",
            listener_members: vec![1, 3],
            dialer_says: "node 2 is not a member of cluster `prod`",
            listener_says: "node 2 is not a member of cluster `prod`",
            ..right()
        },
        Case {
            name: "the listener is not a member",
            dialer_members: vec![2, 3],
            dialer_says: "not a member",
            ..right()
        },
        Case {
            name: "another member answers than the one that was dialed",
            dialed: 3,
            dialer_says: "dialed node 3, node 1 answered",
            listener_says: "dialed node 3, node 1 answered",
            ..right()
        },
        Case {
            name: "two machines with one identity",
            dialer: identity(&ca, 1),
            dialed: 3,
            dialer_says: "dialed node 3, node 1 answered",
            listener_says: "node 1",
            ..right()
        },
    ];
    for case in cases {
        let name = case.name;
        let mut listener = Spec::control(case.listener, members(case.listener_members)).start();
        let mut dialer = Spec::control(case.dialer, members(case.dialer_members)).start();
        dialer.links.set_peers(&[peer(case.dialed, listener.addr)]);
        let said = next_refusal(&mut dialer.incoming).await;
        assert!(said.contains(case.dialer_says), "{name}: the dialer said: {said}");
        if case.listener_says.is_empty() {
            assert_eq!(listener.links.counters().refused, 0, "{name}");
        } else {
            let said = next_refusal(&mut listener.incoming).await;
            assert!(said.contains(case.listener_says), "{name}: the listener said: {said}");
        }
        // Further attempts fare no better, and nothing was ever connected.
        tokio::time::sleep(Duration::from_millis(600)).await;
        for (node, other) in [(&listener, 2), (&listener, 1), (&dialer, case.dialed)] {
            assert!(!node.links.connected(NodeId(other)), "{name}");
        }
        assert!(dialer.incoming.events.try_recv().is_err(), "{name}: told twice, or connected");
        let call = dialer.links.call(NodeId(case.dialed), 1, b"x", Duration::from_secs(1)).await;
        let Err(CallError::NotConnected { last, .. }) = call else { panic!("{name}: {call:?}") };
        assert!(last.unwrap().contains(case.dialer_says), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_let_in_and_cut_off_when_they_are_taken_out() {
    let ca = Ca::generate("prod").unwrap();
    let membership = members([1, 2]);
    let mut one = Spec::control(identity(&ca, 1), membership.clone()).start();
    let two = Spec::control(identity(&ca, 2), members([1, 2])).start();
    two.links.set_peers(&[peer(1, one.addr)]);
    assert_eq!(next_event(&mut one.incoming).await, PeerEvent::Connected { peer: NodeId(2) });
    until("both see the connection", || {
        one.links.connected(NodeId(2)) && two.links.connected(NodeId(1))
    })
    .await;

    membership.set([NodeId(1)]);
    let event = next_event(&mut one.incoming).await;
    assert!(matches!(event, PeerEvent::Disconnected { peer: NodeId(2), .. }), "{event:?}");
    until("the removed node knows", || {
        let status = two.links.status(NodeId(1));
        !status.connected
            && status.disowns
            && status.last_error.is_some_and(|why| why.contains("not a member"))
    })
    .await;
    assert!(next_refusal(&mut one.incoming).await.contains("node 2 is not a member"));

    membership.set([NodeId(1), NodeId(2)]);
    until("the node is back", || two.links.connected(NodeId(1))).await;
    assert!(!two.links.status(NodeId(1)).disowns, "what the peer said is outdated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_cannot_open_a_node_endpoint() {
    let ca = Ca::generate("prod").unwrap();
    let issued = ca.issue_user("anna", Role::Admin).unwrap();
    let user = Identity::from_pem(&issued.cert_pem, &issued.key_pem, ca.cert_pem()).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = EndpointConfig::new(Purpose::Control, listen, user, members([1]));
    let error = Endpoint::bind(config).unwrap_err();
    assert!(matches!(&error, BindError::NotANode { .. }), "{error}");
    assert!(error.to_string().contains("admin `anna`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_certificate_is_refused_by_a_node_endpoint() {
    let ca = Ca::generate("prod").unwrap();
    let mut node = Spec::control(identity(&ca, 1), members([1, 2])).start();
    let issued = ca.issue_user("anna", Role::Admin).unwrap();
    let client = raw_client(&ca, Some((&issued.cert_pem, &issued.key_pem)));
    let connection = client.connect(node.addr, NODE_DNS_NAME).unwrap().await.unwrap();
    let closed = connection.closed().await.to_string();
    assert!(closed.contains("may use the API, not the connections between nodes"), "{closed}");
    let said = next_refusal(&mut node.incoming).await;
    assert!(said.contains("admin `anna` of cluster `prod`"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_at_all_is_refused() {
    let ca = Ca::generate("prod").unwrap();
    let mut node = Spec::control(identity(&ca, 1), members([1, 2])).start();
    let client = raw_client(&ca, None);
    let connection = client.connect(node.addr, NODE_DNS_NAME).unwrap().await.unwrap();
    connection.closed().await;
    let said = next_refusal(&mut node.incoming).await;
    assert!(said.contains("none was sent"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn control_and_replication_cannot_be_mixed_up() {
    let ca = Ca::generate("prod").unwrap();
    let control = Spec::control(identity(&ca, 1), members([1, 2])).start();
    let mut spec = Spec::control(identity(&ca, 2), members([1, 2]));
    spec.purpose = Purpose::Replication;
    let mut replication = spec.start_with(handler());
    replication.links.set_peers(&[peer(1, control.addr)]);
    let said = next_refusal(&mut replication.incoming).await;
    assert!(said.contains("no common protocol"), "{said}");
}

/// A QUIC client without any of this crate's manners.
fn raw_client(ca: &Ca, auth: Option<(&str, &str)>) -> quinn::Endpoint {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match auth {
        Some((cert, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![Purpose::Control.alpn().into()];
    let config = QuicClientConfig::try_from(config).unwrap();
    let mut client = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    client.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    client
}
