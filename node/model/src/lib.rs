//! The replicated state of a cluster: identifiers, epochs, the configuration document, and the
//! commands that change them.
//!
//! Guarantees: everything here is a pure function of its input, so that every node that applies
//! the same log holds the same state. No clock, no randomness, no I/O.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod command;
mod cookies;
pub mod document;
mod epoch;
mod ids;
mod problem;
mod reading;
mod state;
mod sync_group;
mod validate;

pub use command::{Command, Initialise, NodeSpec, Rejection, Response};
pub use cookies::{CookieSecret, Cookies};
pub use epoch::Epoch;
pub use ids::{BootId, GroupId, NodeId, ServerId, ServiceId};
pub use problem::{PROBLEMS_MAX, Problem};
pub use state::{
    Cluster, ClusterState, Config, Grant, Group, HISTORY_MAX, NODES_MAX, Node, PORT_SLOTS, Service,
    TOKENS_MAX,
};
pub use sync_group::sync_group;
pub use validate::{
    GROUPS_MAX, MATCHES_MAX, RANGES_MAX, SERVERS_MAX, SERVICES_MAX, WEIGHT_MAX, validate,
};
