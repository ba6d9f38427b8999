//! Which connection records are copied to the peers, when, in what format, and how they are
//! applied.
//!
//! The holder of a VIP group sends to its candidates. Workers mark keys in the [`DirtySet`], as the
//! [`policy`] says; one [`Sender`] per (peer, shard) writes the current state of marked keys into
//! one ordered stream, between the beginning and the end of a snapshot where the peer needs one;
//! the peer's [`Receiver`] merges them into its [`Table`] and keeps account of what it has in
//! [`Copies`].
//!
//! Guarantees: forwarding never waits for a peer; memory is bounded; nothing is lost silently (a
//! bound that is reached leads to a snapshot with a sweep); a record of a deposed holder never
//! overrides one of a higher epoch. Not guaranteed: what the holder had not sent yet when it died,
//! which the metrics show as unacknowledged and waiting.
//!
//! # Driving it
//!
//! One [`DirtySet`], one [`Copies`] and one [`SnapshotBudget`] per node; a [`ReplicationHook`] for each worker and for the
//! timer; per peer [`SHARDS`] senders that live as long as the peer is a member.
//!
//! - Ownership changes: [`Copies::handle_epoch`], also for this node's own claims, before the first
//!   connection is scheduled under them; then [`Sender::handle_role`] on every sender.
//! - Outgoing stream: write [`Sender::hello`], read the answer, [`check_hello`],
//!   [`Sender::handle_stream_up`]; then write what [`Sender::poll_transmit`] gives until `None`,
//!   again at [`Sender::next_deadline`] and when the waker of the dirty set calls; pass frames that
//!   come back to [`Sender::handle_ack`]. At its end [`Sender::handle_stream_down`].
//! - Incoming stream: [`Receiver::new`] with its first frame, write [`Receiver::hello`], then for
//!   each frame [`Receiver::handle_frame`], and write the acknowledgement back.
//! - Every [`DIGEST_INTERVAL_NS`] a sender says by digests what its peer should have, and a copy that
//!   differs twice in the same place asks for a snapshot.
//! - Sweeps wait for [`SWEEP_DELAY_NS`] after a take-over, for the survivors' donations.
//!
//! Pure: no sockets, no clock, no async. Times are nanoseconds of one monotone clock per node.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adapter;
mod ask;
mod budget;
mod copies;
mod digest;
mod dirty;
mod hook;
mod metrics;
pub mod policy;
mod receiver;
mod record;
mod sender;
mod table;
mod transit;
pub mod wire;

pub use ask::{answer, take_answer};
pub use budget::{BURST_NS, SnapshotBudget};
pub use copies::{Completeness, Copies, CopyReport, FRESH_NS};
pub use digest::{Life, RANGES, Ranges};
pub use dirty::{DirtyMetrics, DirtySet, LANE_DELETES_MAX, LANE_KEYS_MAX, PEERS_MAX};
pub use hook::ReplicationHook;
pub use metrics::{ReceiverMetrics, SenderMetrics};
pub use receiver::{Local, ReceiveError, Receiver, Reply, check_hello};
pub use record::{
    FLAG_UNASSURED, FLAGS_MAX, Key, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_TEMPLATE, PROTOCOL_UDP,
    Record, SHARDS, STATE_MAX, shard_of,
};
pub use sender::{
    AckError, BATCH_INTERVAL_NS, BATCH_RECORDS_MAX, DIGEST_INTERVAL_NS, GroupRole, HEARTBEAT_NS,
    SWEEP_DELAY_NS, Sender, WALK_ENTRIES_MAX, WINDOW_BATCHES,
};
pub use steadfast_dataplane::Cursor;
pub use table::{Applied, Authority, Deleted, Slot, Table};
