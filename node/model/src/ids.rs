//! Identifiers that are committed in the Raft log, allocated from counters and never reused.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

id! {
    /// A member of the cluster. A wiped machine gets a new one: a vote under an old id is void.
    NodeId(u32)
}
id! {
    /// A VIP group: addresses that move together.
    GroupId(u32)
}
id! {
    /// A virtual service.
    ServiceId(u32)
}
id! {
    /// A real server of a service. Connection records name it on the wire, so a removed server's
    /// id must never come to mean another server.
    ServerId(u32)
}

/// One run of the daemon: random, drawn at start, never persisted. A grant binds (node, boot).
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(transparent)]
pub struct BootId(pub u64);

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
