//! Packets that most traffic is made of, read and rewritten at once: whole TCP segments and UDP
//! datagrams over IPv4 without options, in frames without a tag.
//!
//! Guarantees: what [`plain`] reads is what [`parse`](crate::parse) reads of the same frame, and
//! [`Plain::send_on`] writes octet for octet what the functions of `rewrite` do one after the other.
//! `None` says nothing: the frame may be any other, or broken.

use std::net::Ipv4Addr;

use crate::{
    Mac,
    checksum::{Sum, is_right_plain},
    ether_type,
    ipv4::{MORE, OFFSET},
};

/// A frame as far as the header of UDP, or the ports of TCP.
const HEAD: usize = 42;
const L3: usize = 14;
const L4: usize = 34;
const UDP_LEN: usize = 8;
const TCP_LEN: usize = 20;
/// FIN, SYN and RST of a TCP header, and ACK.
const FIN_SYN_RST: u8 = 0x07;
const ACK: u8 = 0x10;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// A segment of TCP that carries ACK and neither SYN, FIN nor RST, or a datagram of UDP, that may go
/// on: its time to live is more than 1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Plain {
    /// TCP, or else UDP.
    pub is_tcp: bool,
    /// Source.
    pub src: Ipv4Addr,
    /// Source port.
    pub src_port: u16,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Destination port.
    pub dst_port: u16,
    /// Length of the IP packet.
    pub len: u16,
}

/// What else changes of a packet that goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Rewrite {
    /// Nothing.
    No,
    /// Source address and port.
    Source(Ipv4Addr, u16),
    /// Destination address and port.
    Destination(Ipv4Addr, u16),
}

/// Reads a frame if it is as simple as that.
#[must_use]
#[inline]
pub fn plain(frame: &[u8]) -> Option<Plain> {
    let head: &[u8; HEAD] = frame.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
    let ip: &[u8; 20] = head[L3..].first_chunk()?;
    let len = word(16);
    let payload = usize::from(len).checked_sub(L4 - L3)?;
    let is_simple = word(12) == ether_type::IPV4
        && ip[0] == 0x45
        && word(20) & (MORE | OFFSET) == 0
        && head[22] > 1
        && L4 + payload <= frame.len()
        && is_right_plain(ip);
    let is_tcp = head[23] == TCP;
    let is_whole = if is_tcp {
        let [offset, flags] = *frame.get(46..48)?.first_chunk()?;
        let header_len = usize::from(offset >> 4) * 4;
        (TCP_LEN..=payload).contains(&header_len) && flags & (FIN_SYN_RST | ACK) == ACK
    } else {
        head[23] == UDP && (UDP_LEN..=payload).contains(&usize::from(word(38)))
    };
    let addr = |at: usize| Ipv4Addr::new(head[at], head[at + 1], head[at + 2], head[at + 3]);
    (is_simple && is_whole).then(|| Plain {
        is_tcp,
        src: addr(26),
        src_port: word(34),
        dst: addr(30),
        dst_port: word(36),
        len,
    })
}

impl Plain {
    /// Makes of the frame that this was read from what goes to the next hop: its addresses are
    /// `src_mac` and `dst_mac`, its time to live is one less, and it is rewritten.
    #[inline(always)]
    pub fn send_on(&self, frame: &mut [u8], src_mac: Mac, dst_mac: Mac, rewrite: Rewrite) {
        let Some(head) = frame.first_chunk_mut::<HEAD>() else { return };
        head[..6].copy_from_slice(&dst_mac);
        head[6..12].copy_from_slice(&src_mac);
        let word = |head: &[u8; HEAD], at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let mut ip = Sum::of(word(head, 24));
        ip.replace16(word(head, 22), word(head, 22) - 0x100);
        head[22] -= 1;
        let (addr_at, port_at, old, new) = match rewrite {
            Rewrite::No => {
                head[24..26].copy_from_slice(&ip.checksum().to_be_bytes());
                return;
            }
            Rewrite::Source(addr, port) => (26, 34, (self.src, self.src_port), (addr, port)),
            Rewrite::Destination(addr, port) => (30, 36, (self.dst, self.dst_port), (addr, port)),
        };
        ip.replace32(old.0.to_bits(), new.0.to_bits());
        head[24..26].copy_from_slice(&ip.checksum().to_be_bytes());
        head[addr_at..addr_at + 4].copy_from_slice(&new.0.octets());
        head[port_at..port_at + 2].copy_from_slice(&new.1.to_be_bytes());
        let at = if self.is_tcp { 50 } else { 40 };
        let Some(field) = frame.get_mut(at..).and_then(<[u8]>::first_chunk_mut::<2>) else {
            return;
        };
        let before = u16::from_be_bytes(*field);
        //= RFC 768: 0 means none; a computed 0 is sent as all ones
        if !self.is_tcp && before == 0 {
            return;
        }
        let mut sum = Sum::of(before);
        sum.replace16(old.1, new.1);
        sum.replace32(old.0.to_bits(), new.0.to_bits());
        let after = sum.checksum();
        *field = if !self.is_tcp && after == 0 { u16::MAX } else { after }.to_be_bytes();
    }
}
