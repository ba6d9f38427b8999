//! Every bound of this crate, in one place.

use std::time::Duration;

/// A call's request at most. Raft sends its snapshots in chunks below this.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

/// A call's answer at most.
pub const RESPONSE_BYTES_MAX: usize = 8 << 20;

/// One frame of an ordered stream at most.
pub const FRAME_BYTES_MAX: usize = 1 << 20;

/// Streams (calls and ordered ones) that a peer may have open towards us on one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 128;

/// Calls of one connection that are handled at the same time. Further ones wait, unread.
pub const CALLS_PER_CONNECTION_MAX: usize = 64;

/// Received datagrams that wait for the driver. Later ones are dropped and counted: an old beacon
/// is worth nothing.
pub const DATAGRAM_QUEUE_MAX: usize = 1024;

/// Bytes of datagrams that QUIC itself buffers, in each direction of one connection.
pub const DATAGRAM_BUFFER_BYTES: usize = 64 << 10;

/// Incoming ordered streams that wait to be picked up. Later ones are refused.
pub const INCOMING_STREAM_QUEUE_MAX: usize = 64;

/// Events that wait to be picked up. Later ones are dropped and counted; the state itself is read
/// from [`crate::Links::status`].
pub const EVENT_QUEUE_MAX: usize = 1024;

/// Peers to be dialed at most: a cluster has up to 32 nodes.
pub const PEERS_MAX: usize = 64;

/// Incoming handshakes under way at the same time. Further ones are ignored: the sender repeats.
pub const HANDSHAKES_MAX: usize = 64;

/// From the first packet of a dialed connection to the peer's welcome. Short, because a packet
/// that was lost while the peer was away is repeated with growing pauses: a new attempt is faster.
pub const DIAL_TIMEOUT: Duration = Duration::from_millis(500);

/// The same, seen from the side that was dialed. Longer: it must not cut what the dialer still
/// waits for.
pub const ACCEPT_TIMEOUT: Duration = Duration::from_millis(1000);

/// Pause between two attempts to reach a peer that does not answer.
pub const REDIAL_PAUSE: Duration = Duration::from_millis(100);

/// Pause after a peer has refused us (or we it): a handshake costs both sides some CPU time.
pub const REFUSED_PAUSE: Duration = Duration::from_millis(250);

/// Longest reason that is sent or shown when a connection is closed.
pub const REASON_BYTES_MAX: usize = 200;
