//! The first exchange on a connection: both sides learn that the other has admitted them, which
//! version it speaks, and which run of the process it is.
//!
//! In TLS 1.3 the dialing side is done before its own certificate has been looked at; without this
//! exchange it would report a connection that is about to be refused.

use quinn::Connection;

use crate::{Refusal, tls};

/// First byte of a bidirectional stream: what the stream is.
pub(crate) const STREAM_HELLO: u8 = 1;
pub(crate) const STREAM_CALL: u8 = 2;
pub(crate) const STREAM_FRAMES: u8 = 3;

/// Raised when the messages of this crate change incompatibly.
const VERSION: u8 = 1;

const HELLO_BYTES: usize = 9;

/// Why the exchange failed.
pub(crate) enum HelloError {
    /// We do not want this peer.
    Refusal(Refusal),
    /// The connection went; the text says why.
    Lost { why: String, refused: bool, disowned: bool },
}

/// The dialing side. Returns the peer's instance.
pub(crate) async fn say(connection: &Connection, instance: u64) -> Result<u64, HelloError> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|error| lost(&error))?;
    let mut bytes = vec![STREAM_HELLO];
    bytes.extend(encode(instance));
    if send.write_all(&bytes).await.is_err() || send.finish().is_err() {
        return Err(gone(connection));
    }
    let mut answer = [0; HELLO_BYTES];
    if recv.read_exact(&mut answer).await.is_err() {
        return Err(gone(connection));
    }
    decode(answer)
}

/// The side that was dialed. Returns the peer's instance.
pub(crate) async fn answer(connection: &Connection, instance: u64) -> Result<u64, HelloError> {
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|error| lost(&error))?;
    let mut kind = [0; 1];
    let mut hello = [0; HELLO_BYTES];
    if recv.read_exact(&mut kind).await.is_err() || recv.read_exact(&mut hello).await.is_err() {
        return Err(gone(connection));
    }
    if kind != [STREAM_HELLO] {
        return Err(HelloError::Refusal(Refusal::Hello));
    }
    let theirs = decode(hello)?;
    if send.write_all(&encode(instance)).await.is_err() || send.finish().is_err() {
        return Err(gone(connection));
    }
    Ok(theirs)
}

fn encode(instance: u64) -> [u8; HELLO_BYTES] {
    let mut bytes = [VERSION; HELLO_BYTES];
    bytes[1..].copy_from_slice(&instance.to_be_bytes());
    bytes
}

fn decode(bytes: [u8; HELLO_BYTES]) -> Result<u64, HelloError> {
    let [version, instance @ ..] = bytes;
    if version != VERSION {
        return Err(HelloError::Refusal(Refusal::Version { theirs: version, ours: VERSION }));
    }
    Ok(u64::from_be_bytes(instance))
}

/// A stream failed: because the connection is closed, or because the peer ended the stream early.
fn gone(connection: &Connection) -> HelloError {
    match connection.close_reason() {
        Some(error) => lost(&error),
        None => HelloError::Refusal(Refusal::Hello),
    }
}

fn lost(error: &quinn::ConnectionError) -> HelloError {
    HelloError::Lost {
        why: tls::explain(error),
        refused: tls::is_refusal(error),
        disowned: tls::is_disowned(error),
    }
}
