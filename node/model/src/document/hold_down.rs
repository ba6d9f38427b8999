//! When a node that fails again and again gets no groups for a while.

use serde::{Deserialize, Serialize};

/// A node that failed so often is held down: it gets no groups, and claims after all others, until it
/// has been stable.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HoldDownSpec {
    /// Failures that are too many, 1 to 20; 0: no node is ever held down.
    pub failures: u32,
    /// Within so many seconds.
    pub within_s: u32,
    /// It is let go after it has been heard for so many seconds without a break, in one run.
    pub stable_s: u32,
}

impl Default for HoldDownSpec {
    fn default() -> Self {
        Self { failures: 3, within_s: 300, stable_s: 300 }
    }
}
