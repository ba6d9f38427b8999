//! What `clusterctl get service NAME --stats` and `--rate` show beside what was sent.

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::common::{Lab, phase, until};
use steadfast_lab::host::{
    inside::inside,
    names::{CLIENT, Host, vip_target},
};

const SERVICE: &str = "echo-udp";

/// Flows, what each sends, and how long that is with its headers.
const FLOWS: u64 = 12;
const DATAGRAMS: u64 = 5;
const DATA: usize = 100;
const PACKET_LEN: u64 = 20 + 8 + DATA as u64;

/// A line of the screen: connections, packets and octets in.
type Figures = [u64; 3];

/// The example has direct routing: nobody sees what its servers answer.
pub(crate) fn stats_and_rates_are_of_what_was_sent(lab: &Lab) {
    let (holder, _) = lab.holder().unwrap();

    phase("--stats counts what was sent, for the service and each server");
    let before = shown(lab, holder, "--stats");
    let sockets: Vec<UdpSocket> = (0..FLOWS).map(|_| socket(lab)).collect();
    for _ in 0..DATAGRAMS {
        for socket in &sockets {
            socket.send(&[0x5a; DATA]).unwrap();
        }
        // Counters are of each packet, and each is forwarded when it comes; its echo says so.
        for socket in &sockets {
            socket.recv(&mut [0; DATA]).expect("the echo of a datagram");
        }
    }
    let after = shown(lab, holder, "--stats");
    let servers = after.len() as u64 - 1;
    assert_eq!(servers, 3, "{after:?}");
    for (line, (after, before)) in after.iter().zip(&before).enumerate() {
        // Round robin: each server gets as many.
        let flows = if line == 0 { FLOWS } else { FLOWS / servers };
        let packets = flows * DATAGRAMS;
        let sent = [flows, packets, packets * PACKET_LEN];
        let counted: Figures = std::array::from_fn(|at| after[at] - before[at]);
        assert_eq!(counted, sent, "line {line} of --stats");
    }
    for n in (1..=3).filter(|n| *n != holder) {
        let idle = shown(lab, n, "--stats");
        assert_eq!(idle[0][1], 0, "packets at n{n}, which does not hold the group: {idle:?}");
    }

    phase("--rate is above 0 while traffic flows, and fits together");
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                // Another port for each: a new flow.
                let socket = socket(lab);
                for _ in 0..DATAGRAMS {
                    socket.send(&[0x5a; DATA]).unwrap();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let rates = until_flowing(lab, holder);
        done.store(true, Ordering::Relaxed);
        for (line, [conns, packets, bytes]) in rates.into_iter().enumerate() {
            // Each is rounded to a whole number a second.
            let near = |a: u64, b: u64, by: u64| a.abs_diff(b) <= by;
            assert!(
                near(packets, conns * DATAGRAMS, 2 * DATAGRAMS),
                "line {line}: {conns}, {packets}"
            );
            assert!(
                near(bytes, packets * PACKET_LEN, 2 * PACKET_LEN),
                "line {line}: {packets}, {bytes}"
            );
        }
    });
}

/// The rates, as soon as all of them are above 0.
fn until_flowing(lab: &Lab, holder: u8) -> Vec<Figures> {
    until("rates of a service with traffic", Duration::from_secs(15), || {
        let rates = shown(lab, holder, "--rate");
        let flows = rates.iter().all(|line| line.iter().all(|rate| *rate > 0));
        if flows { Ok(rates) } else { Err(format!("{rates:?}")) }
    })
}

fn socket(lab: &Lab) -> UdpSocket {
    inside(&lab.namespace(Host::Client), || {
        let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
        socket.connect(vip_target()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    })
    .unwrap()
}

/// The lines of the screen: that of the service, then those of its servers.
fn shown(lab: &Lab, n: u8, what: &str) -> Vec<Figures> {
    let text = lab.ctl(n, &["get", "service", SERVICE, what]).good();
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let figures = lines.filter_map(|words| {
        let is_line = words.first().is_some_and(|name| *name == "all" || name.contains(':'));
        // The last five: connections, packets in and out, octets in and out.
        let [.., conns, packets, "-", bytes, "-"] = words[..] else { return None };
        let number = |word: &str| word.parse::<u64>().expect("a number");
        is_line.then(|| [number(conns), number(packets), number(bytes)])
    });
    let figures: Vec<_> = figures.collect();
    assert!(!figures.is_empty(), "{text}");
    figures
}
