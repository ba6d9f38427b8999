//! How many connections a service may get.

use serde::{Deserialize, Serialize};

/// The limits of a service at each node; left out: none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// New connections a second, and as many at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_per_s: Option<u32>,
    /// Connections of one client address at a time; of IPv6 the first 64 bits count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_source: Option<u32>,
    /// What a connection above them gets.
    pub over: Over,
}

/// What a connection above a limit gets.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Over {
    /// A server, by hashing, and no place in the connection table.
    #[default]
    Hash,
    /// A reset.
    Refuse,
}

impl LimitsSpec {
    /// There is a limit.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.new_per_s.is_some() || self.per_source.is_some()
    }
}

impl Over {
    /// The name as the document spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Refuse => "refuse",
        }
    }
}
