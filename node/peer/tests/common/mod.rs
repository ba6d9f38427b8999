//! What the tests of this crate share: identities, and nodes on loopback.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use steadfast_model::NodeId;
use steadfast_peer::{
    Endpoint, EndpointConfig, Handler, Incoming, Links, LinksConfig, Membership, Peer, PeerEvent,
    Purpose, Timing,
    pki::{Ca, Identity, JoinRequest},
};

/// Generous: these tests assert that something happens, and where time matters, only that it is
/// far from the idle timeout.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn identity(ca: &Ca, id: u32) -> Identity {
    let request = JoinRequest::generate().unwrap();
    let cert = ca.issue_node(NodeId(id), request.csr_pem()).unwrap();
    Identity::from_pem(&cert, request.key_pem(), ca.cert_pem()).unwrap()
}

pub(crate) fn members(ids: impl IntoIterator<Item = u32>) -> Membership {
    Membership::new(ids.into_iter().map(NodeId))
}

/// Kind 1: the request, with the caller's id in front. 2: an answer of as many bytes as the
/// request says. 3: fails. 4: answers after 2 s.
pub(crate) fn handler() -> Handler {
    Arc::new(|from, kind, request| {
        Box::pin(async move {
            match kind {
                2 => vec![7; u32::from_be_bytes(request[..4].try_into().unwrap()) as usize],
                3 => panic!("as the test asked"),
                4 => {
                    tokio::time::sleep(Duration::from_secs(2)).await;
                    Vec::new()
                }
                _ => [from.0.to_be_bytes().as_slice(), &request].concat(),
            }
        })
    })
}

pub(crate) struct Node {
    pub(crate) links: Links,
    pub(crate) incoming: Incoming,
    pub(crate) addr: SocketAddr,
}

pub(crate) struct Spec {
    pub(crate) purpose: Purpose,
    pub(crate) listen: SocketAddr,
    pub(crate) identity: Identity,
    pub(crate) membership: Membership,
    pub(crate) timing: Timing,
}

impl Spec {
    pub(crate) fn control(identity: Identity, membership: Membership) -> Self {
        Self {
            purpose: Purpose::Control,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            identity,
            membership,
            timing: Timing::for_purpose(Purpose::Control),
        }
    }

    /// Starts the node on the current runtime.
    pub(crate) fn start(self) -> Node {
        self.start_with(handler())
    }

    pub(crate) fn start_with(self, handler: Handler) -> Node {
        let config = EndpointConfig {
            purpose: self.purpose,
            listen: self.listen,
            identity: self.identity,
            membership: self.membership,
            timing: self.timing,
            socket: None,
        };
        let endpoint = Endpoint::bind(config).unwrap();
        let addr = endpoint.local_addr().unwrap();
        let handler_runtime = tokio::runtime::Handle::current();
        let (links, incoming) = Links::start(endpoint, LinksConfig { handler, handler_runtime });
        Node { links, incoming, addr }
    }
}

pub(crate) fn peer(id: u32, addr: SocketAddr) -> Peer {
    Peer { id: NodeId(id), addr }
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, so: impl Fn() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) async fn next_event(incoming: &mut Incoming) -> PeerEvent {
    tokio::time::timeout(PATIENCE, incoming.events.recv()).await.expect("an event").unwrap()
}

/// The reason in the next refusal; other events are passed over.
pub(crate) async fn next_refusal(incoming: &mut Incoming) -> String {
    let refusal = async {
        loop {
            if let PeerEvent::Refused { why, .. } = next_event(incoming).await {
                return why;
            }
        }
    };
    // Bounded as a whole: a connection that comes and goes makes events for ever.
    tokio::time::timeout(PATIENCE, refusal).await.expect("a refusal")
}
