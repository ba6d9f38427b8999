//! How servers hear who their client is.

use serde::{Deserialize, Serialize};

/// What tells a server its client's address where it sees another one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAddress {
    /// Nothing.
    #[default]
    None,
    /// A TCP option that a kernel module on the server reads (TOA).
    Toa,
    /// A header before all else that the client sends: the PROXY protocol, version 2.
    ProxyV2,
}

impl ClientAddress {
    /// The name as the document spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Toa => "toa",
            Self::ProxyV2 => "proxy_v2",
        }
    }
}
