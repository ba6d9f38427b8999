//! Why a frame changed nothing.

use thiserror::Error;

/// Counted by reason; none of them is more than a line at debug level, because a client on the
/// segment can cause all of them.
#[derive(Clone, Copy, Debug, Eq, Error, Hash, Ord, PartialEq, PartialOrd)]
pub enum RejectReason {
    /// Longer than any frame, shorter than the smallest, or it ends too early or too late.
    #[error("frame has a wrong length")]
    Length,
    /// A version this node does not speak.
    #[error("frame has an unknown version; upgrade the older node")]
    Version,
    /// The cluster id is another one: two clusters share the segment.
    #[error("frame belongs to another cluster")]
    Cluster,
    /// The tag does not fit the committed key.
    #[error("frame is forged, or its sender has another key")]
    Forged,
    /// A count or a code is out of its range.
    #[error("frame is malformed")]
    Malformed,
    /// It was sent on another path than it came in on.
    #[error("frame was recorded on another path")]
    Path,
    /// It is for another node.
    #[error("frame is for another node")]
    NotForMe,
    /// The sender is no member.
    #[error("sender is no member of the cluster")]
    NotMember,
    /// It came from this node itself.
    #[error("frame is an own one")]
    Own,
    /// Its sequence is not above the last one of that run on that path.
    #[error("frame is replayed")]
    Replayed,
    /// Its run ended: a newer run of that node has been heard.
    #[error("frame is from an earlier run of its sender")]
    OldBoot,
    /// Its run has not yet shown that it hears this node: not trusted, but answered.
    #[error("run of the sender has not yet echoed this node")]
    Unproven,
}
