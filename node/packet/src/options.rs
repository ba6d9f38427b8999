//! The options of a TCP header (RFC 9293 section 3.1), one after the other.
//!
//! Guarantees: an option that is given lies inside the header, which lies inside the frame; the first
//! one that does not ends the list with an error.

use std::ops::Range;

use crate::{Packet, Tcp, header::view};

/// End of the list.
const END: u8 = 0;
/// One octet of padding.
pub(crate) const NO_OPERATION: u8 = 1;
/// Maximum segment size.
pub(crate) const MSS: u8 = 2;
/// Window scale (RFC 7323 section 2.2).
pub(crate) const WINDOW_SCALE: u8 = 3;
/// Selective acknowledgements may be sent (RFC 2018 section 2).
pub(crate) const SACK_PERMITTED: u8 = 4;
/// Selective acknowledgements (RFC 2018 section 3).
pub(crate) const SACK: u8 = 5;
/// Timestamps (RFC 7323 section 3.2).
pub(crate) const TIMESTAMPS: u8 = 8;

/// The options cannot be told apart, or one has a length that its kind never has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("malformed TCP options")]
pub struct BadOptions;

/// An option: its kind, and where its value lies in the frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct TcpOption {
    pub(crate) kind: u8,
    pub(crate) value: Range<usize>,
}

/// Steps through the options of a segment.
pub(crate) struct Options<'a> {
    frame: &'a [u8],
    at: usize,
    end: usize,
}

/// The options of the segment in `packet`, which is one of TCP; none if it is not in `frame`.
pub(crate) fn options<'a>(frame: &'a [u8], packet: &Packet) -> Option<Options<'a>> {
    let end = header_end(frame, packet)?;
    Some(Options { frame, at: packet.l4 + size_of::<Tcp>(), end })
}

/// Where the TCP header ends in the frame.
pub(crate) fn header_end(frame: &[u8], packet: &Packet) -> Option<usize> {
    let tcp = view::<Tcp>(frame, packet.l4)?;
    let end = packet.l4 + usize::from(tcp.offset >> 4) * 4;
    (end <= packet.end.min(frame.len())).then_some(end)
}

impl Iterator for Options<'_> {
    type Item = Result<TcpOption, BadOptions>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match *self.frame.get(self.at..self.end)? {
                [END, ..] | [] => return None,
                [NO_OPERATION, ..] => self.at += 1,
                //= RFC 9293 section 3.1: the length counts kind and length too
                [kind, len, ..] if len >= 2 && usize::from(len) <= self.end - self.at => {
                    let value = self.at + 2..self.at + usize::from(len);
                    self.at = value.end;
                    return Some(Ok(TcpOption { kind, value }));
                }
                _ => {
                    self.at = self.end;
                    return Some(Err(BadOptions));
                }
            }
        }
    }
}
