//! The log as openraft sees it.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, RaftLogStorage};
use openraft::{AnyError, LogState, OptionalSend, RaftLogReader, StorageIOError};

use super::{DiskError, Store};
use crate::frame::LOG_READ_BYTES_MAX;
use crate::raft_types::{Entry, LogId, StorageError, TypeConfig, Vote};

/// What the store insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rules {
    /// Entries follow each other, and are purged only when the saved snapshot contains them.
    ///
    /// openraft asks for the purge before it knows that an installed snapshot is on disk. A crash
    /// in between would leave neither the entries nor the snapshot.
    Strict,
    /// openraft's own test suite appends out of order and purges without a snapshot.
    #[cfg(test)]
    Suite,
}

/// The log, the vote and the committed position.
#[derive(Clone)]
pub(crate) struct LogStore {
    store: Store,
    rules: Rules,
}

impl LogStore {
    pub(crate) fn new(store: Store, rules: Rules) -> Self {
        Self { store, rules }
    }

    async fn read(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let entries = self.store.run(move |disk| disk.entries(start, end, bytes_max)).await;
        flatten(entries).map_err(|e| StorageIOError::read_logs(AnyError::new(&e)).into())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(range.start_bound().cloned(), range.end_bound().cloned(), usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(Bound::Included(start), Bound::Excluded(end), LOG_READ_BYTES_MAX).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.store.run(|disk| (disk.purged(), disk.last())).await;
        let (last_purged_log_id, last_log_id) =
            state.map_err(|e| StorageIOError::read_logs(AnyError::new(&e)))?;
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let vote = *vote;
        let saved = self.store.run(move |disk| disk.save_vote(vote)).await;
        flatten(saved).map_err(|e| StorageIOError::write_vote(AnyError::new(&e)).into())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let vote = self.store.run(|disk| disk.vote()).await;
        vote.map_err(|e| StorageIOError::read_vote(AnyError::new(&e)).into())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        let saved = self.store.run(move |disk| disk.save_committed(committed)).await;
        flatten(saved).map_err(|e| StorageIOError::write(AnyError::new(&e)).into())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        let committed = self.store.run(|disk| disk.committed()).await;
        committed.map_err(|e| StorageIOError::read(AnyError::new(&e)).into())
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        // openraft waits for the callback anyway; called after the commit, it says what happened.
        let rules = self.rules;
        let done = self.store.run(move |disk| match rules {
            Rules::Strict => disk.append(&entries),
            #[cfg(test)]
            Rules::Suite => disk.append_unchecked(&entries),
        });
        match flatten(done.await) {
            Ok(()) => {
                callback.log_io_completed(Ok(()));
                Ok(())
            }
            Err(error) => {
                callback.log_io_completed(Err(io::Error::other(error.to_string())));
                Err(StorageIOError::write_logs(AnyError::new(&error)).into())
            }
        }
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let done = self.store.run(move |disk| disk.truncate(log_id.index)).await;
        flatten(done).map_err(|e| StorageIOError::write_logs(AnyError::new(&e)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let waited = match self.rules {
            Rules::Strict => self.store.snapshot_reaches(log_id.index).await,
            #[cfg(test)]
            Rules::Suite => Ok(()),
        };
        let done = match waited {
            Ok(()) => flatten(self.store.run(move |disk| disk.purge(log_id)).await),
            Err(error) => Err(error),
        };
        done.map_err(|e| StorageIOError::write_logs(AnyError::new(&e)).into())
    }
}

/// An operation that did not run and one that failed end in the same way.
pub(super) fn flatten<T>(result: Result<Result<T, DiskError>, DiskError>) -> Result<T, DiskError> {
    result.and_then(|inner| inner)
}
