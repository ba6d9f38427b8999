//! An emulated machine that runs one program of this machine under a kernel of Debian: for tests
//! that need IPVS, IPIP, GRE, SCTP or VLAN, which not every kernel has.
//!
//! The emulator needs no rights and no help of the processor; it is some fifteen times slower than
//! the machine below it. The guest sees this machine's files as they are, read-only, with a layer
//! in memory above them that is gone with it. It has no network but what the program makes.
//!
//! Guarantees: a guest ends with the program, with its time limit, or with the process that started
//! it. Not here: a console, or input for the program.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod cache;
mod emulator;
mod first;
mod guest;
mod image;
pub mod ipvs;
mod tool;

pub use first::Job;
pub use guest::{Clock, Ended, Guest};
pub use image::{Image, SERIES};
pub use tool::run;
