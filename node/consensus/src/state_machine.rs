//! What is replicated.

use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is replicated: a value that only commands change.
///
/// Every node applies the same commands in the same order, so `apply` must depend on nothing but
/// its arguments: no clock, no randomness, no iteration over a randomly seeded map. It must not
/// panic: a command that cannot be carried out is answered with a response that says so.
///
/// Commands, responses and the state are stored as JSON: map keys must be strings or integers,
/// floats must be finite, and a type that changes must keep reading what older versions wrote.
pub trait StateMachine:
    Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static
{
    /// A change, proposed on the leader and applied everywhere.
    type Command: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;
    /// What the proposer of a command gets back.
    type Response: Clone + Debug + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// Applies the command committed at log position `index`.
    ///
    /// Positions grow but have gaps: Raft uses some of them itself.
    fn apply(&mut self, index: u64, command: Self::Command) -> Self::Response;
}
