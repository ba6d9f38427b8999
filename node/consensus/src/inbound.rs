//! Requests from other nodes, checked before openraft sees them.

use openraft::error::RaftError;
use openraft::raft::{AppendEntriesRequest, InstallSnapshotRequest, VoteRequest};
use serde::Serialize;

use crate::frame::{FrameError, Kind, Request, Response, SNAPSHOT_BYTES_MAX, Status, decode_json};
use crate::options::Identity;
use crate::raft_types::{Entry, LogId, NodeInfo, Raft, TypeConfig, Vote, narrow};

/// Answers requests.
pub(crate) struct Inbound {
    pub(crate) raft: Raft,
    pub(crate) identity: Identity,
    pub(crate) instance: u64,
}

/// Why a request was not put to Raft.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it is for cluster {0:016x}, another one")]
    Cluster(u64),
    #[error("it is for node {0}, another one")]
    Target(u32),
    #[error("it speaks for node {claimed} but comes from node {from}")]
    Sender { claimed: u32, from: u32 },
    #[error("it is not what a leader or candidate sends: {0}")]
    Protocol(&'static str),
    #[error("this node has no log yet, so it has no vote to give")]
    NoLog,
    #[error("node {0} was removed from the cluster")]
    Removed(u32),
}

impl Inbound {
    /// Answers a request of node `from`. `is_removed` tells ids that were removed.
    pub(crate) async fn handle(
        &self,
        from: u32,
        frame: &[u8],
        is_removed: impl Fn(u32) -> bool,
    ) -> Vec<u8> {
        match self.dispatch(from, frame, is_removed).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(from, %refusal, "Raft request refused");
                let status = match refusal {
                    Refusal::Removed(_) => Status::Removed,
                    _ => Status::Refused,
                };
                Response::encode(status, self.instance, &refusal.to_string())
            }
        }
    }

    async fn dispatch(
        &self,
        from: u32,
        frame: &[u8],
        is_removed: impl Fn(u32) -> bool,
    ) -> Result<Vec<u8>, Refusal> {
        let request = Request::decode(frame)?;
        if request.cluster != self.identity.cluster {
            return Err(Refusal::Cluster(request.cluster));
        }
        if request.target != self.identity.node {
            return Err(Refusal::Target(request.target));
        }
        match request.kind {
            Kind::AppendEntries => {
                let content: AppendEntriesRequest<TypeConfig> = decode_json(request.json)?;
                check_vote(from, &content.vote, true)?;
                check_entries(&content)?;
                Ok(self.answer(self.raft.append_entries(content).await))
            }
            Kind::Vote => {
                let content: VoteRequest<u64> = decode_json(request.json)?;
                check_vote(from, &content.vote, false)?;
                self.check_candidate(from, is_removed)?;
                Ok(self.answer(self.raft.vote(content).await))
            }
            Kind::InstallSnapshot => {
                let mut content: InstallSnapshotRequest<TypeConfig> = decode_json(request.json)?;
                content.data = request.raw.to_vec();
                check_vote(from, &content.vote, true)?;
                check_snapshot(&content)?;
                Ok(self.answer(self.raft.install_snapshot(content).await))
            }
        }
    }

    /// Two votes that Raft itself would give and that must not be given.
    ///
    /// A removed node knows of no newer membership and would disturb the cluster for ever; ids
    /// are never used twice, so refusing it harms nobody. Ids that are merely unknown are not
    /// refused: they may be newer than this node's log.
    ///
    /// A node without a log is new, or was wiped and started under its old id. A new node becomes
    /// a voter only after it has caught up, so it is never needed for an election; a wiped one may
    /// have promised its vote to somebody else.
    fn check_candidate(&self, from: u32, is_removed: impl Fn(u32) -> bool) -> Result<(), Refusal> {
        if is_removed(from) {
            return Err(Refusal::Removed(from));
        }
        if self.raft.metrics().borrow().last_log_index.is_none() {
            return Err(Refusal::NoLog);
        }
        Ok(())
    }

    fn answer<T, E>(&self, result: Result<T, RaftError<u64, E>>) -> Vec<u8>
    where
        T: Serialize,
        E: Serialize,
    {
        match result {
            Ok(response) => Response::encode(Status::Ok, self.instance, &response),
            Err(error) => Response::encode(Status::Error, self.instance, &error),
        }
    }
}

/// A leader's or candidate's vote is for itself.
fn check_vote(from: u32, vote: &Vote, elected: bool) -> Result<(), Refusal> {
    let claimed = narrow(vote.leader_id.node_id);
    if u64::from(from) != vote.leader_id.node_id {
        return Err(Refusal::Sender { claimed, from });
    }
    if vote.committed != elected {
        return Err(Refusal::Protocol("its vote is not of the right kind"));
    }
    Ok(())
}

/// openraft takes these for granted.
fn check_entries(request: &AppendEntriesRequest<TypeConfig>) -> Result<(), Refusal> {
    let mut previous: Option<LogId> = request.prev_log_id;
    for entry in &request.entries {
        if entry.log_id.index != previous.map_or(0, |p| p.index.saturating_add(1)) {
            return Err(Refusal::Protocol("its entries do not follow each other"));
        }
        if previous.is_some_and(|p| p.leader_id > entry.log_id.leader_id) {
            return Err(Refusal::Protocol("its entries have leaders out of order"));
        }
        check_membership(entry)?;
        previous = Some(entry.log_id);
    }
    if previous.is_some_and(|last| last.leader_id > request.vote.leader_id) {
        return Err(Refusal::Protocol("its entries are newer than its vote"));
    }
    Ok(())
}

fn check_membership(entry: &Entry) -> Result<(), Refusal> {
    let openraft::EntryPayload::Membership(membership) = &entry.payload else {
        return Ok(());
    };
    is_usable(membership).then_some(()).ok_or(Refusal::Protocol("its membership is not usable"))
}

fn check_snapshot(request: &InstallSnapshotRequest<TypeConfig>) -> Result<(), Refusal> {
    let end = request.offset.checked_add(request.data.len() as u64);
    if end.is_none_or(|end| end > SNAPSHOT_BYTES_MAX) {
        return Err(Refusal::Protocol("its snapshot is larger than a node accepts"));
    }
    if request.meta.last_log_id.is_none() {
        return Err(Refusal::Protocol("its snapshot contains nothing"));
    }
    is_usable(request.meta.last_membership.membership())
        .then_some(())
        .ok_or(Refusal::Protocol("its membership is not usable"))
}

/// Has voters, and a record of every one of them.
fn is_usable(membership: &openraft::Membership<u64, NodeInfo>) -> bool {
    let configs = membership.get_joint_config();
    !configs.is_empty()
        && configs.iter().all(|config| !config.is_empty())
        && membership.voter_ids().all(|node| membership.get_node(&node).is_some())
}
