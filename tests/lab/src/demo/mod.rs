//! The demonstration: faults, runs, validity, report.

pub mod client_link;
mod crash_loop;
pub mod dice;
pub mod fault;
pub mod inject;
mod planes;
pub mod report;
pub mod returning;
mod rolling;
pub mod run;
pub mod series;
pub mod stats;
pub mod story;
mod stress;
pub mod suite;
pub mod table;
pub mod validity;
