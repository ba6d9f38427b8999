//! What a lab has made, written down before or right after it is made, so that another `lab` can
//! remove it when this one could not.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::names::Tag;

/// The list of what there is to remove.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct State {
    /// Processes.
    pub processes: Vec<ProcessId>,
    /// Files and folders outside of the lab's run folder.
    pub paths: Vec<PathBuf>,
    /// The lab mounted the BPF file system.
    pub mounted_bpf: bool,
    /// File systems mounted on folders of the lab.
    #[serde(default)]
    pub mounts: Vec<PathBuf>,
}

/// A process, so named that its number cannot be mistaken for another's.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct ProcessId {
    /// Its number.
    pub pid: i32,
    /// When it started, in clock ticks since boot (proc(5), `starttime`).
    pub start_ticks: u64,
    /// What it is, for people.
    pub what: String,
}

impl ProcessId {
    /// Whether exactly this process is still there and not merely waiting to be reaped.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        matches!(proc_stat(self.pid), Some((state, ticks))
            if ticks == self.start_ticks && state != 'Z' && state != 'X')
    }
}

/// State letter and start time of a process, if there is one.
#[must_use]
pub fn proc_stat(pid: i32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the name in parentheses and may hold anything.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let ticks = fields.nth(18)?.parse().ok()?;
    Some((state, ticks))
}

/// The state of one tag on disk.
#[derive(Debug)]
pub struct Ledger {
    tag: Tag,
    state: State,
}

impl Ledger {
    /// Opens the ledger of `tag`; empty if there is none.
    ///
    /// # Errors
    /// When its folder cannot be made or the file cannot be read.
    pub fn open(tag: &Tag) -> Result<Self> {
        let dir = tag.run_dir();
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let path = state_path(tag);
        let state = match fs::read(&path) {
            // A torn file cannot be: it is replaced by renaming. A foreign one is not believed.
            Ok(bytes) => serde_json::from_slice(&bytes)
                .with_context(|| format!("{} is no state of a lab", path.display()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        Ok(Self { tag: tag.clone(), state })
    }

    /// What is written down.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Writes down a change.
    ///
    /// # Errors
    /// When the file cannot be replaced.
    pub fn update(&mut self, change: impl FnOnce(&mut State)) -> Result<()> {
        change(&mut self.state);
        let path = state_path(&self.tag);
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(&self.state)?)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

fn state_path(tag: &Tag) -> PathBuf {
    tag.run_dir().join("state.json")
}

/// The right to work on a tag; given up when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: fs::File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock of `tag`.
    ///
    /// # Errors
    /// When another `lab` has it.
    pub fn take(tag: &Tag) -> Result<Self> {
        let path = tag.lock_path();
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir)?;
        }
        let file = fs::File::create(&path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("another lab with the tag `{tag}` is at work: wait for it, or use another --tag");
        }
        Ok(Self { _file: file, path })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        let _ = self.path.parent().map(fs::remove_dir);
    }
}

/// Removes a file or a whole folder; what is not there is fine.
///
/// # Errors
/// When something there cannot be removed.
pub fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let (_, start_ticks) = proc_stat(pid).unwrap();
        let me = ProcessId { pid, start_ticks, what: "test".to_owned() };
        assert!(me.is_alive());
        assert!(!ProcessId { start_ticks: start_ticks + 1, ..me }.is_alive());
    }
}
