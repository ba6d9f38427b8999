//! Replicated state: Raft by openraft, its log in redb, its RPCs over any transport.
//!
//! The only crate of the project that knows openraft and redb; neither appears in its API.
//!
//! What it guarantees:
//!
//! - A command acknowledged by [`Consensus::propose`] is on the disks of a majority of the voters
//!   and survives the loss of the others. Every node applies the same commands in the same order.
//! - Votes, log entries, the committed index and snapshots are durable before anything is
//!   acknowledged, carry a CRC-32 of their own, and are counted in a second file, the guard. A
//!   store that fails a check, or is older than its guard, is not opened: a voter that has
//!   forgotten something must not vote again ([`OpenError`]).
//! - A write error ends the Raft role of this process ([`ProposeError::Fatal`]), never the process.
//! - A node id that was removed gets no vote, and a wiped node is not accepted under its old id.
//! - A write without a quorum fails in about a second, and says whether it may still take effect.
//!
//! What it does not guarantee:
//!
//! - [`Consensus::is_leader`] is a hint: an isolated leader does not know that it is one. Fence
//!   with log indexes, or ask [`Consensus::ensure_linearizable`]. The Raft term is no fencing
//!   token: openraft may elect two leaders, one after the other, in one term.
//! - Leadership is never transferred on request: openraft 0.9 cannot.
//! - A store that was replaced by an older copy of itself *with its guard*, by somebody or by a
//!   disk that loses what it confirmed, is not recognised.
//! - Peers are trusted to follow the protocol. Malformed bytes are refused, lies are not: only
//!   authenticated members may reach [`Consensus::handle_rpc`].
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

#[cfg(test)]
extern crate self as steadfast_consensus;

mod consensus;
mod error;
mod frame;
mod inbound;
mod network;
mod options;
mod quorum;
mod raft_types;
mod state_machine;
mod status;
mod store;
#[cfg(test)]
mod test_folder;
mod transport;

pub use consensus::Consensus;
pub use error::{ChangeError, OpenError, ProposeError, ReadError};
pub use frame::{FRAME_BYTES_MAX, SNAPSHOT_BYTES_MAX};
pub use options::{Identity, OnMissing, Options, SnapshotPolicy, Timing};
pub use state_machine::StateMachine;
pub use status::{Membership, Metrics, Role};
pub use store::Store;
pub use transport::{BoxFuture, Transport, TransportError};
