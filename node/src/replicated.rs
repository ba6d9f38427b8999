//! The cluster's state as what Raft replicates.

use std::ops::Deref;

use serde::{Deserialize, Serialize};
use steadfast_consensus::StateMachine;
use steadfast_model::{ClusterState, Command, Response};

/// [`ClusterState`] behind the trait of the consensus crate.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(transparent)]
pub(crate) struct Replicated(pub(crate) ClusterState);

impl Deref for Replicated {
    type Target = ClusterState;

    fn deref(&self) -> &ClusterState {
        &self.0
    }
}

impl StateMachine for Replicated {
    type Command = Command;
    type Response = Response;

    fn apply(&mut self, index: u64, command: Command) -> Response {
        self.0.apply(index, command)
    }
}
