//! Real TCP connects on loopback.
#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use steadfast_health::{Checker, Opinion, Opinions, Settings, Target};
use steadfast_model::{NodeId, document::CheckKind};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(20);

fn target(addr: SocketAddr) -> Target {
    Target { addr: addr.ip(), port: addr.port(), kind: CheckKind::Tcp }
}

fn settings() -> Settings {
    Settings {
        interval: Duration::from_millis(30),
        timeout: Duration::from_secs(5),
        rise: 2,
        fall: 2,
    }
}

fn start() -> Checker {
    let origin = Instant::now();
    Checker::start(NodeId(1), move || origin.elapsed().as_nanos() as u64)
}

async fn until(
    opinions: &mut watch::Receiver<Opinions>,
    target: Target,
    so: impl Fn(&Opinion) -> bool,
) -> Opinion {
    let seen = opinions.wait_for(|opinions| opinions.get(&target).is_some_and(&so));
    tokio::time::timeout(PATIENCE, seen).await.expect("an opinion in time").unwrap()[&target]
        .clone()
}

#[tokio::test]
async fn a_server_goes_down_and_comes_back() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = server.local_addr().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let other_target = target(other.local_addr().unwrap());
    let target = target(addr);
    let checker = start();
    checker.set_targets(BTreeMap::from([(target, settings()), (other_target, settings())]));
    let mut opinions = checker.opinions();
    until(&mut opinions, target, |opinion| *opinion == Opinion::Up).await;
    until(&mut opinions, other_target, |opinion| *opinion == Opinion::Up).await;

    drop(server);
    let down = until(&mut opinions, target, |opinion| *opinion != Opinion::Up).await;
    let Opinion::Down { why } = down else { panic!("{down:?}") };
    assert!(why.contains("refused"), "{why}");
    assert_eq!(opinions.borrow()[&other_target], Opinion::Up, "the other is not concerned");

    let server = TcpListener::bind(addr).unwrap();
    until(&mut opinions, target, |opinion| *opinion == Opinion::Up).await;

    // Taken out: no more connections arrive.
    checker.set_targets(BTreeMap::from([(other_target, settings())]));
    let gone = opinions.wait_for(|opinions| !opinions.contains_key(&target));
    tokio::time::timeout(PATIENCE, gone).await.unwrap().unwrap();
    server.set_nonblocking(true).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    while server.accept().is_ok() {}
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(server.accept().is_err(), "still probed");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_down_after_the_timeout() {
    // A listener whose backlog is full answers no further SYN.
    let socket = short_listener();
    let addr = socket.local_addr().unwrap();
    let mut held = Vec::new();
    let full = loop {
        match std::net::TcpStream::connect_timeout(&addr, Duration::from_millis(200)) {
            Ok(stream) => held.push(stream),
            Err(error) => break error,
        }
        assert!(held.len() < 100, "the test is void: the backlog does not fill");
    };
    assert_eq!(full.kind(), std::io::ErrorKind::TimedOut);
    let checker = start();
    let slow = Settings { timeout: Duration::from_millis(50), ..settings() };
    checker.set_targets(BTreeMap::from([(target(addr), slow)]));
    let mut opinions = checker.opinions();
    let down = until(&mut opinions, target(addr), |opinion| *opinion != Opinion::Unknown).await;
    assert_eq!(down, Opinion::Down { why: "no answer within 50ms".into() });
}

/// A listener with a backlog of one.
fn short_listener() -> TcpListener {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    socket.listen(1).unwrap().into_std().unwrap()
}

#[tokio::test]
async fn checks_end_with_their_owner() {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = target(server.local_addr().unwrap());
    let checker = start();
    checker.set_targets(BTreeMap::from([(target, settings())]));
    let mut opinions = checker.opinions();
    until(&mut opinions, target, |opinion| *opinion == Opinion::Up).await;
    drop(checker);
    tokio::time::timeout(PATIENCE, async { while opinions.changed().await.is_ok() {} })
        .await
        .expect("the task has ended");
}
