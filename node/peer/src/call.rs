//! One request and its answer, on a stream of their own.
//!
//! Both carry their length: a stream that was given up half-way must not pass for a short message.
//!
//! Request: stream kind (1 byte), call kind (1), length (4, big-endian), bytes. Answer: length
//! (4), bytes.

use quinn::{Connection, ReadError, ReadExactError, RecvStream, SendStream, VarInt, WriteError};
use steadfast_model::NodeId;

use crate::{
    CallError,
    hello::STREAM_CALL,
    limits::{REQUEST_BYTES_MAX, RESPONSE_BYTES_MAX},
    links::Inner,
    tls,
};

/// Codes a stream is reset or stopped with.
pub(crate) const RESET_GIVEN_UP: VarInt = VarInt::from_u32(1);
pub(crate) const RESET_TOO_LONG: VarInt = VarInt::from_u32(2);
pub(crate) const RESET_BUSY: VarInt = VarInt::from_u32(3);
pub(crate) const RESET_FAILED: VarInt = VarInt::from_u32(4);
pub(crate) const RESET_UNKNOWN: VarInt = VarInt::from_u32(5);

pub(crate) fn explain_reset(code: VarInt) -> String {
    let text = match code {
        RESET_GIVEN_UP => "it gave the exchange up",
        RESET_TOO_LONG => "the message is above its bound",
        RESET_BUSY => "it has too many streams waiting",
        RESET_FAILED => "its handler failed",
        RESET_UNKNOWN => "it does not know this kind of stream",
        code => return format!("code {code}"),
    };
    text.into()
}

/// Sends a request and waits for the answer. Dropping the future gives the exchange up.
pub(crate) async fn exchange(
    peer: NodeId,
    connection: &Connection,
    kind: u8,
    request: &[u8],
) -> Result<Vec<u8>, CallError> {
    let lost = |error: &quinn::ConnectionError| CallError::Lost { peer, why: tls::explain(error) };
    let (send, mut recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    let mut send = ResetOnDrop(Some(send));
    let mut header = [STREAM_CALL, kind, 0, 0, 0, 0];
    header[2..].copy_from_slice(&(request.len() as u32).to_be_bytes());
    let stopped = |error: WriteError| match error {
        WriteError::ConnectionLost(error) => lost(&error),
        WriteError::Stopped(code) => CallError::Refused { peer, why: explain_reset(code) },
        other => CallError::Lost { peer, why: other.to_string() },
    };
    send.write_all(&header).await.map_err(stopped)?;
    send.write_all(request).await.map_err(stopped)?;
    send.finish();
    read_message(&mut recv, RESPONSE_BYTES_MAX).await.map_err(|error| match error {
        MessageError::TooLong => CallError::ResponseTooLong { peer },
        MessageError::Length => CallError::Refused { peer, why: "its answer is cut off".into() },
        MessageError::Read(ReadError::Reset(RESET_TOO_LONG)) => CallError::ResponseTooLong { peer },
        MessageError::Read(ReadError::Reset(code)) => {
            CallError::Refused { peer, why: explain_reset(code) }
        }
        MessageError::Read(ReadError::ConnectionLost(error)) => lost(&error),
        MessageError::Read(other) => CallError::Lost { peer, why: other.to_string() },
    })
}

/// Handles one request. The stream's kind has been read already.
pub(crate) async fn serve(inner: &Inner, peer: NodeId, send: SendStream, mut recv: RecvStream) {
    let mut send = ResetOnDrop(Some(send));
    let mut kind = [0; 1];
    if recv.read_exact(&mut kind).await.is_err() {
        return;
    }
    let request = match read_message(&mut recv, REQUEST_BYTES_MAX).await {
        Ok(request) => request,
        Err(MessageError::TooLong) => {
            inner.counters.oversized.add();
            let _ = recv.stop(RESET_TOO_LONG);
            return send.reset(RESET_TOO_LONG);
        }
        // Given up by the caller: nobody waits for an answer.
        Err(_) => return,
    };
    let [kind] = kind;
    let handler = inner.handler_runtime.spawn((inner.handler)(peer, kind, request));
    let Ok(response) = handler.await else {
        tracing::error!(%peer, kind, "the handler of a peer's request failed");
        return send.reset(RESET_FAILED);
    };
    if response.len() > RESPONSE_BYTES_MAX {
        tracing::error!(%peer, kind, bytes = response.len(), "answer above the bound, not sent");
        return send.reset(RESET_TOO_LONG);
    }
    let header = (response.len() as u32).to_be_bytes();
    if send.write_all(&header).await.is_ok() && send.write_all(&response).await.is_ok() {
        send.finish();
    }
}

enum MessageError {
    TooLong,
    Length,
    Read(ReadError),
}

impl From<ReadExactError> for MessageError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Length,
            ReadExactError::ReadError(error) => Self::Read(error),
        }
    }
}

/// Reads a length and that many bytes. Memory grows with what arrives, not with what is announced.
async fn read_message(recv: &mut RecvStream, bytes_max: usize) -> Result<Vec<u8>, MessageError> {
    let mut header = [0; 4];
    recv.read_exact(&mut header).await?;
    let length = u32::from_be_bytes(header) as usize;
    if length > bytes_max {
        return Err(MessageError::TooLong);
    }
    let mut message = Vec::new();
    while let Some(chunk) =
        recv.read_chunk(READ_CHUNK_BYTES, true).await.map_err(MessageError::Read)?
    {
        if message.len() + chunk.bytes.len() > length {
            return Err(MessageError::Length);
        }
        message.extend_from_slice(&chunk.bytes);
    }
    if message.len() == length { Ok(message) } else { Err(MessageError::Length) }
}

const READ_CHUNK_BYTES: usize = 64 << 10;

/// A stream that is reset when it is dropped unfinished; quinn itself would finish it, and the
/// other side would take what it has for everything.
struct ResetOnDrop(Option<SendStream>);

impl ResetOnDrop {
    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        match &mut self.0 {
            Some(send) => send.write_all(bytes).await,
            None => Err(WriteError::ClosedStream),
        }
    }

    fn finish(&mut self) {
        if let Some(mut send) = self.0.take() {
            // Fails only when the other side does not want the rest.
            let _ = send.finish();
        }
    }

    fn reset(&mut self, code: VarInt) {
        if let Some(mut send) = self.0.take() {
            let _ = send.reset(code);
        }
    }
}

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        self.reset(RESET_GIVEN_UP);
    }
}
