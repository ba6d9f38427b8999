//! The state machine as openraft sees it: in memory, with its snapshots in the store.

use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use super::log::flatten;
use super::{DiskError, Store, random_instance};
use crate::raft_types::{
    Entry, LogId, NodeInfo, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig,
    narrow,
};
use crate::state_machine::StateMachine;

/// What everybody may read of the applied state.
pub(crate) struct Published<S> {
    pub(crate) state: ArcSwap<S>,
    /// Ids that were members once and were removed. They never come back.
    pub(crate) removed: ArcSwap<BTreeSet<u32>>,
    /// Position of the last applied entry; 0 before there is one.
    pub(crate) applied: watch::Sender<u64>,
}

impl<S: StateMachine> Published<S> {
    pub(crate) fn new() -> Self {
        Self {
            state: ArcSwap::from_pointee(S::default()),
            removed: ArcSwap::from_pointee(BTreeSet::new()),
            applied: watch::Sender::new(0),
        }
    }
}

/// Applies committed entries.
pub(crate) struct Machine<S: StateMachine> {
    store: Store,
    state: Arc<S>,
    removed: Arc<BTreeSet<u32>>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    published: Arc<Published<S>>,
    snapshots: Arc<SnapshotNumbers>,
}

/// Makes snapshot ids unique: a receiver must not mix the pieces of two snapshots.
struct SnapshotNumbers {
    start: u64,
    next: AtomicU64,
}

/// Content of a snapshot.
#[derive(Deserialize, Serialize)]
#[serde(bound = "")]
struct Image<S: StateMachine> {
    removed: BTreeSet<u32>,
    state: S,
}

impl<S: StateMachine> Machine<S> {
    /// Restores the state from the saved snapshot. openraft then applies the committed entries
    /// after it.
    pub(crate) async fn restore(
        store: Store,
        published: Arc<Published<S>>,
    ) -> Result<Self, DiskError> {
        let saved = flatten(store.run(|disk| disk.snapshot_data()).await)?;
        let snapshots = SnapshotNumbers { start: random_instance(), next: AtomicU64::new(0) };
        let mut machine = Self {
            store,
            state: Arc::default(),
            removed: Arc::default(),
            last_applied: None,
            membership: StoredMembership::default(),
            published,
            snapshots: Arc::new(snapshots),
        };
        if let Some((meta, data)) = saved {
            let image = decode_image(&data)?;
            machine.replace(&meta, image);
        }
        Ok(machine)
    }

    fn replace(&mut self, meta: &SnapshotMeta, image: Image<S>) {
        self.state = Arc::new(image.state);
        self.removed = Arc::new(image.removed);
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.publish();
    }

    /// Shows the state first and its position second: who waited for a position finds its state.
    fn publish(&self) {
        self.published.state.store(self.state.clone());
        self.published.removed.store(self.removed.clone());
        let applied = self.last_applied.map_or(0, |id| id.index);
        self.published
            .applied
            .send_if_modified(|shown| std::mem::replace(shown, applied) != applied);
    }

    /// Fails on a command that this version cannot read: to skip it would make the nodes differ.
    fn apply_entry(&mut self, entry: Entry) -> Result<Option<Value>, serde_json::Error> {
        let id = entry.log_id;
        let response = match entry.payload {
            EntryPayload::Blank => None,
            EntryPayload::Normal(value) => {
                let command: S::Command = serde_json::from_value(value)?;
                let response = Arc::make_mut(&mut self.state).apply(id.index, command);
                Some(serde_json::to_value(response)?)
            }
            EntryPayload::Membership(membership) => {
                let is_member = |node: &u64| membership.get_node(node).is_some();
                let gone: Vec<u32> = (self.membership.membership().nodes())
                    .filter(|(node, _)| !is_member(node))
                    .map(|(node, _)| narrow(*node))
                    .collect();
                if !gone.is_empty() {
                    Arc::make_mut(&mut self.removed).extend(gone);
                }
                self.membership = StoredMembership::new(Some(id), membership);
                None
            }
        };
        self.last_applied = Some(id);
        Ok(response)
    }

    async fn install(&mut self, meta: &SnapshotMeta, data: Vec<u8>) -> Result<(), DiskError> {
        let image = decode_image(&data)?;
        let saved = meta.clone();
        flatten(self.store.run(move |disk| disk.save_snapshot(&saved, &data)).await)?;
        self.replace(meta, image);
        Ok(())
    }
}

impl<S: StateMachine> RaftStateMachine<TypeConfig> for Machine<S> {
    type SnapshotBuilder = Builder<S>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Option<Value>>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut responses = Vec::new();
        for entry in entries {
            let id = entry.log_id;
            match self.apply_entry(entry) {
                Ok(response) => responses.push(response),
                Err(error) => {
                    tracing::error!(
                        index = id.index,
                        %error,
                        "a committed command cannot be read; start the version that wrote it"
                    );
                    return Err(StorageIOError::apply(id, AnyError::new(&error)).into());
                }
            }
        }
        self.publish();
        Ok(responses)
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        Builder {
            store: self.store.clone(),
            state: self.state.clone(),
            removed: self.removed.clone(),
            last_applied: self.last_applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &openraft::SnapshotMeta<u64, NodeInfo>,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError> {
        self.install(meta, snapshot.into_inner()).await.map_err(|error| {
            tracing::error!(%error, "cannot install the leader's snapshot; Raft stops here");
            // openraft may be waiting for this snapshot in order to purge the log.
            self.store.fail(&error.to_string());
            StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&error)).into()
        })
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let saved = flatten(self.store.run(|disk| disk.snapshot_data()).await)
            .map_err(|e| StorageIOError::read_snapshot(None, AnyError::new(&e)))?;
        Ok(saved.map(|(meta, data)| Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }))
    }
}

/// Makes a snapshot of the state at one position while newer entries are applied.
pub(crate) struct Builder<S: StateMachine> {
    store: Store,
    state: Arc<S>,
    removed: Arc<BTreeSet<u32>>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<SnapshotNumbers>,
}

impl<S: StateMachine> Builder<S> {
    async fn build(&self, meta: &SnapshotMeta) -> Result<Vec<u8>, DiskError> {
        let (state, removed) = (self.state.clone(), self.removed.clone());
        let meta = meta.clone();
        let saved = self.store.run(move |disk| {
            let image = Image { removed: removed.as_ref().clone(), state: state.as_ref().clone() };
            let data = serde_json::to_vec(&image)
                .map_err(|e| DiskError(format!("cannot encode the state: {e}")))?;
            disk.save_snapshot(&meta, &data).map(|()| data)
        });
        flatten(saved.await)
    }
}

impl<S: StateMachine> RaftSnapshotBuilder<TypeConfig> for Builder<S> {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let number = self.snapshots.next.fetch_add(1, Ordering::Relaxed);
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{:016x}-{number}", self.snapshots.start),
        };
        match self.build(&meta).await {
            Ok(data) => Ok(Snapshot { meta, snapshot: Box::new(Cursor::new(data)) }),
            Err(error) => {
                let signature = Some(meta.signature());
                Err(StorageIOError::write_snapshot(signature, AnyError::new(&error)).into())
            }
        }
    }
}

fn decode_image<S: StateMachine>(data: &[u8]) -> Result<Image<S>, DiskError> {
    serde_json::from_slice(data)
        .map_err(|e| DiskError(format!("cannot read the state in the snapshot: {e}")))
}
