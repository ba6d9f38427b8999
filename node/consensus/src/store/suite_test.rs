//! openraft's own test suite for stores, on the real store.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use serde::{Deserialize, Serialize};

use super::*;
use crate::raft_types::{StorageError, TypeConfig};
use crate::state_machine::StateMachine;
use crate::test_folder::Folder;

#[derive(Clone, Default, Deserialize, Serialize)]
struct Nothing;

impl StateMachine for Nothing {
    type Command = ();
    type Response = ();
    fn apply(&mut self, _index: u64, (): ()) {}
}

struct Builder;

/// Closes the store's file, then removes its folder.
struct Guard {
    store: Store,
    _folder: Folder,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.store.stop();
    }
}

impl StoreBuilder<TypeConfig, LogStore, Machine<Nothing>, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine<Nothing>), StorageError> {
        let folder = Folder::new();
        let identity = Identity { cluster: 7, node: 1 };
        let store = Store::open(folder.path(), identity, OnMissing::Create).await.unwrap();
        let published = Arc::new(Published::new());
        let machine = Machine::restore(store.clone(), published).await.unwrap();
        let log = LogStore::new(store.clone(), Rules::Suite);
        Ok((Guard { store, _folder: folder }, log, machine))
    }
}

#[test]
fn the_store_passes_openrafts_suite() {
    Suite::test_all(Builder).unwrap();
}

/// A crash between a purge and the installation of the snapshot it relies on would lose both.
#[tokio::test]
async fn the_log_is_not_purged_before_the_snapshot_is_on_disk() {
    use openraft::storage::{RaftLogStorage, RaftLogStorageExt, RaftStateMachine};
    use openraft::{CommittedLeaderId, Entry, EntryPayload};

    let (guard, _, mut machine) = Builder.build().await.unwrap();
    let mut log = LogStore::new(guard.store.clone(), Rules::Strict);
    let id = |index| openraft::LogId::new(CommittedLeaderId::new(0, 0), index);
    let entries = (0..3).map(|i| Entry { log_id: id(i), payload: EntryPayload::Blank });
    log.blocking_append(entries).await.unwrap();

    let mut purging = log.clone();
    let purge = tokio::spawn(async move { purging.purge(id(9)).await });
    for _ in 0..20 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, None, "purged without a snapshot");
        assert!(!purge.is_finished());
    }
    let meta = crate::raft_types::SnapshotMeta {
        last_log_id: Some(id(9)),
        snapshot_id: "installed".to_owned(),
        ..Default::default()
    };
    let image = br#"{"removed":[],"state":null}"#.to_vec();
    machine.install_snapshot(&meta, Box::new(std::io::Cursor::new(image))).await.unwrap();
    purge.await.unwrap().unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(id(9)));

    // A snapshot that cannot be installed ends the waiting with an error.
    let mut purging = log.clone();
    let purge = tokio::spawn(async move { purging.purge(id(20)).await });
    let meta = crate::raft_types::SnapshotMeta { last_log_id: Some(id(20)), ..meta };
    let broken = Box::new(std::io::Cursor::new(b"not a snapshot".to_vec()));
    machine.install_snapshot(&meta, broken).await.unwrap_err();
    let error = purge.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cannot read the state in the snapshot"), "{error}");
}
