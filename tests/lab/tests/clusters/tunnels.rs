//! Tunnels to real servers, each kind, with real sockets and the path MTU that clients learn.
//! One cluster, one phase after the other. Needs root; fails without.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{TcpStream, UdpSocket},
    time::Duration,
};

use crate::common::{Lab, phase};
use serde_json::Value;
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{Host, Mode, NODES, VIP, vip_target},
};

/// The tunnel of the TCP service in the example.
const EXAMPLE: &str = "{type: gue, port: 6080}";

/// For an answer that comes at all.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn every_tunnel_reaches_the_servers() {
    let mut lab = Lab::start_with("e2etun", Mode::Tun, Family::V4).await;
    full_segments_learn_the_path_mtu(&lab);
    for tunnel in [
        "{type: gue}",
        "{type: gue, checksum: true}",
        "{type: gre}",
        "{type: gre, checksum: true}",
        "{type: ipip}",
    ] {
        phase(&format!("tunnel: {tunnel}"));
        lab.apply(&[(EXAMPLE, tunnel)]).await;
        let servers = echo_lines(&lab, 3, 100);
        assert_eq!(servers.len(), 100);
    }
    datagrams_come_back(&lab);
    datagrams_leave_in_pieces(&lab);
    for n in [1, 2, 3] {
        let log = lab.log(Host::Server(n));
        assert!(!log.contains("refused"), "s{n} was sent what it does not understand: {log}");
    }
    phase("done");
}

/// One connection that sends `count` lines of `len` octets at once and reads what comes back.
fn echo_lines(lab: &Lab, len: usize, count: usize) -> Vec<String> {
    inside(&lab.namespace(Host::Client), || {
        let mut stream = TcpStream::connect_timeout(&vip_target(), PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = vec![b'x'; len];
        line.push(b'\n');
        stream.write_all(&line.repeat(count)).unwrap();
        let reader = BufReader::new(stream);
        reader.lines().take(count).map(Result::unwrap).collect()
    })
    .unwrap()
}

fn full_segments_learn_the_path_mtu(lab: &Lab) {
    phase("full segments do not fit the tunnel: the client learns its MTU from the VIP");
    assert_eq!(too_big(lab), 0);
    let answers = echo_lines(lab, 1000, 60);
    assert_eq!(answers.len(), 60, "all of it came back");
    assert!(answers.iter().all(|answer| answer.contains(&"x".repeat(1000))));
    let ask = format!("ip route get {VIP}");
    let route = exec::shell_in(&lab.namespace(Host::Client), &ask).unwrap();
    // 1500 octets less IPv4, UDP and GUE.
    assert!(route.contains("mtu 1468"), "{route}");
    assert!(too_big(lab) > 0, "and the nodes count it");
}

/// Answers that a packet is too big, of all nodes.
fn too_big(lab: &Lab) -> u64 {
    counted(lab, "too_big")
}

/// A counter of workers, of all nodes together.
fn counted(lab: &Lab, name: &str) -> u64 {
    let of = |status: Value| -> u64 {
        let workers = status["local"]["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker[name].as_u64().unwrap()).sum()
    };
    NODES.into_iter().map(|n| of(lab.status_json(n))).sum()
}

/// Datagrams that may be fragmented, whole and in parts, through a tunnel that takes neither.
fn datagrams_leave_in_pieces(lab: &Lab) {
    phase("datagrams without DF that do not fit the tunnel");
    let before = counted(lab, "fragmented");
    for len in [1460, 4000] {
        let answer = inside(&lab.namespace(Host::Client), || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // No DF, and nothing that was learnt of the path counts (ip(7)).
            let value = rustix::net::sockopt::Ipv4PathMtuDiscovery::OMIT;
            rustix::net::sockopt::set_ip_mtu_discover(&socket, value).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect(vip_target()).unwrap();
            let mut line = vec![b'y'; len - 1];
            line.push(b'\n');
            socket.send(&line).unwrap();
            let mut buffer = [0; 9000];
            let len = socket.recv(&mut buffer).unwrap();
            String::from_utf8_lossy(&buffer[..len]).into_owned()
        });
        let answer = answer.unwrap();
        assert!(answer.contains(&"y".repeat(len - 1)), "{len} octets: {} came back", answer.len());
    }
    let cut = counted(lab, "fragmented") - before;
    // The small one, and two parts of the large one that are as long as the client's way takes.
    assert!(cut >= 3, "{cut} packets were cut");
}

fn datagrams_come_back(lab: &Lab) {
    phase("UDP, by IPIP");
    let answer = inside(&lab.namespace(Host::Client), || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(vip_target()).unwrap();
        socket.send(b"datagram\n").unwrap();
        let mut buffer = [0; 100];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    });
    let answer = answer.unwrap();
    assert!(answer.contains("datagram"), "{answer}");
}
