//! Opening and creating the store, and what is checked in it.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use redb::Database;

use super::disk::{
    COMMITS, COMMITTED, Disk, DiskError, IDENTITY, IdentityRecord, LOG, PURGED, Result,
    SNAPSHOT_META, VOTE, get, index_of, put, random_instance,
};
use super::guard::{self, Guard};
use crate::error::OpenError;
use crate::options::{Identity, OnMissing};

/// Version of the format of the records.
const FORMAT: u32 = 1;
const FILE_NAME: &str = "raft.redb";
const GUARD_NAME: &str = "raft.guard";
/// redb's page cache. The whole store of a busy cluster is a few megabytes.
const CACHE_BYTES: usize = 16 << 20;

/// Path of the store in a data folder.
pub(crate) fn file_in(dir: &Path) -> PathBuf {
    dir.join(FILE_NAME)
}

/// Path of the guard in a data folder.
pub(super) fn guard_in(dir: &Path) -> PathBuf {
    dir.join(GUARD_NAME)
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
                Self::check(database, &path, identity, |instance, commits| {
                    open_guard(dir, instance, commits)
                })
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
        let instance = random_instance();
        let guard = create_guard(dir, instance).map_err(|e| guard_io(dir, &e))?;
        let database = builder().create(&draft).map_err(|e| open_error(path, e))?;
        let disk = Self::initialize(database, guard, path, identity, instance)
            .map_err(|e| io(e.to_string()))?;
        std::fs::rename(&draft, path).map_err(|e| io(format!("cannot rename: {e}")))?;
        sync_folder(dir).map_err(|e| io(format!("cannot sync the folder: {e}")))?;
        Ok(disk)
    }

    /// A new store that is not in a file.
    #[cfg(test)]
    pub(crate) fn on_backends(
        backend: impl redb::StorageBackend,
        guard: impl redb::StorageBackend,
        identity: Identity,
    ) -> Self {
        let instance = random_instance();
        let database = builder().create_with_backend(backend).unwrap();
        let guard = Guard::create(Box::new(guard), instance).unwrap();
        Self::initialize(database, guard, Path::new("memory"), identity, instance).unwrap()
    }

    /// Opens a store that is not in a file.
    #[cfg(test)]
    pub(crate) fn reopen_backends(
        backend: impl redb::StorageBackend,
        guard: impl redb::StorageBackend,
        identity: Identity,
    ) -> std::result::Result<Self, OpenError> {
        let path = Path::new("memory");
        if backend.len().unwrap() == 0 {
            return Err(OpenError::Damaged { path: path.to_owned(), what: "empty".to_owned() });
        }
        let database = builder().create_with_backend(backend).map_err(|e| open_error(path, e))?;
        Self::check(database, path, identity, |instance, _| {
            Guard::open(Box::new(guard), instance).map_err(|e| guard_io(path, &e))
        })
    }

    /// Writes the identity into an empty database.
    fn initialize(
        database: Database,
        guard: Guard,
        path: &Path,
        identity: Identity,
        instance: u64,
    ) -> Result<Self> {
        let record = IdentityRecord {
            format: FORMAT,
            cluster: identity.cluster,
            node: identity.node,
            instance,
        };
        let mut disk = Self {
            database,
            guard,
            path: path.to_owned(),
            instance,
            commits: 0,
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
        open_guard: impl FnOnce(u64, u64) -> OpenedGuard,
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
        let commits: u64 = get(&database, COMMITS).map_err(|e| damaged(e.0))?.unwrap_or(0);
        let (guard, slots) = open_guard(found.instance, commits)?;
        guard::judge(slots, found.instance, commits).map_err(damaged)?;
        let mut disk = Self {
            vote: get(&database, VOTE).map_err(|e| damaged(e.0))?,
            committed: get(&database, COMMITTED).map_err(|e| damaged(e.0))?,
            purged: get(&database, PURGED).map_err(|e| damaged(e.0))?,
            snapshot: get(&database, SNAPSHOT_META).map_err(|e| damaged(e.0))?,
            database,
            guard,
            path: path.to_owned(),
            instance: found.instance,
            commits,
            last: None,
            failed: None,
        };
        disk.check_log().map_err(|e| damaged(e.0))?;
        disk.check_pointers().map_err(|e| damaged(e.0))?;
        disk.snapshot_data().map_err(|e| damaged(e.0))?;
        disk.settle().map_err(|e| OpenError::Io { path: path.to_owned(), what: e.0 })?;
        Ok(disk)
    }

    /// Has the guard know of a commit that was in flight: from here on it counts.
    fn settle(&mut self) -> Result<()> {
        if self.commits == 0 {
            return self.write("count the commits", |_| Ok(()));
        }
        self.guard.advance(self.commits).map_err(|e| DiskError::new("cannot write the guard", e))
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
}

type OpenedGuard = std::result::Result<(Guard, [Option<guard::Slot>; 2]), OpenError>;

/// Opens the guard of a store with that many commits. One without any gets a new guard: a version
/// wrote it that knew none.
fn open_guard(dir: &Path, instance: u64, commits: u64) -> OpenedGuard {
    let path = guard_in(dir);
    if !path.exists() {
        if commits > 0 {
            let what = format!("its guard, {}, is missing", path.display());
            return Err(OpenError::Damaged { path: file_in(dir), what });
        }
        create_guard(dir, instance).map_err(|e| guard_io(dir, &e))?;
    }
    guard::file(&path, false)
        .and_then(|file| Guard::open(file, instance))
        .map_err(|e| guard_io(dir, &e))
}

/// Writes a guard that knows of no commit. It has its name once it is complete.
fn create_guard(dir: &Path, instance: u64) -> std::io::Result<Guard> {
    let path = guard_in(dir);
    let draft = path.with_extension("guard-new");
    let guard = Guard::create(guard::file(&draft, true)?, instance)?;
    std::fs::rename(&draft, &path)?;
    sync_folder(dir)?;
    Ok(guard)
}

fn sync_folder(dir: &Path) -> std::io::Result<()> {
    std::fs::File::open(dir).and_then(|dir| dir.sync_all())
}

fn guard_io(dir: &Path, error: &std::io::Error) -> OpenError {
    OpenError::Io { path: guard_in(dir), what: format!("cannot use the guard: {error}") }
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
