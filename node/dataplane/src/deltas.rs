//! How the numbers of a TCP connection differ on its two sides.
//!
//! Where this node has spoken for one side before the other was heard (a handshake by cookie), or
//! has put something into the stream, each side counts from where it began, and packets are shifted
//! on their way. No other node can find these numbers again: they are copied with the connection.

use steadfast_packet::{
    Grown, IcmpError, Packet, SeqShift, quoted_seq, shift_numbers, shift_quoted_seq, tcp_header,
};

use crate::{Reason, cache::Way, frame::Frame};

/// What is added to numbers on their way, modulo 2^32.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Deltas {
    /// To the sequence numbers of the server; subtracted from what the client acknowledges.
    pub to_client: u32,
    /// To the sequence numbers of the client; subtracted from what the server acknowledges.
    pub to_server: u32,
    /// To the timestamps of the server; subtracted from those that the client echoes.
    pub timestamps: u32,
    /// The power of two that windows of the server are multiplied by: the client knows another
    /// scale than the server uses (RFC 7323 section 2.3).
    pub windows_to_client: i8,
    /// The same of the client's.
    pub windows_to_server: i8,
    /// The number of the client before which a header was put into its stream, until the server has
    /// acknowledged that; `to_server` counts it already. See `proxy_header`.
    pub header_at: Option<u32>,
    /// The last reply of the server that got longer on its way; `to_client` counts it already. See
    /// `replies`.
    pub longer: Option<LongerReply>,
}

/// A reply of an FTP server whose client gets a longer one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct LongerReply {
    /// The address in it, at most 15 octets, and by how many that of the VIP is longer.
    pub address: Grown,
    /// The client has acknowledged it.
    pub is_heard: bool,
}

/// How the numbers of a connection stand.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Numbers {
    /// Both sides count alike.
    Same,
    /// They differ by these.
    Shifted(Deltas),
    /// The server has not answered yet: see `handshake.rs`. Or who changes them has lost its processor:
    /// then the packet is dropped, and comes again.
    Unknown,
}

/// What a client that came with a cookie was told, and has told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Handshake {
    /// The number that it was given.
    pub(crate) cookie: u32,
    /// Its own.
    pub(crate) isn: u32,
    /// The timestamp that it was given, and its own.
    pub(crate) times: Option<(u32, u32)>,
    pub(crate) sack_permitted: bool,
    /// The scale of its windows.
    pub(crate) window_scale: Option<u8>,
    /// The largest segment that it takes.
    pub(crate) mss: u16,
    /// Its window, scaled.
    pub(crate) window: u16,
}

impl Deltas {
    /// Both sides count alike.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// `seq` is the number of the segment.
    fn of(&self, way: Way, seq: u32) -> SeqShift {
        match way {
            Way::In => SeqShift {
                seq: self.to_server,
                ack: self.to_client.wrapping_neg(),
                grown: self.longer.map(|longer| longer.address),
                ts_val: 0,
                ts_ecr: self.timestamps.wrapping_neg(),
                window: self.windows_to_server,
            },
            Way::Out => SeqShift {
                seq: self.of_server(seq),
                ack: self.to_server.wrapping_neg(),
                grown: None,
                ts_val: self.timestamps,
                ts_ecr: 0,
                window: self.windows_to_client,
            },
        }
    }

    /// Makes of a segment of one side what the other side understands.
    pub(crate) fn shift(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        way: Way,
    ) -> Result<(), Reason> {
        let seq = tcp_header(frame.received(), packet).map_or(0, |tcp| tcp.seq.get());
        shift_numbers(frame.bytes(), packet, &self.of(way, seq)).map_err(|_| Reason::TcpOptions)
    }

    /// What is added to a number of the server: less up to the end of a reply that got longer, where
    /// the client counts from the start of what it got.
    fn of_server(&self, seq: u32) -> u32 {
        let Some(LongerReply { address, .. }) = self.longer else { return self.to_client };
        let before = self.to_client.wrapping_sub(address.by.into());
        match seq.wrapping_sub(address.at).cast_signed() {
            ..=0 => before,
            within if within < address.len.into() => before.wrapping_sub(within.cast_unsigned()),
            _ => self.to_client,
        }
    }

    /// What was added to the number of a server's segment that an error quotes.
    fn of_quoted_reply(&self, frame: &[u8], error: &IcmpError) -> u32 {
        let known = self.longer.zip(quoted_seq(frame, error));
        known.map_or(self.to_client, |(longer, seq)| {
            seq.wrapping_sub(longer.address.back(seq.wrapping_sub(self.to_client), false))
        })
    }

    /// Gives the segment that an error quotes the number that its sender sent: `way` is that of the
    /// error, against the segment.
    pub(crate) fn shift_error(
        &self,
        frame: &mut Frame<'_>,
        packet: &Packet,
        error: &IcmpError,
        way: Way,
    ) {
        let by = match way {
            Way::In => self.of_quoted_reply(frame.received(), error),
            Way::Out => self.of_quoted(frame.received(), error),
        };
        shift_quoted_seq(frame.bytes(), packet, error, by.wrapping_neg());
    }
}
