//! Health checks: does a real server still take connections, and what does the cluster think?
//!
//! Three pure parts and a driver:
//!
//! - [`Checks`] decides when to probe which target and turns results into an opinion;
//! - [`Views`] joins the opinions of all nodes: a target is down when a majority of the nodes
//!   that can report see it down;
//! - [`LastGood`] picks the servers to use when a whole service seems to be down;
//! - `Checker` does the probing: TCP connects, from the node's own address.
//!
//! Guarantees: one node that sees everything down ejects nobody while two nodes report; a target
//! nobody has an opinion on is up; the same target is probed once, however many services use it;
//! nothing here grows with time or with what peers send.
//!
//! Does not guarantee that a server works: a TCP check proves that its kernel accepts connections.
//! Nothing is committed anywhere; two nodes may differ for as long as a view travels.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod check;
mod checks;
#[cfg(feature = "checker")]
mod driver;
mod last_good;
mod target;
mod view;
mod views;

pub use check::{CheckState, Opinion, Outcome};
pub use checks::{Change, Checks, PROBES_MAX, Probe, TARGETS_MAX};
#[cfg(feature = "checker")]
pub use driver::{Checker, Opinions};
pub use last_good::{LastGood, Selection};
pub use target::{Settings, Target};
pub use view::{VIEW_BYTES_MAX, View, ViewError};
pub use views::{VIEW_FRESH, VIEW_INTERVAL, Views, VoteCount};
