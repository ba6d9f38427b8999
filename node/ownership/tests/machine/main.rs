//! The state machine of ownership: rules, faults, take-overs, and what it believes of others.
//!
//! One binary, for a test binary costs more to link than most of these files to compile.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod alone;
mod codec;
mod faults;
mod hold_down;
mod rebalance;
mod returned;
mod rules;
mod spread;
mod strict;
mod sync_group;
mod takeover;
mod trust;
mod witness;
