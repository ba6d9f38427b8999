//! The redb file: what is in it, and every write to it.
//!
//! All functions block. Each write is one transaction with two-phase commit, on disk when the
//! function returns. After a failed write nothing more is written: what the disk then holds is
//! unknown until the file is opened and checked again.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use openraft::RaftLogId;
use redb::{Database, Durability, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::{Deserialize, Serialize};

use super::record;
use crate::error::OpenError;
use crate::options::{Identity, OnMissing};
use crate::raft_types::{Entry, LogId, SnapshotMeta, Vote};

/// Version of the format of the records.
const FORMAT: u32 = 1;
const FILE_NAME: &str = "raft.redb";
/// redb's page cache. The whole store of a busy cluster is a few megabytes.
const CACHE_BYTES: usize = 16 << 20;

const META: TableDefinition<'static, &str, &[u8]> = TableDefinition::new("meta");
const LOG: TableDefinition<'static, u64, &[u8]> = TableDefinition::new("log");

const IDENTITY: &str = "identity";
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";
const SNAPSHOT_META: &str = "snapshot_meta";
const SNAPSHOT_DATA: &str = "snapshot_data";

/// Path of the store in a data folder.
pub(crate) fn file_in(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

/// What a failed operation was, for the log and for openraft.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct DiskError(pub(crate) String);

impl DiskError {
    fn new(what: &str, error: impl std::fmt::Display) -> Self {
        Self(format!("{what}: {error}"))
    }
}

type Result<T> = std::result::Result<T, DiskError>;

#[derive(Debug, Deserialize, Serialize)]
struct IdentityRecord {
    format: u32,
    cluster: u64,
    node: u32,
    /// Random; another number for every store ever created.
    instance: u64,
}

/// The open store.
#[derive(Debug)]
pub(crate) struct Disk {
    database: Database,
    instance: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
    last: Option<LogId>,
    snapshot: Option<SnapshotMeta>,
    /// Set by the first failed write.
    failed: Option<DiskError>,
}

impl Disk {
    /// Opens or creates the store of `identity`, and checks every record in it.
    pub(crate) fn open(
        dir: &Path,
        identity: Identity,
        on_missing: OnMissing,
    ) -> std::result::Result<Self, OpenError> {
        let path = file_in(dir);
        match (path.exists(), on_missing) {
            (true, OnMissing::Create) => Err(OpenError::Exists { path }),
            (false, OnMissing::Refuse) => Err(OpenError::Missing { path }),
            (false, OnMissing::Create) => Self::create(dir, &path, identity),
            (true, OnMissing::Refuse) => {
                let database = builder().open(&path).map_err(|e| open_error(&path, e))?;
                Self::check(database, &path, identity)
            }
        }
    }

    fn create(dir: &Path, path: &Path, identity: Identity) -> std::result::Result<Self, OpenError> {
        let io = |what: String| OpenError::Io { path: path.to_owned(), what };
        std::fs::create_dir_all(dir).map_err(|e| io(format!("cannot create the folder: {e}")))?;
        // Built under another name and renamed when complete: a crash in between leaves no store
        // that looks like a damaged one.
        let draft = path.with_extension("new");
        match std::fs::remove_file(&draft) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(io(format!("cannot remove {}: {e}", draft.display())));
            }
            _ => {}
        }
        let database = builder().create(&draft).map_err(|e| open_error(path, e))?;
        let disk = Self::initialize(database, identity).map_err(|e| io(e.to_string()))?;
        std::fs::rename(&draft, path).map_err(|e| io(format!("cannot rename: {e}")))?;
        std::fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| io(format!("cannot sync the folder: {e}")))?;
        Ok(disk)
    }

    /// A new store that is not in a file.
    #[cfg(test)]
    pub(crate) fn on_backend(backend: impl redb::StorageBackend, identity: Identity) -> Self {
        let database = builder().create_with_backend(backend).unwrap();
        Self::initialize(database, identity).unwrap()
    }

    /// Writes the identity into an empty database.
    fn initialize(database: Database, identity: Identity) -> Result<Self> {
        let record = IdentityRecord {
            format: FORMAT,
            cluster: identity.cluster,
            node: identity.node,
            instance: random_instance(),
        };
        let mut disk = Self {
            database,
            instance: record.instance,
            vote: None,
            committed: None,
            purged: None,
            last: None,
            snapshot: None,
            failed: None,
        };
        disk.write("create the store", |transaction| {
            transaction.open_table(LOG)?;
            put(transaction, IDENTITY, &record)
        })?;
        Ok(disk)
    }

    fn check(
        database: Database,
        path: &Path,
        identity: Identity,
    ) -> std::result::Result<Self, OpenError> {
        let damaged = |what: String| OpenError::Damaged { path: path.to_owned(), what };
        let missing = || damaged("it has no identity record".to_owned());
        let found: IdentityRecord =
            get(&database, IDENTITY).map_err(|e| damaged(e.0))?.ok_or_else(missing)?;
        if found.format != FORMAT {
            return Err(OpenError::Format {
                path: path.to_owned(),
                found: found.format,
                known: FORMAT,
            });
        }
        if (found.cluster, found.node) != (identity.cluster, identity.node) {
            return Err(OpenError::OtherIdentity {
                path: path.to_owned(),
                found_node: found.node,
                found_cluster: found.cluster,
                node: identity.node,
                cluster: identity.cluster,
            });
        }
        let mut disk = Self {
            vote: get(&database, VOTE).map_err(|e| damaged(e.0))?,
            committed: get(&database, COMMITTED).map_err(|e| damaged(e.0))?,
            purged: get(&database, PURGED).map_err(|e| damaged(e.0))?,
            snapshot: get(&database, SNAPSHOT_META).map_err(|e| damaged(e.0))?,
            database,
            instance: found.instance,
            last: None,
            failed: None,
        };
        disk.check_log().map_err(|e| damaged(e.0))?;
        disk.check_pointers().map_err(|e| damaged(e.0))?;
        disk.snapshot_data().map_err(|e| damaged(e.0))?;
        Ok(disk)
    }

    /// Reads every entry: checksums, positions without a hole, leaders in order.
    fn check_log(&mut self) -> Result<()> {
        let entries = self.entries(Bound::Unbounded, Bound::Unbounded, usize::MAX)?;
        let mut previous = self.purged;
        for entry in &entries {
            let id = entry.log_id;
            let expected = previous.map_or(0, |p| p.index + 1);
            if id.index != expected {
                return Err(DiskError(format!(
                    "the log has entry {} where entry {expected} should be",
                    id.index
                )));
            }
            if previous.is_some_and(|p| id.leader_id < p.leader_id) {
                return Err(DiskError(format!(
                    "log entry {} has an older leader than the one before it",
                    id.index
                )));
            }
            previous = Some(id);
        }
        self.last = previous;
        Ok(())
    }

    /// What must hold between the records. Each was written after what it refers to.
    fn check_pointers(&self) -> Result<()> {
        let snapshot = self.snapshot.as_ref().and_then(|meta| meta.last_log_id);
        if self.purged > snapshot {
            return Err(DiskError(format!(
                "the log is purged up to {:?}, beyond the snapshot at {:?}",
                index_of(self.purged),
                index_of(snapshot)
            )));
        }
        if self.committed > self.last.max(snapshot) {
            return Err(DiskError(format!(
                "entry {:?} is recorded as committed, but the log ends at {:?}",
                index_of(self.committed),
                index_of(self.last)
            )));
        }
        // The first entry of a cluster is written by its first node before there is a vote.
        let voted = self.vote.map(|vote| vote.leader_id).unwrap_or_default();
        if self.last.is_some_and(|last| last.leader_id > voted) {
            return Err(DiskError("the vote is older than the last entry of the log".to_owned()));
        }
        Ok(())
    }

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
    fn write(
        &mut self,
        what: &str,
        body: impl FnOnce(&WriteTransaction) -> std::result::Result<(), redb::Error>,
    ) -> Result<()> {
        if let Some(failed) = &self.failed {
            return Err(DiskError(format!("{what}: not tried after an earlier failure: {failed}")));
        }
        let result = (|| -> std::result::Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            transaction.set_two_phase_commit(true);
            body(&transaction)?;
            transaction.commit()?;
            Ok(())
        })();
        result.map_err(|error| {
            let error = DiskError::new(what, error);
            self.failed = Some(error.clone());
            error
        })
    }
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder.set_check_integrity_on_open(true);
    builder
}

fn open_error(path: &Path, error: redb::DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path },
        redb::DatabaseError::Storage(redb::StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData
                && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            OpenError::Io { path, what: format!("cannot open the Raft store: {error}") }
        }
        error => OpenError::Damaged { path, what: error.to_string() },
    }
}

fn put<T: Serialize>(
    transaction: &WriteTransaction,
    key: &'static str,
    value: &T,
) -> std::result::Result<(), redb::Error> {
    let record = record::encode(key.as_bytes(), value).map_err(boxed)?;
    transaction.open_table(META)?.insert(key, record.as_slice())?;
    Ok(())
}

fn get<T: serde::de::DeserializeOwned>(
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

fn index_of(id: Option<LogId>) -> Option<u64> {
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
