//! What a node still knows after a restart, and what a wiped node may not do.

use steadfast_consensus::{OnMissing, OpenError, Role, SnapshotPolicy, Store};

use crate::harness::{Cluster, PATIENCE, never, remove_store, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_restarts_with_its_state_while_the_others_go_on() {
    let cluster = Cluster::three_voters(SnapshotPolicy { every: 5, keep: 2 }).await;
    let mut lines = Vec::new();
    for round in 0..3 {
        for node in 1..=3 {
            let line = format!("round {round}, without node {node}");
            cluster.stop(node).await;
            cluster.write(&line).await;
            cluster.restart(node).await;
            lines.push(line);
        }
        let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
        cluster.converge(&texts).await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart_with_state_members_and_votes() {
    let cluster = Cluster::three_voters(SnapshotPolicy { every: 5, keep: 2 }).await;
    let lines: Vec<String> = (0..13).map(|number| format!("line {number}")).collect();
    let texts: Vec<&str> = lines.iter().map(String::as_str).collect();
    for line in &lines {
        cluster.write(line).await;
    }
    cluster.converge(&texts).await;
    // A follower hears of the last commit with the next heartbeat, after which it is on its disk; a
    // busy machine may have seen an election meanwhile, which adds an entry.
    wait("all to have applied the same", || {
        let nodes = cluster.nodes();
        let applied: Vec<_> = nodes.iter().map(|(_, n)| n.metrics().applied_index).collect();
        applied.windows(2).all(|pair| pair[0] == pair[1])
    })
    .await;
    let before: Vec<_> = cluster.nodes().iter().map(|(_, n)| n.metrics()).collect();
    cluster.stop_all().await;

    // Each alone: no other node can tell it what was committed.
    for node in 1..=3 {
        assert!(Store::exists(&cluster.dir(node)));
        let alone = cluster.open(node, OnMissing::Refuse).await.unwrap();
        assert_eq!(alone.state().texts(), texts, "node {node} forgot what it had applied");
        let (now, then) = (alone.metrics(), &before[node as usize - 1]);
        assert_eq!(now.node, node);
        assert!(now.term >= then.term, "node {node} went back in time");
        assert!(now.last_log_index >= then.last_log_index, "node {node} lost entries");
        assert_eq!(alone.membership().voters, [1, 2, 3].into());
        assert_eq!(alone.membership().infos[&2], "node 2");
        alone.shutdown().await;
    }

    for node in 1..=3 {
        cluster.restart(node).await;
    }
    cluster.write("after").await;
    cluster.converge(&[&texts[..], &["after"]].concat()).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_restarts_as_leader_of_itself() {
    let cluster = Cluster::new(SnapshotPolicy::default());
    cluster.create(1).await.bootstrap("node 1").await.unwrap();
    cluster.write("one").await;
    cluster.stop(1).await;
    cluster.restart(1).await;
    assert_eq!(cluster.node(1).state().texts(), ["one"]);
    cluster.write("two").await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_node_lets_go_of_its_store() {
    let cluster = Cluster::new(SnapshotPolicy::default());
    let node = cluster.open(1, OnMissing::Create).await.unwrap();
    node.bootstrap("node 1").await.unwrap();
    node.propose("one".to_owned(), PATIENCE).await.unwrap();
    drop(node);
    let reopened = loop {
        match cluster.open(1, OnMissing::Refuse).await {
            Ok(node) => break node,
            Err(OpenError::InUse { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(reopened.state().texts(), ["one"]);
    reopened.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_has_no_vote_under_its_old_id() {
    let cluster = Cluster::three_voters(SnapshotPolicy::default()).await;
    cluster.write("one").await;
    cluster.converge(&["one"]).await;
    cluster.stop(3).await;
    // Committed by 1 and 2 alone, then 1 dies: node 2 must not lead by the vote of a node that
    // has forgotten whom it voted for.
    cluster.write("two").await;
    cluster.stop(1).await;
    remove_store(&cluster.dir(3));
    let refused = cluster.open(3, OnMissing::Refuse).await.err().unwrap();
    assert!(matches!(refused, OpenError::Missing { .. }), "{refused}");
    let wiped = cluster.create(3).await;
    let two = cluster.node(2);
    never("a wiped node's vote was counted", || {
        two.is_leader() || wiped.metrics().last_log_index.is_some()
    })
    .await;
    assert_ne!(two.metrics().role, Role::Learner);

    // With node 1 there is a majority without it. Both refuse it: they knew its first store.
    cluster.restart(1).await;
    cluster.write("three").await;
    wait("node 2 to have it", || two.state().texts() == ["one", "two", "three"]).await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_does_not_take_a_wiped_node_back() {
    let cluster = Cluster::three_voters(SnapshotPolicy::default()).await;
    cluster.write("one").await;
    cluster.converge(&["one"]).await;
    // Followers are wiped one after the other, while the leader knows what they had.
    let (leader_id, leader) = cluster.leader().await;
    let victim = if leader_id == 3 { 2 } else { 3 };
    cluster.stop(victim).await;
    remove_store(&cluster.dir(victim));
    let wiped = cluster.create(victim).await;
    cluster.write("two").await;
    let matched = leader.metrics().matched[&victim];
    never("the leader counted a wiped node", || {
        leader.metrics().matched.get(&victim).is_some_and(|now| *now != matched)
            || leader.metrics().fatal.is_some()
            || !wiped.state().lines.is_empty()
    })
    .await;

    // The way back: removed, and in again under a new id.
    let (_, leader) = cluster.leader().await;
    leader.remove(victim, PATIENCE).await.unwrap();
    cluster.stop(victim).await;
    cluster.create(4).await;
    leader.add_learner(4, "node 4", PATIENCE).await.unwrap();
    leader.promote(&[4], PATIENCE).await.unwrap();
    cluster.converge(&["one", "two"]).await;
    cluster.stop_all().await;
}
