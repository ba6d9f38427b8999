//! Changing the membership.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, InitializeError, RaftError};
use tokio::time::Instant;

use super::Consensus;
use super::write::WriteError;
use crate::error::{ChangeError, ProposeError};
use crate::raft_types::NodeInfo;
use crate::state_machine::StateMachine;

/// A learner may lack this many entries when it becomes a voter: it has them within a moment, and
/// the cluster does not wait for it in order to commit.
const PROMOTE_LAG_MAX: u64 = 100;
/// How often a condition is looked at again.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// How long a bootstrapped node may take to elect itself.
const BOOTSTRAP_TIMEOUT: Duration = Duration::from_secs(10);

impl<S: StateMachine> Consensus<S> {
    /// Makes this node the only voter of a new cluster, and returns when it leads.
    ///
    /// `info` is kept in the membership for others to read: name, addresses.
    pub async fn bootstrap(&self, info: &str) -> Result<(), ChangeError> {
        let node = u64::from(self.inner.options.identity.node);
        let members = BTreeMap::from([(node, NodeInfo { info: info.to_owned() })]);
        match self.inner.raft.initialize(members).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                return Err(ChangeError::AlreadyInitialized);
            }
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                return Err(ChangeError::NotMember(self.inner.options.identity.node));
            }
            Err(RaftError::Fatal(fatal)) => return Err(self.ended(&fatal).into()),
        }
        let started = Instant::now();
        // Leading is not enough: the entry that says so must be committed before others follow.
        while !self.is_leader() || self.metrics().applied_index.is_none_or(|applied| applied < 1) {
            if started.elapsed() > BOOTSTRAP_TIMEOUT {
                return Err(ProposeError::Timeout.into());
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
        Ok(())
    }

    /// Adds a node that receives the log and does not vote. On the leader.
    ///
    /// Returns when the change is committed; the node need not be reachable yet. Adding a member
    /// again with the same `info` succeeds.
    pub async fn add_learner(
        &self,
        node: u32,
        info: &str,
        timeout: Duration,
    ) -> Result<(), ChangeError> {
        if self.inner.published.removed.load().contains(&node) {
            return Err(ChangeError::RemovedBefore(node));
        }
        if let Some(present) = self.membership().infos.get(&node) {
            return if present == info { Ok(()) } else { Err(ChangeError::OtherInfo(node)) };
        }
        let nodes = BTreeMap::from([(u64::from(node), NodeInfo { info: info.to_owned() })]);
        self.change(ChangeMembers::AddNodes(nodes), timeout).await
    }

    /// Replaces what is recorded about a member, for example its addresses. On the leader.
    pub async fn set_info(
        &self,
        node: u32,
        info: &str,
        timeout: Duration,
    ) -> Result<(), ChangeError> {
        if !self.membership().contains(node) {
            return Err(ChangeError::NotMember(node));
        }
        let nodes = BTreeMap::from([(u64::from(node), NodeInfo { info: info.to_owned() })]);
        self.change(ChangeMembers::SetNodes(nodes), timeout).await
    }

    /// Gives learners a vote, when they have caught up. On the leader.
    ///
    /// Waits for them up to `timeout`. Promoting voters again succeeds, and finishes a change
    /// that was interrupted.
    pub async fn promote(&self, nodes: &[u32], timeout: Duration) -> Result<(), ChangeError> {
        let started = Instant::now();
        for &node in nodes {
            self.wait_caught_up(node, started, timeout).await?;
        }
        let membership = self.membership();
        if !membership.changing && nodes.iter().all(|node| membership.voters.contains(node)) {
            return Ok(());
        }
        let voters: BTreeSet<u64> = nodes.iter().copied().map(u64::from).collect();
        let left = timeout.saturating_sub(started.elapsed());
        self.change(ChangeMembers::AddVoterIds(voters), left).await
    }

    /// Gives learners a vote and takes that of others, in one step: no moment in between has more or
    /// fewer voters. Who loses its vote goes on following the log. On the leader; a leader that loses
    /// its own vote steps down when the change is committed.
    ///
    /// Waits up to `timeout` for learners that are behind. Doing it again succeeds.
    pub async fn exchange(
        &self,
        promoted: &[u32],
        demoted: &[u32],
        timeout: Duration,
    ) -> Result<(), ChangeError> {
        let started = Instant::now();
        for &node in promoted {
            self.wait_caught_up(node, started, timeout).await?;
        }
        let membership = self.membership();
        if let Some(node) = demoted.iter().find(|node| !membership.contains(**node)) {
            return Err(ChangeError::NotMember(*node));
        }
        let mut voters = membership.voters.clone();
        voters.extend(promoted);
        voters.retain(|node| !demoted.contains(node));
        if voters.is_empty() {
            return Err(ChangeError::LastVoter(demoted.first().copied().unwrap_or_default()));
        }
        if !membership.changing && voters == membership.voters {
            return Ok(());
        }
        let voters = voters.into_iter().map(u64::from).collect();
        let left = timeout.saturating_sub(started.elapsed());
        self.change(ChangeMembers::ReplaceAllVoters(voters), left).await
    }

    /// Removes a voter or learner, dead or alive, for good: its id never comes back. On the
    /// leader; a leader that removes itself steps down when the change is committed.
    pub async fn remove(&self, node: u32, timeout: Duration) -> Result<(), ChangeError> {
        let membership = self.membership();
        let nodes = BTreeSet::from([u64::from(node)]);
        if membership.voters.contains(&node) {
            if membership.voters.len() == 1 {
                return Err(ChangeError::LastVoter(node));
            }
            return self.change(ChangeMembers::RemoveVoters(nodes), timeout).await;
        }
        if membership.learners.contains(&node) {
            return self.change(ChangeMembers::RemoveNodes(nodes), timeout).await;
        }
        Err(ChangeError::NotMember(node))
    }

    async fn wait_caught_up(
        &self,
        node: u32,
        started: Instant,
        timeout: Duration,
    ) -> Result<(), ChangeError> {
        loop {
            let membership = self.membership();
            if membership.voters.contains(&node) {
                return Ok(());
            }
            if !self.is_leader() {
                return Err(ProposeError::NotLeader { leader: self.leader() }.into());
            }
            if !membership.contains(node) {
                return Err(ChangeError::NotMember(node));
            }
            let metrics = self.metrics();
            let last = metrics.last_log_index.map_or(0, |index| index + 1);
            let matched = metrics.matched.get(&node).copied().flatten();
            let lag = last.saturating_sub(matched.map_or(0, |index| index + 1));
            // A node that has nothing may be one that is not even running.
            if matched.is_some() && lag <= PROMOTE_LAG_MAX {
                return Ok(());
            }
            if started.elapsed() >= timeout {
                return Err(ChangeError::Behind { node, lag });
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Changes the membership, after a change that is under way: with a quorum, that takes
    /// milliseconds.
    async fn change(
        &self,
        change: ChangeMembers<u64, NodeInfo>,
        timeout: Duration,
    ) -> Result<(), ChangeError> {
        let started = Instant::now();
        loop {
            let left = timeout.saturating_sub(started.elapsed());
            match self.change_now(change.clone(), left).await {
                Err(ChangeError::InProgress) if left > CHECK_INTERVAL => {
                    tokio::time::sleep(CHECK_INTERVAL).await;
                }
                done => return done,
            }
        }
    }

    /// Runs a change in a task of its own: one that was begun goes on when the caller has given
    /// up, else it would stop half way, with two sets of voters.
    async fn change_now(
        &self,
        change: ChangeMembers<u64, NodeInfo>,
        timeout: Duration,
    ) -> Result<(), ChangeError> {
        // Who only loses its vote goes on following.
        let retain = matches!(change, ChangeMembers::ReplaceAllVoters(_));
        let raft = self.inner.raft.clone();
        let operation = async move {
            let task = tokio::spawn(async move { raft.change_membership(change, retain).await });
            task.await.unwrap_or(Err(RaftError::Fatal(openraft::error::Fatal::Stopped)))
        };
        match self.write(operation, timeout).await {
            Ok(_) => Ok(()),
            Err(WriteError::Common(error)) => Err(error.into()),
            Err(WriteError::Change(error)) => Err(change_error(&error)),
        }
    }
}

fn change_error(error: &ChangeMembershipError<u64>) -> ChangeError {
    match error {
        ChangeMembershipError::InProgress(_) => ChangeError::InProgress,
        ChangeMembershipError::EmptyMembership(_) => ChangeError::LastVoter(0),
        ChangeMembershipError::LearnerNotFound(missing) => {
            ChangeError::NotMember(crate::raft_types::narrow(missing.node_id))
        }
    }
}
