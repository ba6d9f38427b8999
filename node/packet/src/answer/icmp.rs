//! ICMP (RFC 792) and ICMPv6 (RFC 4443) messages that answer a packet.

use std::net::IpAddr;

use zerocopy::IntoBytes;

use super::{NoSpace, TTL, l4_of_answer, pad, put_ip, swap_macs};
use crate::{
    Icmp, Ipv4, Ipv6, Packet,
    checksum::{internet_checksum, pseudo_sum, update16},
    header::{ip_protocol, view_mut},
};

//= RFC 1812 section 4.3.2.3: as much of the packet as fits without exceeding 576 bytes
const QUOTED_V4_MAX: usize = 576 - size_of::<Ipv4>() - size_of::<Icmp>();
//= RFC 4443 section 2.4 (c): as much of the packet as fits the minimum MTU of IPv6
pub(super) const QUOTED_V6_MAX: usize = 1280 - size_of::<Ipv6>() - size_of::<Icmp>();

const ECHO_REPLY: u8 = 0;
const ECHO_REPLY_V6: u8 = 129;

/// Turns an echo request into its reply. Returns the frame's length.
//= RFC 792, Echo: addresses reversed, type 0, checksum recomputed
//= RFC 4443 section 4.2: the same with type 129
pub fn echo_reply(buffer: &mut [u8], packet: &Packet) -> Result<usize, NoSpace> {
    if buffer.len() < packet.end {
        return Err(NoSpace);
    }
    swap_macs(buffer)?;
    let kind = if packet.is_ipv6() {
        let ip = view_mut::<Ipv6>(buffer, packet.l3).ok_or(NoSpace)?;
        (ip.src, ip.dst) = (ip.dst, ip.src);
        ip.hop_limit = TTL;
        ECHO_REPLY_V6
    } else {
        let ip = view_mut::<Ipv4>(buffer, packet.l3).ok_or(NoSpace)?;
        (ip.src, ip.dst) = (ip.dst, ip.src);
        let word = |ttl: u8| u16::from_be_bytes([ttl, ip_protocol::ICMP]);
        ip.checksum.set(update16(ip.checksum.get(), word(ip.ttl), word(TTL)));
        ip.ttl = TTL;
        ECHO_REPLY
    };
    // The pseudo header of ICMPv6 has both addresses, in whichever order: its sum stays.
    let icmp = view_mut::<Icmp>(buffer, packet.l4).ok_or(NoSpace)?;
    let word = |kind: u8| u16::from_be_bytes([kind, icmp.code]);
    let (old, new) = (word(icmp.kind), word(kind));
    icmp.kind = kind;
    icmp.checksum.set(update16(icmp.checksum.get(), old, new));
    Ok(pad(buffer, packet.end))
}

/// Turns a packet into the port unreachable that answers it. Returns the frame's length.
//= RFC 792, Destination Unreachable: type 3, code 3; RFC 4443 section 3.1: type 1, code 4
pub fn port_unreachable(buffer: &mut [u8], packet: &Packet) -> Result<usize, NoSpace> {
    let (kind, code) = if packet.is_ipv6() { (1, 4) } else { (3, 3) };
    error(buffer, packet, packet.dst, (kind, code), [0; 4])
}

/// Turns a packet into the error, sent by `src`, that its TTL or hop limit ran out on the way.
/// Returns the frame's length.
//= RFC 792, Time Exceeded: type 11, code 0; RFC 4443 section 3.3: type 3, code 0
pub fn time_exceeded(buffer: &mut [u8], packet: &Packet, src: IpAddr) -> Result<usize, NoSpace> {
    let kind = if packet.is_ipv6() { 3 } else { 11 };
    error(buffer, packet, src, (kind, 0), [0; 4])
}

/// Turns a packet into the error, sent by `src`, that no more than `mtu` octets of it go through.
/// Returns the frame's length.
//= RFC 1191 section 4: type 3, code 4, the MTU in the lower half; RFC 4443 section 3.2: type 2
pub fn packet_too_big(
    buffer: &mut [u8],
    packet: &Packet,
    src: IpAddr,
    mtu: u16,
) -> Result<usize, NoSpace> {
    let [high, low] = mtu.to_be_bytes();
    let (kind, code) = if packet.is_ipv6() { (2, 0) } else { (3, 4) };
    error(buffer, packet, src, (kind, code), [0, 0, high, low])
}

/// Turns a packet into an error about it, sent by `src`.
pub(super) fn error(
    buffer: &mut [u8],
    packet: &Packet,
    src: IpAddr,
    (kind, code): (u8, u8),
    rest: [u8; 4],
) -> Result<usize, NoSpace> {
    let (protocol, quoted_max) = if packet.is_ipv6() {
        (ip_protocol::ICMPV6, QUOTED_V6_MAX)
    } else {
        (ip_protocol::ICMP, QUOTED_V4_MAX)
    };
    let l4 = l4_of_answer(packet);
    let start = l4 + size_of::<Icmp>();
    let quoted_end = packet.end.min(packet.l3 + quoted_max);
    let end = start + quoted_end.checked_sub(packet.l3).ok_or(NoSpace)?;
    if buffer.len() < end.max(packet.end) {
        return Err(NoSpace);
    }
    buffer.copy_within(packet.l3..quoted_end, start);
    let icmp = Icmp { kind, code, checksum: 0.into(), rest };
    buffer[l4..start].copy_from_slice(icmp.as_bytes());
    let sum = match src {
        IpAddr::V4(_) => 0,
        IpAddr::V6(_) => pseudo_sum(src, packet.src, protocol, (end - l4) as u32),
    };
    let checksum = internet_checksum(sum, &buffer[l4..end]);
    view_mut::<Icmp>(buffer, l4).ok_or(NoSpace)?.checksum.set(checksum);
    put_ip(buffer, packet, src, protocol, end)?;
    swap_macs(buffer)?;
    Ok(pad(buffer, end))
}
