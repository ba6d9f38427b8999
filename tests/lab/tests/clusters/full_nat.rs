//! Full-NAT with real sockets, in both families, with two arms and with one: the servers see a local
//! address of the group as their client, and need no route to anybody else. One cluster, one phase
//! after the other. Needs root; fails without.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::common::{Lab, phase, until};
use serde_json::Value;
use steadfast_lab::host::{
    exec,
    family::Family,
    inside::inside,
    names::{Host, Mode, NODES, PORT, SERVERS},
};

/// For an answer that comes at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// A VIP in the servers' own network.
const NEAR_VIP: &str = "198.18.1.100";

#[tokio::test]
async fn servers_see_a_local_address() {
    let mut lab = Lab::start_with("e2efnat", Mode::FullNat, Family::V6).await;
    for family in [Family::V4, Family::V6] {
        sessions_come_from_a_local_address(&lab, family);
        datagrams_come_back(&lab, family);
    }
    a_server_is_a_client_of_its_own_service(&mut lab).await;
    phase("done");
}

/// An open session from `host` to `to`, which has answered once; the line says which server.
fn session(lab: &Lab, host: Host, to: SocketAddr) -> (TcpStream, String) {
    inside(&lab.namespace(host), move || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"hello\n").unwrap();
        let mut line = String::new();
        BufReader::new(stream.try_clone().unwrap()).read_line(&mut line).unwrap();
        (stream, line)
    })
    .unwrap()
}

/// Who the servers think that their clients of the service are.
fn peers(lab: &Lab) -> Vec<SocketAddr> {
    let of = |n: u8| {
        let list = format!("ss -Htn state established 'sport = :{PORT}'");
        let text = exec::shell_in(&lab.namespace(Host::Server(n)), &list).unwrap();
        let peer = |line: &str| line.split_whitespace().last().and_then(|at| at.parse().ok());
        text.lines().filter_map(peer).collect::<Vec<_>>()
    };
    SERVERS.into_iter().flat_map(of).collect()
}

/// The range of local ports of each node, by its id.
fn ranges(lab: &Lab) -> Vec<(u64, u64)> {
    let status = lab.status_json(1);
    let nodes = status["nodes"].as_array().unwrap().clone();
    let range = |node: &Value| {
        (node["local_port_first"].as_u64().unwrap(), node["local_port_last"].as_u64().unwrap())
    };
    nodes.iter().map(range).collect()
}

fn sessions_come_from_a_local_address(lab: &Lab, family: Family) {
    phase(&format!("{family}: a server's client is a local address, from the holder's range"));
    let sessions: Vec<_> = (0..6).map(|_| session(lab, Host::Client, family.target())).collect();
    assert!(sessions.iter().all(|(_, line)| line.contains("hello")), "{sessions:?}");
    let (holder, _) = lab.holder().unwrap();
    let ranges = ranges(lab);
    let all: Vec<u64> = ranges.iter().flat_map(|(first, last)| *first..=*last).collect();
    let mut once = all.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), all.len(), "no port belongs to two nodes: {ranges:?}");
    let (first, last) = ranges[usize::from(holder) - 1];
    let peers: Vec<_> = peers(lab).into_iter().filter(|p| locals(family, p.ip())).collect();
    assert_eq!(peers.len(), sessions.len(), "{peers:?}");
    for peer in &peers {
        assert!((first..=last).contains(&peer.port().into()), "{peer}: {first} to {last}");
    }
    phase("and so says every node, the ones with a copy too");
    for n in NODES {
        until("the connections of every node", PATIENCE, || {
            let listed = lab.ctl(n, &["conn", "list", "--limit", "0", "-o", "json"]).json();
            let listed = listed["connections"].as_array().cloned().unwrap_or_default();
            let mut known: Vec<SocketAddr> = listed
                .iter()
                .filter(|connection| connection["state"] == "ESTABLISHED")
                .filter_map(|connection| connection["local"].as_str()?.parse().ok())
                .filter(|local: &SocketAddr| locals(family, local.ip()))
                .collect();
            known.sort_unstable();
            let mut seen = peers.clone();
            seen.sort_unstable();
            if known == seen { Ok(()) } else { Err(format!("n{n}: {known:?}, not {seen:?}")) }
        });
    }
}

fn locals(family: Family, address: IpAddr) -> bool {
    family.locals().contains(&address.to_canonical())
}

fn datagrams_come_back(lab: &Lab, family: Family) {
    phase(&format!("{family}: UDP"));
    let answer = inside(&lab.namespace(Host::Client), move || {
        let any = if family == Family::V4 { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect(family.target()).unwrap();
        socket.send(b"datagram\n").unwrap();
        let mut buffer = [0; 100];
        let len = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    });
    let answer = answer.unwrap();
    assert!(answer.contains("datagram"), "{answer}");
}

async fn a_server_is_a_client_of_its_own_service(lab: &mut Lab) {
    phase("one arm: VIP, local addresses, servers and this client on one segment");
    let service = format!(
        "services:\n  - {{name: near, group: web, address: {NEAR_VIP}, port: 7, forwarding: full_nat, \
         servers: [{{address: 198.18.1.11, port: 7}}, {{address: 198.18.1.12, port: 7}}]}}"
    );
    let vip = format!("addresses: [{NEAR_VIP}, 198.18.0.100");
    lab.apply(&[("addresses: [198.18.0.100", &vip), ("services:", &service)]).await;
    let to: SocketAddr = format!("{NEAR_VIP}:{PORT}").parse().unwrap();
    // Also to itself: under NAT its own answers would never pass the node.
    let sessions: Vec<_> = (0..8).map(|_| session(lab, Host::Server(1), to)).collect();
    for server in [1, 2] {
        let answered = sessions.iter().any(|(_, line)| line.contains(&format!("s{server}")));
        assert!(answered, "s{server}: {sessions:?}");
    }
}
