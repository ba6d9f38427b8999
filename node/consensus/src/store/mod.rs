//! The store: a redb file, its guard, and the thread that owns them.
//!
//! redb's commits block, so a thread of its own runs every operation, in the order in which they
//! were asked for. That is also the order openraft demands: a vote and the entries after it are
//! never swapped.

mod disk;
#[cfg(test)]
pub(crate) mod failing;
mod guard;
mod log;
mod machine;
mod open;
#[cfg(test)]
mod power;
mod record;

use std::path::Path;
use std::sync::{Arc, OnceLock, mpsc};

use tokio::sync::{oneshot, watch};

pub(crate) use disk::{Disk, DiskError, random_instance};
pub(crate) use log::{LogStore, Rules};
pub(crate) use machine::{Machine, Published};

use crate::error::OpenError;
use crate::options::{Identity, OnMissing};

type Job = Box<dyn FnOnce(&mut Disk) + Send>;

enum Message {
    Run(Job),
    Stop,
}

/// Handle to the thread that owns the store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    jobs: mpsc::Sender<Message>,
    instance: u64,
    /// Position up to which the saved snapshot reaches; an error ends all waiting.
    snapshot_index: watch::Receiver<Option<u64>>,
    /// True once the thread has closed the file.
    closed: watch::Receiver<bool>,
    /// Why the store was given up, if it was.
    failure: OnceLock<String>,
}

impl Store {
    /// Whether the folder has a store. An identity without one must not take part: see
    /// [`OnMissing`].
    pub fn exists(dir: &Path) -> bool {
        open::file_in(dir).exists()
    }

    /// Opens or creates the store and starts its thread.
    pub(crate) async fn open(
        dir: &Path,
        identity: Identity,
        on_missing: OnMissing,
    ) -> Result<Self, OpenError> {
        let owned = dir.to_owned();
        let io = |what: String| OpenError::Io { path: dir.to_owned(), what };
        let opened =
            tokio::task::spawn_blocking(move || Disk::open(&owned, identity, on_missing)).await;
        let disk = opened.map_err(|e| io(format!("opening the Raft store failed: {e}")))??;
        Self::start(disk).map_err(|e| io(format!("cannot start a thread: {e}")))
    }

    /// Starts the thread.
    pub(crate) fn start(disk: Disk) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let instance = disk.instance();
        let (snapshot_tx, snapshot_index) = watch::channel(snapshot_index(&disk));
        let (closed_tx, closed) = watch::channel(false);
        std::thread::Builder::new()
            .name("raft-store".to_owned())
            .spawn(move || run(disk, &queue, &snapshot_tx, &closed_tx))?;
        Ok(Self {
            inner: Arc::new(Inner {
                jobs,
                instance,
                snapshot_index,
                closed,
                failure: OnceLock::new(),
            }),
        })
    }

    pub(crate) fn instance(&self) -> u64 {
        self.inner.instance
    }

    /// Runs `job` on the store's thread, after all jobs asked for before.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Disk) -> T + Send + 'static,
    ) -> Result<T, DiskError> {
        let closed = || self.closed_error();
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |disk| {
            // The asker may have gone; the write counts nevertheless.
            let _ = reply.send(job(disk));
        });
        self.inner.jobs.send(Message::Run(job)).map_err(|_| closed())?;
        answer.await.map_err(|_| closed())
    }

    /// Waits until the saved snapshot reaches `index`.
    pub(crate) async fn snapshot_reaches(&self, index: u64) -> Result<(), DiskError> {
        let mut watched = self.inner.snapshot_index.clone();
        watched
            .wait_for(|saved| saved.is_some_and(|saved| saved >= index))
            .await
            .map(|_| ())
            .map_err(|_| self.closed_error())
    }

    /// Gives the store up: all that wait for it, and all later jobs, get `reason`.
    pub(crate) fn fail(&self, reason: &str) {
        self.inner.failure.get_or_init(|| reason.to_owned());
        self.stop();
    }

    /// Stops the thread after the jobs asked for before. Later jobs fail.
    pub(crate) fn stop(&self) {
        // An error means that the thread has ended already.
        let _ = self.inner.jobs.send(Message::Stop);
    }

    fn closed_error(&self) -> DiskError {
        let reason = self.inner.failure.get().map_or("the Raft store is closed", String::as_str);
        DiskError(reason.to_owned())
    }

    /// Stops the thread and waits until the file is closed.
    pub(crate) async fn close(&self) {
        self.stop();
        let mut closed = self.inner.closed.clone();
        // An error means that the thread has ended, which is what is waited for.
        let _ = closed.wait_for(|closed| *closed).await;
    }
}

fn run(
    mut disk: Disk,
    queue: &mpsc::Receiver<Message>,
    snapshot: &watch::Sender<Option<u64>>,
    closed: &watch::Sender<bool>,
) {
    while let Ok(Message::Run(job)) = queue.recv() {
        job(&mut disk);
        let index = snapshot_index(&disk);
        snapshot.send_if_modified(|saved| std::mem::replace(saved, index) != index);
    }
    drop(disk);
    closed.send_replace(true);
}

fn snapshot_index(disk: &Disk) -> Option<u64> {
    disk.snapshot_meta().and_then(|meta| meta.last_log_id).map(|id| id.index)
}

#[cfg(test)]
#[path = "suite_test.rs"]
mod tests;
