//! The lab: a whole cluster on one machine, real sessions through it, a fault, an honest report.
//!
//! Guarantees: what the report says was measured on real daemons, real real servers and real
//! sockets, each in a network namespace of its own; everything the lab makes carries its prefix
//! and is removed again, whether it ends well, badly or by a signal.
//!
//! Does not simulate anything and does not measure the hardware: all hosts share one machine and
//! one clock, so times include what the machine itself does to its processes.
//!
//! - [`load`]: what the binaries `lab-client` and `lab-server` do, and how a session is judged.
//! - [`host`]: namespaces, links, processes, and their removal.
//! - [`cluster`]: daemons, driven only through `clusterctl`.
//! - [`demo`]: faults, runs, validity, report.
//! - [`programs`]: real programs through the VIP.
//! - [`promises`]: what is promised, and the report of what shows it.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod cluster;
pub mod demo;
pub mod host;
pub mod load;
pub mod programs;
pub mod promises;
