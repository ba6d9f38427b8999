//! Answers, built in the buffer of the frame they answer.
//!
//! Guarantees: an answer is complete and its checksums are right; Ethernet addresses are swapped,
//! so that it goes back to the neighbour it came from unless the caller sets others. Not here:
//! whether to answer at all, and how often.

use std::net::Ipv4Addr;

use zerocopy::{IntoBytes, byteorder::network_endian::U16};

use crate::{
    Arp, Ethernet, Icmp, Ipv4, Ipv4Packet, Mac, Protocol, Tcp, TcpFlags,
    checksum::{internet_checksum, update16},
    ether_type,
    header::{view, view_mut},
};

/// Length of an ARP frame, unpadded.
pub const ARP_FRAME_LEN: usize = size_of::<Ethernet>() + size_of::<Arp>();

/// The shortest frame Ethernet carries, without its check sequence.
pub const FRAME_LEN_MIN: usize = 60;

/// The longest answer built here beside echo replies: a buffer of this size is never too small.
pub const ANSWER_LEN_MAX: usize = L3 + size_of::<Ipv4>() + size_of::<Icmp>() + 60 + QUOTED;

/// The buffer is too small for the answer, or does not hold the packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the answer does not fit the buffer: give it {ANSWER_LEN_MAX} bytes")]
pub struct NoSpace;

const L3: usize = size_of::<Ethernet>();
const L4: usize = L3 + size_of::<Ipv4>();
/// Octets of the transport header that an ICMP error quotes (RFC 792).
const QUOTED: usize = 8;
/// Time to live of packets made here.
const TTL: u8 = 64;
/// May not be fragmented.
const DONT_FRAGMENT: u16 = 0x4000;
const ICMP: u8 = 1;
const BROADCAST: Mac = [0xff; 6];

/// Turns an ARP request into the reply that `addr` is at `mac`. Returns the frame's length.
//= RFC 826, Packet Reception
pub fn arp_reply(buffer: &mut [u8], mac: Mac, addr: Ipv4Addr) -> Result<usize, NoSpace> {
    let arp = view_mut::<Arp>(buffer, L3).ok_or(NoSpace)?;
    let asker = arp.sender_mac;
    arp.operation.set(2);
    arp.target_mac = asker;
    arp.target = arp.sender;
    arp.sender_mac = mac;
    arp.sender = addr.octets();
    let ethernet = view_mut::<Ethernet>(buffer, 0).ok_or(NoSpace)?;
    ethernet.dst = ethernet.src;
    ethernet.src = mac;
    Ok(pad(buffer, ARP_FRAME_LEN))
}

/// An announcement that `addr` is at `mac`, in the request form.
//= RFC 5227 section 2.3: sender and target address both set to the announced address
#[must_use]
pub fn gratuitous_arp(mac: Mac, addr: Ipv4Addr) -> [u8; FRAME_LEN_MIN] {
    let ethernet = Ethernet { dst: BROADCAST, src: mac, ether_type: ether_type::ARP.into() };
    let arp = Arp {
        hardware: 1.into(),
        protocol: ether_type::IPV4.into(),
        hardware_len: 6,
        protocol_len: 4,
        operation: 1.into(),
        sender_mac: mac,
        sender: addr.octets(),
        target_mac: [0; 6],
        target: addr.octets(),
    };
    let mut frame = [0; FRAME_LEN_MIN];
    frame[..L3].copy_from_slice(ethernet.as_bytes());
    frame[L3..ARP_FRAME_LEN].copy_from_slice(arp.as_bytes());
    frame
}

/// Turns an echo request into its reply. Returns the frame's length.
//= RFC 792, Echo: addresses reversed, type 0, checksum recomputed
pub fn echo_reply(buffer: &mut [u8], packet: &Ipv4Packet) -> Result<usize, NoSpace> {
    if buffer.len() < packet.end {
        return Err(NoSpace);
    }
    swap_macs(buffer)?;
    let ip = view_mut::<Ipv4>(buffer, packet.l3).ok_or(NoSpace)?;
    (ip.src, ip.dst) = (ip.dst, ip.src);
    let word = |ttl: u8| u16::from_be_bytes([ttl, ICMP]);
    ip.checksum.set(update16(ip.checksum.get(), word(ip.ttl), word(TTL)));
    ip.ttl = TTL;
    let icmp = view_mut::<Icmp>(buffer, packet.l4).ok_or(NoSpace)?;
    let old = u16::from_be_bytes([icmp.kind, icmp.code]);
    icmp.kind = 0;
    icmp.checksum.set(update16(icmp.checksum.get(), old, 0));
    Ok(pad(buffer, packet.end))
}

/// Turns a TCP segment into the reset that answers it. Returns the frame's length.
///
/// A reset is never to be answered; the caller sees to it.
pub fn tcp_reset(buffer: &mut [u8], packet: &Ipv4Packet) -> Result<usize, NoSpace> {
    let (&ip, &tcp) = headers::<Tcp>(buffer, packet).ok_or(NoSpace)?;
    let flags = TcpFlags(tcp.flags);
    let data = packet.end.saturating_sub(packet.l4 + usize::from(tcp.offset >> 4) * 4);
    //= RFC 9293 section 3.10.7.1: <SEQ=SEG.ACK><CTL=RST> if the segment has an ACK, otherwise
    //= <SEQ=0><ACK=SEG.SEQ+SEG.LEN><CTL=RST,ACK>
    let (seq, ack, reset) = if flags.ack() {
        (tcp.ack.get(), 0, TcpFlags::RST)
    } else {
        let len = data as u32 + u32::from(flags.syn()) + u32::from(flags.fin());
        (0, tcp.seq.get().wrapping_add(len), TcpFlags::RST | TcpFlags::ACK)
    };
    let mut reply = Tcp {
        src_port: tcp.dst_port,
        dst_port: tcp.src_port,
        seq: seq.into(),
        ack: ack.into(),
        offset: (size_of::<Tcp>() as u8 / 4) << 4,
        flags: reset,
        window: 0.into(),
        checksum: 0.into(),
        urgent: 0.into(),
    };
    let pseudo = pseudo_sum(&ip.dst, &ip.src, Protocol::Tcp as u8, size_of::<Tcp>() as u16);
    reply.checksum.set(internet_checksum(pseudo, reply.as_bytes()));
    let end = L4 + size_of::<Tcp>();
    buffer.get_mut(L4..end).ok_or(NoSpace)?.copy_from_slice(reply.as_bytes());
    put_ip(buffer, &ip, Protocol::Tcp as u8, end)?;
    swap_macs(buffer)?;
    Ok(pad(buffer, end))
}

/// Turns a packet into the ICMP port unreachable that answers it. Returns the frame's length.
//= RFC 792, Destination Unreachable: type 3, code 3, the IP header and 64 bits of its data
pub fn port_unreachable(buffer: &mut [u8], packet: &Ipv4Packet) -> Result<usize, NoSpace> {
    let (&ip, _) = headers::<[u8; QUOTED]>(buffer, packet).ok_or(NoSpace)?;
    let quoted_end = packet.l4 + QUOTED;
    let start = L4 + size_of::<Icmp>();
    let end = start + (quoted_end - packet.l3);
    if buffer.len() < end {
        return Err(NoSpace);
    }
    buffer.copy_within(packet.l3..quoted_end, start);
    let icmp = Icmp { kind: 3, code: 3, checksum: 0.into(), rest: [0; 4] };
    buffer[L4..start].copy_from_slice(icmp.as_bytes());
    let checksum = internet_checksum(0, &buffer[L4..end]);
    view_mut::<Icmp>(buffer, L4).ok_or(NoSpace)?.checksum.set(checksum);
    put_ip(buffer, &ip, ICMP, end)?;
    swap_macs(buffer)?;
    Ok(pad(buffer, end))
}

/// The IP header and what starts at the transport header, if both lie within the packet.
fn headers<'a, T>(buffer: &'a [u8], packet: &Ipv4Packet) -> Option<(&'a Ipv4, &'a T)>
where
    T: zerocopy::FromBytes + zerocopy::Immutable + zerocopy::KnownLayout + zerocopy::Unaligned,
{
    let packet_bytes = buffer.get(..packet.end)?;
    Some((view(packet_bytes, packet.l3)?, view(packet_bytes, packet.l4)?))
}

/// Writes the IP header of an answer to `request`.
fn put_ip(buffer: &mut [u8], request: &Ipv4, protocol: u8, end: usize) -> Result<(), NoSpace> {
    let mut ip = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len: ((end - L3) as u16).into(),
        id: 0.into(),
        fragment: U16::new(DONT_FRAGMENT),
        ttl: TTL,
        protocol,
        checksum: 0.into(),
        src: request.dst,
        dst: request.src,
    };
    ip.checksum.set(internet_checksum(0, ip.as_bytes()));
    buffer.get_mut(L3..L4).ok_or(NoSpace)?.copy_from_slice(ip.as_bytes());
    Ok(())
}

fn swap_macs(buffer: &mut [u8]) -> Result<(), NoSpace> {
    let ethernet = view_mut::<Ethernet>(buffer, 0).ok_or(NoSpace)?;
    (ethernet.src, ethernet.dst) = (ethernet.dst, ethernet.src);
    Ok(())
}

/// The sum over the pseudo header of TCP and UDP.
fn pseudo_sum(src: &[u8; 4], dst: &[u8; 4], protocol: u8, len: u16) -> u32 {
    let words = |addr: &[u8; 4]| {
        let bits = u32::from_be_bytes(*addr);
        (bits >> 16) + (bits & 0xffff)
    };
    words(src) + words(dst) + u32::from(protocol) + u32::from(len)
}

/// Fills a short frame with zeroes up to what Ethernet carries, as far as the buffer goes.
fn pad(buffer: &mut [u8], len: usize) -> usize {
    let padded = len.max(FRAME_LEN_MIN).min(buffer.len());
    match buffer.get_mut(len..padded) {
        Some(padding) => {
            padding.fill(0);
            padded
        }
        None => len,
    }
}
