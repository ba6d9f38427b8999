//! The redb file: what is in it, and every write to it.
//!
//! All functions block. Each write is one transaction, on disk and counted in the guard when the
//! function returns. After a failed write nothing more is written: what the disk then holds is
//! unknown until the file is opened and checked again.

use std::ops::Bound;
use std::path::PathBuf;

use openraft::RaftLogId;
use redb::{Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::guard::Guard;
use super::record;
use crate::raft_types::{Entry, LogId, SnapshotMeta, Vote};

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
pub(super) const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

pub(super) const IDENTITY: &str = "identity";
pub(super) const VOTE: &str = "vote";
pub(super) const COMMITTED: &str = "committed";
pub(super) const PURGED: &str = "purged";
pub(super) const SNAPSHOT_META: &str = "snapshot_meta";
const SNAPSHOT_DATA: &str = "snapshot_data";
/// Number of the last commit.
pub(super) const COMMITS: &str = "commits";

/// What a failed operation was, for the log and for openraft.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DiskError(pub(crate) String);

impl DiskError {
    pub(super) fn new(what: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

pub(super) type Result<T> = std::result::Result<T, DiskError>;

#[derive(Debug, Deserialize, Serialize)]
pub(super) struct IdentityRecord {
    pub(super) format: u32,
    pub(super) cluster: u64,
    pub(super) node: u32,
    /// Random; another number for every store ever created.
    pub(super) instance: u64,
}

/// The open store.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(super) database: Database,
    pub(super) guard: Guard,
    /// For messages.
    pub(super) path: PathBuf,
    pub(super) instance: u64,
    /// Number of the last commit that the guard knows.
    pub(super) commits: u64,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) purged: Option<LogId>,
    pub(super) last: Option<LogId>,
    pub(super) snapshot: Option<SnapshotMeta>,
    /// Set by the first failed write.
    pub(super) failed: Option<DiskError>,
}

impl Disk {
    pub(crate) fn instance(&self) -> u64 {
        self.instance
    }

    pub(crate) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    pub(crate) fn committed(&self) -> Option<LogId> {
        self.committed
    }

    pub(crate) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// The last entry, or the last purged one if the log is empty.
    pub(crate) fn last(&self) -> Option<LogId> {
        self.last.max(self.purged)
    }

    pub(crate) fn snapshot_meta(&self) -> Option<&SnapshotMeta> {
        self.snapshot.as_ref()
    }

    /// Writes a vote. Refuses to go back to an older one.
    pub(crate) fn save_vote(&mut self, vote: Vote) -> Result<()> {
        if self.vote.is_some_and(|current| vote < current) {
            return Err(DiskError(format!(
                "vote {vote} is older than the saved vote {:?}; refused",
                self.vote
            )));
        }
        self.write("save the vote", |transaction| put(transaction, VOTE, &vote))?;
        self.vote = Some(vote);
        Ok(())
    }

    /// Writes the committed position. An older one than the saved one changes nothing.
    pub(crate) fn save_committed(&mut self, committed: Option<LogId>) -> Result<()> {
        if committed <= self.committed {
            return Ok(());
        }
        self.write("save the committed index", |transaction| {
            put(transaction, COMMITTED, &committed)
        })?;
        self.committed = committed;
        Ok(())
    }

    /// Appends entries, without a hole.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<()> {
        let mut last = self.last();
        for entry in entries {
            if let Some(last) = last
                && entry.log_id.index != last.index + 1
            {
                return Err(DiskError(format!(
                    "entry {} does not follow entry {}; refused",
                    entry.log_id.index, last.index
                )));
            }
            last = Some(entry.log_id);
        }
        self.append_unchecked(entries)
    }

    /// Writes entries wherever they belong.
    pub(crate) fn append_unchecked(&mut self, entries: &[Entry]) -> Result<()> {
        self.write("append to the log", |transaction| {
            let mut table = transaction.open_table(LOG)?;
            for entry in entries {
                let index = entry.log_id.index;
                let record = record::encode(&index.to_be_bytes(), entry).map_err(boxed)?;
                table.insert(index, record.as_slice())?;
            }
            Ok(())
        })?;
        let appended = entries.iter().map(|entry| entry.log_id).max_by_key(|id| id.index);
        if index_of(appended) > index_of(self.last) {
            self.last = appended;
        }
        Ok(())
    }

    /// Deletes entry `since` and all after it. Refuses to delete committed entries.
    pub(crate) fn truncate(&mut self, since: u64) -> Result<()> {
        if self.committed.is_some_and(|committed| since <= committed.index) {
            return Err(DiskError(format!(
                "entry {since} is committed and was to be deleted; refused"
            )));
        }
        self.write("truncate the log", |transaction| {
            transaction.open_table(LOG)?.retain_in(since.., |_, _| false)?;
            Ok(())
        })?;
        let kept = self.entries(Bound::Unbounded, Bound::Excluded(since), usize::MAX)?;
        self.last = kept.last().map(|entry| entry.log_id);
        Ok(())
    }

    /// Deletes the entries up to `upto`.
    pub(crate) fn purge(&mut self, upto: LogId) -> Result<()> {
        if Some(upto) <= self.purged {
            return Ok(());
        }
        self.write("purge the log", |transaction| {
            transaction.open_table(LOG)?.retain_in(..=upto.index, |_, _| false)?;
            put(transaction, PURGED, &upto)
        })?;
        self.purged = Some(upto);
        Ok(())
    }

    /// Replaces the snapshot. An older one than the saved one changes nothing.
    pub(crate) fn save_snapshot(&mut self, meta: &SnapshotMeta, data: &[u8]) -> Result<()> {
        let saved = self.snapshot.as_ref().and_then(|saved| saved.last_log_id);
        if self.snapshot.is_some() && meta.last_log_id < saved {
            return Ok(());
        }
        self.write("save the snapshot", |transaction| {
            let record = record::seal(SNAPSHOT_DATA.as_bytes(), data);
            transaction.open_table(META)?.insert(SNAPSHOT_DATA, record.as_slice())?;
            put(transaction, SNAPSHOT_META, meta)
        })?;
        self.snapshot = Some(meta.clone());
        Ok(())
    }

    /// The snapshot's bytes.
    pub(crate) fn snapshot_data(&self) -> Result<Option<(SnapshotMeta, Vec<u8>)>> {
        let Some(meta) = &self.snapshot else {
            return Ok(None);
        };
        let data = get_raw(&self.database, SNAPSHOT_DATA)?
            .ok_or_else(|| DiskError("the snapshot has no data".to_owned()))?;
        Ok(Some((meta.clone(), data)))
    }

    /// Reads entries, at most `bytes_max` of them encoded but always the first.
    pub(crate) fn entries(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>> {
        let what = "read the log";
        let transaction = self.database.begin_read().map_err(|e| DiskError::new(what, e))?;
        let table = transaction.open_table(LOG).map_err(|e| DiskError::new(what, e))?;
        let mut entries = Vec::new();
        let mut bytes = 0;
        let rows = table.range::<u64>((start, end)).map_err(|e| DiskError::new(what, e))?;
        for row in rows {
            let (key, value) = row.map_err(|e| DiskError::new(what, e))?;
            let (index, value) = (key.value(), value.value());
            bytes += value.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            let damaged = |e: &dyn std::fmt::Display| DiskError(format!("log entry {index}: {e}"));
            let entry: Entry =
                record::decode(&index.to_be_bytes(), value).map_err(|e| damaged(&e))?;
            if entry.get_log_id().index != index {
                return Err(damaged(&format!("it says it is entry {}", entry.log_id.index)));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Runs one durable transaction. The first failure is the last write.
    pub(super) fn write(
        &mut self,
        what: &str,
        body: impl FnOnce(&WriteTransaction) -> std::result::Result<(), redb::Error>,
    ) -> Result<()> {
        if let Some(failed) = &self.failed {
            return Err(DiskError(format!("{what}: not tried after an earlier failure: {failed}")));
        }
        let commits = self.commits + 1;
        let result = (|| -> std::result::Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            // One sync, then that of the guard. What a sync left half done redb finds by its
            // checksums, and what it then falls back to the guard judges.
            transaction.set_durability(Durability::Immediate)?;
            body(&transaction)?;
            put(&transaction, COMMITS, &commits)?;
            transaction.commit()?;
            self.guard.advance(commits)?;
            Ok(())
        })();
        result.map_err(|error| {
            let error = DiskError(format!("{}: cannot {what}: {error}", self.path.display()));
            self.failed = Some(error.clone());
            error
        })?;
        self.commits = commits;
        Ok(())
    }
}

pub(super) fn put<T: Serialize>(
    transaction: &WriteTransaction,
    key: &'static str,
    value: &T,
) -> std::result::Result<(), redb::Error> {
    let record = record::encode(key.as_bytes(), value).map_err(boxed)?;
    transaction.open_table(META)?.insert(key, record.as_slice())?;
    Ok(())
}

pub(super) fn get<T: serde::de::DeserializeOwned>(
    database: &Database,
    key: &'static str,
) -> Result<Option<T>> {
    let Some(json) = get_raw(database, key)? else {
        return Ok(None);
    };
    serde_json::from_slice(&json).map(Some).map_err(|e| DiskError::new(&format!("record {key}"), e))
}

fn get_raw(database: &Database, key: &'static str) -> Result<Option<Vec<u8>>> {
    let what = format!("record {key}");
    let fail = |e: redb::Error| DiskError::new(&what, e);
    let transaction = database.begin_read().map_err(|e| fail(e.into()))?;
    let table = transaction.open_table(META).map_err(|e| fail(e.into()))?;
    let Some(value) = table.get(key).map_err(|e| fail(e.into()))? else {
        return Ok(None);
    };
    record::open(key.as_bytes(), value.value())
        .map(|bytes| Some(bytes.to_vec()))
        .map_err(|e| DiskError::new(&what, e))
}

/// An encoding error on its way through a redb transaction.
fn boxed(error: record::RecordError) -> redb::Error {
    redb::Error::Io(std::io::Error::other(error.to_string()))
}

pub(super) fn index_of(id: Option<LogId>) -> Option<u64> {
    id.map(|id| id.index)
}

/// A random number from the seed the standard library draws for its hash maps.
pub(crate) fn random_instance() -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::hash::RandomState::new().build_hasher().finish()
}

#[cfg(test)]
#[path = "disk_test.rs"]
mod tests;
