//! The demonstration: faults, runs, validity, report.

pub mod client_link;
pub mod dice;
pub mod fault;
pub mod inject;
pub mod report;
pub mod returning;
pub mod run;
pub mod series;
pub mod stats;
pub mod story;
pub mod suite;
pub mod table;
pub mod validity;
