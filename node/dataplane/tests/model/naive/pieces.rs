//! IPv4 packets without DF that do not fit their way leave in pieces (RFC 791 section 3.2).

use crate::packet::{Part, Pkt};

/// More pieces than this, and the packet goes nowhere.
const PIECES_MAX: usize = 16;

/// The least way that a packet is cut for (RFC 791).
pub(super) const ROOM_MIN: usize = 68;

/// The pieces of a packet, or of a part of one, that does not fit `room`: each but the last as long
/// as fits, in units of eight octets; none if there would be too many.
pub(super) fn pieces(whole: &Pkt, room: usize) -> Option<Vec<Pkt>> {
    let header = 20 + whole.between.len();
    let all = Part { offset: 0, len: whole.len() - header, more: false };
    let Part { offset, len, more } = whole.part.unwrap_or(all);
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < len {
        let fits = len - at <= room - header;
        let end = if fits { len } else { at + (room - header) / 8 * 8 };
        let part = Part { offset: offset + at, len: end - at, more: !fits || more };
        let between =
            if part.offset > 0 { whole.between.of_later() } else { whole.between.clone() };
        pieces.push(Pkt { part: Some(part), between, ..whole.clone() });
        at = end;
    }
    (pieces.len() <= PIECES_MAX).then_some(pieces)
}
