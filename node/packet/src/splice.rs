//! Octets of a TCP payload that are replaced by more, or cut off.
//!
//! Guarantees: all or nothing; checksums that were right stay right and wrong ones stay wrong; what
//! comes behind replaced octets does not move, so a frame grows at its front alone. Not here: what
//! that does to sequence numbers.

use std::ops::Range;

use crate::{
    Ipv4, Ipv6, Packet, Tcp, TcpFlags, Transport,
    answer::NoSpace,
    checksum::{internet_checksum, update16},
    header::{view, view_mut},
    insert::lengthen_ip,
    options::header_end,
};

/// Puts `new` in the place of no more octets of the payload of the TCP packet in the frame at
/// `start` of `buffer`; `octets` are offsets in the frame. Gives the new start, and the packet as it
/// is from there.
///
/// # Errors
/// Nothing changed: there is no room in front of the frame, it is no whole TCP packet, or the
/// octets are not in its payload or are more than the new ones.
pub fn splice(
    buffer: &mut [u8],
    start: usize,
    packet: &Packet,
    octets: Range<usize>,
    new: &[u8],
) -> Result<(usize, Packet), NoSpace> {
    let frame = buffer.get(start..).ok_or(NoSpace)?;
    let payload = header_end(frame, packet).ok_or(NoSpace)?;
    let is_whole = packet.fragment.is_none() && packet.end <= frame.len();
    let is_inside = payload <= octets.start && octets.end <= packet.end;
    let by = new.len().checked_sub(octets.len()).ok_or(NoSpace)?;
    let new_start = start.checked_sub(by).ok_or(NoSpace)?;
    let end = packet.end + by;
    if !is_whole || !is_inside || end - packet.l3 > usize::from(u16::MAX) {
        return Err(NoSpace);
    }
    // The checksum counts words from the start of the header: those behind may fall apart otherwise.
    let from = packet.l4 + ((octets.start - packet.l4) & !1);
    let sum = |octets: &[u8]| !internet_checksum(0, octets);
    let old = sum(&frame[from..packet.end]);
    buffer.copy_within(start..start + octets.start, new_start);
    let frame = &mut buffer[new_start..];
    frame[octets.start..][..new.len()].copy_from_slice(new);
    let sum = sum(&frame[from..end]);
    lengthen_ip(frame, packet, by as u16);
    let segment = (packet.end - packet.l4) as u16;
    if let Some(tcp) = view_mut::<Tcp>(frame, packet.l4) {
        let checksum = update16(tcp.checksum.get(), segment, segment + by as u16);
        let checksum = update16(checksum, old, sum);
        //= RFC 9293 section 3.1: counts from the sequence number of the segment
        let urgent = tcp.urgent.get();
        let is_behind =
            tcp.flags & TcpFlags::URG != 0 && payload + usize::from(urgent) >= octets.end;
        let moved = if is_behind { urgent.saturating_add(by as u16) } else { urgent };
        tcp.urgent.set(moved);
        tcp.checksum.set(update16(checksum, urgent, moved));
    }
    Ok((new_start, Packet { end, ..*packet }))
}

/// Takes the payload off a TCP packet, and a FIN, which comes behind it. Gives what the packet is
/// then; the octets stay behind its end.
///
/// A fragment is left alone.
#[must_use]
pub fn cut_payload(frame: &mut [u8], packet: &Packet) -> Packet {
    header_end(frame, packet).map_or(*packet, |end| cut(frame, packet, end))
}

/// Takes off what a TCP packet has from the offset `end` in the frame on, and a FIN. Gives what the
/// packet is then; the octets stay behind its end.
///
/// A fragment is left alone, and a packet that ends before, or whose header does not.
#[must_use]
pub fn cut(frame: &mut [u8], packet: &Packet, end: usize) -> Packet {
    let is_inside = header_end(frame, packet).is_some_and(|header| header <= end);
    if !is_inside || packet.fragment.is_some() || packet.end < end {
        return *packet;
    }
    let from = packet.l4 + ((end - packet.l4) & !1);
    let Some(old) = frame.get(from..packet.end) else { return *packet };
    let (old, new) = (internet_checksum(0, old), internet_checksum(0, &frame[from..end]));
    let Some(tcp) = view::<Tcp>(frame, packet.l4) else { return *packet };
    let checksum = update16(tcp.checksum.get(), !old, !new);
    let off = (packet.end - end) as u16;
    let segment = (packet.end - packet.l4) as u16;
    if packet.is_ipv6() {
        let Some(ip) = view_mut::<Ipv6>(frame, packet.l3) else { return *packet };
        ip.payload_len.set(ip.payload_len.get().wrapping_sub(off));
    } else {
        let Some(ip) = view_mut::<Ipv4>(frame, packet.l3) else { return *packet };
        let (old, new) = (ip.total_len.get(), ip.total_len.get().wrapping_sub(off));
        ip.total_len.set(new);
        ip.checksum.set(update16(ip.checksum.get(), old, new));
    }
    if let Some(tcp) = view_mut::<Tcp>(frame, packet.l4) {
        let old = u16::from_be_bytes([tcp.offset, tcp.flags]);
        tcp.flags &= !TcpFlags::FIN;
        let new = u16::from_be_bytes([tcp.offset, tcp.flags]);
        tcp.checksum.set(update16(update16(checksum, old, new), segment, segment - off));
    }
    let mut packet = Packet { end, ..*packet };
    if let Transport::Tcp { flags, .. } = &mut packet.transport {
        flags.0 &= !TcpFlags::FIN;
    }
    packet
}
