//! A peer dies and comes back at the same address.
//!
//! The idle timeout is set to minutes, so that it cannot be what makes these tests pass.

use std::{
    net::SocketAddr,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use crate::common::{Spec, identity, members, peer, until};
use steadfast_model::NodeId;
use steadfast_peer::{
    CallError, Links, Membership, Timing,
    pki::{Ca, Identity},
};

const ONE: NodeId = NodeId(1);
const TWO: NodeId = NodeId(2);

const NEVER: Timing =
    Timing { idle: Duration::from_secs(300), keep_alive: Duration::from_secs(120) };

/// A node on a runtime of its own that can die without a word.
struct Mortal {
    links: Links,
    addr: SocketAddr,
    runtime: tokio::runtime::Runtime,
}

impl Mortal {
    fn start(identity: Identity, listen: SocketAddr, membership: Membership) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let mut spec = Spec::control(identity, membership);
        spec.listen = listen;
        spec.timing = NEVER;
        let (ready, node) = mpsc::channel();
        runtime.spawn(async move {
            let node = spec.start();
            ready.send((node.links, node.addr)).unwrap();
            // Keeps the queues of incoming things open.
            std::future::pending::<()>().await;
            drop(node.incoming);
        });
        let (links, addr) = node.recv().unwrap();
        Self { links, addr, runtime }
    }

    /// The tasks are dropped where they stand: no close message leaves.
    fn die(self) {
        let Self { links, runtime, .. } = self;
        runtime.shutdown_timeout(Duration::from_secs(10));
        drop(links);
    }
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

/// What tells the survivor that the peer has restarted.
#[derive(Debug, PartialEq)]
enum Sign {
    /// The restarted peer does not dial; it answers what we send with a stateless reset.
    Reset,
    /// We send nothing, and a reset would mean nothing to us: the peer dials us.
    NewConnection,
}

fn restart(sign: Sign) {
    let ca = Ca::generate("prod").unwrap();
    let both = members([1, 2]);
    let main = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    main.block_on(async {
        let mut spec = Spec::control(identity(&ca, 1), both.clone());
        spec.timing = NEVER;
        let mut one = spec.start();
        let first = identity(&ca, 2);
        let two = Mortal::start(first.clone(), any_port(), both.clone());
        let peers = [peer(1, one.addr), peer(2, two.addr)];
        one.links.set_peers(&peers);
        until("connected", || one.links.connected(TWO) && two.links.connected(ONE)).await;
        while one.incoming.events.try_recv().is_ok() {}

        let addr = two.addr;
        thread::spawn(move || two.die()).join().unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(one.links.connected(TWO), "the test is void: the death was noticed");

        // A new key makes the restarted node's resets unknown to us.
        let second = if sign == Sign::Reset { first } else { identity(&ca, 2) };
        let start = Instant::now();
        let two = thread::spawn(move || Mortal::start(second, addr, both)).join().unwrap();
        assert_eq!(two.addr, addr);
        if sign == Sign::NewConnection {
            two.links.set_peers(&peers);
        }
        loop {
            if sign == Sign::Reset {
                let _ = one.links.send_datagram(TWO, b"beacon".to_vec());
            }
            let timeout = Duration::from_millis(25);
            if one.links.connected(TWO) && sign == Sign::Reset {
                if one.links.call(TWO, 1, b"x", timeout).await.is_ok() {
                    break;
                }
            } else if sign == Sign::NewConnection && two.links.connected(ONE) {
                // Only now, so that nothing of ours provokes the reset.
                match one.links.call(TWO, 1, b"x", Duration::from_secs(5)).await {
                    Ok(answer) => {
                        assert_eq!(answer, b"\0\0\0\x01x");
                        break;
                    }
                    // The first run's connection is gone, the second's not registered yet.
                    Err(CallError::NotConnected { .. }) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    Err(error) => panic!("{sign:?}: {error}"),
                }
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{sign:?}: still not connected");
        }
        eprintln!("{sign:?}: answered {:?} after the restart", start.elapsed());
        // Exactly the connections there should be: nothing of the first run is left.
        until("both directions work", || one.links.connected(TWO)).await;
        thread::spawn(move || two.die()).join().unwrap();
    });
}

#[test]
fn a_restarted_peer_is_noticed_by_its_stateless_reset() {
    restart(Sign::Reset);
}

#[test]
fn a_restarted_peer_is_noticed_by_the_connection_it_makes() {
    restart(Sign::NewConnection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_starts_late_is_reached_soon_after_it_is_there() {
    let ca = Ca::generate("prod").unwrap();
    let both = members([1, 2]);
    let one = Spec::control(identity(&ca, 1), both.clone()).start();
    // A port that is free for now.
    let addr = std::net::UdpSocket::bind(any_port()).unwrap().local_addr().unwrap();
    one.links.set_peers(&[peer(2, addr)]);
    until("an attempt has failed", || one.links.status(TWO).last_error.is_some()).await;
    assert!(one.links.status(TWO).last_error.unwrap().contains("no answer from"));
    let mut spec = Spec::control(identity(&ca, 2), both);
    spec.listen = addr;
    let start = Instant::now();
    let two = spec.start();
    until("connected", || one.links.connected(TWO)).await;
    eprintln!("connected {:?} after the peer was there", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(one.links.status(TWO).last_error, None);

    // A silent death is noticed by the idle timeout, and the address may change.
    two.links.close().await;
    until("gone", || !one.links.connected(TWO)).await;
    let again = Spec::control(identity(&ca, 2), members([1, 2])).start();
    assert_ne!(again.addr, addr);
    one.links.set_peers(&[peer(2, again.addr)]);
    until("connected at the new address", || one.links.connected(TWO)).await;
    one.links.set_peers(&[]);
    until("dropped", || !one.links.connected(TWO)).await;
}
