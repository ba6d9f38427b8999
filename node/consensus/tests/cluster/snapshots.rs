//! Nodes that are too far behind for the log.

use steadfast_consensus::SnapshotPolicy;

use crate::harness::{Cluster, PATIENCE, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_gets_a_large_snapshot_in_pieces() {
    let cluster = Cluster::new(SnapshotPolicy { every: 4, keep: 1 });
    cluster.create(1).await.bootstrap("node 1").await.unwrap();
    let leader = cluster.node(1);
    let lines: Vec<String> =
        (0..16).map(|number| format!("{number} {}", "x".repeat(100_000))).collect();
    for line in &lines {
        cluster.write(line).await;
    }
    wait("the log to be purged", || leader.metrics().purged_index.is_some_and(|p| p > 8)).await;
    let learner = cluster.create(2).await;
    leader.add_learner(2, "node 2", PATIENCE).await.unwrap();
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    cluster.converge(&texts).await;
    assert!(learner.metrics().snapshot_index.is_some(), "it came through the log");
    // What was installed is on disk.
    cluster.stop(2).await;
    let learner = cluster.restart(2).await;
    assert_eq!(learner.state().texts(), texts);
    leader.promote(&[2], PATIENCE).await.unwrap();
    cluster.write("after").await;
    cluster.stop_all().await;
}

/// openraft before 0.9.25 sent such a follower nothing until the next write (its issue 1828). A
/// control plane is idle most of the time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_leader_with_a_fully_purged_log_brings_a_follower_up_to_date() {
    let cluster = Cluster::new(SnapshotPolicy { every: 1, keep: 0 });
    cluster.create(1).await.bootstrap("node 1").await.unwrap();
    cluster.create(2).await;
    let leader = cluster.node(1);
    leader.add_learner(2, "node 2", PATIENCE).await.unwrap();
    cluster.write("one").await;
    cluster.converge(&["one"]).await;

    cluster.isolate(2, true);
    for line in ["two", "three", "four"] {
        cluster.write(line).await;
    }
    wait("the whole log to be purged", || {
        let metrics = leader.metrics();
        metrics.purged_index == metrics.last_log_index
    })
    .await;
    let last = leader.metrics().last_log_index;
    assert_eq!(cluster.node(2).state().texts(), ["one"]);
    cluster.isolate(2, false);
    cluster.converge(&["one", "two", "three", "four"]).await;
    assert_eq!(leader.metrics().last_log_index, last, "something was written meanwhile");

    // The same for a node that was down.
    cluster.stop(2).await;
    cluster.write("five").await;
    wait("the whole log to be purged", || {
        let metrics = leader.metrics();
        metrics.purged_index == metrics.last_log_index
    })
    .await;
    cluster.restart(2).await;
    cluster.converge(&["one", "two", "three", "four", "five"]).await;
    cluster.stop_all().await;
}
