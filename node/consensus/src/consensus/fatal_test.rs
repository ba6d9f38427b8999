//! A disk that fails ends the Raft role, and nothing else.

use serde::{Deserialize, Serialize};

use super::*;
use crate::options::{Identity, OnMissing};
use crate::store::Disk;
use crate::store::failing::{Failing, Fault};
use crate::transport::{BoxFuture, TransportError};

#[derive(Clone, Default, Deserialize, Serialize)]
struct Sum(u64);

impl StateMachine for Sum {
    type Command = u64;
    type Response = u64;

    fn apply(&mut self, _index: u64, command: u64) -> u64 {
        self.0 += command;
        self.0
    }
}

struct NoPeers;

impl Transport for NoPeers {
    fn call(
        &self,
        _target: u32,
        _request: Vec<u8>,
        _ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        Box::pin(async { Err(TransportError::Unreachable("there are no peers".to_owned())) })
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_fatal_to_the_role_and_to_nothing_else() {
    let identity = Identity { cluster: 7, node: 1 };
    let backend = Failing::default();
    let disk = Disk::on_backends(backend.clone(), redb::backends::InMemoryBackend::new(), identity);
    let store = Store::start(disk).unwrap();
    let options = Options::new("/nonexistent", identity, OnMissing::Refuse);
    let config = raft_config(&options).unwrap();
    let node = Consensus::<Sum>::start(options, config, store, Arc::new(NoPeers)).await.unwrap();
    node.bootstrap("one").await.unwrap();
    assert_eq!(node.propose(5, PATIENCE).await.unwrap().1, 5);

    backend.set(Fault::NextSync);
    let error = node.propose(6, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ProposeError::Fatal(_)), "{error:?}");
    assert!(error.outcome_unknown());

    // The disk "recovers"; the role does not, because nobody knows what was written.
    assert!(backend.has_failed());
    let error = node.propose(7, PATIENCE).await.unwrap_err();
    assert!(matches!(error, ProposeError::Fatal(_)), "{error:?}");
    let metrics = node.metrics();
    assert_eq!(metrics.role, Role::Stopped);
    assert!(metrics.fatal.is_some_and(|reason| reason.contains("the disk is gone")));
    assert!(!node.is_leader());
    // What was applied stays readable: configuration and forwarding go on with it.
    assert_eq!(node.state().0, 5);
    node.shutdown().await;
}
