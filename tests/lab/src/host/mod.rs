//! The hosts: namespaces, links and processes, and how all of it goes away again.

pub mod exec;
pub mod family;
pub mod inside;
pub mod names;
pub mod planes;
pub mod process;
pub mod state;
pub mod sweep;
pub mod topology;
pub mod watchdog;
