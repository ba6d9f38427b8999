//! Answers, built in the buffer of the frame they answer.
//!
//! Guarantees: an answer is complete and its checksums are right; Ethernet addresses are swapped,
//! so that it goes back to the neighbour it came from unless the caller sets others; a VLAN tag
//! stays. Not here: whether to answer at all, and how often.

mod abort;
mod icmp;
mod neighbour;
mod reset;

use std::net::IpAddr;

use zerocopy::{IntoBytes, byteorder::network_endian::U16};

pub use self::{
    abort::sctp_abort,
    icmp::{echo_reply, packet_too_big, port_unreachable, time_exceeded},
    neighbour::{
        ADVERTISEMENT_LEN, ARP_FRAME_LEN, advertisement, arp_reply, gratuitous_arp,
        unsolicited_advertisement,
    },
    reset::tcp_reset,
};
use crate::{
    Ethernet, Icmp, Ipv4, Ipv6, Packet,
    checksum::internet_checksum,
    header::{DONT_FRAGMENT, VlanTag, view_mut},
};

/// The shortest frame Ethernet carries, without its check sequence.
pub const FRAME_LEN_MIN: usize = 60;

/// Bytes that an answer may need in front of what it quotes: Ethernet, a VLAN tag, IPv6 and ICMP.
const HEADERS_MAX: usize =
    size_of::<Ethernet>() + size_of::<VlanTag>() + size_of::<Ipv6>() + size_of::<Icmp>();

/// The longest answer built here beside echo replies: a buffer of this size is never too small.
pub const ANSWER_LEN_MAX: usize = HEADERS_MAX + icmp::QUOTED_V6_MAX;

/// The buffer is too small for the answer, or does not hold the packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the answer does not fit the buffer: give it {ANSWER_LEN_MAX} bytes")]
pub struct NoSpace;

/// Time to live of packets made here.
const TTL: u8 = 64;
const VERSION_6: u32 = 6 << 28;

/// Where the transport header of an answer to `packet` starts.
fn l4_of_answer(packet: &Packet) -> usize {
    packet.l3 + if packet.is_ipv6() { size_of::<Ipv6>() } else { size_of::<Ipv4>() }
}

/// Writes the IP header of an answer to `packet` that ends at `end`, from `src`.
fn put_ip(
    buffer: &mut [u8],
    packet: &Packet,
    src: IpAddr,
    protocol: u8,
    end: usize,
) -> Result<(), NoSpace> {
    put_ip_between(buffer, packet.l3, (src, packet.src), protocol, end)
}

/// Writes the IP header, at `l3`, of a packet that ends at `end`.
pub(crate) fn put_ip_between(
    buffer: &mut [u8],
    l3: usize,
    (src, dst): (IpAddr, IpAddr),
    protocol: u8,
    end: usize,
) -> Result<(), NoSpace> {
    let l4 = l3 + if dst.is_ipv6() { size_of::<Ipv6>() } else { size_of::<Ipv4>() };
    let header = buffer.get_mut(l3..l4).ok_or(NoSpace)?;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = Ipv4 {
                version_ihl: 0x45,
                tos: 0,
                total_len: ((end - l3) as u16).into(),
                id: 0.into(),
                fragment: U16::new(DONT_FRAGMENT),
                ttl: TTL,
                protocol,
                checksum: 0.into(),
                src: src.octets(),
                dst: dst.octets(),
            };
            ip.checksum.set(internet_checksum(0, ip.as_bytes()));
            header.copy_from_slice(ip.as_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = Ipv6 {
                version_class_flow: VERSION_6.into(),
                payload_len: ((end - l4) as u16).into(),
                next_header: protocol,
                hop_limit: TTL,
                src: src.octets(),
                dst: dst.octets(),
            };
            header.copy_from_slice(ip.as_bytes());
        }
        _ => return Err(NoSpace),
    }
    Ok(())
}

fn swap_macs(buffer: &mut [u8]) -> Result<(), NoSpace> {
    let ethernet = view_mut::<Ethernet>(buffer, 0).ok_or(NoSpace)?;
    (ethernet.src, ethernet.dst) = (ethernet.dst, ethernet.src);
    Ok(())
}

/// Fills a short frame with zeroes up to what Ethernet carries, as far as the buffer goes.
pub(crate) fn pad(buffer: &mut [u8], len: usize) -> usize {
    let padded = len.max(FRAME_LEN_MIN).min(buffer.len());
    match buffer.get_mut(len..padded) {
        Some(padding) => {
            padding.fill(0);
            padded
        }
        None => len,
    }
}
