//! The maximum segment size that a TCP handshake announces (RFC 9293 section 3.7.1).

use zerocopy::byteorder::network_endian::U16;

use crate::{
    Packet, Tcp, Transport,
    checksum::update_bytes,
    header::{view, view_mut},
};

const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: usize = 4;

/// Lowers the segment size that a SYN or SYN-ACK announces to `most`; says whether it did.
///
/// Nothing is added: without the option a peer sends no more than 536 bytes (RFC 9293 section
/// 3.7.1), and 1220 over IPv6. A malformed option ends the search.
pub fn clamp_mss(frame: &mut [u8], packet: &Packet, most: u16) -> bool {
    let Transport::Tcp { flags, .. } = packet.transport else { return false };
    if !flags.syn() {
        return false;
    }
    let Some(at) = value_offset(frame, packet) else { return false };
    let Some(value) = view::<U16>(frame, at) else { return false };
    if value.get() <= most {
        return false;
    }
    // The option may start anywhere; the checksum counts words from the start of the header.
    let words = packet.l4 + ((at - packet.l4) & !1);
    let Some(old) = view::<[u8; 4]>(frame, words).copied() else { return false };
    let Some(value) = view_mut::<U16>(frame, at) else { return false };
    value.set(most);
    let Some(new) = view::<[u8; 4]>(frame, words).copied() else { return false };
    let Some(tcp) = view_mut::<Tcp>(frame, packet.l4) else { return false };
    tcp.checksum.set(update_bytes(tcp.checksum.get(), &old, &new));
    true
}

/// Where the value of the option lies in the frame.
fn value_offset(frame: &[u8], packet: &Packet) -> Option<usize> {
    let tcp = view::<Tcp>(frame, packet.l4)?;
    let end = (packet.l4 + usize::from(tcp.offset >> 4) * 4).min(packet.end);
    let mut at = packet.l4 + size_of::<Tcp>();
    while at < end {
        let rest = frame.get(at..end)?;
        match *rest {
            [END, ..] => return None,
            [NO_OPERATION, ..] => at += 1,
            [kind, len, ..] => {
                let len = usize::from(len);
                if len < 2 || len > rest.len() {
                    return None;
                }
                if kind == MSS {
                    return (len == MSS_LEN).then_some(at + 2);
                }
                at += len;
            }
            _ => return None,
        }
    }
    None
}
