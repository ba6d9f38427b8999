//! The header of the PROXY protocol, version 2, which tells a server in its stream who its client is
//! (haproxy, proxy-protocol.txt, section 2.2).
//!
//! Guarantees: a header is put into a segment whole or not at all; checksums that were right stay
//! right and wrong ones stay wrong. Not here: which segments get it, and what that does to sequence
//! numbers.

use std::net::SocketAddr;

use crate::{
    Packet, Tcp, TcpFlags, Transport,
    answer::NoSpace,
    checksum::{update16, update32},
    header::view_mut,
    insert::{INSERTED_MAX, insert},
    options::header_end,
};

const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, and on behalf of another.
const VERSION_COMMAND: u8 = 0x21;
/// TCP over IPv4 and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// What comes before the addresses: signature, version, family, length.
const FIXED_LEN: usize = SIGNATURE.len() + 4;
const ADDRESSES_V4: usize = 12;
const ADDRESSES_V6: usize = 36;

const _: () = assert!(FIXED_LEN + ADDRESSES_V6 == INSERTED_MAX);

/// The length of a header.
#[must_use]
pub fn proxy_len(is_ipv6: bool) -> usize {
    FIXED_LEN + if is_ipv6 { ADDRESSES_V6 } else { ADDRESSES_V4 }
}

/// Puts a header before the payload of the TCP packet in the frame at `start` of `buffer`: all before
/// it moves to the front. `vip` is of the family of `client`. Gives the new start; offsets from there
/// to the headers are as before.
///
/// # Errors
/// Nothing changed: there is no room in front of the frame, it is no whole TCP packet, or the
/// addresses are of two families.
pub fn add_proxy(
    buffer: &mut [u8],
    start: usize,
    packet: &Packet,
    client: SocketAddr,
    vip: SocketAddr,
) -> Result<usize, NoSpace> {
    let mut octets = [0; INSERTED_MAX];
    let len = proxy_len(client.is_ipv6());
    let header = &mut octets[..len];
    let (fixed, addresses) = header.split_at_mut(FIXED_LEN);
    fixed[..SIGNATURE.len()].copy_from_slice(&SIGNATURE);
    let family = if client.is_ipv6() { TCP6 } else { TCP4 };
    let [high, low] = (addresses.len() as u16).to_be_bytes();
    fixed[SIGNATURE.len()..].copy_from_slice(&[VERSION_COMMAND, family, high, low]);
    match (client, vip) {
        (SocketAddr::V4(client), SocketAddr::V4(vip)) => {
            addresses[..4].copy_from_slice(&client.ip().octets());
            addresses[4..8].copy_from_slice(&vip.ip().octets());
        }
        (SocketAddr::V6(client), SocketAddr::V6(vip)) => {
            addresses[..16].copy_from_slice(&client.ip().octets());
            addresses[16..32].copy_from_slice(&vip.ip().octets());
        }
        _ => return Err(NoSpace),
    }
    let ports = addresses.len() - 4;
    addresses[ports..ports + 2].copy_from_slice(&client.port().to_be_bytes());
    addresses[ports + 2..].copy_from_slice(&vip.port().to_be_bytes());
    let frame = buffer.get(start..).ok_or(NoSpace)?;
    let at = header_end(frame, packet).ok_or(NoSpace)? - packet.l4;
    let start = insert(buffer, start, packet, at, header)?;
    if let (Transport::Tcp { flags, .. }, Some(tcp)) =
        (packet.transport, view_mut::<Tcp>(&mut buffer[start..], packet.l4))
        && flags.0 & TcpFlags::URG != 0
    {
        //= RFC 9293 section 3.1: counts from the sequence number of the segment
        let (old, new) = (tcp.urgent.get(), tcp.urgent.get().saturating_add(len as u16));
        tcp.urgent.set(new);
        tcp.checksum.set(update16(tcp.checksum.get(), old, new));
    }
    Ok(start)
}

/// Sets the acknowledgement number of a TCP packet.
pub fn set_acknowledged(frame: &mut [u8], packet: &Packet, ack: u32) {
    if let Some(tcp) = view_mut::<Tcp>(frame, packet.l4) {
        let old = tcp.ack.get();
        tcp.ack.set(ack);
        tcp.checksum.set(update32(tcp.checksum.get(), old, ack));
    }
}
