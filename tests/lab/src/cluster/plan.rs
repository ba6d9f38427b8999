//! What a cluster is made of, and where its files are.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};

use super::changes::Changes;
use crate::host::{
    family::Family,
    names::{Host, Mode, Tag},
};

/// What to start.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Names.
    pub tag: Tag,
    /// DR, NAT or TUN.
    pub mode: Mode,
    /// Connections are copied.
    pub replication: bool,
    /// Queues of the nodes' data links.
    pub queues: u32,
    /// Family of the sessions.
    pub family: Family,
    /// What is changed in the example.
    pub changes: Changes,
    /// Folder of a `clusterd` of another version, with which the nodes then begin.
    pub old_dir: Option<PathBuf>,
    /// Folder of `clusterd`, `clusterctl`, `lab-server` and `lab-client`.
    pub bin_dir: PathBuf,
    /// Folder of the examples.
    pub examples_dir: PathBuf,
    /// Folder for logs and data; absolute.
    pub out_dir: PathBuf,
}

impl Plan {
    /// A program of ours.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }

    /// Folder of the logs; no other lab writes there.
    #[must_use]
    pub fn log_dir(&self) -> PathBuf {
        self.out_dir.join("logs").join(self.tag.to_string())
    }

    /// The log of a host.
    #[must_use]
    pub fn log(&self, host: Host) -> PathBuf {
        self.log_dir().join(format!("{host}.log"))
    }

    /// Folder of all data; removed in the end.
    #[must_use]
    pub fn work_dir(&self) -> PathBuf {
        self.out_dir.join(format!("work-{}", self.tag))
    }

    /// Folder of a node's data.
    #[must_use]
    pub fn data_dir(&self, node: u8) -> PathBuf {
        self.work_dir().join(format!("n{node}"))
    }

    /// The document that is applied.
    #[must_use]
    pub fn document_path(&self) -> PathBuf {
        self.tag.run_dir().join(self.example())
    }

    /// Name of the example for this mode and family.
    #[must_use]
    pub fn example(&self) -> String {
        let both = match self.family {
            Family::V4 => "",
            Family::V6 => "-dual-stack",
        };
        format!("{}{both}.yaml", self.mode.name())
    }

    /// The example, with replication switched and settings changed as planned.
    ///
    /// # Errors
    /// When it is not there or does not switch replication on.
    pub fn document(&self) -> Result<String> {
        let path = self.examples_dir.join(self.example());
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let text = self.changes.apply(&text).with_context(|| path.display().to_string())?;
        if self.replication {
            return Ok(text);
        }
        let on = "replication: on";
        if text.matches(on).count() != 1 {
            bail!("{} must say `{on}` exactly once", path.display());
        }
        Ok(text.replace(on, "replication: off"))
    }
}
