//! Links between peers, and who is let in.
//!
//! One binary, for a test binary costs more to link than most of these files to compile.
#![allow(clippy::unwrap_used)]

#[path = "../common/mod.rs"]
mod common;

mod admission;
mod links;
mod pki;
mod restart;
