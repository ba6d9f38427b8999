//! Nodes come and go.

use std::time::Duration;

use steadfast_consensus::{ChangeError, ProposeError, Role, SnapshotPolicy};

use crate::harness::{Cluster, PATIENCE, never, wait};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_voter_by_way_of_learners() {
    let cluster = Cluster::new(SnapshotPolicy::default());
    for node in 1..=3 {
        cluster.create(node).await;
    }
    let first = cluster.node(1);
    let error = first.add_learner(2, "node 2", PATIENCE).await.unwrap_err();
    assert_eq!(error, ChangeError::Write(ProposeError::NotLeader { leader: None }));

    first.bootstrap("node 1").await.unwrap();
    assert_eq!(first.bootstrap("node 1").await, Err(ChangeError::AlreadyInitialized));
    assert!(first.is_leader());
    assert_eq!(first.membership().voters, [1].into());
    assert_eq!(first.remove(1, PATIENCE).await, Err(ChangeError::LastVoter(1)));
    cluster.write("one").await;

    assert_eq!(first.promote(&[2], PATIENCE).await, Err(ChangeError::NotMember(2)));
    for node in [2, 3] {
        first.add_learner(node, &format!("node {node}"), PATIENCE).await.unwrap();
    }
    first.add_learner(2, "node 2", PATIENCE).await.unwrap();
    let error = first.add_learner(2, "somewhere else", PATIENCE).await.unwrap_err();
    assert_eq!(error, ChangeError::OtherInfo(2));
    assert_eq!(first.membership().learners, [2, 3].into());
    cluster.converge(&["one"]).await;
    wait("learners to see themselves", || {
        cluster.node(2).metrics().role == Role::Learner && cluster.node(2).membership().contains(3)
    })
    .await;

    first.promote(&[2, 3], PATIENCE).await.unwrap();
    let membership = first.membership();
    assert_eq!(membership.voters, [1, 2, 3].into());
    assert!(membership.learners.is_empty() && !membership.changing);
    first.promote(&[2, 3], PATIENCE).await.unwrap();
    first.set_info(2, "moved", PATIENCE).await.unwrap();
    wait("the new address everywhere", || {
        cluster.nodes().iter().all(|(_, node)| node.membership().infos[&2] == "moved")
    })
    .await;
    let error = cluster.node(2).remove(3, PATIENCE).await.unwrap_err();
    assert_eq!(error, ChangeError::Write(ProposeError::NotLeader { leader: Some(1) }));
    cluster.stop_all().await;
}

/// An operator promotes a node while the leader adds another by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_meet_follow_each_other() {
    let cluster = Cluster::new(SnapshotPolicy::default());
    for node in 1..=5 {
        cluster.create(node).await;
    }
    let first = cluster.node(1);
    first.bootstrap("node 1").await.unwrap();
    for node in [2, 3] {
        first.add_learner(node, &format!("node {node}"), PATIENCE).await.unwrap();
    }
    let (two, three, four, five) = tokio::join!(
        first.promote(&[2], PATIENCE),
        first.promote(&[3], PATIENCE),
        first.add_learner(4, "node 4", PATIENCE),
        first.add_learner(5, "node 5", PATIENCE),
    );
    assert_eq!([two, three, four, five], [Ok(()), Ok(()), Ok(()), Ok(())]);
    let membership = first.membership();
    assert_eq!((membership.voters, membership.learners), ([1, 2, 3].into(), [4, 5].into()));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_is_not_there_does_not_become_a_voter() {
    let cluster = Cluster::new(SnapshotPolicy::default());
    cluster.create(1).await.bootstrap("node 1").await.unwrap();
    let leader = cluster.node(1);
    leader.add_learner(2, "node 2", PATIENCE).await.unwrap();
    let error = leader.promote(&[2], Duration::from_millis(500)).await.unwrap_err();
    assert!(matches!(error, ChangeError::Behind { node: 2, .. }), "{error:?}");
    // Had it become one, there would be no majority now.
    cluster.write("one").await;
    leader.remove(2, PATIENCE).await.unwrap();
    assert_eq!(leader.membership().learners, [].into());
    assert_eq!(leader.remove(2, PATIENCE).await, Err(ChangeError::NotMember(2)));
    let error = leader.add_learner(2, "node 2", PATIENCE).await.unwrap_err();
    assert_eq!(error, ChangeError::RemovedBefore(2));
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_voter_is_removed_and_a_new_node_takes_its_place() {
    let cluster = Cluster::three_voters(SnapshotPolicy::default()).await;
    cluster.write("one").await;
    cluster.stop(1).await;
    let (_, leader) = cluster.leader().await;
    leader.remove(1, PATIENCE).await.unwrap();
    assert_eq!(leader.membership().voters, [2, 3].into());
    cluster.create(4).await;
    leader.add_learner(4, "node 4", PATIENCE).await.unwrap();
    leader.promote(&[4], PATIENCE).await.unwrap();
    cluster.write("two").await;
    cluster.converge(&["one", "two"]).await;
    // The cluster lives on the new node: with it, one of the old two is enough.
    cluster.stop(2).await;
    cluster.write("three").await;
    cluster.converge(&["one", "two", "three"]).await;
    assert_eq!(cluster.node(4).membership().voters, [2, 3, 4].into());
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_that_comes_back_gets_no_vote_and_is_told() {
    // Small snapshots: the list of removed ids must survive them and a restart.
    let cluster = Cluster::three_voters(SnapshotPolicy { every: 2, keep: 0 }).await;
    cluster.write("one").await;
    cluster.converge(&["one"]).await;
    cluster.isolate(3, true);
    let (_, leader) = cluster.leader().await;
    leader.remove(3, PATIENCE).await.unwrap();
    for line in ["two", "three", "four", "five"] {
        cluster.write(line).await;
    }
    let others = [1, 2];
    wait("both to have applied it all", || {
        others.iter().all(|node| cluster.node(*node).state().lines.len() == 5)
    })
    .await;
    for node in others {
        cluster.stop(node).await;
        cluster.restart(node).await;
    }
    let (_, leader) = cluster.leader().await;
    let error = leader.add_learner(3, "node 3", PATIENCE).await.unwrap_err();
    assert_eq!(error, ChangeError::RemovedBefore(3));

    // It never learned of its removal and campaigns with ever higher terms.
    let removed = cluster.node(3);
    let term = removed.metrics().term;
    wait("it to campaign", || removed.metrics().term > term + 1).await;
    let settled = cluster.leader().await.1.metrics().term;
    cluster.isolate(3, false);
    wait("it to be told", || removed.metrics().told_removed).await;
    never("a removed node disturbed the cluster", || {
        others.iter().any(|node| cluster.node(*node).metrics().term != settled)
            || removed.is_leader()
    })
    .await;
    cluster.write("six").await;
    assert_eq!(removed.state().texts(), ["one"]);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_removes_itself_hands_over() {
    let cluster = Cluster::three_voters(SnapshotPolicy::default()).await;
    cluster.write("one").await;
    let (old_id, old) = cluster.leader().await;
    old.remove(old_id, PATIENCE).await.unwrap();
    wait("a successor", || {
        cluster.nodes().iter().any(|(id, node)| *id != old_id && node.is_leader())
    })
    .await;
    cluster.stop(old_id).await;
    cluster.write("two").await;
    cluster.converge(&["one", "two"]).await;
    assert!(!cluster.leader().await.1.membership().contains(old_id));
    cluster.stop_all().await;
}
