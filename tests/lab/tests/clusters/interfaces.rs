//! What a cluster makes of interfaces and segments that change under it. One cluster, one phase
//! after the other. Needs root; fails without.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::common::{Lab, phase, until};
use rustix::process::Signal;
use serde_json::Value;
use steadfast_lab::{
    cluster::running::GROUP,
    host::{
        exec,
        inside::inside,
        names::{GATEWAY, Host, Mode, NODES, Network, SERVERS, VIP, vip_target},
    },
    load::{judge::FaultWindow, now_ns, record},
};

/// An interface is looked at every second, and one that failed is tried again after 4 s at most.
const SOON: Duration = Duration::from_secs(15);

#[tokio::test]
async fn interfaces_and_segments_change() {
    let mut lab = Lab::start("e2eif").await;
    a_renamed_segment_goes_on(&mut lab).await;
    a_new_mac_address_is_taken_up(&mut lab).await;
    an_interface_is_made_anew_and_gets_queues(&mut lab).await;
    a_foreign_program_is_told_and_its_end_seen(&mut lab).await;
    a_detached_node_is_given_nothing(&mut lab).await;
    a_vip_on_an_interface_is_told_of(&mut lab).await;
    two_segments_are_on_one_interface(&mut lab).await;
    phase("done");
}

// ---- Segments ----

/// Another name is another number for the same wire: nobody resigns, no session breaks.
async fn a_renamed_segment_goes_on(lab: &mut Lab) {
    phase("a segment is renamed");
    let before = lab.holder().unwrap();
    let mut client = lab.cluster.client().unwrap();
    assert_eq!(client.open(vip_target(), 12, 0).await.unwrap().established, 12);
    let begin_ns = now_ns();
    lab.apply(&[("name: front", "name: public")]).await;
    for n in NODES {
        until("the interface is on the new segment", SOON, || {
            let segment = interface(lab, n)["segment"].clone();
            if segment == "public" { Ok(()) } else { Err(format!("n{n}: {segment}")) }
        });
    }
    assert_eq!(ask_servers(lab, 6).len(), 6);
    assert_eq!(lab.holder().unwrap(), before, "somebody resigned");
    lab.apply(&[]).await;
    assert_eq!(lab.holder().unwrap(), before, "somebody resigned on the way back");
    let ended_ns = now_ns();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (sessions, _) = client.finish(FaultWindow { begin_ns, ended_ns }).await.unwrap();
    let broken: Vec<_> = sessions.iter().filter_map(|s| s.broken.as_ref()).collect();
    assert!(sessions.len() == 12 && broken.is_empty(), "broken: {broken:?}");
}

/// One-arm NAT: clients and servers on the same interface.
async fn two_segments_are_on_one_interface(lab: &mut Lab) {
    phase("a segment in which no interface has an address");
    let nat = lab.cluster.plan().examples_dir.join("nat.yaml").display().to_string();
    lab.ctl(1, &["apply", "-f", &nat]).good();
    for n in NODES {
        until("the warning", SOON, || {
            let wanted = "segment back: no interface has an address in 198.18.1.0/24: add one";
            if warnings(lab, n).contains(wanted) { Ok(()) } else { Err(warnings(lab, n)) }
        });
    }

    phase("two segments on one interface");
    let mut servers = Vec::new();
    for n in SERVERS {
        let script = format!(
            "ip addr add {}/24 dev front; ip addr del {}/24 dev front; ip addr del {VIP}/32 dev lo
             ip route add default via {GATEWAY}",
            Mode::Nat.server_address(n),
            Mode::Dr.server_address(n),
        );
        exec::shell_in(&lab.namespace(Host::Server(n)), &script).unwrap();
        servers.push(Server::start(lab, n));
    }
    for n in NODES {
        let script = format!("ip addr add {}/24 dev front", Network::Back.node_address(n));
        exec::shell_in(&lab.namespace(Host::Node(n)), &script).unwrap();
    }
    lab.ready().await;
    for n in NODES {
        assert_eq!(interface(lab, n)["segment"], "front, back", "n{n}");
        assert!(!warnings(lab, n).contains("segment"), "n{n}: {}", warnings(lab, n));
    }
    for n in NODES {
        until("the others are heard on both", SOON, || both_heard(&lab.status_json(n)));
    }
    let mut served = ask_servers(lab, 6);
    served.sort();
    assert_eq!(served, ["s1", "s1", "s2", "s2", "s3", "s3"], "through one interface");

    phase("a session through one interface survives a move");
    let (holder, _) = lab.holder().unwrap();
    let mut client = lab.cluster.client().unwrap();
    assert_eq!(client.open(vip_target(), 12, 0).await.unwrap().established, 12);
    lab.ready().await;
    let begin_ns = now_ns();
    move_to(lab, NODES.into_iter().find(|n| *n != holder).unwrap()).await;
    let ended_ns = now_ns();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (sessions, _) = client.finish(FaultWindow { begin_ns, ended_ns }).await.unwrap();
    let broken: Vec<_> = sessions.iter().filter_map(|s| s.broken.as_ref()).collect();
    assert!(sessions.len() == 12 && broken.is_empty(), "broken: {broken:?}");
}

/// Whether the other nodes' beacons come in on each of the two segments.
fn both_heard(status: &Value) -> Result<(), String> {
    let me = &status["serving_node"]["name"];
    let nodes = status["nodes"].as_array().into_iter().flatten();
    for node in nodes.filter(|node| node["name"] != *me) {
        let paths = node["paths"].as_array().into_iter().flatten();
        let alive: Vec<&str> =
            paths.filter(|p| p["alive"] == true).filter_map(|p| p["name"].as_str()).collect();
        if !["front", "back"].iter().all(|segment| alive.contains(segment)) {
            return Err(format!("{me} hears {} on {alive:?} only", node["name"]));
        }
    }
    Ok(())
}

/// A real server at its address behind NAT; ends with the test.
struct Server(Child);

impl Server {
    fn start(lab: &Lab, n: u8) -> Self {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", lab.namespace(Host::Server(n)).display()));
        command.arg(lab.cluster.plan().program("lab-server"));
        command.args(["--name", &format!("s{n}"), "--listen"]);
        command.arg(format!("{}:7", Mode::Nat.server_address(n)));
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

// ---- Interfaces ----

async fn a_new_mac_address_is_taken_up(lab: &mut Lab) {
    let (holder, _) = lab.holder().unwrap();
    phase("the MAC address of the holder's interface changes: it resigns");
    exec::shell_in(
        &lab.namespace(Host::Node(holder)),
        "ip link set front address 02:00:5e:00:00:07",
    )
    .unwrap();
    lab.wait_holder("another node takes over", SOON, Some(holder));
    let log = lab.log(Host::Node(holder));
    assert!(log.contains("its MAC address is 02:00:5e:00:00:07 now"), "not said in the log");
    phase("with the new address it serves");
    served(lab, holder, 1);
    lab.ready().await;
    move_to(lab, holder).await;
    assert_eq!(ask_servers(lab, 6).len(), 6, "through n{holder}");
}

async fn an_interface_is_made_anew_and_gets_queues(lab: &mut Lab) {
    let (holder, _) = lab.holder().unwrap();
    phase("the holder's interface is deleted and made anew");
    let index = interface(lab, holder)["ifindex"].clone();
    remake(lab, holder);
    address(lab, holder);
    until("a new interface", SOON, || {
        let now = interface(lab, holder)["ifindex"].clone();
        if !now.is_null() && now != index { Ok(()) } else { Err(format!("ifindex {now}")) }
    });
    served(lab, holder, 1);
    lab.ready().await;
    move_to(lab, holder).await;
    assert_eq!(ask_servers(lab, 6).len(), 6, "through the new interface");

    phase("ethtool -L gives it a second queue: it resigns, and serves both");
    let before = lab.holder().unwrap();
    let node = lab.namespace(Host::Node(holder));
    exec::shell_in(&node, "ethtool -L front rx 2 tx 2").unwrap();
    // What the other end sends on its second queue comes in on the second one here.
    let port = Host::Node(holder).port(Network::Front);
    let script = format!("ethtool -L {port} rx 2 tx 2");
    exec::shell_in(&lab.namespace(Host::Switch), &script).unwrap();
    until("another epoch", SOON, || match lab.holder() {
        Some(now) if now.1 > before.1 => Ok(()),
        now => Err(format!("{now:?}")),
    });
    served(lab, holder, 2);
    lab.ready().await;
    move_to(lab, holder).await;
    assert_eq!(ask_servers(lab, 24).len(), 24, "over two queues");
    let status = lab.status_json(holder);
    let workers = status["local"]["workers"].as_array().unwrap();
    let busy = workers.iter().filter(|w| w["rx_packets"].as_u64() > Some(0)).count();
    assert_eq!(busy, 2, "workers that got packets: {workers:?}");
}

async fn a_foreign_program_is_told_and_its_end_seen(lab: &mut Lab) {
    let (holder, _) = lab.holder().unwrap();
    let other = NODES.into_iter().find(|n| *n != holder).unwrap();
    phase("somebody else has an XDP program on the interface");
    remake(lab, other);
    // The program of another instance is as foreign as any.
    let (bpffs, node) = (lab.tag().bpf_dir(), lab.namespace(Host::Node(other)));
    let attached = inside(&node, || {
        let mut steering = af_xdp::Steering::open(&bpffs, "foreign", "front").unwrap();
        steering.attach().unwrap()
    });
    assert_eq!(attached.unwrap(), af_xdp::Attached::New);
    address(lab, other);
    until("the warning", SOON, || {
        let said = warnings(lab, other);
        let wanted = "interface front: front already has an XDP program that is not ours";
        if said.contains(wanted) { Ok(()) } else { Err(said) }
    });
    phase("it is removed: the interface comes up by itself");
    inside(&node, || af_xdp::Steering::detach(&bpffs, "foreign", "front").unwrap()).unwrap();
    served(lab, other, 1);
    until("no warning", SOON, || {
        let said = warnings(lab, other);
        if said.contains("interface front") { Err(said) } else { Ok(()) }
    });
    lab.ready().await;
}

/// Without its program a node serves nobody, and everybody knows it.
async fn a_detached_node_is_given_nothing(lab: &mut Lab) {
    let (holder, _) = lab.holder().unwrap();
    let other = NODES.into_iter().find(|n| *n != holder).unwrap();
    phase("clusterctl detach at a node that holds nothing");
    lab.ctl(other, &["detach"]).good();
    until("the warning", SOON, || {
        let said = warnings(lab, other);
        if said.contains("taken off by `clusterctl detach`") { Ok(()) } else { Err(said) }
    });
    until("the move is refused", SOON, || {
        let moved = lab.ctl(1, &["vip", "move", GROUP, "--to", &format!("n{other}")]);
        if moved.code == Some(0) { Err("it was accepted".to_owned()) } else { Ok(()) }
    });
    assert_eq!(lab.holder().unwrap().0, holder);
    phase("started again it is attached");
    lab.cluster.signal(other, Signal::KILL).unwrap();
    lab.cluster.reap(other, SOON).await.unwrap();
    lab.cluster.start_node(other).await.unwrap();
    lab.ready().await;
    move_to(lab, other).await;
    assert_eq!(ask_servers(lab, 6).len(), 6, "through n{other}");
}

async fn a_vip_on_an_interface_is_told_of(lab: &mut Lab) {
    phase("a VIP is on an interface of a node");
    let node = lab.namespace(Host::Node(2));
    exec::shell_in(&node, &format!("ip addr add {VIP}/32 dev lo")).unwrap();
    until("the warning", SOON, || {
        let said = warnings(lab, 2);
        let wanted = format!("group address {VIP}: interface lo of this node has it");
        if said.contains(&wanted) { Ok(()) } else { Err(said) }
    });
    assert_eq!(interface(lab, 2)["name"], "front", "lo was taken for the segment's interface");
    exec::shell_in(&node, &format!("ip addr del {VIP}/32 dev lo")).unwrap();
    until("no warning", SOON, || {
        let said = warnings(lab, 2);
        if said.contains("group address") { Err(said) } else { Ok(()) }
    });
    lab.ready().await;
}

/// Deletes a node's link to the clients and makes another one, with one queue of two and without
/// an address.
fn remake(lab: &Lab, n: u8) {
    let host = Host::Node(n);
    let (port, node) = (host.port(Network::Front), lab.tag().namespace(host));
    exec::shell_in(&lab.namespace(host), "ip link del front").unwrap();
    let queues = "numrxqueues 2 numtxqueues 2";
    let script = format!(
        "ip link add {port} {queues} type veth peer name front netns {node} {queues}
         ethtool -L {port} rx 1 tx 1
         ethtool -K {port} tx off >/dev/null
         ip link set {port} master front up"
    );
    exec::shell_in(&lab.namespace(Host::Switch), &script).unwrap();
    let script = "ethtool -L front rx 1 tx 1; ethtool -K front tx off >/dev/null";
    exec::shell_in(&lab.namespace(host), script).unwrap();
}

/// Gives it the address, and takes it up.
fn address(lab: &Lab, n: u8) {
    let script = format!(
        "ip addr add {}/24 dev front; ip link set front up",
        Network::Front.node_address(n)
    );
    exec::shell_in(&lab.namespace(Host::Node(n)), &script).unwrap();
}

/// Waits until the node's interface has a socket for each of its queues.
#[track_caller]
fn served(lab: &Lab, n: u8, queues: u64) {
    until("an interface with all its sockets", SOON, || {
        let now = interface(lab, n);
        let all = now["queues"] == queues && now["sockets"] == queues && now["up"] == true;
        if all { Ok(()) } else { Err(format!("{now}; {}", warnings(lab, n))) }
    });
}

async fn move_to(lab: &mut Lab, n: u8) {
    if lab.holder().unwrap().0 != n {
        lab.ctl(1, &["vip", "move", GROUP, "--to", &format!("n{n}")]).good();
        until("the move", SOON, || match lab.holder() {
            Some((now, _)) if now == n => Ok(()),
            now => Err(format!("{now:?}")),
        });
    }
    lab.ready().await;
    assert_eq!(lab.holder().unwrap().0, n, "the move went elsewhere");
}

fn interface(lab: &Lab, n: u8) -> Value {
    let status = lab.status_json(n);
    status["local"]["interfaces"]
        .as_array()
        .and_then(|all| all.first())
        .cloned()
        .unwrap_or_default()
}

fn warnings(lab: &Lab, n: u8) -> String {
    let status = lab.status_json(n);
    let all = status["warnings"].as_array().into_iter().flatten();
    all.filter_map(|warning| warning["what"].as_str()).collect::<Vec<_>>().join("\n")
}

/// New connections, each from another port; which servers answer.
fn ask_servers(lab: &Lab, count: u16) -> Vec<String> {
    inside(&lab.namespace(Host::Client), || {
        let ask = |_| {
            let mut stream =
                TcpStream::connect_timeout(&vip_target(), Duration::from_secs(5)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            stream.write_all(&record::record(1, 1)).unwrap();
            let mut answer = Vec::new();
            BufReader::new(&stream).read_until(b'\n', &mut answer).unwrap();
            record::split_answer(&answer).unwrap().0.to_owned()
        };
        (0..count).map(ask).collect()
    })
    .unwrap()
}
