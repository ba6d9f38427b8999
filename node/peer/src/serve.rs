//! What a peer sends on a connection of ours: calls, ordered streams, datagrams.

use std::sync::Arc;

use quinn::{Connection, RecvStream, SendStream};
use steadfast_model::NodeId;
use tokio::sync::{Semaphore, mpsc::error::TrySendError};

use crate::{
    Datagram, IncomingStream, PeerStream,
    call::{self, RESET_BUSY, RESET_UNKNOWN},
    hello::{STREAM_CALL, STREAM_FRAMES},
    limits::CALLS_PER_CONNECTION_MAX,
    links::Inner,
};

/// Serves streams until the connection is gone. No stream is accepted while
/// [`CALLS_PER_CONNECTION_MAX`] are being handled: the peer waits, we buffer nothing.
pub(crate) async fn serve_streams(inner: Arc<Inner>, peer: NodeId, connection: Connection) {
    let permits = Arc::new(Semaphore::new(CALLS_PER_CONNECTION_MAX));
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let Ok((send, recv)) = connection.accept_bi().await else { return };
        let inner = inner.clone();
        tokio::spawn(async move {
            serve_stream(&inner, peer, send, recv).await;
            drop(permit);
        });
    }
}

async fn serve_stream(inner: &Inner, peer: NodeId, mut send: SendStream, mut recv: RecvStream) {
    let mut kind = [0; 1];
    if recv.read_exact(&mut kind).await.is_err() {
        return;
    }
    match kind {
        [STREAM_CALL] => call::serve(inner, peer, send, recv).await,
        [STREAM_FRAMES] => {
            let stream = PeerStream::new(peer, send, recv);
            let incoming = IncomingStream { from: peer, stream };
            if let Err(TrySendError::Full(refused) | TrySendError::Closed(refused)) =
                inner.streams.try_send(incoming)
            {
                inner.counters.streams_refused.add();
                refused.stream.refuse(RESET_BUSY);
            }
        }
        _ => {
            let _ = recv.stop(RESET_UNKNOWN);
            let _ = send.reset(RESET_UNKNOWN);
        }
    }
}

/// Hands datagrams to the driver until the connection is gone.
pub(crate) async fn serve_datagrams(inner: Arc<Inner>, peer: NodeId, connection: Connection) {
    while let Ok(bytes) = connection.read_datagram().await {
        let datagram = Datagram { from: peer, bytes: bytes.into() };
        match inner.datagrams.try_send(datagram) {
            Ok(()) => inner.counters.datagrams_in.add(),
            Err(_) => inner.counters.datagrams_dropped.add(),
        }
    }
}
