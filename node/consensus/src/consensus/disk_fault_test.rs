//! One disk of three fails, fills up or stalls: the cluster goes on, and forgets nothing.

use std::collections::BTreeSet;

use super::harness::{Cluster, Ledger, Node, PATIENCE, never, wait};
use super::*;
use crate::options::{Identity, OnMissing, SnapshotPolicy};
use crate::store::Disk;
use crate::store::failing::{Failing, Fault};

/// Longer than any election: a stalled leader is replaced.
const STALL: Duration = Duration::from_secs(5);

/// The disk of one node: redb's file, and the guard's.
#[derive(Clone, Default)]
struct Files {
    store: Failing,
    guard: Failing,
}

async fn start(cluster: &Cluster, node: u32, disk: Disk) -> Node {
    let options = cluster.options(node, OnMissing::Refuse);
    let config = raft_config(&options).unwrap();
    let store = Store::start(disk).unwrap();
    let started = Consensus::<Ledger>::start(options, config, store, cluster.transport(node)).await;
    cluster.plug(node, started.unwrap())
}

/// Three voters of which `node` has a disk that can fail.
async fn cluster_with(node: u32) -> (Cluster, Files, Identity) {
    let cluster = Cluster::new(SnapshotPolicy { every: 5, keep: 2 });
    let identity = cluster.options(node, OnMissing::Refuse).identity;
    let files = Files::default();
    for other in (1..=3).filter(|other| *other != node) {
        cluster.create(other).await;
    }
    let disk = Disk::on_backends(files.store.clone(), files.guard.clone(), identity);
    start(&cluster, node, disk).await;
    cluster.make_three_voters().await;
    (cluster, files, identity)
}

/// Writes a line through whoever leads. Written twice if a leader fell while it was on its way.
async fn write(cluster: &Cluster, line: &str) {
    let started = tokio::time::Instant::now();
    loop {
        let (_, leader) = cluster.leader().await;
        match leader.propose(line.to_owned(), Duration::from_secs(2)).await {
            Ok(_) => return,
            Err(error) => assert!(started.elapsed() < PATIENCE, "cannot write {line:?}: {error}"),
        }
    }
}

/// Waits until all nodes have the same lines, and these among them.
async fn all_have(cluster: &Cluster, lines: &[&str]) {
    wait("all nodes to have what was acknowledged", || {
        let nodes = cluster.nodes();
        nodes.windows(2).all(|pair| pair[0].1.state() == pair[1].1.state())
            && nodes.iter().all(|(_, node)| {
                let state = node.state();
                let has: BTreeSet<&str> = state.texts().into_iter().collect();
                lines.iter().all(|line| has.contains(line))
            })
    })
    .await;
}

async fn a_failed_disk(node: u32, break_it: impl Fn(&Files), says: &str) {
    let (cluster, files, identity) = cluster_with(node).await;
    write(&cluster, "before").await;
    all_have(&cluster, &["before"]).await;
    let failed = cluster.node(node);

    break_it(&files);
    let what = format!("node {node}, {says}");
    write(&cluster, "during").await;
    wait(&what, || failed.metrics().role == Role::Stopped).await;
    let fatal = failed.metrics().fatal.unwrap();
    assert!(fatal.contains(says) && fatal.contains("memory: cannot"), "{what}: {fatal}");
    write(&cluster, "after").await;

    // The disk works again, and nobody asks it: with another node gone, the third has no majority.
    files.store.set(Fault::Nothing);
    files.guard.set(Fault::Nothing);
    let syncs = (files.store.syncs(), files.guard.syncs());
    let (gone, third) = match node {
        1 => (2, 3),
        2 => (3, 1),
        _ => (1, 2),
    };
    cluster.stop(gone).await;
    let third = cluster.node(third);
    let term = third.metrics().term;
    never("a node with a failed disk voted", || {
        let metrics = third.metrics();
        (metrics.role == Role::Leader && metrics.term > term)
            || (files.store.syncs(), files.guard.syncs()) != syncs
    })
    .await;

    // Opened and checked again it takes part, and a majority is back.
    cluster.stop(node).await;
    let disk = Disk::reopen_backends(files.store.clone(), files.guard.clone(), identity).unwrap();
    start(&cluster, node, disk).await;
    write(&cluster, "reopened").await;
    cluster.restart(gone).await;
    all_have(&cluster, &["before", "during", "after", "reopened"]).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_whose_sync_fails_once_takes_no_part_until_it_is_opened_again() {
    a_failed_disk(3, |files| files.store.set(Fault::NextSync), "the disk is gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_whose_sync_fails_once_is_replaced() {
    a_failed_disk(1, |files| files.store.set(Fault::NextSync), "the disk is gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_cannot_be_synced_ends_the_role_too() {
    a_failed_disk(3, |files| files.guard.set(Fault::NextSync), "the disk is gone").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fills_up_in_the_middle_of_a_commit_ends_the_role() {
    a_failed_disk(3, |files| files.store.set(Fault::Full(2)), "no storage space").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_stalls_holds_nobody_else_up() {
    for node in [3, 1] {
        let (cluster, files, _) = cluster_with(node).await;
        write(&cluster, "before").await;
        all_have(&cluster, &["before"]).await;
        files.store.set(Fault::Stall);
        let since = tokio::time::Instant::now();
        // Acknowledged while the disk stands still: the others do not wait for it.
        write(&cluster, "during").await;
        assert!(!cluster.node(node).state().texts().contains(&"during"), "node {node} has it");
        let (leader, _) = cluster.leader().await;
        assert_ne!(leader, node, "a leader whose disk stands still");
        tokio::time::sleep_until(since + STALL).await;
        files.store.set(Fault::Nothing);
        // Slow is not broken: it goes on where it was.
        write(&cluster, "after").await;
        all_have(&cluster, &["before", "during", "after"]).await;
        assert_ne!(cluster.node(node).metrics().role, Role::Stopped);
        cluster.stop_all().await;
    }
}
