//! What a client, an operator and an attacker on the segment see of a cluster. One cluster, one
//! phase after the other. Needs root; fails without.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead as _, BufReader, ErrorKind, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use crate::{
    common::{
        Lab, phase, throughout, until,
        wire::{self, Mac, Wire},
    },
    counting::stats_and_rates_are_of_what_was_sent,
};
use rustix::process::Signal;
use serde_json::Value;
use steadfast_lab::{
    cluster::running::SERVICE,
    host::{
        exec,
        inside::inside,
        names::{CLIENT, Host, NODES, PORT, VIP, vip_target},
    },
    load::{
        judge::{FaultWindow, Kind},
        now_ns, record,
        wire::SessionReport,
    },
};

/// A port of the VIP that no service has.
const UNSERVED: u16 = 9;

/// The others take over, or learn something, by then.
const SOON: Duration = Duration::from_secs(10);

/// Ten seconds after a take-over, a second until it is reported, and time for the machine.
const STALE_WITHIN: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_client_an_operator_and_an_attacker_see() {
    let mut lab = Lab::start("e2esvc").await;
    stats_and_rates_are_of_what_was_sent(&lab);
    the_vip_is_where_it_should_be(&mut lab).await;
    forged_and_replayed_beacons_change_nothing(&mut lab).await;
    a_dead_server_gets_no_new_connections(&mut lab).await;
    one_nodes_broken_path_ejects_nobody(&mut lab).await;
    weights_are_kept(&mut lab).await;
    hashing_is_the_same_on_every_node(&mut lab).await;
    trace_tells_where_a_connection_will_go(&mut lab).await;
    a_full_table_breaks_no_session(&mut lab).await;
    phase("done");
}

// ---- The VIP ----

async fn the_vip_is_where_it_should_be(lab: &mut Lab) {
    phase("the VIP is on no interface of a node");
    for n in NODES {
        let text = exec::shell_in(&lab.namespace(Host::Node(n)), "ip -o addr show").unwrap();
        assert!(text.contains("198.18.0."), "the test looks in the wrong place: {text}");
        assert!(!text.contains(&VIP.to_string()), "n{n} has the VIP on an interface: {text}");
    }

    phase("one node answers for it: ARP, ping, closed ports");
    let (holder, epoch) = lab.holder().unwrap();
    let mac = mac_of(lab, Host::Node(holder));
    let client = lab.namespace(Host::Client);
    let (arp, ip) = (Wire::open(&client, wire::ARP), Wire::open(&client, wire::IPV4));
    assert_eq!(who_answers(&arp, wire::BROADCAST), BTreeSet::from([mac]), "answers for the VIP");
    assert_eq!(who_answers(&arp, mac), BTreeSet::from([mac]), "answers to a probe to the holder");
    assert_eq!(who_pongs(&ip, mac), BTreeSet::from([mac]), "answers to ping");
    let (refused, unreachable) = ask_unserved(lab);
    assert_eq!(refused, Some(ErrorKind::ConnectionRefused), "TCP to a port without a service");
    assert_eq!(unreachable, Some(ErrorKind::ConnectionRefused), "UDP to such a port");
    assert!(answers_syn(&ip, mac), "no answer to a SYN to a closed port");
    let others = NODES.into_iter().filter(|n| *n != holder).map(|n| mac_of(lab, Host::Node(n)));
    for other in others {
        let said = who_answers(&arp, other);
        assert!(!said.contains(&other), "a node that does not hold the VIP answers for it");
    }

    phase("after kill -9 nothing answers from the dead node");
    lab.cluster.signal(holder, Signal::KILL).unwrap();
    lab.cluster.reap(holder, Duration::from_secs(5)).await.unwrap();
    let (next, higher) = lab.wait_holder("another node takes over", SOON, Some(holder));
    assert!(higher > epoch, "taken over under {higher}, not above {epoch}");
    let heir = mac_of(lab, Host::Node(next));
    assert_eq!(who_answers(&arp, wire::BROADCAST), BTreeSet::from([heir]), "answers for the VIP");
    assert_eq!(who_pongs(&ip, heir), BTreeSet::from([heir]), "answers of the new holder");
    assert_eq!(who_answers(&arp, mac), BTreeSet::new(), "ARP answers of a dead node");
    assert_eq!(who_pongs(&ip, mac), BTreeSet::new(), "ping answers of a dead node");
    assert!(!answers_syn(&ip, mac), "a SYN to a dead node is answered");
    lab.cluster.start_node(holder).await.unwrap();
    lab.ready().await;
}

fn mac_of(lab: &Lab, host: Host) -> Mac {
    inside(&lab.namespace(host), || af_xdp::Interface::by_name("front").unwrap().mac).unwrap()
}

/// Who answers ARP requests for the VIP that are sent to `to`.
fn who_answers(arp: &Wire, to: Mac) -> BTreeSet<Mac> {
    arp.receive(Duration::ZERO);
    let mut found = BTreeSet::new();
    for _ in 0..3 {
        arp.send(&wire::arp_request(arp.mac, to, VIP));
        let frames = arp.receive(Duration::from_millis(100));
        found.extend(frames.iter().filter_map(|f| wire::arp_answer(f, VIP)));
    }
    found
}

/// Who answers pings to the VIP that are sent to `to`.
fn who_pongs(ip: &Wire, to: Mac) -> BTreeSet<Mac> {
    ip.receive(Duration::ZERO);
    let mut found = BTreeSet::new();
    for sequence in 0..3 {
        ip.send(&wire::ping(ip.mac, to, VIP, sequence));
        let frames = ip.receive(Duration::from_millis(100));
        found.extend(frames.iter().filter(|f| wire::is_pong(f, VIP)).map(|f| wire::source(f)));
    }
    found
}

/// Whether anything comes back from `to` for SYNs to a port of the VIP without a service.
fn answers_syn(ip: &Wire, to: Mac) -> bool {
    ip.receive(Duration::ZERO);
    (0..3).any(|n| {
        ip.send(&wire::syn(ip.mac, to, (CLIENT, 39_000 + n), (VIP, UNSERVED)));
        let frames = ip.receive(Duration::from_millis(100));
        // TCP or ICMP from the VIP, or whatever else that node has to say.
        frames.iter().any(|f| wire::source(f) == to && (f[23] == 1 || f[23] == 6))
    })
}

/// What the client's kernel says to a connection and a datagram to such a port.
fn ask_unserved(lab: &Lab) -> (Option<ErrorKind>, Option<ErrorKind>) {
    inside(&lab.namespace(Host::Client), || {
        let to = SocketAddr::from((VIP, UNSERVED));
        let tcp = TcpStream::connect_timeout(&to, Duration::from_secs(2));
        let udp = UdpSocket::bind((CLIENT, 0)).unwrap();
        udp.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        udp.connect(to).unwrap();
        udp.send(b"?").unwrap();
        (tcp.err().map(|e| e.kind()), udp.recv(&mut [0; 8]).err().map(|e| e.kind()))
    })
    .unwrap()
}

// ---- Beacons ----

/// Frames of each kind that are sent, 50 at a time.
const FORGED: u64 = 400;

async fn forged_and_replayed_beacons_change_nothing(lab: &mut Lab) {
    phase("forged and replayed beacons change nothing and are counted");
    let before = lab.ready().await;
    let counted = NODES.map(|n| rejected(lab, n));
    let mut client = lab.cluster.client().unwrap();
    assert_eq!(client.open(vip_target(), 30, 0).await.unwrap().established, 30);

    let beacons = Wire::open(&lab.namespace(Host::Client), wire::BEACON);
    let recorded = beacons.receive(Duration::from_secs(1));
    let senders: BTreeSet<Mac> = recorded.iter().map(|f| wire::source(f)).collect();
    assert_eq!(senders.len(), 3, "the client hears {} nodes beat", senders.len());
    let begin_ns = now_ns();
    for round in 0..FORGED / 50 {
        for n in 0..50 {
            let nth = usize::try_from(round * 50 + n).unwrap();
            for frame in forgeries(&recorded, nth, beacons.mac) {
                beacons.send(&frame);
            }
        }
        let status = lab.status(NODES[usize::try_from(round).unwrap() % 3]);
        let group = status.group().unwrap();
        assert_eq!(group.epoch.as_ref(), Some(&before.epoch), "the epoch changed");
        assert_eq!(group.holder.as_ref(), Some(&before.holder), "the holder changed");
    }
    let after = lab.ready().await;
    assert_eq!(after, before, "forged beacons changed something");
    for (n, counted) in NODES.into_iter().zip(counted) {
        let now = rejected(lab, n);
        let all: u64 = now.values().sum::<u64>() - counted.values().sum::<u64>();
        // Five kinds; a few frames may be lost between.
        assert!(all > FORGED * 5 * 9 / 10, "n{n} counted {all} rejected frames: {now:?}");
        for reason in ["replayed", "forged", "length"] {
            let name = format!("rejected_{reason}");
            let grown = now.get(&name).unwrap_or(&0) - counted.get(&name).unwrap_or(&0);
            assert!(grown >= FORGED / 4, "n{n} counted {grown} as {reason}: {now:?}");
        }
    }
    // New connections go the right way too.
    assert_eq!(client.open(vip_target(), 6, 0).await.unwrap().established, 6);
    let fault = FaultWindow { begin_ns, ended_ns: now_ns() };
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (sessions, _) = client.finish(fault).await.unwrap();
    assert_eq!((sessions.len(), broken(&sessions)), (36, Vec::new()), "sessions meanwhile");

    a_stale_sender_is_relayed(lab);
    a_stale_sender_is_told(lab);
    replayed_beacons_do_not_keep_a_dead_holder_alive(lab).await;
}

/// What is made of the recorded beacon: five frames that must not be believed.
fn forgeries(recorded: &[Vec<u8>], nth: usize, own: Mac) -> [Vec<u8>; 5] {
    let original = &recorded[nth % recorded.len()];
    let from_here = |mut frame: Vec<u8>| {
        frame[6..12].copy_from_slice(&own);
        frame
    };
    let replayed = from_here(original.clone());
    // Each bit of each beacon sooner or later; the Ethernet header stays.
    let mut flipped = replayed.clone();
    let bit = nth.wrapping_mul(7919) % ((flipped.len() - 14) * 8);
    flipped[14 + bit / 8] ^= 1 << (bit % 8);
    let mut truncated = replayed.clone();
    truncated.truncate(14 + nth % (original.len() - 14));
    let mut longer = replayed.clone();
    longer.resize(1514.min(original.len() + 1 + nth), 0x5a);
    let mut state = nth as u64 + 1;
    let mut garbage = replayed[..14].to_vec();
    garbage.extend((0..60 + nth % 400).map(|_| {
        // xorshift64, Marsaglia 2003.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    }));
    [replayed, flipped, truncated, longer, garbage]
}

fn rejected(lab: &Lab, n: u8) -> BTreeMap<String, u64> {
    let status = lab.status_json(n);
    let beacons = status["local"]["beacons"].as_object().unwrap();
    let rejected = beacons.iter().filter(|(name, _)| name.starts_with("rejected_"));
    rejected.map(|(name, count)| (name.clone(), count.as_u64().unwrap())).collect()
}

/// A client that has not heard who holds the VIP sends to another node, which knows the holder's
/// MAC address: from beacons that it believed.
fn a_stale_sender_is_relayed(lab: &Lab) {
    phase("a packet to another node is relayed to the holder");
    let (holder, _) = lab.holder().unwrap();
    let client = lab.namespace(Host::Client);
    for n in NODES.into_iter().filter(|n| *n != holder) {
        let before = relayed(lab, n);
        let mac = mac_of(lab, Host::Node(n)).map(|b| format!("{b:02x}")).join(":");
        let stale = format!("ip neigh replace {VIP} lladdr {mac} dev front nud permanent");
        exec::shell_in(&client, &stale).unwrap();
        let servers = ask_servers(lab, 0, 3);
        exec::shell_in(&client, &format!("ip neigh del {VIP} dev front")).unwrap();
        assert_eq!(servers.len(), 3, "sessions through n{n}, which does not hold the VIP");
        assert!(relayed(lab, n) >= before + 3, "n{n} did not relay");
    }
}

/// A client whose neighbour entry stays wrong is told by the holder alone, ten seconds after the
/// group changed hands.
fn a_stale_sender_is_told(lab: &Lab) {
    phase("a client that goes on sending to another node is told who holds the VIP");
    let (holder, _) = lab.holder().unwrap();
    let (holder_mac, client) = (mac_of(lab, Host::Node(holder)), lab.namespace(Host::Client));
    let other = NODES.into_iter().find(|n| *n != holder).unwrap();
    let text = |mac: Mac| mac.map(|b| format!("{b:02x}")).join(":");
    // Its own kernel must not find out by itself.
    let kept = "sysctl -qw net.ipv4.neigh.front.base_reachable_time_ms=3600000";
    exec::shell_in(&client, kept).unwrap();
    let other_mac = mac_of(lab, Host::Node(other));
    let stale =
        format!("ip neigh replace {VIP} lladdr {} dev front nud reachable", text(other_mac));
    exec::shell_in(&client, &stale).unwrap();
    let arp = Wire::open(&client, wire::ARP);
    let mut told = Vec::new();
    until("an ARP request of the holder for the client alone", STALE_WITHIN, || {
        ask_servers(lab, 0, 1);
        let frames = arp.receive(Duration::from_millis(100));
        let alone = |f: &Vec<u8>| f[..6] == arp.mac && wire::source(f) == holder_mac;
        told.extend(frames.into_iter().filter(alone));
        if told.is_empty() { Err("none came".to_owned()) } else { Ok(()) }
    });
    let frame = told.first().unwrap();
    assert_eq!(frame[20..22], [0, 1], "in the request form");
    assert_eq!((&frame[28..32], &frame[38..42]), (&VIP.octets()[..], &VIP.octets()[..]));
    let entry = exec::shell_in(&client, &format!("ip neigh show {VIP} dev front")).unwrap();
    assert!(entry.contains(&text(holder_mac)), "the client did not take it up: {entry}");
    exec::shell_in(&client, &format!("ip neigh del {VIP} dev front")).unwrap();
}

fn relayed(lab: &Lab, n: u8) -> u64 {
    let status = lab.status_json(n);
    let workers = status["local"]["workers"].as_array().unwrap();
    workers.iter().map(|w| w["relayed"].as_u64().unwrap()).sum()
}

async fn replayed_beacons_do_not_keep_a_dead_holder_alive(lab: &mut Lab) {
    phase("replayed beacons do not keep a dead holder alive");
    let (holder, _) = lab.holder().unwrap();
    let beacons = Wire::open(&lab.namespace(Host::Client), wire::BEACON);
    let mac = mac_of(lab, Host::Node(holder));
    let recorded = beacons.receive(Duration::from_millis(500));
    lab.cluster.signal(holder, Signal::KILL).unwrap();
    // Its very last words are the best material.
    let recorded: Vec<Vec<u8>> = recorded
        .into_iter()
        .chain(beacons.receive(Duration::from_millis(20)))
        .filter(|f| wire::source(f) == mac)
        .collect();
    assert!(recorded.len() > 10, "only {} beacons were recorded", recorded.len());
    let (done, stop) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            let mut sent = 0_u64;
            for frame in recorded.iter().rev().cycle().take(5_000) {
                if stop.try_recv().is_ok() {
                    break;
                }
                let mut frame = frame.clone();
                frame[6..12].copy_from_slice(&beacons.mac);
                beacons.send(&frame);
                sent += 1;
                std::thread::sleep(Duration::from_millis(1));
            }
            sent
        });
        let (next, _) = lab.wait_holder("another node takes over", SOON, Some(holder));
        throughout("while a dead node's beacons are replayed", Duration::from_secs(1), || {
            let nodes = lab.status(next).nodes;
            let dead = nodes.iter().find(|n| n.name == format!("n{holder}")).unwrap();
            if dead.alive { Err(format!("n{holder} counts as alive")) } else { Ok(()) }
        });
        let _ = done.send(());
        assert!(sender.join().unwrap() > 500, "hardly any frame was replayed");
    });
    lab.cluster.reap(holder, Duration::from_secs(5)).await.unwrap();
    lab.cluster.start_node(holder).await.unwrap();
    lab.ready().await;
}

// ---- Health ----

async fn a_dead_server_gets_no_new_connections(lab: &mut Lab) {
    phase("a dead server gets no new connections");
    let mut client = lab.cluster.client().unwrap();
    assert_eq!(client.open(vip_target(), 30, 0).await.unwrap().established, 30);
    // Each has told by then which server it is with.
    tokio::time::sleep(Duration::from_millis(400)).await;
    lab.cluster.kill_server(1).await.unwrap();
    let begin_ns = now_ns();
    for n in NODES {
        until("every node knows that s1 is down", Duration::from_secs(6), || {
            let up = server_up(lab, n, 1);
            let checks = checks_down(lab, n, 1);
            if !up && checks >= 2 { Ok(()) } else { Err(format!("n{n}: {checks} see it down")) }
        });
        assert!(server_up(lab, n, 2) && server_up(lab, n, 3), "n{n} ejects living servers");
    }
    // The data plane follows at once, but not in the same instant.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let opened = client.open(vip_target(), 20, 0).await.unwrap();
    assert_eq!(opened.established, 20, "{:?}", opened.failures);
    let fault = FaultWindow { begin_ns, ended_ns: now_ns() };
    tokio::time::sleep(Duration::from_millis(400)).await;
    let (sessions, _) = client.finish(fault).await.unwrap();
    let (old, new) = sessions.split_at(30);
    let of = |s: &SessionReport| s.server.clone().unwrap_or_default();
    let alive: Vec<_> = old.iter().filter(|s| of(s) != "s1").cloned().collect();
    assert_eq!(alive.len(), 20, "round robin gave s1 ten of thirty");
    assert_eq!(broken(&alive), [""; 0], "sessions of the other servers");
    assert_eq!(broken(new), [""; 0], "new sessions");
    let servers: BTreeSet<String> = new.iter().map(of).collect();
    assert_eq!(servers, ["s2", "s3"].map(str::to_owned).into(), "servers of new sessions");
    lab.cluster.start_server(1).unwrap();
    lab.ready().await;
    assert_eq!(count(ask_servers(lab, 0, 9)), counts(&[("s1", 3), ("s2", 3), ("s3", 3)]));
}

async fn one_nodes_broken_path_ejects_nobody(lab: &mut Lab) {
    phase("one node that does not reach a server ejects nobody");
    let (holder, _) = lab.holder().unwrap();
    // The holder, so that it would matter.
    let namespace = lab.namespace(Host::Node(holder));
    let cut = "nft add table ip cut\n\
               nft add chain ip cut out '{ type filter hook output priority 0; }'\n\
               nft add rule ip cut out ip daddr 198.18.0.12 drop";
    exec::shell_in(&namespace, cut).unwrap();
    for n in NODES {
        until("one node sees s2 down", Duration::from_secs(8), || {
            let down = checks_down(lab, n, 2);
            if down == 1 { Ok(()) } else { Err(format!("n{n}: {down} see it down")) }
        });
    }
    throughout("with one broken path", Duration::from_secs(2), || {
        match NODES.into_iter().find(|n| !server_up(lab, *n, 2)) {
            Some(n) => Err(format!("n{n} counts s2 as down")),
            None => Ok(()),
        }
    });
    let servers = count(ask_servers(lab, 0, 9));
    assert_eq!(servers, counts(&[("s1", 3), ("s2", 3), ("s3", 3)]), "new connections");
    exec::shell_in(&namespace, "nft delete table ip cut").unwrap();
    for n in NODES {
        until("all see s2 up again", Duration::from_secs(5), || {
            let down = checks_down(lab, n, 2);
            if down == 0 { Ok(()) } else { Err(format!("n{n}: {down} see it down")) }
        });
    }
}

fn server(lab: &Lab, n: u8, server: u8) -> Value {
    let status = lab.status_json(n);
    let services = status["services"].as_array().unwrap();
    let service = services.iter().find(|s| s["name"] == SERVICE).unwrap();
    let address = format!("198.18.0.{}", 10 + server);
    let servers = service["servers"].as_array().unwrap();
    servers.iter().find(|s| s["address"] == *address).unwrap().clone()
}

fn server_up(lab: &Lab, n: u8, of: u8) -> bool {
    server(lab, n, of)["up"].as_bool().unwrap()
}

/// How many nodes see the server down, as node `n` knows.
fn checks_down(lab: &Lab, n: u8, of: u8) -> usize {
    let server = server(lab, n, of);
    let checks = server["checks"].as_array().unwrap();
    checks.iter().filter(|c| c["state"] == "down").count()
}

// ---- Schedulers ----

async fn weights_are_kept(lab: &mut Lab) {
    phase("wrr keeps the weights");
    lab.apply(&[
        ("scheduler: rr", "scheduler: wrr"),
        ("198.18.0.11, port: 7, weight: 1", "198.18.0.11, port: 7, weight: 3"),
        ("198.18.0.13, port: 7, weight: 1", "198.18.0.13, port: 7, weight: 0"),
    ])
    .await;
    let servers = count(ask_servers(lab, 0, 40));
    assert_eq!(servers, counts(&[("s1", 30), ("s2", 10)]), "of 40 connections with 3:1:0");
}

async fn hashing_is_the_same_on_every_node(lab: &mut Lab) {
    phase("mh reaches the same server through another node, which knows no connection");
    lab.apply(&[("scheduler: rr", "scheduler: mh")]).await;
    let (holder, _) = lab.holder().unwrap();
    let first = ask_servers(lab, 30_000, 24);
    let spread: BTreeSet<&String> = first.iter().collect();
    assert_eq!(spread.len(), 3, "24 ports reach only {spread:?}");
    // Nobody remembers a connection after this, so only the hash can decide.
    restart_all(lab).await;
    let (now, _) = lab.holder().unwrap();
    let other = NODES.into_iter().find(|n| *n != holder && *n != now).unwrap();
    lab.ctl(1, &["vip", "move", "web", "--to", &format!("n{other}")]).good();
    lab.ready().await;
    assert_eq!(lab.holder().unwrap().0, other);
    assert_eq!(connections(lab, other), 0, "connections that n{other} knows before");
    assert_eq!(ask_servers(lab, 30_000, 24), first, "servers by client port, through n{other}");
}

async fn trace_tells_where_a_connection_will_go(lab: &mut Lab) {
    for (scheduler, first) in [("mh", 31_000), ("wrr", 31_003)] {
        phase("trace tells where the next connection will go, whichever node is asked");
        lab.apply(&[("scheduler: rr", &format!("scheduler: {scheduler}"))]).await;
        let (holder, _) = lab.holder().unwrap();
        // The second time three of the ports have been used: their connections are finished.
        for port in first..first + 6 {
            let packet = format!("tcp {CLIENT}:{port} > {VIP}:{PORT}");
            let told: BTreeSet<String> =
                NODES.into_iter().map(|n| traced(lab, n, &packet, holder)).collect();
            assert_eq!(told.len(), 1, "{packet}: {told:?}");
            let answered = ask_servers(lab, port, 1).remove(0);
            let expected = format!("198.18.0.1{}:{PORT}", answered.trim_start_matches('s'));
            assert!(told.contains(&expected), "{packet}, {scheduler}: {told:?}, {answered}");
        }
    }
    phase("a connection that is known, and one that nobody serves");
    let packet = format!("tcp {CLIENT}:31008 > {VIP}:{PORT}");
    let open = lab.ctl(1, &["trace", &packet, "--packet", "ack"]).good();
    assert!(open.contains("connection  CLOSE, made here, to 198.18.0.1"), "{open}");
    let none = lab.ctl(1, &["trace", &format!("tcp {CLIENT}:31000 > {VIP}:{UNSERVED}")]).good();
    assert!(none.contains("none listens on tcp") && none.contains("reaches no real"), "{none}");
}

/// The server that node `n` tells, after a look at what it tells of each node.
fn traced(lab: &Lab, n: u8, packet: &str, holder: u8) -> String {
    let reply: Value =
        serde_json::from_str(&lab.ctl(n, &["trace", packet, "-o", "json"]).good()).unwrap();
    let nodes = reply["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), NODES.len(), "{reply}");
    for node in nodes {
        assert_eq!(node["error"], "", "{reply}");
        let is_holder = node["node"]["name"] == format!("n{holder}");
        let fate = if is_holder { "forwarded" } else { "relayed" };
        assert_eq!(node["fate"], fate, "{packet}, of {}: {node}", node["node"]);
    }
    let of_holder = nodes.iter().find(|node| node["fate"] == "forwarded").unwrap();
    of_holder["server"].as_str().unwrap().to_owned()
}

async fn restart_all(lab: &mut Lab) {
    for n in NODES {
        lab.cluster.signal(n, Signal::KILL).unwrap();
    }
    for n in NODES {
        lab.cluster.reap(n, Duration::from_secs(5)).await.unwrap();
    }
    for n in NODES {
        lab.cluster.start_node(n).await.unwrap();
    }
    lab.ready().await;
}

// ---- Capacity ----

async fn a_full_table_breaks_no_session(lab: &mut Lab) {
    const MAX: u64 = 1024;
    const HALF_OPEN: u64 = 1024;
    phase("a full table");
    let small = "connections_max: 1024\n  half_open_max: 1024";
    lab.apply(&[("connections_max: 262144", small)]).await;
    // The table is allocated at start.
    restart_all(lab).await;
    for n in NODES {
        let max = lab.status_json(n)["local"]["connections_max"].as_u64();
        assert_eq!(max, Some(MAX), "size of the table of n{n}");
        let max = lab.status_json(n)["local"]["half_open_max"].as_u64();
        assert_eq!(max, Some(HALF_OPEN), "room for half-open connections at n{n}");
    }
    let (holder, _) = lab.holder().unwrap();
    let mut client = lab.cluster.client().unwrap();
    let begin_ns = now_ns();
    assert_eq!(client.open(vip_target(), 40, 20).await.unwrap().established, 60);

    phase("half-open connections take their own places, and what is above goes by the hash");
    let ip = Wire::open(&lab.namespace(Host::Client), wire::IPV4);
    let mac = mac_of(lab, Host::Node(holder));
    for n in 0..4_000_u16 {
        // From addresses that nobody has: nobody answers the servers.
        let from = (Ipv4Addr::new(198, 18, 0, 230), 20_000 + n);
        ip.send(&wire::syn(ip.mac, mac, from, (VIP, PORT)));
    }
    until("there is no place for a half-open connection", SOON, || {
        let now = half_open(lab, holder);
        if now == HALF_OPEN { Ok(()) } else { Err(format!("{now} half-open")) }
    });
    assert_eq!(connections(lab, holder), 60, "only the sessions are connections");
    assert_eq!(table_full(lab, holder), 0, "nobody was refused");
    let hashed = by_hash(lab, holder);
    assert!(hashed > 0, "some of the SYNs went by the hash");
    let text = lab.ctl(holder, &["get", "service", "echo-tcp"]).good();
    assert!(text.contains("Above limits: by the hash: half_open_max"), "{text}");
    println!("of 4000 SYNs {hashed} went by the hash");
    let flood = std::thread::scope(|scope| {
        let (done, stop) = std::sync::mpsc::channel::<()>();
        let sender = scope.spawn(move || {
            let mut sent = 0_u16;
            while sent < 30_000 && stop.try_recv().is_err() {
                let from = (Ipv4Addr::new(198, 18, 0, 231), 20_000 + sent);
                ip.send(&wire::syn(ip.mac, mac, from, (VIP, PORT)));
                sent += 1;
                if sent.is_multiple_of(20) {
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            sent
        });
        let answered = ask_servers(lab, 0, 100);
        assert_eq!(answered.len(), 100, "connections in a flood of SYNs");
        let _ = done.send(());
        sender.join().unwrap()
    });
    println!("100 connections were served while {flood} SYNs came");
    assert_eq!(client.open(vip_target(), 6, 0).await.unwrap().established, 6, "in a SYN flood");

    phase("flows of one datagram do, too");
    let flows = udp_flows(lab, 1_500, 1);
    assert!(flows.answered > 1_450, "{} of {} flows were answered", flows.answered, flows.sent);
    assert_eq!(table_full(lab, holder), 0, "refused while single datagrams could give way");

    phase("then new ones are refused");
    // What is half-open, and there was room for, becomes a connection when it is seen again.
    for _ in 0..20 {
        udp_flows(lab, 3_000, 2);
        if connections(lab, holder) >= MAX {
            break;
        }
    }
    let before = table_full(lab, holder);
    let flows = udp_flows(lab, 3_000, 2);
    let (refused, now) = (table_full(lab, holder) - before, connections(lab, holder));
    assert!((MAX..=MAX + HALF_OPEN).contains(&now), "{now} connections of n{holder}");
    assert!(flows.answered >= 500, "{} flows were answered", flows.answered);
    assert!(flows.answered <= now, "{} flows were answered, of {now}", flows.answered);
    assert!(
        refused >= flows.sent - flows.answered - 20,
        "{refused} refused, {} of {} flows answered",
        flows.answered,
        flows.sent
    );
    let fault = FaultWindow { begin_ns, ended_ns: now_ns() };
    client.speak().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (sessions, _) = client.finish(fault).await.unwrap();
    assert_eq!(sessions.len(), 66);
    assert_eq!(broken(&sessions), [""; 0], "sessions beside a full table");
    assert!(sessions.iter().all(|s| s.kind == Kind::Talker || s.echoed > 0), "a silent one");
    for n in NODES {
        let now = connections(lab, n);
        // What was half-open while there was room may have become a connection after that.
        assert!(now <= MAX + HALF_OPEN, "n{n} has {now} connections");
    }
}

struct Flows {
    sent: u64,
    answered: u64,
}

/// `datagrams` from each of `count` ports of the client; how many flows had the last one echoed.
fn udp_flows(lab: &Lab, count: u16, datagrams: u8) -> Flows {
    inside(&lab.namespace(Host::Client), || {
        let mut flows = Flows { sent: 0, answered: 0 };
        for batch in (0..count).collect::<Vec<_>>().chunks(100) {
            let flow = |n| {
                let socket = UdpSocket::bind((CLIENT, 22_000 + n)).unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            };
            let sockets: Vec<UdpSocket> = batch.iter().map(flow).collect();
            for socket in &sockets {
                // All of a flow in a row: between two of them another flow could take its place.
                for nth in 1..=datagrams {
                    socket.send_to(&[nth], vip_target()).unwrap();
                }
            }
            std::thread::sleep(Duration::from_millis(30));
            flows.sent += sockets.len() as u64;
            flows.answered += sockets.iter().filter(|s| has_echo(s, datagrams)).count() as u64;
        }
        flows
    })
    .unwrap()
}

/// Whether the echo of the datagram `last` has come.
fn has_echo(socket: &UdpSocket, last: u8) -> bool {
    let mut buffer = [0; 64];
    while let Ok(len) = socket.recv(&mut buffer) {
        if buffer[..len].last() == Some(&last) {
            return true;
        }
    }
    false
}

fn connections(lab: &Lab, n: u8) -> u64 {
    lab.status_json(n)["local"]["connections"].as_u64().unwrap()
}

fn half_open(lab: &Lab, n: u8) -> u64 {
    lab.status_json(n)["local"]["half_open"].as_u64().unwrap()
}

/// SYNs that went by the hash for lack of a place.
fn by_hash(lab: &Lab, n: u8) -> u64 {
    let status = lab.status_json(n);
    let services = status["services"].as_array().unwrap();
    let tcp = services.iter().find(|service| service["name"] == "echo-tcp").unwrap();
    tcp["limits"]["hashed"]["half_open_max"].as_u64().unwrap_or(0)
}

fn table_full(lab: &Lab, n: u8) -> u64 {
    let status = lab.status_json(n);
    let workers = status["local"]["workers"].as_array().unwrap();
    workers.iter().filter_map(|w| w["drops"]["table_full"].as_u64()).sum()
}

// ---- Asking servers ----

/// The servers that answer `count` connections, one after the other, from ports beginning at
/// `port` (0: any). Each ends with a reset, so that its port can be used again.
fn ask_servers(lab: &Lab, port: u16, count: u16) -> Vec<String> {
    inside(&lab.namespace(Host::Client), || {
        (0..count).map(|n| ask_server(if port == 0 { 0 } else { port + n })).collect()
    })
    .unwrap()
}

fn ask_server(port: u16) -> String {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.set_linger(Some(Duration::ZERO)).unwrap();
    socket.bind(&SocketAddr::from((CLIENT, port)).into()).unwrap();
    socket.connect_timeout(&vip_target().into(), Duration::from_secs(5)).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream.write_all(&record::record(1, 1)).unwrap();
    let mut answer = Vec::new();
    BufReader::new(&stream).read_until(b'\n', &mut answer).unwrap();
    let (server, line) = record::split_answer(&answer).unwrap();
    assert!(record::checksum_matches(line), "{answer:?}");
    server.to_owned()
}

fn count(servers: Vec<String>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for server in servers {
        *counts.entry(server).or_default() += 1;
    }
    counts
}

fn counts(servers: &[(&str, usize)]) -> BTreeMap<String, usize> {
    servers.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
}

/// What broke, in words.
fn broken(sessions: &[SessionReport]) -> Vec<String> {
    let broken = sessions.iter().filter_map(|s| Some((s.id, &s.server, s.broken.as_ref()?)));
    broken.map(|(id, server, why)| format!("session {id} of {server:?}: {why:?}")).collect()
}
