//! Nodes in one process, over a wire that can be cut.
//!
//! No test fails because something took long: waits are generous and end as soon as they can. What
//! must *not* happen is watched for a while.
#![allow(clippy::unwrap_used)]

mod harness;
mod membership;
mod restart;
mod snapshots;
mod writes;
