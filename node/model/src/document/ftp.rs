//! FTP services.

use serde::{Deserialize, Serialize};

use super::{PersistenceSpec, Ports, ServiceSpec};

/// What an FTP service needs beside its control port (RFC 959). LVS has a kernel module for it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct FtpSpec {
    /// Where the servers wait for data connections: `pasv_min_port` to `pasv_max_port` of vsftpd.
    pub data_ports: Ports,
}

impl Default for FtpSpec {
    fn default() -> Self {
        Self { data_ports: Ports::UNPRIVILEGED }
    }
}

impl ServiceSpec {
    /// The persistence with what FTP implies: clients keep their server.
    #[must_use]
    pub fn persistence_options(&self) -> Option<PersistenceSpec> {
        self.persistence.or_else(|| self.ftp.map(|_| PersistenceSpec::default()))
    }
}
