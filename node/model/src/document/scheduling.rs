//! How a service chooses a server for a new connection. Names are those of LVS.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ServiceSpec;

/// Scheduler names are those of LVS.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheduler {
    /// Round robin.
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Fewest connections.
    Lc,
    /// Fewest connections for the weight; the default of ipvsadm.
    Wlc,
    /// Shortest expected delay.
    Sed,
    /// Never queue: an idle server, else shortest expected delay.
    Nq,
    /// Locality: a destination stays with its server.
    Lblc,
    /// Locality: a destination stays with a set of servers.
    Lblcr,
    /// Hashing of the destination address.
    Dh,
    /// Hashing of the client address; options in `hash`.
    Sh,
    /// Maglev hashing of the client address; options in `hash`.
    #[default]
    Mh,
    /// The heaviest that is available.
    Fo,
    /// The heaviest, overflowing to the next.
    Ovf,
    /// The better of two at random.
    Twos,
}

impl Scheduler {
    /// The name as the document spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Sed => "sed",
            Self::Nq => "nq",
            Self::Lblc => "lblc",
            Self::Lblcr => "lblcr",
            Self::Dh => "dh",
            Self::Sh => "sh",
            Self::Mh => "mh",
            Self::Fo => "fo",
            Self::Ovf => "ovf",
            Self::Twos => "twos",
        }
    }

    /// It chooses by the client's address, and so has [`HashSpec`] as options.
    #[must_use]
    pub fn hashes_source(self) -> bool {
        matches!(self, Self::Sh | Self::Mh)
    }

    /// Weights are shares of new connections, so that a server can be given a part of its own.
    #[must_use]
    pub fn shares_by_weight(self) -> bool {
        match self {
            Self::Wrr
            | Self::Wlc
            | Self::Sed
            | Self::Nq
            | Self::Lblc
            | Self::Lblcr
            | Self::Twos => true,
            Self::Rr | Self::Lc | Self::Dh | Self::Sh | Self::Mh | Self::Fo | Self::Ovf => false,
        }
    }
}

/// Options of `sh` and `mh`. LVS has both off unless its flags `sh-port`, `sh-fallback`,
/// `mh-port`, `mh-fallback` are given.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HashSpec {
    /// The client's port is part of the key: its connections spread over the servers.
    pub port: bool,
    /// A client whose server is not available gets another; without it, none.
    pub fallback: bool,
}

impl Default for HashSpec {
    fn default() -> Self {
        Self { port: true, fallback: true }
    }
}

/// In which order a scheduler looks at the servers.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerOrder {
    /// By address and port: the same on every node, whatever the history.
    #[default]
    Canonical,
    /// The server added last first, as in LVS: its tables exactly.
    NewestFirst,
}

/// A scheduler with its options as ipvsadm names them: `sh,sh-port,sh-fallback`.
#[derive(Clone, Copy, Debug)]
pub struct SchedulerText<'a>(&'a ServiceSpec);

impl ServiceSpec {
    /// The options of a scheduler that hashes the source; of another none.
    #[must_use]
    pub fn hash_options(&self) -> Option<HashSpec> {
        self.scheduler.hashes_source().then(|| self.hash.unwrap_or_default())
    }

    /// The scheduler with its options, for people.
    #[must_use]
    pub fn scheduler_text(&self) -> SchedulerText<'_> {
        SchedulerText(self)
    }
}

impl fmt::Display for SchedulerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.0.scheduler.name();
        f.write_str(name)?;
        let Some(options) = self.0.hash_options() else { return Ok(()) };
        for (set, option) in [(options.port, "port"), (options.fallback, "fallback")] {
            if set {
                write!(f, ",{name}-{option}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::document::Document;

    #[test]
    fn a_scheduler_is_shown_as_ipvsadm_names_it() {
        let cases = [
            ("rr", "rr"),
            ("lblcr", "lblcr"),
            ("mh", "mh,mh-port,mh-fallback"),
            ("sh, hash: {}", "sh,sh-port,sh-fallback"),
            ("sh, hash: {port: false}", "sh,sh-fallback"),
            ("mh, hash: {fallback: false}", "mh,mh-port"),
            ("mh, hash: {port: false, fallback: false}", "mh"),
        ];
        for (written, shown) in cases {
            let text = format!(
                "{{apiVersion: steadfast/v1, services: [{{name: a, group: g, \
                 address: 198.18.0.1, port: 80, scheduler: {written}}}]}}"
            );
            let document = Document::parse(&text).unwrap();
            assert_eq!(document.services[0].scheduler_text().to_string(), shown, "{written}");
        }
    }
}
