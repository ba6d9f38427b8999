//! An ordered stream of frames in both directions, for connection records and their
//! acknowledgements.

use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use steadfast_model::NodeId;

use crate::{
    StreamError,
    call::{RESET_GIVEN_UP, RESET_TOO_LONG, explain_reset},
    limits::FRAME_BYTES_MAX,
    tls,
};

/// Both directions of an ordered stream. A frame is its length (4 bytes, big-endian) and as many
/// bytes, [`FRAME_BYTES_MAX`] at most; an empty frame is a frame.
#[derive(Debug)]
pub struct PeerStream {
    writer: FrameWriter,
    reader: FrameReader,
}

impl PeerStream {
    pub(crate) fn new(peer: NodeId, send: SendStream, recv: RecvStream) -> Self {
        let reader = FrameReader { peer, recv, header: [0; 4], header_have: 0, body: None };
        Self { writer: FrameWriter { peer, send: Some(send) }, reader }
    }

    /// The node at the other end.
    pub fn peer(&self) -> NodeId {
        self.reader.peer
    }

    /// The two directions, to be used by two tasks.
    pub fn split(self) -> (FrameWriter, FrameReader) {
        (self.writer, self.reader)
    }

    /// Tells the peer that nobody wants this stream.
    pub(crate) fn refuse(mut self, code: VarInt) {
        let _ = self.reader.recv.stop(code);
        if let Some(mut send) = self.writer.send.take() {
            let _ = send.reset(code);
        }
    }

    /// See [`FrameWriter::write_frame`].
    pub async fn write_frame(&mut self, frame: &[u8]) -> Result<(), StreamError> {
        self.writer.write_frame(frame).await
    }

    /// See [`FrameReader::read_frame`].
    pub async fn read_frame(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        self.reader.read_frame().await
    }
}

/// The sending half. Dropped unfinished, it tells the peer that the stream broke.
#[derive(Debug)]
pub struct FrameWriter {
    peer: NodeId,
    send: Option<SendStream>,
}

impl FrameWriter {
    /// Hands a frame to the stream; waits while the peer has no room.
    ///
    /// Must not be cancelled: a frame written in part is the end of the stream.
    pub async fn write_frame(&mut self, frame: &[u8]) -> Result<(), StreamError> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(StreamError::FrameTooLong { bytes: frame.len(), max: FRAME_BYTES_MAX });
        }
        let Some(send) = &mut self.send else {
            return Err(StreamError::Broken { peer: self.peer, why: "already finished".into() });
        };
        // One write: the header alone would go out in a packet of its own.
        let mut bytes = Vec::with_capacity(4 + frame.len());
        bytes.extend((frame.len() as u32).to_be_bytes());
        bytes.extend(frame);
        send.write_all(&bytes).await.map_err(|error| {
            let why = match error {
                WriteError::Stopped(code) => explain_reset(code),
                WriteError::ConnectionLost(error) => tls::explain(&error),
                other => other.to_string(),
            };
            StreamError::Broken { peer: self.peer, why }
        })
    }

    /// Ends this direction in good order: the peer reads every frame, then `None`.
    pub fn finish(&mut self) {
        if let Some(mut send) = self.send.take() {
            // Fails only when the peer does not want the rest.
            let _ = send.finish();
        }
    }
}

impl Drop for FrameWriter {
    fn drop(&mut self) {
        if let Some(send) = &mut self.send {
            let _ = send.reset(RESET_GIVEN_UP);
        }
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct FrameReader {
    peer: NodeId,
    recv: RecvStream,
    header: [u8; 4],
    header_have: usize,
    /// The frame under way and how much of it is there.
    body: Option<(Vec<u8>, usize)>,
}

impl FrameReader {
    /// The next frame; `None` when the peer has finished. May be cancelled: what has arrived of a
    /// frame is kept for the next call.
    pub async fn read_frame(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        loop {
            if let Some((body, have)) = &mut self.body {
                if *have == body.len() {
                    let frame = std::mem::take(body);
                    self.body = None;
                    self.header_have = 0;
                    return Ok(Some(frame));
                }
                let read = self.recv.read(&mut body[*have..]).await;
                let want = body.len();
                match read.map_err(|error| broken(self.peer, error))? {
                    Some(bytes) => *have += bytes,
                    None => {
                        return Err(StreamError::Truncated { peer: self.peer, have: *have, want });
                    }
                }
                continue;
            }
            let read = self.recv.read(&mut self.header[self.header_have..]).await;
            match read.map_err(|error| broken(self.peer, error))? {
                Some(bytes) => self.header_have += bytes,
                None if self.header_have == 0 => return Ok(None),
                None => {
                    let have = self.header_have;
                    return Err(StreamError::Truncated { peer: self.peer, have, want: 4 });
                }
            }
            if self.header_have == self.header.len() {
                self.start_body()?;
            }
        }
    }

    fn start_body(&mut self) -> Result<(), StreamError> {
        let bytes = u32::from_be_bytes(self.header) as usize;
        if bytes > FRAME_BYTES_MAX {
            // The writer learns why; nothing after this can be read in any case.
            let _ = self.recv.stop(RESET_TOO_LONG);
            return Err(StreamError::FrameTooLong { bytes, max: FRAME_BYTES_MAX });
        }
        self.body = Some((vec![0; bytes], 0));
        Ok(())
    }
}

fn broken(peer: NodeId, error: ReadError) -> StreamError {
    let why = match error {
        ReadError::Reset(code) => explain_reset(code),
        ReadError::ConnectionLost(error) => tls::explain(&error),
        other => other.to_string(),
    };
    StreamError::Broken { peer, why }
}
