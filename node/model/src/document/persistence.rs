//! Persistence: clients keep their server.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Persistence of a service; values of ipvsadm (`-p`, `-M`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PersistenceSpec {
    /// A client keeps its server so long after its last new connection, in seconds.
    pub timeout_s: u32,
    /// Leading bits of an IPv4 client: clients of one network share a server.
    pub prefix_v4: u32,
    /// Leading bits of an IPv6 client.
    pub prefix_v6: u32,
    /// Clients leave a server whose weight is 0; LVS has this as a sysctl.
    pub expire_quiescent_template: bool,
}

impl fmt::Display for PersistenceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { timeout_s, prefix_v4, prefix_v6, expire_quiescent_template } = self;
        write!(f, "{timeout_s} s")?;
        if (*prefix_v4, *prefix_v6) != (32, 128) {
            write!(f, " by /{prefix_v4} and /{prefix_v6}")?;
        }
        if *expire_quiescent_template { f.write_str(" unless drained") } else { Ok(()) }
    }
}

impl Default for PersistenceSpec {
    fn default() -> Self {
        Self { timeout_s: 300, prefix_v4: 32, prefix_v6: 128, expire_quiescent_template: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_default_is_shown() {
        let default = PersistenceSpec::default();
        assert_eq!(default.to_string(), "300 s");
        let networks = PersistenceSpec { timeout_s: 60, prefix_v4: 24, ..default };
        assert_eq!(networks.to_string(), "60 s by /24 and /128");
        let quiescent = PersistenceSpec { expire_quiescent_template: true, ..default };
        assert_eq!(quiescent.to_string(), "300 s unless drained");
    }
}
