//! IPv4 packets without DF that do not fit their way leave in pieces (RFC 791 section 3.2).

use crate::packet::{Body, Pkt};

/// More pieces than this, and the packet goes nowhere.
const PIECES_MAX: usize = 16;

/// The least way that a packet is cut for (RFC 791).
pub(super) const ROOM_MIN: usize = 68;

/// The pieces of a packet that does not fit `room`: each but the last as long as fits, in units of
/// eight octets; none if there would be too many.
pub(super) fn pieces(whole: &Pkt, room: usize) -> Option<Vec<Pkt>> {
    let packet = whole.packet();
    let (protocol, payload) = (packet[9], &packet[20..]);
    let mut pieces = Vec::new();
    let mut at = 0;
    while at < payload.len() {
        let fits = payload.len() - at <= room - 20;
        let end = if fits { payload.len() } else { at + (room - 20) / 8 * 8 };
        let body = Body::Inside { protocol, bytes: payload[at..end].to_vec() };
        pieces.push(Pkt { offset: at as u16, more: !fits, body, ..whole.clone() });
        at = end;
    }
    (pieces.len() <= PIECES_MAX).then_some(pieces)
}
