//! Proposing commands.

use std::future::Future;
use std::time::Duration;

use openraft::ServerState;
use openraft::error::{ClientWriteError, RaftError};
use tokio::time::Instant;

use super::{Consensus, QUORUM_ACK_AGE_MAX};
use crate::error::ProposeError;
use crate::frame::COMMAND_BYTES_MAX;
use crate::raft_types::{NodeInfo, narrow};
use crate::state_machine::StateMachine;

/// How often a waiting write looks whether the quorum is still there.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// A write that Raft refused, or that ended for a reason all writes share.
pub(super) enum WriteError {
    Common(ProposeError),
    Change(openraft::error::ChangeMembershipError<u64>),
}

impl<S: StateMachine> Consensus<S> {
    /// Proposes a command and waits until it is committed and applied here.
    ///
    /// Returns its position in the log and what [`StateMachine::apply`] answered. Fails after
    /// `timeout`, or about a second after the quorum is lost, whichever is first;
    /// [`ProposeError::outcome_unknown`] tells whether the command may still take effect.
    pub async fn propose(
        &self,
        command: S::Command,
        timeout: Duration,
    ) -> Result<(u64, S::Response), ProposeError> {
        let codec = |e: serde_json::Error| ProposeError::Codec(e.to_string());
        let bytes = serde_json::to_vec(&command).map_err(codec)?;
        if bytes.len() > COMMAND_BYTES_MAX {
            let (bytes, bytes_max) = (bytes.len(), COMMAND_BYTES_MAX);
            return Err(ProposeError::TooLarge { bytes, bytes_max });
        }
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(codec)?;
        // What cannot be read back would stop Raft on every node when it is applied.
        serde_json::from_value::<S::Command>(value.clone()).map_err(codec)?;
        let raft = self.inner.raft.clone();
        let written = self.write(async move { raft.client_write(value).await }, timeout).await;
        let response = written.map_err(|error| match error {
            WriteError::Common(error) => error,
            WriteError::Change(error) => ProposeError::Codec(error.to_string()),
        })?;
        let value = response.data.ok_or_else(|| {
            ProposeError::Codec("the command was applied without a response".to_owned())
        })?;
        let data = serde_json::from_value(value).map_err(codec)?;
        Ok((response.log_id.index, data))
    }

    /// Runs a write on the leader, as long as there is a quorum.
    pub(super) async fn write<T>(
        &self,
        operation: impl Future<Output = Result<T, RaftError<u64, ClientWriteError<u64, NodeInfo>>>>,
        timeout: Duration,
    ) -> Result<T, WriteError> {
        self.check_can_write().map_err(WriteError::Common)?;
        let started = Instant::now();
        let mut operation = std::pin::pin!(operation);
        loop {
            let wait = CHECK_INTERVAL.min(timeout.saturating_sub(started.elapsed()));
            tokio::select! {
                biased;
                result = &mut operation => return result.map_err(|e| self.write_error(e)),
                () = tokio::time::sleep(wait) => {}
            }
            self.check_can_wait(started).map_err(WriteError::Common)?;
            if started.elapsed() >= timeout {
                return Err(WriteError::Common(ProposeError::Timeout));
            }
        }
    }

    /// Before a write: leader, and a majority answered lately.
    fn check_can_write(&self) -> Result<(), ProposeError> {
        let reports = self.reports();
        {
            let report = reports.borrow();
            if let Err(fatal) = &report.running_state {
                return Err(self.ended(fatal));
            }
            if report.state != ServerState::Leader {
                return Err(ProposeError::NotLeader { leader: report.current_leader.map(narrow) });
            }
        }
        let age = self.inner.quorum_ack.age();
        if age.is_some_and(|age| age > self.quorum_ack_age_max()) {
            let quorum_ack_age_ms = self.millis_since_quorum_ack();
            return Err(ProposeError::NoQuorum { quorum_ack_age_ms, submitted: false });
        }
        Ok(())
    }

    /// During a write: whether it can still be acknowledged soon.
    fn check_can_wait(&self, started: Instant) -> Result<(), ProposeError> {
        let limit = self.quorum_ack_age_max();
        // A leader that nobody has answered yet gets as long as one that was answered just now.
        let silent = self.inner.quorum_ack.age().unwrap_or_else(|| started.elapsed());
        if silent <= limit {
            return Ok(());
        }
        if !self.is_leader() {
            return Err(ProposeError::LeadershipLost { leader: self.leader() });
        }
        let quorum_ack_age_ms = self.millis_since_quorum_ack();
        Err(ProposeError::NoQuorum { quorum_ack_age_ms, submitted: true })
    }

    fn quorum_ack_age_max(&self) -> Duration {
        self.inner.options.timing.election_max.min(QUORUM_ACK_AGE_MAX)
    }

    /// openraft says "forward to the leader" both to a write it never took and to one it had to
    /// drop from the log when it lost the leadership. The second may be in another node's log and
    /// be committed by a later leader, so neither is called "without effect" here.
    fn write_error(&self, error: RaftError<u64, ClientWriteError<u64, NodeInfo>>) -> WriteError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                let leader = forward.leader_id.map(narrow);
                WriteError::Common(ProposeError::LeadershipLost { leader })
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
                WriteError::Change(error)
            }
            RaftError::Fatal(fatal) => WriteError::Common(self.ended(&fatal)),
        }
    }
}
