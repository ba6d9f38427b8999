//! Octets put into a TCP segment.
//!
//! Guarantees: all or nothing; checksums that were right stay right and wrong ones stay wrong; what
//! comes after the new octets does not move, so a frame grows at its front alone.

use zerocopy::byteorder::network_endian::U16;

use crate::{
    Ipv4, Ipv6, Packet, Tcp, Transport,
    answer::NoSpace,
    checksum::{update_bytes, update16},
    header::view_mut,
};

/// The most that is put in at once: a PROXY header of IPv6.
pub(crate) const INSERTED_MAX: usize = 52;

/// Puts `octets`, an even number of them, into the TCP packet in the frame at `start` of `buffer`,
/// `at` octets behind the start of its TCP header; `at` is even too. Gives the new start; offsets
/// from there to the headers are as before.
///
/// # Errors
/// Nothing changed: there is no room in front of the frame, or it is no whole TCP packet that may be
/// so long.
pub(crate) fn insert(
    buffer: &mut [u8],
    start: usize,
    packet: &Packet,
    at: usize,
    octets: &[u8],
) -> Result<usize, NoSpace> {
    let is_whole = matches!(packet.transport, Transport::Tcp { .. }) && packet.fragment.is_none();
    let len = octets.len();
    let new_start = start.checked_sub(len).ok_or(NoSpace)?;
    let total = packet.end.checked_sub(packet.l3).ok_or(NoSpace)? + len;
    let at = packet.l4 + at;
    let is_inside = at <= packet.end && buffer.len().saturating_sub(start) >= packet.end;
    if !is_whole || !is_inside || len > INSERTED_MAX || total > usize::from(u16::MAX) {
        return Err(NoSpace);
    }
    buffer.copy_within(start..start + at, new_start);
    buffer[new_start + at..][..len].copy_from_slice(octets);
    let frame = &mut buffer[new_start..];
    lengthen_ip(frame, packet, len as u16);
    if let Some(tcp) = view_mut::<Tcp>(frame, packet.l4) {
        // The pseudo header has the length of the segment.
        let segment = (packet.end - packet.l4) as u16;
        let checksum = update16(tcp.checksum.get(), segment, segment + len as u16);
        tcp.checksum.set(update_bytes(checksum, &[0; INSERTED_MAX][..len], octets));
    }
    Ok(new_start)
}

pub(crate) fn lengthen_ip(frame: &mut [u8], packet: &Packet, len: u16) {
    let grow = |field: &mut U16| {
        let old = field.get();
        field.set(old.wrapping_add(len));
        (old, field.get())
    };
    if packet.is_ipv6() {
        if let Some(ip) = view_mut::<Ipv6>(frame, packet.l3) {
            grow(&mut ip.payload_len);
        }
    } else if let Some(ip) = view_mut::<Ipv4>(frame, packet.l3) {
        let (old, new) = grow(&mut ip.total_len);
        ip.checksum.set(update16(ip.checksum.get(), old, new));
    }
}
