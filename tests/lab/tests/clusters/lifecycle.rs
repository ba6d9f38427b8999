//! Members come, restart and go: what a cluster must never forget, and whom it must never believe.
//! One cluster, one phase after the other. Needs root; fails without.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::common::{Lab, phase, throughout, until};
use rustix::process::Signal;
use serde_json::Value;
use steadfast_lab::{
    cluster::api::{Epoch, Status},
    host::names::{Host, NODES, Network},
};

/// A daemon that is told to stop, or killed, is gone by then.
const GONE_WITHIN: Duration = Duration::from_secs(15);

/// The others take over, or learn something, by then.
const SOON: Duration = Duration::from_secs(10);

#[tokio::test]
async fn members_come_restart_and_go() {
    let mut lab = Lab::start("e2elife").await;
    init_and_two_joins_make_three_voters(&lab);
    init_on_a_member_is_refused(&lab);
    one_data_folder_one_daemon(&lab);
    restarts_lose_nothing(&mut lab).await;
    an_identity_needs_its_log(&mut lab).await;
    let old_data = lab.scratch("n3-removed");
    a_wiped_machine_is_a_new_node(&mut lab, &old_data).await;
    a_removed_node_is_nobody(&mut lab, &old_data).await;
    phase("done");
}

fn init_and_two_joins_make_three_voters(lab: &Lab) {
    phase("three voters");
    for n in NODES {
        let status = lab.status(n);
        let nodes: Vec<(u64, String)> =
            status.nodes.iter().map(|n| (n.id, n.name.clone())).collect();
        let wanted = [(1, "n1"), (2, "n2"), (3, "n3")].map(|(id, name)| (id, name.to_owned()));
        assert_eq!(nodes, wanted, "members as n{n} sees them");
        let voters = status.nodes.iter().filter(|n| n.role.is("voter", 1)).count();
        assert_eq!(voters, 3, "voters as n{n} sees them");
    }
}

fn init_on_a_member_is_refused(lab: &Lab) {
    phase("init on a member is refused");
    let before = facts(lab, 1);
    for n in NODES {
        let credentials = lab.scratch("never-written").display().to_string();
        let said = lab.ctl(n, &["init", "--cluster-name", "other", "--credentials", &credentials]);
        said.bad(1, &["belongs to a cluster already"]);
        assert!(!Path::new(&credentials).exists(), "credentials of a cluster that is none");
    }
    assert_eq!(facts(lab, 1), before, "a refused init changed something");
}

fn one_data_folder_one_daemon(lab: &Lab) {
    phase("a second daemon on the same data folder");
    let said = run_daemon(lab, 1, &lab.cluster.config_path(1));
    assert!(said.contains("in use by another clusterd"), "no reason: {said}");
    assert_eq!(lab.status(1).nodes.len(), 3, "the first daemon suffered");
}

/// Everything that a restart must not change, and the epoch, which only grows.
#[derive(Clone, Debug, PartialEq)]
struct Facts {
    cluster: Value,
    revision: Value,
    nodes: Vec<(u64, String, String)>,
    groups: Vec<(u64, String)>,
    services: Vec<(u64, String, Vec<u64>)>,
}

fn facts(lab: &Lab, n: u8) -> Facts {
    let status = lab.status_json(n);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let id = |value: &Value| value["id"].as_u64().unwrap();
    let text = |value: &Value, key: &str| value[key].as_str().unwrap().to_owned();
    Facts {
        cluster: status["cluster_id"].clone(),
        revision: status["config_revision"].clone(),
        nodes: list(&status["nodes"])
            .iter()
            .map(|v| (id(v), text(v, "name"), text(v, "role")))
            .collect(),
        groups: list(&status["groups"]).iter().map(|v| (id(v), text(v, "name"))).collect(),
        services: list(&status["services"])
            .iter()
            .map(|v| (id(v), text(v, "name"), list(&v["servers"]).iter().map(id).collect()))
            .collect(),
    }
}

async fn restarts_lose_nothing(lab: &mut Lab) {
    let before = facts(lab, 1);
    let mut ready = lab.ready().await;
    let cases: [(&str, &[u8], Signal); 4] = [
        ("the holder, SIGTERM", &[], Signal::TERM),
        ("the holder, SIGKILL", &[], Signal::KILL),
        ("all at once, SIGTERM", &NODES, Signal::TERM),
        ("all at once, SIGKILL", &NODES, Signal::KILL),
    ];
    for (what, nodes, signal) in cases {
        phase(&format!("restart of {what}"));
        let holder = lab.cluster.node_of(ready.holder.id).await.unwrap();
        let nodes = if nodes.is_empty() { vec![holder] } else { nodes.to_vec() };
        for &n in &nodes {
            lab.cluster.signal(n, signal).unwrap();
        }
        for &n in &nodes {
            lab.cluster.reap(n, GONE_WITHIN).await.unwrap();
        }
        for &n in &nodes {
            lab.cluster.start_node(n).await.unwrap();
        }
        let after = lab.ready().await;
        for n in NODES {
            assert_eq!(facts(lab, n), before, "{what}: n{n} remembers something else");
        }
        assert!(
            after.epoch > ready.epoch,
            "{what}: the epoch did not grow: {} to {}",
            ready.epoch,
            after.epoch
        );
        ready = after;
    }
}

async fn an_identity_needs_its_log(lab: &mut Lab) {
    phase("an identity without its log");
    lab.cluster.signal(2, Signal::KILL).unwrap();
    lab.cluster.reap(2, GONE_WITHIN).await.unwrap();
    let raft = lab.cluster.plan().data_dir(2).join("raft");
    let aside = lab.scratch("n2-raft");
    fs::rename(&raft, &aside).unwrap();
    let said = run_daemon(lab, 2, &lab.cluster.config_path(2));
    for part in ["no Raft store", "must not take part without its log", "join again"] {
        assert!(said.contains(part), "it does not say `{part}`: {said}");
    }
    let _ = fs::remove_dir_all(&raft);
    fs::rename(&aside, &raft).unwrap();
    lab.cluster.start_node(2).await.unwrap();
    lab.ready().await;
}

async fn a_wiped_machine_is_a_new_node(lab: &mut Lab, old_data: &Path) {
    phase("n3 dies; the dead voter is removed");
    let ever: BTreeSet<u64> = lab.status(1).nodes.iter().map(|n| n.id).collect();
    lab.cluster.signal(3, Signal::KILL).unwrap();
    lab.cluster.reap(3, GONE_WITHIN).await.unwrap();
    lab.wait_holder("a living holder", SOON, Some(3));
    until("n1 knows a living holder and leader", SOON, || {
        let mut status = lab.status(1);
        let holder = status.groups.remove(0).holder.map_or(0, |h| h.id);
        let leader = status.leader.map_or(0, |l| l.id);
        let alive = [1, 2].contains(&holder) && [1, 2].contains(&leader) && status.has_quorum;
        if alive { Ok(()) } else { Err(format!("holder {holder}, leader {leader}")) }
    });
    lab.ctl(1, &["node", "remove", "n3"]).good();
    until("two members are left", SOON, || {
        let count = lab.status(2).nodes.len();
        if count == 2 { Ok(()) } else { Err(format!("{count} members")) }
    });
    lab.ctl(1, &["node", "remove", "n3"]).bad(1, &["n3"]);

    phase("its machine, wiped, joins again");
    fs::rename(lab.cluster.plan().data_dir(3), old_data).unwrap();
    lab.cluster.start_node(3).await.unwrap();
    lab.ctl(3, &["status"]).bad(1, &["belongs to no cluster yet"]);
    let token = lab.ctl(1, &["token", "create"]).good().trim().to_owned();
    lab.ctl(3, &["join", &token]).good();
    let status = lab.status(3);
    let new = status.serving_node.clone().unwrap();
    assert!(!ever.contains(&new.id), "the id {} was used before: {ever:?}", new.id);
    assert_eq!(new.name, "n3", "it has another name");
    let role = status.nodes.iter().find(|n| n.id == new.id).map(|n| n.role.clone()).unwrap();
    assert!(role.is("learner", 2), "it votes before it was promoted: {role}");
    lab.ctl(2, &["node", "promote", "n3"]).good();
    until("it votes", SOON, || {
        let nodes = lab.status(1).nodes;
        let votes = nodes.iter().any(|n| n.id == new.id && n.role.is("voter", 1));
        if votes { Ok(()) } else { Err(format!("{nodes:?}")) }
    });
    lab.ready().await;

    phase("its token is spent");
    let before = facts(lab, 1);
    a_stranger_joins(lab, &token, &["token"]);
    a_stranger_joins(lab, "garbage", &["token"]);
    assert_eq!(facts(lab, 1), before, "a refused join changed something");
}

/// A fourth daemon tries to join and must be refused.
fn a_stranger_joins(lab: &Lab, token: &str, parts: &[&str]) {
    let (data, socket) = (lab.scratch("stranger"), lab.tag().run_dir().join("x.sock"));
    let address = Network::Mgmt.node_address(3);
    let text = format!(
        "instance: x\ndata_dir: {}\nlisten:\n  api: \"{address}:7450\"\n  \
         control: \"{address}:7451\"\n  replication: \"{address}:7452\"\nsocket: {}\nbpffs: {}\n",
        data.display(),
        socket.display(),
        lab.tag().bpf_dir().display()
    );
    let config = lab.tag().run_dir().join("x.yaml");
    fs::write(&config, text).unwrap();
    let mut stranger = daemon(lab, 3, &config);
    let started = Instant::now();
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        assert!(started.elapsed() < SOON, "the fourth daemon does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = lab.ctl_at(&socket, &["join", token]);
    let nobody = lab.ctl_at(&socket, &["status"]);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    said.bad(1, parts);
    nobody.bad(1, &["belongs to no cluster yet"]);
    assert!(!data.join("identity.json").exists(), "a refused node has an identity");
}

async fn a_removed_node_is_nobody(lab: &mut Lab, old_data: &Path) {
    phase("a removed node comes back with its old data");
    lab.ctl(1, &["vip", "move", "web", "--to", "n1"]).good();
    let epoch = lab.ready().await.epoch;
    lab.cluster.signal(3, Signal::KILL).unwrap();
    lab.cluster.reap(3, GONE_WITHIN).await.unwrap();
    let (data, new_data) = (lab.cluster.plan().data_dir(3), lab.scratch("n3-new"));
    fs::rename(&data, &new_data).unwrap();
    fs::rename(old_data, &data).unwrap();
    let rejected = not_members(lab, 1);
    let log_before = lab.log(Host::Node(1)).len();
    lab.cluster.start_node(3).await.unwrap();
    until("n3 runs as the node it was", SOON, || {
        let me = lab.try_status(3).and_then(|s| s.serving_node);
        if me.as_ref().is_some_and(|me| me.id == 3) { Ok(()) } else { Err(format!("{me:?}")) }
    });
    throughout("with a removed node about", Duration::from_secs(3), || {
        let removed = lab.status(3);
        if announces(&removed) {
            return Err("the removed node announces".to_owned());
        }
        let group = lab.status(1).groups.remove(0);
        if !group.announcing_here || group.epoch.as_ref() != Some(&epoch) {
            return Err(format!("n1 no longer holds under {epoch}: {group:?}"));
        }
        let members: Vec<u64> = lab.status(1).nodes.iter().map(|n| n.id).collect();
        if members.contains(&3) { Err(format!("it is a member: {members:?}")) } else { Ok(()) }
    });
    assert!(not_members(lab, 1) > rejected, "n1 counts no beacons of the removed node");
    let log = lab.log(Host::Node(1)).split_off(log_before);
    assert!(log.contains("not a member") || log.contains("no member"), "n1 does not log it: {log}");

    phase("with it alone there is neither a majority nor a holder");
    lab.cluster.signal(1, Signal::KILL).unwrap();
    lab.cluster.reap(1, GONE_WITHIN).await.unwrap();
    let path = lab.scratch("no-quorum.yaml");
    let text = lab.cluster.plan().document().unwrap();
    fs::write(&path, text + "# another text\n").unwrap();
    let file = path.display().to_string();
    let started = Instant::now();
    lab.ctl(2, &["apply", "-f", &file]).bad(3, &["quorum"]);
    assert!(started.elapsed() < Duration::from_secs(3), "it took {:?}", started.elapsed());
    throughout("without a majority", Duration::from_secs(3), || {
        for n in [2, 3] {
            if announces(&lab.status(n)) {
                return Err(format!("n{n} announces: the removed node consented"));
            }
        }
        Ok(())
    });
    lab.ctl(3, &["apply", "-f", &file]).bad(3, &["quorum"]);

    phase("the members are whole again");
    lab.cluster.signal(3, Signal::KILL).unwrap();
    lab.cluster.reap(3, GONE_WITHIN).await.unwrap();
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&new_data, &data).unwrap();
    lab.cluster.start_node(1).await.unwrap();
    lab.cluster.start_node(3).await.unwrap();
    let after: Epoch = lab.ready().await.epoch;
    assert!(after > epoch, "the epoch did not grow: {epoch} to {after}");
}

fn announces(status: &Status) -> bool {
    status.groups.iter().any(|g| g.announcing_here)
}

fn not_members(lab: &Lab, n: u8) -> u64 {
    lab.status_json(n)["local"]["beacons"]["rejected_notmember"].as_u64().unwrap_or(0)
}

fn daemon(lab: &Lab, n: u8, config: &Path) -> std::process::Child {
    Command::new("nsenter")
        .arg(format!("--net={}", lab.namespace(Host::Node(n)).display()))
        .arg(lab.cluster.plan().program("clusterd"))
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs a daemon that must refuse to start; what it says.
fn run_daemon(lab: &Lab, n: u8, config: &Path) -> String {
    let mut child = daemon(lab, n, config);
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > SOON {
            child.kill().unwrap();
            let said = child.wait_with_output().unwrap();
            panic!("it runs: {}", String::from_utf8_lossy(&said.stderr));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
