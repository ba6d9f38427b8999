//! Calls, datagrams and streams between nodes on loopback, and their bounds.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::common::{Node, PATIENCE, Spec, handler, identity, members, peer, until};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use steadfast_model::NodeId;
use steadfast_peer::{
    CallError, DatagramError, Handler, Links, Purpose, StreamError,
    limits::{
        DATAGRAM_QUEUE_MAX, FRAME_BYTES_MAX, INCOMING_STREAM_QUEUE_MAX, REQUEST_BYTES_MAX,
        RESPONSE_BYTES_MAX,
    },
    pki::{Ca, Identity, NODE_DNS_NAME},
};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

/// Two connected nodes.
async fn pair() -> (Node, Node) {
    pair_with(handler()).await
}

async fn pair_with(handler: Handler) -> (Node, Node) {
    let ca = Ca::generate("prod").unwrap();
    let one = Spec::control(identity(&ca, 1), members([1, 2])).start_with(handler.clone());
    let two = Spec::control(identity(&ca, 2), members([1, 2])).start_with(handler);
    connect(&one, &two).await;
    (one, two)
}

async fn connect(one: &Node, two: &Node) {
    let peers = [peer(1, one.addr), peer(2, two.addr)];
    one.links.set_peers(&peers);
    two.links.set_peers(&peers);
    until("connected", || one.links.connected(TWO) && two.links.connected(ONE)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_both_ways_and_many_at_once() {
    let (one, two) = pair().await;
    let answer = one.links.call(TWO, 1, b"hello", PATIENCE).await.unwrap();
    assert_eq!(answer, b"\0\0\0\x01hello");
    let answer = two.links.call(ONE, 1, b"", PATIENCE).await.unwrap();
    assert_eq!(answer, b"\0\0\0\x02");
    // More than may be open at a time: the rest wait.
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..500_u32 {
        let links = one.links.clone();
        calls.spawn(async move {
            let answer = links.call(TWO, 1, &n.to_be_bytes(), PATIENCE).await.unwrap();
            assert_eq!(answer, [1_u32.to_be_bytes(), n.to_be_bytes()].concat());
        });
    }
    assert_eq!(calls.join_all().await.len(), 500);
    assert!(one.links.rtt(TWO).unwrap() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_bounds_and_says_which_was_hit() {
    let (one, _two) = pair().await;
    let call = |kind, request: Vec<u8>| {
        let links = one.links.clone();
        async move { links.call(TWO, kind, &request, PATIENCE).await }
    };
    // The answer has the caller's id in front: four bytes more than the request.
    let longest = call(1, vec![5; RESPONSE_BYTES_MAX - 4]).await.unwrap();
    assert_eq!(longest.len(), RESPONSE_BYTES_MAX);
    let error = call(1, vec![5; REQUEST_BYTES_MAX]).await.unwrap_err();
    assert_eq!(error, CallError::ResponseTooLong { peer: TWO });
    let error = call(1, vec![5; REQUEST_BYTES_MAX + 1]).await.unwrap_err();
    assert_eq!(error, CallError::RequestTooLong { bytes: REQUEST_BYTES_MAX + 1 });
    let bytes = (RESPONSE_BYTES_MAX as u32).to_be_bytes().to_vec();
    assert_eq!(call(2, bytes).await.unwrap().len(), RESPONSE_BYTES_MAX);
    let bytes = (RESPONSE_BYTES_MAX as u32 + 1).to_be_bytes().to_vec();
    assert_eq!(call(2, bytes).await.unwrap_err(), CallError::ResponseTooLong { peer: TWO });
    let CallError::Refused { why, .. } = call(3, vec![]).await.unwrap_err() else {
        panic!("a failed handler must be told apart");
    };
    assert_eq!(why, "its handler failed");
    // And the connection still works.
    assert_eq!(call(1, vec![]).await.unwrap(), b"\0\0\0\x01");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_made_fails_at_once_and_one_without_answer_in_time() {
    let (one, two) = pair().await;
    let start = Instant::now();
    let error = one.links.call(NodeId(3), 1, b"", PATIENCE).await.unwrap_err();
    assert_eq!(error, CallError::NotConnected { peer: NodeId(3), last: None });
    assert!(start.elapsed() < PATIENCE / 2);
    let timeout = Duration::from_millis(50);
    let error = one.links.call(TWO, 4, b"", timeout).await.unwrap_err();
    assert_eq!(error, CallError::Timeout { peer: TWO, timeout });
    // A peer that stops says so: the waiting call ends with the connection, not with its timeout.
    let links = one.links.clone();
    let waiting = tokio::spawn(async move { links.call(TWO, 4, b"", PATIENCE).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    two.links.close().await;
    let error = waiting.await.unwrap().unwrap_err();
    assert!(
        matches!(&error, CallError::Lost { why, .. } if why.contains("shutting down")),
        "{error}"
    );
    until("known to be gone", || !one.links.connected(TWO)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_given_up_half_way_is_never_handled() {
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let (one, _two) = pair_with(Arc::new(move |_, _, request| {
        count.fetch_add(request.len(), Ordering::SeqCst);
        Box::pin(async { Vec::new() })
    }))
    .await;
    for _ in 0..20 {
        let timeout = Duration::from_millis(1);
        let call = one.links.call(TWO, 1, &vec![1; REQUEST_BYTES_MAX], timeout).await;
        assert!(matches!(call, Err(CallError::Timeout { .. })), "the test is void: {call:?}");
    }
    one.links.call(TWO, 1, b"abc", PATIENCE).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(handled.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_arrive_and_never_wait() {
    let (one, mut two) = pair().await;
    one.links.send_datagram(TWO, b"beacon".to_vec()).unwrap();
    let datagram = tokio::time::timeout(PATIENCE, two.incoming.datagrams.recv()).await.unwrap();
    let datagram = datagram.unwrap();
    assert_eq!((datagram.from, datagram.bytes.as_slice()), (ONE, b"beacon".as_slice()));
    let error = one.links.send_datagram(NodeId(9), vec![]).unwrap_err();
    assert_eq!(error, DatagramError::NotConnected { peer: NodeId(9) });
    let max = one.links.datagram_max(TWO).unwrap();
    assert!(max >= 1100, "{max}");
    let error = one.links.send_datagram(TWO, vec![0; 2000]).unwrap_err();
    assert!(matches!(error, DatagramError::TooLarge { bytes: 2000, .. }), "{error}");
    // Nobody reads at the other end: the queue stays within its bound, the rest is counted.
    for _ in 0..10 * DATAGRAM_QUEUE_MAX {
        if two.links.counters().datagrams_dropped > 0 {
            break;
        }
        one.links.send_datagram(TWO, vec![1; 100]).unwrap();
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    let counters = two.links.counters();
    assert!(counters.datagrams_dropped > 0, "{counters:?}");
    assert_eq!(two.incoming.datagrams.len(), DATAGRAM_QUEUE_MAX);
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_keep_their_order_and_their_bounds() {
    let (one, mut two) = pair().await;
    let mut ours = one.links.open_stream(TWO).await.unwrap();
    for n in 0..1000_u32 {
        ours.write_frame(&n.to_be_bytes().repeat(n as usize % 50)).await.unwrap();
    }
    let incoming = tokio::time::timeout(PATIENCE, two.incoming.streams.recv()).await.unwrap();
    let incoming = incoming.unwrap();
    assert_eq!(incoming.from, ONE);
    let mut theirs = incoming.stream;
    for n in 0..1000_u32 {
        // Cancelling a read loses nothing.
        let frame = loop {
            let read = tokio::time::timeout(Duration::from_micros(50), theirs.read_frame()).await;
            if let Ok(frame) = read {
                break frame.unwrap().unwrap();
            }
        };
        assert_eq!(frame, n.to_be_bytes().repeat(n as usize % 50));
    }
    theirs.write_frame(b"ack 999").await.unwrap();
    assert_eq!(ours.read_frame().await.unwrap().unwrap(), b"ack 999");

    let error = ours.write_frame(&vec![0; FRAME_BYTES_MAX + 1]).await.unwrap_err();
    let bytes = FRAME_BYTES_MAX + 1;
    assert_eq!(error, StreamError::FrameTooLong { bytes, max: FRAME_BYTES_MAX });
    let (mut writer, reader) = ours.split();
    let write = tokio::spawn(async move {
        writer.write_frame(&vec![3; FRAME_BYTES_MAX]).await.unwrap();
        writer.finish();
    });
    assert_eq!(theirs.read_frame().await.unwrap().unwrap().len(), FRAME_BYTES_MAX);
    assert_eq!(theirs.read_frame().await.unwrap(), None);
    write.await.unwrap();
    drop(reader);

    // Dropped without `finish`: not to be taken for a good end.
    let mut ours = one.links.open_stream(TWO).await.unwrap();
    ours.write_frame(b"x").await.unwrap();
    let mut theirs = two.incoming.streams.recv().await.unwrap().stream;
    assert_eq!(theirs.read_frame().await.unwrap().unwrap(), b"x");
    drop(ours);
    let error = theirs.read_frame().await.unwrap_err();
    assert!(matches!(error, StreamError::Broken { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_picks_up_are_refused() {
    let (one, two) = pair().await;
    let mut streams = Vec::new();
    for _ in 0..INCOMING_STREAM_QUEUE_MAX {
        streams.push(one.links.open_stream(TWO).await.unwrap());
    }
    until("the queue is full", || two.incoming.streams.len() == INCOMING_STREAM_QUEUE_MAX).await;
    let mut extra = one.links.open_stream(TWO).await.unwrap();
    let error = tokio::time::timeout(PATIENCE, extra.read_frame()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("too many streams waiting"), "{error}");
    assert_eq!(two.links.counters().streams_refused, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn lengths_above_the_bound_are_refused_before_a_byte_is_kept() {
    let ca = Ca::generate("prod").unwrap();
    let mut node = Spec::control(identity(&ca, 1), members([1, 2])).start();
    let connection = raw_peer(&identity(&ca, 2), node.addr).await;

    // A call: stream kind 2, call kind 1, then the length.
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[2, 1, 0xff, 0xff, 0xff, 0xff]).await.unwrap();
    let code = tokio::time::timeout(PATIENCE, send.stopped()).await.unwrap().unwrap();
    assert_eq!(code.unwrap().into_inner(), 2, "stopped as too long");
    assert_eq!(node.links.counters().oversized, 1);

    // More bytes than announced.
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[2, 1, 0, 0, 0, 2, 1, 2, 3]).await.unwrap();
    send.finish().unwrap();
    assert!(recv.read_to_end(100).await.is_err());

    // A stream of frames: kind 3, then the length of the first frame.
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[3, 0, 0x10, 0, 1]).await.unwrap();
    let mut stream = node.incoming.streams.recv().await.unwrap().stream;
    let read = tokio::time::timeout(PATIENCE, stream.read_frame()).await;
    let bytes = FRAME_BYTES_MAX + 1;
    let error = read.expect("refused, not waited for").unwrap_err();
    assert_eq!(error, StreamError::FrameTooLong { bytes, max: FRAME_BYTES_MAX });

    // A kind that does not exist.
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&[9]).await.unwrap();
    let code = tokio::time::timeout(PATIENCE, send.stopped()).await.unwrap().unwrap();
    assert_eq!(code.unwrap().into_inner(), 5, "stopped as unknown");
    assert!(connection.close_reason().is_none(), "one bad stream does not cost the connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn replication_has_no_datagrams() {
    let ca = Ca::generate("prod").unwrap();
    let start = |id| {
        let mut spec = Spec::control(identity(&ca, id), members([1, 2]));
        spec.purpose = Purpose::Replication;
        spec.start()
    };
    let (one, two) = (start(1), start(2));
    connect(&one, &two).await;
    assert_eq!(one.links.send_datagram(TWO, vec![1]), Err(DatagramError::Unsupported));
    one.links.call(TWO, 1, b"x", PATIENCE).await.unwrap();
}

/// The control endpoint runs on a thread of its own; calls come from elsewhere.
#[test]
fn an_endpoint_on_a_current_thread_runtime_is_used_from_another() {
    let ca = Ca::generate("prod").unwrap();
    let main = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let spawn = |id| -> (Links, SocketAddr) {
        let spec = Spec::control(identity(&ca, id), members([1, 2]));
        let (ready, links) = std::sync::mpsc::channel();
        let handler_runtime = main.handle().clone();
        std::thread::spawn(move || {
            let beacons =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            beacons.block_on(async {
                let config = steadfast_peer::EndpointConfig::new(
                    spec.purpose,
                    spec.listen,
                    spec.identity,
                    spec.membership,
                );
                let endpoint = steadfast_peer::Endpoint::bind(config).unwrap();
                let addr = endpoint.local_addr().unwrap();
                // Answers with the name of the thread it runs on.
                let handler: Handler = Arc::new(|_, _, _| {
                    Box::pin(async { format!("{:?}", std::thread::current().name()).into_bytes() })
                });
                let config = steadfast_peer::LinksConfig { handler, handler_runtime };
                let (links, mut incoming) = Links::start(endpoint, config);
                ready.send((links, addr)).unwrap();
                while incoming.datagrams.recv().await.is_some() {}
            });
        });
        links.recv_timeout(PATIENCE).unwrap()
    };
    let ((one, one_addr), (two, two_addr)) = (spawn(1), spawn(2));
    let peers = [peer(1, one_addr), peer(2, two_addr)];
    // From no runtime at all.
    one.set_peers(&peers);
    two.set_peers(&peers);
    main.block_on(async {
        until("connected", || one.connected(TWO) && two.connected(ONE)).await;
        for _ in 0..100 {
            let answer = one.call(TWO, 1, b"x", PATIENCE).await.unwrap();
            assert_eq!(answer, b"Some(\"tokio-rt-worker\")", "the handler's own runtime");
        }
        let error = two.call(ONE, 1, &vec![0; REQUEST_BYTES_MAX], Duration::from_millis(1)).await;
        assert!(matches!(error, Err(CallError::Timeout { .. })), "{error:?}");
        one.send_datagram(TWO, vec![1]).unwrap();
        until("received", || two.counters().datagrams_in == 1).await;
        one.close().await;
        until("gone", || !two.connected(ONE)).await;
    });
}

/// An admitted peer without this crate's manners.
async fn raw_peer(identity: &Identity, addr: SocketAddr) -> quinn::Connection {
    let pem = identity.pem();
    let cert = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(cert(&pem.ca)).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![cert(&pem.chain)],
            PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![Purpose::Control.alpn().into()];
    let config = QuicClientConfig::try_from(config).unwrap();
    let mut client = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    client.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    let connection = client.connect(addr, NODE_DNS_NAME).unwrap().await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[1, 1, 0, 0, 0, 0, 0, 0, 0, 7]).await.unwrap();
    recv.read_exact(&mut [0; 9]).await.unwrap();
    connection
}
