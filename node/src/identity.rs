//! Who this node is, on disk: id, cluster, certificates and where its first peers are.
//!
//! Guarantees: `identity.json` is written last and atomically, so it exists only together with
//! key, certificate and Raft log; everything is readable by the owner alone. An identity without
//! its log refuses to start: such a node could vote twice in one term.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use steadfast_model::NodeId;
use steadfast_peer::pki;

const IDENTITY_FILE: &str = "identity.json";
const KEY_FILE: &str = "node.key";
const CERT_FILE: &str = "node.crt";
const CA_FILE: &str = "ca.crt";
const RAFT_FOLDER: &str = "raft";

/// What a node is, apart from its keys.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) cluster_id: u64,
    pub(crate) cluster_name: String,
    /// The members when it joined: whom it hears before it has applied the first log entry.
    pub(crate) first_peers: Vec<FirstPeer>,
}

/// A member as a joining node is told of it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct FirstPeer {
    pub(crate) node: NodeId,
    pub(crate) control: SocketAddr,
    pub(crate) replication: SocketAddr,
}

/// Key and certificates in PEM.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) cert: String,
    pub(crate) key: String,
    pub(crate) ca: String,
}

/// The data folder.
#[derive(Clone, Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
}

impl DataFolder {
    /// Makes the folder if need be and locks it: two daemons on one folder would corrupt the log.
    ///
    /// # Errors
    /// Names the folder, and the daemon that uses it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<(Self, fs::File)> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("cannot make the data folder {}", path.display()))?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("lock"))
            .with_context(|| format!("cannot open the lock in {}", path.display()))?;
        if let Err(error) = lock.try_lock() {
            bail!("the data folder {} is in use by another clusterd ({error})", path.display());
        }
        Ok((Self { path: path.to_owned() }, lock))
    }

    /// Folder of the Raft log.
    pub(crate) fn raft(&self) -> PathBuf {
        self.path.join(RAFT_FOLDER)
    }

    /// Reads who this node is; `None`: nobody yet.
    ///
    /// # Errors
    /// A file is damaged or missing.
    pub(crate) fn load(&self) -> anyhow::Result<Option<(Identity, Keys)>> {
        let path = self.path.join(IDENTITY_FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };
        let identity: Identity = serde_json::from_str(&text).with_context(|| {
            format!(
                "{} is damaged: remove this node from the cluster, empty {} and join anew",
                path.display(),
                self.path.display()
            )
        })?;
        let keys = Keys {
            cert: self.read(CERT_FILE)?,
            key: self.read(KEY_FILE)?,
            ca: self.read(CA_FILE)?,
        };
        pki::Identity::from_pem(&keys.cert, &keys.key, &keys.ca)
            .with_context(|| format!("the keys in {} do not fit", self.path.display()))?;
        Ok(Some((identity, keys)))
    }

    /// Empties what an interrupted `init` or `join` left behind.
    ///
    /// # Errors
    /// When this folder belongs to a node already, or cannot be written.
    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        if self.path.join(IDENTITY_FILE).exists() {
            bail!("{} belongs to a node already", self.path.display());
        }
        match fs::remove_dir_all(self.raft()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot empty {}", self.raft().display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes the private key, which shows that the folder can be written.
    ///
    /// # Errors
    /// Names the file that could not be written.
    pub(crate) fn save_key(&self, key: &str) -> anyhow::Result<()> {
        self.write(KEY_FILE, key.as_bytes())
    }

    /// Removes who this node would have become, the identity first: nothing comes back.
    ///
    /// # Errors
    /// Names the file that could not be removed.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        for name in [IDENTITY_FILE, KEY_FILE, CERT_FILE, CA_FILE] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => {}
            }
        }
        self.prepare()
    }

    /// Writes who this node is; the Raft log must exist by then.
    ///
    /// # Errors
    /// Names the file that could not be written; the node is then nobody still.
    pub(crate) fn save(&self, identity: &Identity, keys: &Keys) -> anyhow::Result<()> {
        self.write(KEY_FILE, keys.key.as_bytes())?;
        self.write(CERT_FILE, keys.cert.as_bytes())?;
        self.write(CA_FILE, keys.ca.as_bytes())?;
        let text = serde_json::to_string_pretty(identity).context("identity")?;
        self.write(IDENTITY_FILE, text.as_bytes())
    }

    fn read(&self, name: &str) -> anyhow::Result<String> {
        let path = self.path.join(name);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let path = self.path.join(name);
        let half = self.path.join(format!("{name}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = fs::OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&half)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&half, &path)?;
            fs::File::open(&self.path)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("clusterd-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    fn someone() -> (Identity, Keys) {
        let ca = pki::Ca::generate("test").unwrap();
        let request = pki::JoinRequest::generate().unwrap();
        let cert = ca.issue_node(NodeId(3), request.csr_pem()).unwrap();
        let keys = Keys { cert, key: request.key_pem().to_owned(), ca: ca.cert_pem().to_owned() };
        let identity = Identity {
            node: NodeId(3),
            name: "n3".to_owned(),
            cluster_id: 7,
            cluster_name: "test".to_owned(),
            first_peers: Vec::new(),
        };
        (identity, keys)
    }

    #[test]
    fn an_identity_is_read_back_and_belongs_to_one_daemon() {
        let path = folder("identity");
        let (data, lock) = DataFolder::open(&path).unwrap();
        assert!(data.load().unwrap().is_none());
        let (identity, keys) = someone();
        data.save(&identity, &keys).unwrap();
        assert_eq!(data.load().unwrap().unwrap().0, identity);
        assert!(data.prepare().is_err());
        assert!(DataFolder::open(&path).is_err(), "the folder was locked twice");
        drop(lock);
        assert!(DataFolder::open(&path).is_ok());
        fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_damaged_identity_says_what_to_do() {
        let path = folder("damaged");
        let (data, _lock) = DataFolder::open(&path).unwrap();
        fs::write(path.join(IDENTITY_FILE), "{\"node\":").unwrap();
        let error = format!("{:#}", data.load().err().unwrap());
        assert!(error.contains("join anew"), "{error}");
        fs::remove_dir_all(&path).unwrap();
    }
}
