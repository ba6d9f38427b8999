//! Connections that no node has a copy of, because their service copies them late: the holder is killed,
//! the next one asks its peers, and goes on where the hash says. Needs root; fails without.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    time::Duration,
};

use crate::common::{Lab, phase, until};
use rustix::process::Signal;
use steadfast_lab::host::{family::Family, inside::inside, names::Host};

/// For an answer that comes at all.
const PATIENCE: Duration = Duration::from_secs(10);
const SOON: Duration = Duration::from_secs(5);
const SESSIONS: usize = 40;

#[tokio::test]
async fn connections_without_a_copy_go_on_where_the_hash_says() {
    let mut lab = Lab::start("e2eunk").await;
    let late = "scheduler: mh\n    sync: {threshold: 49, on_established: false}";
    lab.apply(&[("scheduler: rr", late)]).await;
    phase("sessions that no other node hears of");
    let mut sessions: Vec<_> = (0..SESSIONS).map(|_| session(&lab)).collect();
    for server in ["s1", "s2", "s3"] {
        let at = sessions.iter().filter(|(_, who)| who == server).count();
        assert!(at > 2, "{server} has {at} of {SESSIONS}");
    }
    let (holder, _) = lab.holder().unwrap();
    for n in (1..=3).filter(|n| *n != holder) {
        let listed = lab.ctl(n, &["conn", "list", "--limit", "0", "-o", "json"]).json();
        assert_eq!(listed["connections"].as_array().unwrap().len(), 0, "n{n} has copies: {listed}");
    }
    phase("the holder is killed");
    lab.cluster.signal(holder, Signal::KILL).unwrap();
    lab.cluster.reap(holder, PATIENCE).await.unwrap();
    lab.wait_holder("another node takes over", SOON, Some(holder));
    for (stream, _) in &mut sessions {
        stream.write_all(b"hello\n").unwrap();
    }
    for (stream, who) in &mut sessions {
        assert_eq!(&hear(stream), who, "a session is at another server");
    }
    let (next, _) = lab.holder().unwrap();
    until("the counters", SOON, || {
        let status = lab.status_json(next);
        let counts = &status["local"]["unknown_connections"];
        let count = |name: &str| counts[name].as_u64().unwrap_or(0);
        let asked_and_unknown = (count("asked_for"), count("known_to_nobody"));
        let all = SESSIONS as u64;
        if asked_and_unknown.0 >= all && asked_and_unknown.1 >= all && count("found_at_peers") == 0
        {
            Ok(())
        } else {
            Err(format!("n{next}: {counts}"))
        }
    });
    phase("done");
}

/// An open session, and which server it is at.
fn session(lab: &Lab) -> (TcpStream, String) {
    let stream = inside(&lab.namespace(Host::Client), move || {
        let stream = TcpStream::connect_timeout(&Family::V4.target(), PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    });
    let mut stream = stream.unwrap();
    stream.write_all(b"hello\n").unwrap();
    let who = hear(&mut stream);
    (stream, who)
}

/// Which server answers.
fn hear(stream: &mut TcpStream) -> String {
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
    line.split_whitespace().next().unwrap_or_default().to_owned()
}
