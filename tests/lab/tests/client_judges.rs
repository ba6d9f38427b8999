//! The client against a server that misbehaves in every way a broken session can look.

#![allow(clippy::unwrap_used)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use steadfast_lab::load::{
    MS,
    client::Client,
    judge::{FaultWindow, Why},
    now_ns, record, server,
    wire::{Command, Event, SessionReport},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    time::sleep,
};

/// What the server does from the third record on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Misdeed {
    Nothing,
    Reset,
    Eof,
    WrongByte,
    MissingByte,
    OtherServer,
    Silence,
    Garbage,
}

async fn listen(misdeed: Misdeed) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(serve(stream, misdeed));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, misdeed: Misdeed) {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    let mut answered = 0;
    loop {
        let mut line = Vec::new();
        if read.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
            return;
        }
        let mut answer = record::answer("s1", &line);
        if answered >= 2 {
            match misdeed {
                Misdeed::Nothing => {}
                Misdeed::Reset => {
                    // Unread bytes at the time of closing make the kernel send a reset.
                    stream.set_zero_linger().unwrap();
                    return;
                }
                Misdeed::Eof => return,
                Misdeed::WrongByte => answer[30] ^= 1,
                Misdeed::MissingByte => drop(answer.remove(30)),
                Misdeed::OtherServer => answer[1] = b'2',
                Misdeed::Silence => continue,
                Misdeed::Garbage => answer = b"\n".to_vec(),
            }
        }
        if write.write_all(&answer).await.is_err() {
            return;
        }
        answered += 1;
    }
}

/// Opens one talker and one silent session, lets them live through a fault in which nothing
/// happens, and returns how they ended. The window is put into the past, so that the five seconds
/// need not be waited for.
async fn sessions(target: SocketAddr) -> Vec<SessionReport> {
    let mut client = Client::default();
    let opened = client.handle(Command::Open { target, talkers: 1, silent: 1 }).await;
    assert!(matches!(opened, Event::Opened { established: 2, .. }), "{opened:?}");
    sleep(Duration::from_millis(250)).await;
    let ended_ns = now_ns();
    client.handle(Command::Speak).await;
    sleep(Duration::from_millis(450)).await;
    let fault = FaultWindow { begin_ns: ended_ns - MS, ended_ns };
    match client.handle(Command::Finish { fault }).await {
        Event::Finished { sessions, probe: None } => sessions,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_misdeed_breaks_the_talker_for_its_own_reason() {
    let cases = [
        (Misdeed::Nothing, None),
        (Misdeed::Reset, Some(Why::Reset)),
        (Misdeed::Eof, Some(Why::Eof)),
        (Misdeed::WrongByte, Some(Why::WrongBytes)),
        (Misdeed::MissingByte, Some(Why::WrongBytes)),
        (Misdeed::OtherServer, Some(Why::OtherServer)),
        (Misdeed::Silence, Some(Why::NoEchoInTime)),
        (Misdeed::Garbage, Some(Why::WrongBytes)),
    ];
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            for (misdeed, why) in cases {
                let reports = sessions(listen(misdeed).await).await;
                let [silent, talker] = &reports[..] else { panic!("{reports:?}") };
                assert_eq!(talker.broken.as_ref().map(|b| b.why), why, "{misdeed:?}: {talker:?}");
                // Its first record is answered well: what the server does later does not touch it.
                assert_eq!(silent.broken, None, "{misdeed:?}");
                assert_eq!((silent.sent, silent.echoed), (1, 1));
                assert_eq!(silent.server.as_deref(), Some("s1"));
            }
        })
        .await;
}

#[tokio::test]
async fn a_session_is_never_opened_twice() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let target = listener.local_addr().unwrap();
            let mut client = Client::default();
            let open = client.handle(Command::Open { target, talkers: 1, silent: 0 });
            let (opened, accepted) = tokio::join!(open, listener.accept());
            assert!(matches!(opened, Event::Opened { established: 1, .. }));
            let (stream, _) = accepted.unwrap();
            stream.set_zero_linger().unwrap();
            drop(stream);
            let again = tokio::time::timeout(Duration::from_millis(500), listener.accept()).await;
            assert!(again.is_err(), "a broken session came again");
            let Event::Sessions { sessions } = client.handle(Command::Snapshot).await else {
                panic!("no sessions");
            };
            assert_eq!(sessions[0].broken.as_ref().map(|b| b.why), Some(Why::Reset));
        })
        .await;
}

#[tokio::test]
async fn a_connection_that_is_refused_is_reported_and_not_established() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            // Bound and not listening: refused.
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let target = socket.local_addr().unwrap();
            let mut client = Client::default();
            let opened = client.handle(Command::Open { target, talkers: 2, silent: 1 }).await;
            let Event::Opened { established: 0, failures, .. } = opened else {
                panic!("{opened:?}")
            };
            assert_eq!(failures.len(), 3);
        })
        .await;
}

#[tokio::test]
async fn the_real_server_serves_talkers_silent_ones_and_the_probe() {
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
            tokio::task::spawn_local(async move { server::serve("s1".to_owned(), &[free]).await });
            let up = Instant::now();
            while TcpStream::connect(free).await.is_err() {
                assert!(up.elapsed() < Duration::from_secs(5), "the server does not listen");
                sleep(Duration::from_millis(5)).await;
            }
            let mut client = Client::default();
            let probing = client.handle(Command::Probe { target: free, rate_hz: 1000 }).await;
            assert_eq!(probing, Event::Probing { server: "s1".to_owned() });
            client.handle(Command::Open { target: free, talkers: 100, silent: 50 }).await;
            sleep(Duration::from_millis(300)).await;
            let ended_ns = now_ns();
            client.handle(Command::Speak).await;
            sleep(Duration::from_millis(300)).await;
            let fault = FaultWindow { begin_ns: ended_ns, ended_ns };
            let finished = client.handle(Command::Finish { fault }).await;
            let Event::Finished { sessions, probe: Some(probe) } = finished else {
                panic!("{finished:?}")
            };
            assert_eq!(sessions.len(), 150);
            for session in sessions {
                assert_eq!(session.broken, None);
                assert_eq!(session.sent, session.echoed);
            }
            assert!(probe.sent > 100 && probe.lost == 0, "{probe:?}");
        })
        .await;
}
