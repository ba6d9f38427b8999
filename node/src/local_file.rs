//! The local file of a node: its name, its data folder, where it listens. All else is replicated.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Deserialize;

/// Contents of the file that `clusterd --config` names.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocalFile {
    /// Name of this daemon on this machine: names the node, its pins and its socket.
    pub(crate) instance: String,
    /// Where identity, log and keys are kept.
    pub(crate) data_dir: PathBuf,
    /// Where the daemon listens.
    pub(crate) listen: Listen,
    /// The Unix socket of the API; default: where `clusterctl` looks for it.
    #[serde(default)]
    pub(crate) socket: Option<PathBuf>,
    /// Folder of the pins on a bpffs; default `/sys/fs/bpf/steadfast`.
    #[serde(default = "bpffs_default")]
    pub(crate) bpffs: PathBuf,
}

/// Listen addresses. Peers and clients use them as they stand here, so they are no wildcards.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub(crate) struct Listen {
    /// gRPC.
    pub(crate) api: SocketAddr,
    /// QUIC: Raft, consent, beacons.
    pub(crate) control: SocketAddr,
    /// QUIC: connection records.
    pub(crate) replication: SocketAddr,
}

/// The least a local file says.
const EXAMPLE: &str = "\
instance: lb1                    # names the node
data_dir: /var/lib/steadfast     # identity, keys, Raft log
listen:                          # addresses of this machine; peers use them as they stand here
  api: '192.0.2.1:7440'          # TCP
  control: '192.0.2.1:7441'      # UDP
  replication: '192.0.2.1:7442'  # UDP
";

fn bpffs_default() -> PathBuf {
    PathBuf::from("/sys/fs/bpf/steadfast")
}

impl LocalFile {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Names the file, the place in it and what to write instead.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
                "there is no local file {}: write one such as\n\n{EXAMPLE}\nor name another with \
                 --config FILE",
                path.display()
            ),
            read => {
                read.with_context(|| format!("cannot read the local file {}", path.display()))?
            }
        };
        Self::parse(&text).with_context(|| format!("in the local file {}", path.display()))
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let file: Self = serde_saphyr::from_str(text).map_err(|e| anyhow::anyhow!("{e}"))?;
        let name = &file.instance;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        if name.is_empty() || name.len() > 63 || !name.bytes().all(plain) {
            bail!("instance `{name}` is no name: 1 to 63 letters, digits, '-', '_'");
        }
        let listen = &file.listen;
        for (key, address) in
            [("api", listen.api), ("control", listen.control), ("replication", listen.replication)]
        {
            if address.ip().is_unspecified() || address.port() == 0 {
                bail!(
                    "listen.{key} is {address}: peers use it as it stands, so name an address of \
                     this machine and a port"
                );
            }
        }
        if listen.control == listen.replication {
            bail!("listen.control and listen.replication must differ: both are UDP");
        }
        Ok(file)
    }

    /// The Unix socket of the API.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| PathBuf::from(steadfast_proto::DEFAULT_SOCKET))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
instance: n1
data_dir: /var/lib/steadfast
listen: {api: '198.18.2.1:7440', control: '198.18.2.1:7441', replication: '198.18.2.1:7442'}
";

    #[test]
    fn a_good_file_is_read() {
        let file = LocalFile::parse(GOOD).unwrap();
        assert_eq!(file.socket(), Path::new(steadfast_proto::DEFAULT_SOCKET));
        assert_eq!(file.bpffs, Path::new("/sys/fs/bpf/steadfast"));
    }

    #[test]
    fn who_has_no_local_file_is_shown_one() {
        let error = format!("{:#}", LocalFile::read(Path::new("/nonexistent.yaml")).unwrap_err());
        assert!(error.contains("/nonexistent.yaml") && error.contains(EXAMPLE), "{error}");
        LocalFile::parse(EXAMPLE).unwrap();
    }

    #[test]
    fn each_mistake_is_named() {
        for (from, to, expected) in [
            ("instance: n1", "instance: n/1", "is no name"),
            ("'198.18.2.1:7442'", "'198.18.2.1:7441'", "must differ"),
            ("'198.18.2.1:7440'", "'0.0.0.0:7440'", "listen.api"),
            ("data_dir", "datadir", "datadir"),
        ] {
            let error = format!("{:#}", LocalFile::parse(&GOOD.replace(from, to)).unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
    }
}
