//! What is probed, and how.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use steadfast_model::document::{CheckKind, CheckSpec};

/// Something to probe. Services that name the same target share one check.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Target {
    /// The real server's address.
    pub addr: IpAddr,
    /// The port to probe, not always the one that is served.
    pub port: u16,
    /// The method.
    pub kind: CheckKind,
}

impl Target {
    /// The target of a service's check for one of its servers.
    pub fn new(server: SocketAddr, spec: &CheckSpec) -> Self {
        let port = spec.port.unwrap_or_else(|| server.port());
        Self { addr: server.ip(), port, kind: spec.kind }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CheckKind::Tcp = self.kind;
        write!(f, "tcp {}", SocketAddr::new(self.addr, self.port))
    }
}

/// When to probe and what to make of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// From the start of one probe to the start of the next.
    pub interval: Duration,
    /// A probe without answer by then has failed.
    pub timeout: Duration,
    /// Successes in a row that bring a target up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

impl Settings {
    /// One set for services that share a target and differ: the shortest interval and the lowest
    /// `fall` (no service notices a death later than it asked for), the longest timeout and the
    /// highest `rise` (none ejects or takes back sooner than it asked for).
    pub fn merge(self, other: Self) -> Self {
        Self {
            interval: self.interval.min(other.interval),
            timeout: self.timeout.max(other.timeout),
            rise: self.rise.max(other.rise),
            fall: self.fall.min(other.fall),
        }
    }
}

impl From<&CheckSpec> for Settings {
    fn from(spec: &CheckSpec) -> Self {
        Self {
            interval: Duration::from_millis(spec.interval_ms.into()),
            timeout: Duration::from_millis(spec.timeout_ms.into()),
            rise: spec.rise,
            fall: spec.fall,
        }
    }
}
