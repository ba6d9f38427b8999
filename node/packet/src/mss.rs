//! The maximum segment size that a TCP handshake announces (RFC 9293 section 3.7.1).

use zerocopy::byteorder::network_endian::U16;

use crate::{
    Packet, Tcp, Transport,
    checksum::update_bytes,
    header::{view, view_mut},
    options::{MSS, options},
};

/// Lowers the segment size that a SYN or SYN-ACK announces to `most`; says whether it did.
///
/// Nothing is added: without the option a peer sends no more than 536 bytes (RFC 9293 section
/// 3.7.1), and 1220 over IPv6. A malformed option ends the search.
pub fn clamp_mss(frame: &mut [u8], packet: &Packet, most: u16) -> bool {
    change_mss(frame, packet, |_| most)
}

/// Lowers the segment size that a SYN or SYN-ACK announces by `by`, but not below `least`; says
/// whether it did. As [`clamp_mss`] otherwise.
pub fn lower_mss(frame: &mut [u8], packet: &Packet, by: u16, least: u16) -> bool {
    change_mss(frame, packet, |announced| announced.saturating_sub(by).max(least))
}

/// Sets what is announced to what `new` makes of it, if that is less.
fn change_mss(frame: &mut [u8], packet: &Packet, new: impl Fn(u16) -> u16) -> bool {
    let Transport::Tcp { flags, .. } = packet.transport else { return false };
    if !flags.syn() {
        return false;
    }
    let Some(at) = value_offset(frame, packet) else { return false };
    let Some(value) = view::<U16>(frame, at) else { return false };
    let most = new(value.get());
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
    let found = options(frame, packet)?.find(|option| match option {
        Ok(option) => option.kind == MSS,
        Err(_) => true,
    });
    let value = found?.ok()?.value;
    (value.len() == size_of::<U16>()).then_some(value.start)
}
