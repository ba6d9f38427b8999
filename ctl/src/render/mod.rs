//! What people see. Pure: replies in, text out.
//!
//! Guarantees: every state is told by a word, colour only repeats it; control characters in names
//! from the network never reach the terminal; lines have no trailing blanks.

mod lists;
mod paint;
mod rebalance;
mod service;
mod status;
mod table;
mod trace;

pub(crate) use lists::{connections, groups, nodes, services, serving_name};
pub(crate) use paint::{Paint, Tone, printable};
pub(crate) use rebalance::{name_of, rebalance};
pub(crate) use service::{service, service_rate, service_stats};
pub(crate) use status::status;
pub(crate) use trace::trace;

#[cfg(test)]
pub(crate) mod samples;
#[cfg(test)]
#[path = "render_test.rs"]
mod tests;
