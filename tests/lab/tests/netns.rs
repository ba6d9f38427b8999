//! The lab without a balancer: its network, its load, its faults on links, and that nothing is
//! left of it whatever ends it. Needs root; fails without.

#![allow(clippy::unwrap_used)]

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use steadfast_lab::{
    cluster::{Plan, running::start_server},
    demo::client_link::ClientLink,
    host::{
        exec,
        family::Family,
        names::{Host, Mode, Network, PORT, Tag},
        process::{Launch, Process},
        state::Ledger,
        sweep,
        topology::Topology,
    },
    load::{
        SECOND,
        judge::{FaultWindow, Why},
        now_ns,
    },
};
use tokio::time::sleep;

/// A lab of a test; removed when dropped, also by a failing test.
struct Lab {
    plan: Plan,
    topology: Topology,
    ledger: Ledger,
}

impl Lab {
    fn build(letter: char, mode: Mode, queues: u32) -> Self {
        exec::check_rights_and_tools().unwrap();
        let tag = tag(letter);
        sweep::sweep(&tag).unwrap();
        let out_dir = scratch(&tag);
        fs::create_dir_all(out_dir.join("logs").join(tag.to_string())).unwrap();
        let topology = Topology { tag: tag.clone(), mode, queues, family: Family::V4 };
        let ledger = Ledger::open(&tag).unwrap();
        let bin_dir = Path::new(env!("CARGO_BIN_EXE_lab")).parent().unwrap().to_owned();
        let examples_dir = PathBuf::new();
        let plan = Plan {
            tag,
            mode,
            replication: true,
            queues,
            family: Family::V4,
            changes: Default::default(),
            old_dir: None,
            bin_dir,
            examples_dir,
            out_dir,
        };
        let lab = Self { plan, topology, ledger };
        lab.topology.build().unwrap();
        lab
    }

    fn client(&mut self) -> ClientLink {
        ClientLink::start(&self.plan, &mut self.ledger).unwrap()
    }

    /// An echo server in the namespace of node 1, where otherwise a daemon would be.
    fn server_on_node(&mut self) -> (Process, SocketAddr) {
        let address = SocketAddr::from((Network::Front.node_address(1), PORT));
        let launch = Launch {
            what: "lab-server n1",
            namespace: &self.plan.tag.namespace_path(Host::Node(1)),
            program: &self.plan.program("lab-server"),
            args: ["--name", "n1", "--listen", &address.to_string()].map(Into::into).into(),
            log: &self.plan.log(Host::Node(1)),
            talks: false,
        };
        (Process::start(&launch, &mut self.ledger).unwrap(), address)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = sweep::sweep(&self.plan.tag);
        let _ = fs::remove_dir_all(&self.plan.out_dir);
    }
}

fn tag(letter: char) -> Tag {
    format!("t{}{letter}", std::process::id()).parse().unwrap()
}

fn scratch(tag: &Tag) -> PathBuf {
    std::env::temp_dir().join(format!("sfl-{tag}"))
}

fn assert_nothing_left(tag: &Tag) {
    assert_eq!(sweep::namespaces(tag), [""; 0]);
    let netns = exec::run("ip", ["netns", "list"]).unwrap();
    assert!(!netns.contains(&tag.prefix()), "{netns}");
    let links = exec::run("ip", ["-o", "link", "show"]).unwrap();
    assert!(!links.contains(&tag.prefix()), "{links}");
    for path in [tag.run_dir(), tag.bpf_dir(), tag.lock_path()] {
        assert!(!path.exists(), "{} is left", path.display());
    }
}

/// Probes that may be late before there is a fault.
const LOST_BY_LOAD_MAX: u64 = 50;

fn alive(pid: i32) -> bool {
    matches!(steadfast_lab::host::state::proc_stat(pid), Some((state, _)) if state != 'Z')
}

#[tokio::test]
async fn sessions_live_until_their_server_is_killed() {
    for (letter, mode) in [('a', Mode::Dr), ('b', Mode::Nat)] {
        let mut lab = Lab::build(letter, mode, 1);
        let mut server = start_server(&lab.plan, 1, &mut lab.ledger).unwrap();
        // With NAT the client has no way to the server's network: it is asked from a node.
        let mut client = if mode == Mode::Dr {
            lab.client()
        } else {
            let path = lab.plan.tag.namespace_path(Host::Client);
            let error = exec::shell_in(&path, "ip route get 198.18.1.11");
            assert!(error.is_err(), "the client reaches the servers past the balancer");
            continue;
        };
        // With DR every server has the VIP, and none may say so.
        let ask =
            "bash -c 'echo > /dev/udp/198.18.0.100/7'; sleep 0.2; ip neigh show to 198.18.0.100";
        let path = lab.plan.tag.namespace_path(Host::Client);
        let neighbour = exec::shell_in(&path, ask).unwrap();
        assert!(neighbour.contains("198.18.0.100"), "nobody was asked");
        assert!(!neighbour.contains("lladdr"), "a real server answers for the VIP: {neighbour}");
        let target = SocketAddr::from((mode.server_address(1), PORT));
        assert_eq!(client.probe(target).await.unwrap(), "s1");
        let opened = client.open(target, 200, 100).await.unwrap();
        assert_eq!(opened.established, 300, "{:?}", opened.failures);
        sleep(Duration::from_secs(1)).await;
        let seen = client.snapshot().await.unwrap();
        assert_eq!(seen.iter().filter(|s| s.broken.is_some()).count(), 0);
        assert_eq!(seen.iter().filter(|s| s.echoed > 5).count(), 200);

        let begin_ns = now_ns();
        server.kill().await.unwrap();
        sleep(Duration::from_millis(500)).await;
        client.speak().await.unwrap();
        let fault = FaultWindow { begin_ns, ended_ns: now_ns() };
        let (sessions, probe) = client.finish(fault).await.unwrap();
        for session in &sessions {
            let why = session.broken.as_ref().map(|b| b.why);
            assert!(matches!(why, Some(Why::Eof | Why::Reset)), "{session:?}");
        }
        let probe = probe.unwrap();
        // A machine with other work may lose one of the thousand.
        assert!(probe.lost_before_fault < LOST_BY_LOAD_MAX, "{probe:?}");
        assert!(probe.lost > 300 && probe.silent_ns > SECOND / 3, "{probe:?}");
        let tag = lab.plan.tag.clone();
        drop(lab);
        assert_nothing_left(&tag);
    }
}

#[tokio::test]
async fn sessions_survive_both_ways_of_cutting_a_node_off() {
    let mut lab = Lab::build('c', Mode::Nat, 1);
    let (_server, target) = lab.server_on_node();
    for by_ports in [false, true] {
        let mut client = lab.client();
        client.probe(target).await.unwrap();
        assert_eq!(client.open(target, 20, 10).await.unwrap().established, 30);
        sleep(Duration::from_millis(500)).await;
        let begin_ns = now_ns();
        if by_ports {
            lab.topology.set_node_ports(1, false).unwrap();
        } else {
            lab.topology.set_node_isolated(1, true).unwrap();
        }
        let carrier = "ip -o link show front";
        let link = exec::shell_in(&lab.plan.tag.namespace_path(Host::Node(1)), carrier).unwrap();
        assert_eq!(link.contains("NO-CARRIER"), by_ports, "{link}");
        sleep(Duration::from_millis(500)).await;
        if by_ports {
            lab.topology.set_node_ports(1, true).unwrap();
        } else {
            lab.topology.set_node_isolated(1, false).unwrap();
        }
        let fault = FaultWindow { begin_ns, ended_ns: now_ns() };
        client.speak().await.unwrap();
        sleep(Duration::from_millis(2500)).await;
        let (sessions, probe) = client.finish(fault).await.unwrap();
        assert_eq!(sessions.iter().filter(|s| s.broken.is_some()).count(), 0, "{sessions:?}");
        let stalled = |s: &&_| {
            let s: &steadfast_lab::load::wire::SessionReport = s;
            s.stall_ns.is_some_and(|ns| ns > SECOND / 2)
        };
        assert_eq!(sessions.iter().filter(stalled).count(), 20);
        let probe = probe.unwrap();
        assert!(probe.lost > 300 && probe.silent_ns > SECOND / 2, "{probe:?}");
    }
}

/// Packets that each receive queue of node 1's `front` has handed to its driver's XDP path.
fn queue_packets(plan: &Plan) -> Vec<u64> {
    let path = plan.tag.namespace_path(Host::Node(1));
    let text = exec::shell_in(&path, "ethtool -S front").unwrap();
    (0..2)
        .map(|queue| {
            let name = format!("rx_queue_{queue}_xdp_packets:");
            let line = text.lines().find(|l| l.trim_start().starts_with(&name)).unwrap();
            line.rsplit(' ').next().unwrap().parse().unwrap()
        })
        .collect()
}

#[tokio::test]
async fn flows_spread_over_both_queues_of_a_node() {
    let mut lab = Lab::build('d', Mode::Nat, 2);
    // Without a program only the receive path with GRO counts by queue.
    let path = lab.plan.tag.namespace_path(Host::Node(1));
    exec::shell_in(&path, "ethtool -K front gro on").unwrap();
    let (_server, target) = lab.server_on_node();
    let before = queue_packets(&lab.plan);
    let mut client = lab.client();
    assert_eq!(client.open(target, 60, 0).await.unwrap().established, 60);
    sleep(Duration::from_millis(500)).await;
    let after = queue_packets(&lab.plan);
    for queue in 0..2 {
        let packets = after[queue] - before[queue];
        assert!(packets > 60, "queue {queue} got {packets} packets: {before:?} {after:?}");
    }
}

/// A folder of programs whose `clusterd` is this shell script: a daemon that hangs, or fails.
fn programs(tag: &Tag, clusterd: &str) -> PathBuf {
    let dir = scratch(tag).join("bin");
    fs::create_dir_all(&dir).unwrap();
    let built = Path::new(env!("CARGO_BIN_EXE_lab")).parent().unwrap();
    for name in ["lab-server", "lab-client"] {
        let _ = fs::remove_file(dir.join(name));
        std::os::unix::fs::symlink(built.join(name), dir.join(name)).unwrap();
    }
    for name in ["clusterd", "clusterctl"] {
        fs::write(dir.join(name), format!("#!/bin/sh\n{clusterd}\n")).unwrap();
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

fn demo(tag: &Tag, bin_dir: &Path) -> Child {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["demo", "--seed", "1", "--tag", &tag.to_string()])
        .arg("--bin-dir")
        .arg(bin_dir)
        .arg("--examples")
        .arg(root.join("deploy/examples"))
        .arg("--out")
        .arg(scratch(tag).join("out"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits until the demonstration hangs in front of its first daemon; the processes it has.
fn wait_started(tag: &Tag) -> Vec<i32> {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        if tag.run_dir().join("state.json").exists() {
            let Ok(ledger) = Ledger::open(tag) else { continue };
            let processes = &ledger.state().processes;
            let pids: Vec<i32> = processes.iter().map(|p| p.pid).collect();
            // Not those that an earlier demonstration left in the ledger.
            if pids.len() == 4 && processes.iter().all(|p| p.is_alive()) {
                return pids;
            }
        }
        assert!(Instant::now() < until, "the demonstration does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_signal_ends_the_demonstration_and_nothing_is_left() {
    let tag = tag('e');
    let bin_dir = programs(&tag, "exec sleep 60");
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let child = demo(&tag, &bin_dir);
        let pids = wait_started(&tag);
        assert!(pids.iter().all(|&pid| alive(pid)));
        assert_eq!(sweep::namespaces(&tag).len(), 8);
        kill_process(Pid::from_child(&child), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{output:?}");
        assert!(!pids.iter().any(|&pid| alive(pid)));
        assert!(!scratch(&tag).join("out").join(format!("work-{tag}")).exists());
        assert_nothing_left(&tag);
    }
    fs::remove_dir_all(scratch(&tag)).unwrap();
}

#[test]
fn what_a_killed_demonstration_leaves_is_removed_by_the_next_and_by_down() {
    let tag = tag('f');
    let bin_dir = programs(&tag, "exec sleep 60");
    let mut child = demo(&tag, &bin_dir);
    let first = wait_started(&tag);
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(first.iter().all(|&pid| alive(pid)), "the test shows nothing");

    let mut child = demo(&tag, &bin_dir);
    let until = Instant::now() + Duration::from_secs(20);
    while first.iter().any(|&pid| alive(pid)) {
        assert!(Instant::now() < until, "leftovers are not removed");
        std::thread::sleep(Duration::from_millis(20));
    }
    let second = wait_started(&tag);
    child.kill().unwrap();
    child.wait().unwrap();

    let down = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["down", "--tag", &tag.to_string()])
        .output()
        .unwrap();
    assert!(down.status.success(), "{down:?}");
    assert!(!second.iter().any(|&pid| alive(pid)));
    assert_nothing_left(&tag);
    fs::remove_dir_all(scratch(&tag)).unwrap();
}

#[test]
fn a_daemon_that_does_not_start_is_a_set_up_failure_and_says_why() {
    let tag = tag('g');
    let bin_dir = programs(&tag, "echo 'clusterd: no such luck' >&2; exit 3");
    let output = demo(&tag, &bin_dir).wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("clusterd n1 ended") && error.contains("no such luck"), "{error}");
    let report = fs::read_to_string(scratch(&tag).join("out/report.json")).unwrap();
    let report: steadfast_lab::demo::report::Report = serde_json::from_str(&report).unwrap();
    assert_eq!((report.sessions, report.established, report.origin.seed), (300, 0, 1));
    assert!(report.runs[0].void[0].contains("no such luck"));
    assert_nothing_left(&tag);
    fs::remove_dir_all(scratch(&tag)).unwrap();
}

#[test]
fn two_labs_of_one_name_do_not_run_at_once() {
    let tag = tag('h');
    let bin_dir = programs(&tag, "exec sleep 60");
    let first = demo(&tag, &bin_dir);
    wait_started(&tag);
    let second = demo(&tag, &bin_dir).wait_with_output().unwrap();
    assert_eq!(second.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another lab with the tag"));
    assert_eq!(sweep::namespaces(&tag).len(), 8, "the second removed the first");
    kill_process(Pid::from_child(&first), Signal::INT).unwrap();
    assert_eq!(first.wait_with_output().unwrap().status.code(), Some(130));
    assert_nothing_left(&tag);
    fs::remove_dir_all(scratch(&tag)).unwrap();
}
