//! Commands to the Raft log, from any node: the leader takes them, the others pass them on.
//!
//! Guarantees: an answer or an error within [`PROPOSE_WITHIN`]; an error says whether the change
//! may still take effect; what was answered is applied on this node before the call returns.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use steadfast_consensus as raft;
use steadfast_model::{Command, NodeId, Response};
use steadfast_peer::Links;
use thiserror::Error;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

use crate::{owner::News, replicated::Replicated};

/// A write is answered within so long; without a quorum it fails by then, with the reason.
pub(crate) const PROPOSE_WITHIN: Duration = Duration::from_millis(900);

/// Between two tries while there is no leader.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

/// Kind of call on the control connection: an [`Ask`] for the leader.
pub(crate) const CALL_ASK: u8 = 2;

/// What the leader is asked for.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Ask {
    /// Commit this.
    Commit(Command),
    /// Make these learners voters.
    Promote(Vec<NodeId>),
    /// Give these a vote, and take that of those, in one step.
    Exchange(Vec<NodeId>, Vec<NodeId>),
}

impl Ask {
    /// Whether doing it twice is the same as doing it once. A node that is admitted twice is not:
    /// the second time its token is spent.
    fn may_be_repeated(&self) -> bool {
        !matches!(self, Self::Commit(Command::AdmitNode { .. }))
    }
}

/// What became of a question to the leader.
enum Passed {
    Answered(Answer),
    /// It certainly had no effect.
    NotSent(String),
    /// It may have had an effect.
    FellSilent,
}

/// What the leader answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) enum Answer {
    /// Committed at this index.
    Committed(u64, Response),
    /// The membership has been changed.
    Promoted,
    /// Not the leader (any more).
    NotLeader,
    /// No; this is why.
    Failed(ProposeError),
}

/// Why a command was not committed.
#[derive(Clone, Debug, Deserialize, Error, Serialize)]
pub(crate) enum ProposeError {
    /// No majority, or no leader: nothing was changed.
    #[error("no quorum: {0}")]
    NoQuorum(String),
    /// It was proposed and not confirmed in time.
    #[error("not confirmed in time: {0}")]
    Unknown(String),
    /// It cannot be done now, or not at all; nothing was changed.
    #[error("{0}")]
    Refused(String),
    /// The Raft role has stopped.
    #[error("{0}")]
    Stopped(String),
}

/// Proposes from this node.
#[derive(Clone)]
pub(crate) struct Proposer {
    node: NodeId,
    raft: Arc<raft::Consensus<Replicated>>,
    links: Links,
    news: watch::Receiver<News>,
}

impl Proposer {
    pub(crate) fn new(
        node: NodeId,
        raft: Arc<raft::Consensus<Replicated>>,
        links: Links,
        news: watch::Receiver<News>,
    ) -> Self {
        Self { node, raft, links, news }
    }

    /// Commits a command and waits until it is applied here.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn commit(&self, command: Command) -> Result<Response, ProposeError> {
        let deadline = Instant::now() + PROPOSE_WITHIN;
        match self.ask(Ask::Commit(command), deadline).await? {
            Answer::Committed(index, response) => {
                self.wait_applied(index, deadline).await;
                Ok(response)
            }
            other => Err(ProposeError::Unknown(format!("unexpected answer {other:?}"))),
        }
    }

    /// Makes learners voters.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn promote(&self, nodes: Vec<NodeId>) -> Result<(), ProposeError> {
        let deadline = Instant::now() + PROMOTE_WITHIN;
        self.ask(Ask::Promote(nodes), deadline).await.map(|_| ())
    }

    /// Gives some a vote and takes that of others, in one step.
    ///
    /// # Errors
    /// See [`ProposeError`].
    pub(crate) async fn exchange(
        &self,
        promoted: Vec<NodeId>,
        demoted: Vec<NodeId>,
    ) -> Result<(), ProposeError> {
        let deadline = Instant::now() + PROMOTE_WITHIN;
        self.ask(Ask::Exchange(promoted, demoted), deadline).await.map(|_| ())
    }

    /// What this node answers as the leader; also to peers.
    pub(crate) async fn answer(&self, ask: Ask, within: Duration) -> Answer {
        match ask {
            Ask::Commit(command) => match self.raft.propose(command, within).await {
                Ok((index, response)) => Answer::Committed(index, response),
                Err(error) => failed(error),
            },
            Ask::Promote(nodes) => {
                changed(self.raft.promote(&numbers(&nodes), PROMOTE_WITHIN).await)
            }
            Ask::Exchange(promoted, demoted) => {
                let (promoted, demoted) = (numbers(&promoted), numbers(&demoted));
                changed(self.raft.exchange(&promoted, &demoted, PROMOTE_WITHIN).await)
            }
        }
    }

    async fn ask(&self, ask: Ask, deadline: Instant) -> Result<Answer, ProposeError> {
        let mut last = "no leader is known".to_owned();
        let mut in_doubt = false;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(if in_doubt {
                    ProposeError::Unknown(format!("no quorum: {last}"))
                } else {
                    ProposeError::NoQuorum(last)
                });
            }
            let answer = match self.raft.leader().map(NodeId) {
                Some(leader) if leader == self.node => self.answer(ask.clone(), left).await,
                // Raft takes longer than the beacons to notice: asking would end in doubt.
                Some(leader) if self.news.borrow().silent.contains(&leader) => {
                    last = format!("node {leader}, the leader, is silent, and no other is elected");
                    Answer::NotLeader
                }
                Some(leader) => match self.pass_on(leader, &ask, left).await {
                    Passed::Answered(answer) => answer,
                    Passed::NotSent(why) => {
                        last = why;
                        Answer::NotLeader
                    }
                    Passed::FellSilent => {
                        last = format!("node {leader}, the leader, fell silent before it answered");
                        if !ask.may_be_repeated() {
                            return Err(ProposeError::Unknown(last));
                        }
                        in_doubt = true;
                        Answer::NotLeader
                    }
                },
                None => Answer::NotLeader,
            };
            match answer {
                Answer::NotLeader => sleep(AGAIN_AFTER.min(left)).await,
                Answer::Failed(error) => return Err(error),
                done => return Ok(done),
            }
        }
    }

    async fn pass_on(&self, leader: NodeId, ask: &Ask, left: Duration) -> Passed {
        let request = match serde_json::to_vec(ask) {
            Ok(request) => request,
            Err(error) => return Passed::NotSent(error.to_string()),
        };
        let mut news = self.news.clone();
        let answered = tokio::select! {
            answered = self.links.call(leader, CALL_ASK, &request, left) => answered,
            _ = news.wait_for(|news| news.silent.contains(&leader)) => return Passed::FellSilent,
        };
        let doubt = |why: String| {
            let why = format!("node {leader}, the leader: {why}");
            Passed::Answered(Answer::Failed(ProposeError::Unknown(why)))
        };
        match answered {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(answer) => Passed::Answered(answer),
                Err(error) => doubt(error.to_string()),
            },
            Err(steadfast_peer::CallError::NotConnected { .. }) => {
                Passed::NotSent(format!("node {leader}, the leader, cannot be reached"))
            }
            // It may have been executed: asking again could do it twice.
            Err(error) => doubt(error.to_string()),
        }
    }

    async fn wait_applied(&self, index: u64, deadline: Instant) {
        let mut applied = self.raft.watch();
        // Late is no failure: the command is committed.
        let _ = timeout_at(deadline, applied.wait_for(|at| *at >= index)).await;
    }
}

/// A change of the membership takes two commits and a wait for the log.
const PROMOTE_WITHIN: Duration = Duration::from_secs(10);

fn numbers(nodes: &[NodeId]) -> Vec<u32> {
    nodes.iter().map(|n| n.0).collect()
}

fn changed(result: Result<(), raft::ChangeError>) -> Answer {
    match result {
        Ok(()) => Answer::Promoted,
        Err(raft::ChangeError::Write(error)) => failed(error),
        Err(error) => Answer::Failed(ProposeError::Refused(error.to_string())),
    }
}

fn failed(error: raft::ProposeError) -> Answer {
    use raft::ProposeError as E;
    match error {
        E::NotLeader { .. } => Answer::NotLeader,
        E::NoQuorum { submitted: false, .. } => {
            let why = error.to_string();
            let why = why.strip_prefix("no quorum: ").unwrap_or(&why).to_owned();
            Answer::Failed(ProposeError::NoQuorum(why))
        }
        E::NoQuorum { submitted: true, .. } | E::Timeout => {
            Answer::Failed(ProposeError::Unknown(error.to_string()))
        }
        E::TooLarge { .. } => Answer::Failed(ProposeError::Refused(error.to_string())),
        _ => Answer::Failed(ProposeError::Stopped(error.to_string())),
    }
}
