//! How bytes reach the other nodes.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// A boxed future, so that [`Transport`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries requests to peers and their replies back.
///
/// Requests may be lost, delayed, repeated or reordered: Raft copes. A reply must belong to the
/// request. Each call stands for itself, so one stream per call is the natural fit.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to node `target`, whose [`Consensus::handle_rpc`] answers, and returns the
    /// answer.
    ///
    /// The call must end within `ttl`, with [`TransportError::Timeout`] if nothing came. It must
    /// reach the right node: the peer's identity is to be checked against `target`.
    ///
    /// [`Consensus::handle_rpc`]: crate::Consensus::handle_rpc
    fn call(
        &self,
        target: u32,
        request: Vec<u8>,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>>;
}

/// Why a call brought no reply.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum TransportError {
    /// There is no connection to the node. Raft waits a moment before it tries again.
    #[error("no connection to the node: {0}")]
    Unreachable(String),
    /// No reply came in time.
    #[error("no reply within the deadline")]
    Timeout,
    /// The connection broke during the call.
    #[error("the connection broke: {0}")]
    Broken(String),
}
