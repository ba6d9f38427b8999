//! What is wrong with a frame.

use thiserror::Error;

use super::{OLDEST_VERSION, VERSION};

/// A frame that cannot be read. The stream it came on is to be closed: order is lost with it.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum WireError {
    /// The peer runs another release.
    #[error(
        "peer speaks replication versions {} to {}, this node {OLDEST_VERSION} to {VERSION}; upgrade the older one",
        theirs.0, theirs.1
    )]
    Version {
        /// The oldest and the newest that the peer speaks.
        theirs: (u8, u8),
    },
    /// The peer divides keys differently.
    #[error("stream for shard {shard} of {shards}, this node has {want} shards")]
    Shard {
        /// Of the stream.
        shard: u8,
        /// Theirs.
        shards: u8,
        /// Ours.
        want: u8,
    },
    /// No such message.
    #[error("unknown message type {got}")]
    Type {
        /// The first byte.
        got: u8,
    },
    /// No such item in a batch.
    #[error("unknown item {got:#04x} at byte {at}")]
    Item {
        /// The head byte.
        got: u8,
        /// Where.
        at: usize,
    },
    /// The frame ends in the middle of something.
    #[error("frame ends within {what}")]
    Truncated {
        /// Of what.
        what: &'static str,
    },
    /// Bytes after the end.
    #[error("{bytes} bytes after the end of the message")]
    Trailing {
        /// How many.
        bytes: usize,
    },
    /// Larger than anything this version sends.
    #[error("frame of {bytes} bytes, at most {max} are allowed")]
    TooLong {
        /// How many.
        bytes: usize,
        /// The bound.
        max: usize,
    },
    /// A number outside its range.
    #[error("{what} out of range: {got}")]
    Range {
        /// Of what.
        what: &'static str,
        /// The number.
        got: u64,
    },
    /// A varint of more than 64 bits.
    #[error("{what} is no 64-bit number")]
    Varint {
        /// Of what.
        what: &'static str,
    },
}
