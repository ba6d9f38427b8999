//! Tunnels to real servers, each kind, with real sockets and the path MTU that clients learn. IPv4 in
//! IPv4; see `tunnels_v6` for the others.
//! One cluster, one phase after the other. Needs root; fails without.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::common::{Lab, phase, until};
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{Host, Mode, NODES, Network, SERVERS, vip_target},
};

/// The tunnel of the TCP service in the example.
const EXAMPLE: &str = "{type: gue, port: 6080}";

/// For an answer that comes at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

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
        let servers = echo_lines(&lab, Family::V4, 3, 100);
        assert_eq!(servers.len(), 100);
    }
    errors_about_outer_packets_reach_the_client(&lab);
    phase("UDP, by IPIP");
    assert!(echo_datagram(&lab, Family::V4, 8).contains("yyyyyyyy"));
    datagrams_leave_in_pieces(&lab);
    for n in [1, 2, 3] {
        let log = lab.log(Host::Server(n));
        assert!(!log.contains("refused"), "s{n} was sent what it does not understand: {log}");
    }
    phase("done");
}

/// One connection that sends `count` lines of `len` octets at once and reads what comes back.
pub(crate) fn echo_lines(lab: &Lab, family: Family, len: usize, count: usize) -> Vec<String> {
    inside(&lab.namespace(Host::Client), || {
        let mut stream = TcpStream::connect_timeout(&family.target(), PATIENCE).unwrap();
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
    let answers = echo_lines(lab, Family::V4, 1000, 60);
    assert_eq!(answers.len(), 60, "all of it came back");
    assert!(answers.iter().all(|answer| answer.contains(&"x".repeat(1000))));
    let route = route_to_vip(lab, Family::V4);
    // 1500 octets less IPv4, UDP and GUE.
    assert!(route.contains("mtu 1468"), "{route}");
    assert!(too_big(lab) > 0, "and the nodes count it");
}

/// What the client's kernel knows of its way to the VIP.
pub(crate) fn route_to_vip(lab: &Lab, family: Family) -> String {
    let ask = format!("ip route get {}", family.vip());
    exec::shell_in(&lab.namespace(Host::Client), &ask).unwrap()
}

/// Answers that a packet is too big, of all nodes.
pub(crate) fn too_big(lab: &Lab) -> u64 {
    counted(lab, "too_big")
}

/// A counter of workers, of all nodes together.
pub(crate) fn counted(lab: &Lab, name: &str) -> u64 {
    let of = |status: Value| -> u64 {
        let workers = status["local"]["workers"].as_array().unwrap();
        workers.iter().map(|worker| worker[name].as_u64().unwrap()).sum()
    };
    NODES.into_iter().map(|n| of(lab.status_json(n))).sum()
}

/// Datagrams that may be fragmented, whole and in parts, through a tunnel that takes neither.
pub(crate) fn datagrams_leave_in_pieces(lab: &Lab) {
    phase("datagrams without DF that do not fit the tunnel");
    let before = counted(lab, "fragmented");
    for len in [1460, 4000] {
        let answer = inside(&lab.namespace(Host::Client), || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // No DF, and nothing that was learnt of the path counts (ip(7)).
            let value = rustix::net::sockopt::Ipv4PathMtuDiscovery::OMIT;
            rustix::net::sockopt::set_ip_mtu_discover(&socket, value).unwrap();
            echoed(&socket, vip_target(), len - 1)
        });
        let answer = answer.unwrap();
        assert!(answer.contains(&"y".repeat(len - 1)), "{len} octets: {} came back", answer.len());
    }
    let cut = counted(lab, "fragmented") - before;
    // The small one, and both long parts of the large one.
    assert!(cut >= 3, "{cut} packets were cut");
}

/// What a router on the way would say, to every node about every server.
fn errors_about_outer_packets_reach_the_client(lab: &Lab) {
    phase("a router says that IPIP takes 1300 octets: the client learns 1280");
    let says = |node: Ipv4Addr, server: Ipv4Addr| {
        let quoted = [&[0x45, 0, 5, 220, 0, 0, 0x40, 0, 63, 4, 0, 0][..], &node.octets()];
        let quoted = [&quoted.concat()[..], &server.octets(), &[0; 8]].concat();
        let mut message = [&[3, 4, 0, 0, 0, 0, 5, 20][..], &quoted].concat();
        let words = message.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
        let sum: u32 = words.sum();
        let sum = (sum >> 16) + (sum & 0xffff);
        let checksum = !((sum >> 16) + sum) as u16;
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        message
    };
    let servers = SERVERS.map(|n| Mode::Tun.server_address(n));
    let is_front = servers[0].octets()[2] == Network::Front.node_address(1).octets()[2];
    let network = if is_front { Network::Front } else { Network::Back };
    let nodes = NODES.map(|n| network.node_address(n));
    inside(&lab.namespace(Host::Server(1)), || {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)).unwrap();
        for (node, server) in nodes.iter().flat_map(|n| servers.iter().map(move |s| (*n, *s))) {
            socket.send_to(&says(node, server), &SocketAddr::from((node, 0)).into()).unwrap();
        }
    })
    .unwrap();
    for n in NODES {
        until("every server's way is known", PATIENCE, || {
            let known = lab.status_json(n)["local"]["tunnel_mtus"].clone();
            let all = servers.iter().all(|server| known[server.to_string()] == 1300);
            if all { Ok(()) } else { Err(known.to_string()) }
        });
    }
    assert_eq!(echo_lines(lab, Family::V4, 1000, 60).len(), 60, "all of it came back");
    let route = route_to_vip(lab, Family::V4);
    assert!(route.contains("mtu 1280"), "{route}");
}

/// What comes back for one datagram of so many octets and a line's end.
pub(crate) fn echo_datagram(lab: &Lab, family: Family, len: usize) -> String {
    inside(&lab.namespace(Host::Client), || {
        let any: IpAddr = match family {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        };
        echoed(&UdpSocket::bind((any, 0)).unwrap(), family.target(), len)
    })
    .unwrap()
}

fn echoed(socket: &UdpSocket, target: SocketAddr, len: usize) -> String {
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(target).unwrap();
    let mut line = vec![b'y'; len];
    line.push(b'\n');
    socket.send(&line).unwrap();
    let mut buffer = [0; 9000];
    let len = socket.recv(&mut buffer).unwrap();
    String::from_utf8_lossy(&buffer[..len]).into_owned()
}
