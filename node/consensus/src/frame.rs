//! What goes over the wire: a fixed header, JSON, and raw snapshot bytes.
//!
//! ```text
//! request   'S' 'R'  version  kind    cluster (8)   target (4)    json length (4)  json  raw
//! response  'S' 'R'  version  status  instance (8)                json
//! ```
//!
//! All numbers are big-endian. Decoding never panics and allocates no more than it was given.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest request or response. A transport may refuse more.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
/// Largest snapshot a node accepts.
pub const SNAPSHOT_BYTES_MAX: u64 = 256 << 20;

/// Largest command. One always fits into a frame, with its entry's header.
pub(crate) const COMMAND_BYTES_MAX: usize = 4 << 20;
/// Entries read for one replication request, encoded. The first is sent whatever its size.
pub(crate) const LOG_READ_BYTES_MAX: usize = 2 << 20;
/// Bytes of a snapshot sent in one request.
pub(crate) const SNAPSHOT_CHUNK_BYTES: u64 = 256 << 10;

const MAGIC: [u8; 2] = *b"SR";
const VERSION: u8 = 1;
const REQUEST_HEADER_BYTES: usize = 20;
const RESPONSE_HEADER_BYTES: usize = 12;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    AppendEntries = 1,
    Vote = 2,
    InstallSnapshot = 3,
}

/// How it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    /// The JSON is openraft's response.
    Ok = 0,
    /// The JSON is openraft's error.
    Error = 1,
    /// The request was not put to Raft; the JSON is a string that says why.
    Refused = 2,
    /// The sender's id was removed from the cluster; the JSON is a string that says so.
    Removed = 3,
}

/// Why bytes are no frame.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("{0} bytes are too few for a header")]
    Short(usize),
    #[error("{0} bytes are more than a frame may have")]
    Long(usize),
    #[error("not a Raft frame")]
    Magic,
    #[error("version {0} of the Raft protocol is not known here")]
    Version(u8),
    #[error("kind or status {0} is not known")]
    Kind(u8),
    #[error("the length of the content is wrong")]
    Length,
    #[error("the content cannot be read: {0}")]
    Json(String),
}

/// A received request. The content is decoded when the header is found acceptable.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) kind: Kind,
    pub(crate) cluster: u64,
    pub(crate) target: u32,
    pub(crate) json: &'a [u8],
    pub(crate) raw: &'a [u8],
}

impl<'a> Request<'a> {
    pub(crate) fn encode<T: Serialize>(
        kind: Kind,
        cluster: u64,
        target: u32,
        content: &T,
        raw: &[u8],
    ) -> Result<Vec<u8>, FrameError> {
        let mut frame = Vec::new();
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&[VERSION, kind as u8]);
        frame.extend_from_slice(&cluster.to_be_bytes());
        frame.extend_from_slice(&target.to_be_bytes());
        frame.extend_from_slice(&[0; 4]);
        serde_json::to_writer(&mut frame, content).map_err(|e| FrameError::Json(e.to_string()))?;
        let json_bytes = frame.len() - REQUEST_HEADER_BYTES;
        let length = u32::try_from(json_bytes).map_err(|_| FrameError::Long(frame.len()))?;
        frame[REQUEST_HEADER_BYTES - 4..REQUEST_HEADER_BYTES]
            .copy_from_slice(&length.to_be_bytes());
        frame.extend_from_slice(raw);
        if frame.len() > FRAME_BYTES_MAX {
            return Err(FrameError::Long(frame.len()));
        }
        Ok(frame)
    }

    pub(crate) fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, rest) = decode_start(frame)?;
        let short = FrameError::Short(frame.len());
        let kind = match kind {
            1 => Kind::AppendEntries,
            2 => Kind::Vote,
            3 => Kind::InstallSnapshot,
            other => return Err(FrameError::Kind(other)),
        };
        let (cluster, rest) = rest.split_first_chunk::<8>().ok_or_else(|| short.clone())?;
        let (target, rest) = rest.split_first_chunk::<4>().ok_or_else(|| short.clone())?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (json, raw) = rest.split_at_checked(length).ok_or(FrameError::Length)?;
        Ok(Self {
            kind,
            cluster: u64::from_be_bytes(*cluster),
            target: u32::from_be_bytes(*target),
            json,
            raw,
        })
    }
}

/// A response, and which store it comes from.
#[derive(Debug)]
pub(crate) struct Response<'a> {
    pub(crate) status: Status,
    pub(crate) instance: u64,
    pub(crate) json: &'a [u8],
}

impl<'a> Response<'a> {
    /// Encodes a response. A content that cannot be encoded becomes a refusal.
    pub(crate) fn encode<T: Serialize>(status: Status, instance: u64, content: &T) -> Vec<u8> {
        let (status, json) = match serde_json::to_vec(content) {
            Ok(json) if json.len() <= FRAME_BYTES_MAX - RESPONSE_HEADER_BYTES => (status, json),
            Ok(_) => (Status::Refused, br#""the response is too large""#.to_vec()),
            Err(_) => (Status::Refused, br#""the response cannot be encoded""#.to_vec()),
        };
        let mut frame = Vec::with_capacity(RESPONSE_HEADER_BYTES + json.len());
        frame.extend_from_slice(&MAGIC);
        frame.extend_from_slice(&[VERSION, status as u8]);
        frame.extend_from_slice(&instance.to_be_bytes());
        frame.extend_from_slice(&json);
        frame
    }

    pub(crate) fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let (status, rest) = decode_start(frame)?;
        let status = match status {
            0 => Status::Ok,
            1 => Status::Error,
            2 => Status::Refused,
            3 => Status::Removed,
            other => return Err(FrameError::Kind(other)),
        };
        let (instance, json) =
            rest.split_first_chunk::<8>().ok_or(FrameError::Short(frame.len()))?;
        Ok(Self { status, instance: u64::from_be_bytes(*instance), json })
    }
}

pub(crate) fn decode_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(json).map_err(|e| FrameError::Json(e.to_string()))
}

fn decode_start(frame: &[u8]) -> Result<(u8, &[u8]), FrameError> {
    if frame.len() > FRAME_BYTES_MAX {
        return Err(FrameError::Long(frame.len()));
    }
    let Some(([magic0, magic1, version, kind], rest)) = frame.split_first_chunk::<4>() else {
        return Err(FrameError::Short(frame.len()));
    };
    if [*magic0, *magic1] != MAGIC {
        return Err(FrameError::Magic);
    }
    if *version != VERSION {
        return Err(FrameError::Version(*version));
    }
    Ok((*kind, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire_and_no_prefix_of_it_is_one() {
        let frame = Request::encode(Kind::Vote, 7, 3, &"hello", b"raw").unwrap();
        let request = Request::decode(&frame).unwrap();
        assert_eq!((request.kind, request.cluster, request.target), (Kind::Vote, 7, 3));
        assert_eq!(decode_json::<String>(request.json).unwrap(), "hello");
        assert_eq!(request.raw, b"raw");
        // Raw bytes have no length of their own: they end with the frame.
        for length in 0..frame.len() - 3 {
            assert!(Request::decode(&frame[..length]).is_err(), "prefix of {length} bytes");
        }
    }

    #[test]
    fn foreign_bytes_are_refused_by_name() {
        let mut frame = Request::encode(Kind::Vote, 7, 3, &"hello", b"").unwrap();
        frame[3] = 9;
        assert_eq!(Request::decode(&frame).unwrap_err(), FrameError::Kind(9));
        frame[2] = 2;
        assert_eq!(Request::decode(&frame).unwrap_err(), FrameError::Version(2));
        frame[0] = b'X';
        assert_eq!(Request::decode(&frame).unwrap_err(), FrameError::Magic);
        assert_eq!(
            Request::decode(&vec![0; FRAME_BYTES_MAX + 1]).unwrap_err(),
            FrameError::Long(FRAME_BYTES_MAX + 1)
        );
    }

    #[test]
    fn a_request_too_large_for_a_frame_is_not_encoded() {
        let raw = vec![0; FRAME_BYTES_MAX];
        let refused = Request::encode(Kind::InstallSnapshot, 7, 3, &"", &raw);
        assert!(matches!(refused, Err(FrameError::Long(_))));
    }

    #[test]
    fn a_response_survives_the_wire() {
        let frame = Response::encode(Status::Refused, 42, &"no");
        let response = Response::decode(&frame).unwrap();
        assert_eq!((response.status, response.instance), (Status::Refused, 42));
        assert_eq!(decode_json::<String>(response.json).unwrap(), "no");
        for length in 0..RESPONSE_HEADER_BYTES {
            assert!(Response::decode(&frame[..length]).is_err(), "prefix of {length} bytes");
        }
    }
}
