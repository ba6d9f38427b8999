//! ICMP and ICMPv6 errors, and the packets that they quote.
//!
//! An error is about a packet on its way: it quotes the start of it, and goes to its source. Who
//! translated the packet translates the error back, both headers of it (RFC 5508 section 4.2).
//!
//! Guarantees: offsets are inside the frame, however little is quoted; checksums (of the quoted
//! header, of the quoted transport header where it is there, of the message) that were right stay
//! right and wrong ones stay wrong, but for that of quoted SCTP, which is left alone. Not checked:
//! the length fields of what is quoted, which senders are known to change, and its checksums. What
//! follows the quoted headers, extensions of RFC 4884 included, goes along as it is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::byteorder::network_endian::{U16, U32};

use crate::{
    Icmp, Ipv4, Ipv6, Packet, ParseError, Protocol, Transport,
    checksum::{internet_checksum, update16, update32},
    header::{ip_protocol, view, view_mut},
    ipv4::OFFSET,
    ipv6::step_over,
    rewrite::{Change, Side, set_address},
};

/// An ICMP or ICMPv6 error; offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct IcmpError {
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// What it is about.
    pub quoted: Quoted,
}

/// The packet that an error quotes, as far as it does; of the same family as the error.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quoted {
    /// Where its IP header starts.
    pub l3: usize,
    /// Where its transport header starts; the ports are there, the rest may not be.
    pub l4: usize,
    /// Where the quotation ends.
    pub end: usize,
    /// Source.
    pub src: IpAddr,
    /// Destination.
    pub dst: IpAddr,
    /// Its protocol.
    pub protocol: Protocol,
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// The types of ICMP that are errors about a packet (RFC 792): destination unreachable, source
/// quench, time exceeded, parameter problem. A redirect is none: it is advice to a neighbour.
const ERRORS_V4: [u8; 4] = [3, 4, 11, 12];
//= RFC 4443 section 2.1: error messages have types below 128
const INFORMATIONAL_V6: u8 = 128;

/// Type and code of the error that a packet is too big, and its type in ICMPv6.
pub(crate) const FRAGMENTATION_NEEDED_V4: (u8, u8) = (3, 4);
const TOO_BIG_V6: u8 = 2;

/// Octets of the quoted transport header that a checksum may stand in: those of TCP.
const TRANSPORT_LEN: usize = size_of::<crate::Tcp>();
/// Where sequence number and checksum lie in a TCP header.
const SEQ: usize = 4;
const TCP_CHECKSUM: usize = 16;

/// Reads the ICMP error in a packet; none when it is something else.
///
/// # Errors
/// [`ParseError::Quote`] when the quoted packet does not show its addresses and ports: it is cut
/// off before, is of another protocol, or is a fragment that is not the first.
pub fn parse_error(frame: &[u8], packet: &Packet) -> Result<Option<IcmpError>, ParseError> {
    let protocol = if packet.is_ipv6() { ip_protocol::ICMPV6 } else { ip_protocol::ICMP };
    // No error is so long that it needs fragments (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4).
    if packet.transport != Transport::Other(protocol) || packet.fragment.is_some() {
        return Ok(None);
    }
    let message = frame.get(..packet.end).ok_or(ParseError::Quote)?;
    let icmp = view::<Icmp>(message, packet.l4).ok_or(ParseError::Quote)?;
    if !is_error(packet.is_ipv6(), icmp.kind) {
        return Ok(None);
    }
    let l3 = packet.l4 + size_of::<Icmp>();
    let quoted = match packet.is_ipv6() {
        true => read_v6(message, l3),
        false => read_v4(message, l3),
    };
    let quoted = quoted.ok_or(ParseError::Quote)?;
    Ok(Some(IcmpError { kind: icmp.kind, code: icmp.code, quoted }))
}

/// The type is that of an error.
pub(crate) fn is_error(is_ipv6: bool, kind: u8) -> bool {
    if is_ipv6 { kind < INFORMATIONAL_V6 } else { ERRORS_V4.contains(&kind) }
}

/// Sets the destination of an error and the source of what it quotes, with its port: for an error
/// about what came from the VIP, on its way to the real server that sent it.
pub fn rewrite_error_destination(
    frame: &mut [u8],
    packet: &Packet,
    error: &IcmpError,
    addr: IpAddr,
    port: u16,
) {
    rewrite_error(frame, packet, error, (Side::Destination, Side::Source), addr, port);
}

/// Sets the source of an error and the destination of what it quotes, with its port: for an error
/// about what went to the real server, on its way to the client, who knows the VIP alone.
pub fn rewrite_error_source(
    frame: &mut [u8],
    packet: &Packet,
    error: &IcmpError,
    addr: IpAddr,
    port: u16,
) {
    rewrite_error(frame, packet, error, (Side::Source, Side::Destination), addr, port);
}

/// The sequence number of the quoted TCP segment, if so much is quoted.
#[must_use]
pub fn quoted_seq(frame: &[u8], error: &IcmpError) -> Option<u32> {
    let quoted = &error.quoted;
    let is_there = quoted.protocol == Protocol::Tcp && quoted.l4 + SEQ + 4 <= quoted.end;
    Some(view::<U32>(frame, quoted.l4 + SEQ).filter(|_| is_there)?.get())
}

/// Adds `by` to the sequence number of the quoted TCP segment, if so much is quoted: its sender takes
/// an error for its own only if it has sent that number (RFC 5927 section 4.1).
pub fn shift_quoted_seq(frame: &mut [u8], packet: &Packet, error: &IcmpError, by: u32) {
    let quoted = &error.quoted;
    let (seq_at, until) = (quoted.l4 + SEQ, quoted.end.min(quoted.l4 + TRANSPORT_LEN));
    if quoted.protocol != Protocol::Tcp || seq_at + size_of::<U32>() > quoted.end {
        return;
    }
    let sum = |frame: &[u8]| !internet_checksum(0, frame.get(quoted.l3..until).unwrap_or_default());
    let before = sum(frame);
    let Some(seq) = view_mut::<U32>(frame, seq_at) else { return };
    let (old, new) = (seq.get(), seq.get().wrapping_add(by));
    seq.set(new);
    let at = quoted.l4 + TCP_CHECKSUM;
    if at + size_of::<U16>() <= quoted.end
        && let Some(checksum) = view_mut::<U16>(frame, at)
    {
        checksum.set(update32(checksum.get(), old, new));
    }
    let after = sum(frame);
    if let Some(icmp) = view_mut::<Icmp>(frame, packet.l4) {
        icmp.checksum.set(update16(icmp.checksum.get(), before, after));
    }
}

/// Lowers the MTU that an error tells by `by`, but not below `least`: for one who does not know that
/// its packets grow on their way. Errors that tell none are left alone.
pub fn lower_told_mtu(
    frame: &mut [u8],
    packet: &Packet,
    error: &IcmpError,
    by: u32,
    least: u32,
) -> bool {
    //= RFC 1191 section 4: an MTU of 0 comes from routers that do not know of it; RFC 4443
    //= section 3.2: the field has 32 bits. In both families the others before it are 0 or unused.
    let tells = match packet.is_ipv6() {
        true => error.kind == TOO_BIG_V6,
        false => (error.kind, error.code) == FRAGMENTATION_NEEDED_V4,
    };
    let Some(icmp) = view_mut::<Icmp>(frame, packet.l4).filter(|_| tells) else { return false };
    let old = if packet.is_ipv6() { icmp.rest } else { [0, 0, icmp.rest[2], icmp.rest[3]] };
    let told = u32::from_be_bytes(old);
    let new = told.saturating_sub(by).max(least).to_be_bytes();
    if told == 0 || new >= old {
        return false;
    }
    icmp.checksum.set(update32(icmp.checksum.get(), told, u32::from_be_bytes(new)));
    if packet.is_ipv6() {
        icmp.rest = new;
    } else {
        icmp.rest[2..].copy_from_slice(&new[2..]);
    }
    true
}

fn read_v4(message: &[u8], l3: usize) -> Option<Quoted> {
    let ip = view::<Ipv4>(message, l3)?;
    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    let is_first = ip.fragment.get() & OFFSET == 0;
    if ip.version_ihl >> 4 != 4 || header_len < size_of::<Ipv4>() || !is_first {
        return None;
    }
    let addrs = (Ipv4Addr::from(ip.src).into(), Ipv4Addr::from(ip.dst).into());
    read_ports(message, l3, l3 + header_len, ip.protocol, addrs)
}

fn read_v6(message: &[u8], l3: usize) -> Option<Quoted> {
    let ip = view::<Ipv6>(message, l3)?;
    if ip.version_class_flow.get() >> 28 != 6 {
        return None;
    }
    let upper = step_over(message, l3 + size_of::<Ipv6>(), ip.next_header).ok()?;
    if upper.fragment.is_some_and(|fragment| fragment.offset > 0) {
        return None;
    }
    let addrs = (Ipv6Addr::from(ip.src).into(), Ipv6Addr::from(ip.dst).into());
    read_ports(message, l3, upper.l4, upper.protocol, addrs)
}

fn read_ports(
    message: &[u8],
    l3: usize,
    l4: usize,
    protocol: u8,
    (src, dst): (IpAddr, IpAddr),
) -> Option<Quoted> {
    let protocol = Protocol::from_number(protocol)?;
    let [a, b, c, d] = *view::<[u8; 4]>(message, l4)?;
    let (src_port, dst_port) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    Some(Quoted { l3, l4, end: message.len(), src, dst, protocol, src_port, dst_port })
}

fn rewrite_error(
    frame: &mut [u8],
    packet: &Packet,
    error: &IcmpError,
    (outer, inner): (Side, Side),
    addr: IpAddr,
    port: u16,
) {
    let quoted = &error.quoted;
    // All that is about to change is between the start of the quotation and here.
    let until = quoted.end.min(quoted.l4 + TRANSPORT_LEN);
    let sum = |frame: &[u8]| !internet_checksum(0, frame.get(quoted.l3..until).unwrap_or_default());
    if addr.is_ipv4() == packet.is_ipv6() || frame.len() < packet.end.max(quoted.end) {
        return;
    }
    let before = sum(frame);
    let Some(change) = set_address(frame, quoted.l3, inner, addr) else { return };
    set_port(frame, quoted, inner, port, change);
    let after = sum(frame);
    let Some(change) = set_address(frame, packet.l3, outer, addr) else { return };
    let Some(icmp) = view_mut::<Icmp>(frame, packet.l4) else { return };
    let checksum = update16(icmp.checksum.get(), before, after);
    //= RFC 4443 section 2.3: the pseudo header is under the checksum of ICMPv6, not of ICMP
    let checksum = if packet.is_ipv6() { change.update(checksum) } else { checksum };
    icmp.checksum.set(checksum);
}

/// Sets a port of the quoted packet and, where the quotation reaches so far, its checksum.
fn set_port(frame: &mut [u8], quoted: &Quoted, side: Side, port: u16, change: Change) {
    let at = quoted.l4
        + match side {
            Side::Source => 0,
            Side::Destination => 2,
        };
    let Some(field) = view_mut::<[u8; 2]>(frame, at) else { return };
    let old = u16::from_be_bytes(*field);
    *field = port.to_be_bytes();
    let at = quoted.l4
        + match quoted.protocol {
            Protocol::Tcp => TCP_CHECKSUM,
            Protocol::Udp => 6,
            // Who is told looks at ports and tag alone (RFC 9260 section 10): the checksum is over
            // what is not quoted.
            Protocol::Sctp => return,
        };
    if at + 2 > quoted.end {
        return;
    }
    let Some(field) = view_mut::<[u8; 2]>(frame, at) else { return };
    let checksum = u16::from_be_bytes(*field);
    let new = change.update(update16(checksum, old, port));
    *field = match (quoted.protocol, checksum, new) {
        //= RFC 768: 0 means none; a computed 0 is sent as all ones
        (Protocol::Udp, 0, _) => 0_u16,
        (Protocol::Udp, _, 0) => 0xffff,
        _ => new,
    }
    .to_be_bytes();
}
