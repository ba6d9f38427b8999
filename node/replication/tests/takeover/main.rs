//! What a node knows of a connection goes over the wire, and the successor carries the connection on:
//! real packet paths, real senders and receivers, frames in and frames out.
//!
//! The oracle is the holder itself: a packet that comes after the take-over must leave the successor
//! as it leaves the holder that still has its table, octet by octet. A node without copies is given
//! the same packets, and must do something else with one of them at least: else a row proves nothing.
#![allow(clippy::unwrap_used)]

#[path = "../../../dataplane/tests/both/mod.rs"]
mod both;
mod donation;
mod kinds;
#[path = "../../../dataplane/tests/lab/mod.rs"]
mod lab;
mod node;
mod successor;
