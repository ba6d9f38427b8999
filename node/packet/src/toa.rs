//! The client's address as a TCP option, for servers that see another one (TOA).
//!
//! The option is what LVS's full-NAT patches and DPVS send and what their kernel modules read: kind
//! 254 (RFC 4727 section 2.3: experiments), its length, the client's port and address; 8 octets for
//! IPv4, 20 for IPv6. It stands right behind the fixed header, so that whoever reads the first one
//! reads this one.
//!
//! Guarantees: the option is added whole or not at all; checksums that were right stay right and
//! wrong ones stay wrong; the payload does not move. Not here: which packets get it, and whether the
//! result fits the way ([`toa_len`]).

use std::net::SocketAddr;

use crate::{
    Packet, Tcp, Transport,
    answer::NoSpace,
    checksum::{update_bytes, update16},
    header::{view, view_mut},
    insert::insert,
    options::{NO_OPERATION, header_end, options},
};

/// RFC 4727 section 2.3: experiments; used for this by LVS's full-NAT and DPVS.
pub const TOA_KIND: u8 = 254;

const FIXED_LEN: usize = size_of::<Tcp>();
//= RFC 9293 section 3.1: the offset has four bits, in units of four octets
const HEADER_LEN_MAX: usize = 60;
const OPTIONS_LEN_MAX: usize = HEADER_LEN_MAX - FIXED_LEN;
const TOA_LEN_V6: usize = 20;

/// What the option adds to a packet.
#[must_use]
pub fn toa_len(is_ipv6: bool) -> usize {
    if is_ipv6 { TOA_LEN_V6 } else { 8 }
}

/// Adds the option to the TCP packet in the frame at `start` of `buffer`: all before the option moves
/// to the front. Gives the new start; offsets from there to the headers are as before.
///
/// # Errors
/// Nothing changed: there is no room in front of the frame or in the TCP header, or it is no whole
/// TCP packet.
pub fn add_toa(
    buffer: &mut [u8],
    start: usize,
    packet: &Packet,
    client: SocketAddr,
) -> Result<usize, NoSpace> {
    let frame = buffer.get(start..).ok_or(NoSpace)?;
    let tcp = view::<Tcp>(frame, packet.l4).ok_or(NoSpace)?;
    let mut octets = [0; TOA_LEN_V6];
    let option = &mut octets[..toa_len(client.is_ipv6())];
    if usize::from(tcp.offset >> 4) * 4 + option.len() > HEADER_LEN_MAX {
        return Err(NoSpace);
    }
    (option[0], option[1]) = (TOA_KIND, option.len() as u8);
    option[2..4].copy_from_slice(&client.port().to_be_bytes());
    match client {
        SocketAddr::V4(client) => option[4..].copy_from_slice(&client.ip().octets()),
        SocketAddr::V6(client) => option[4..].copy_from_slice(&client.ip().octets()),
    }
    let start = insert(buffer, start, packet, FIXED_LEN, option)?;
    if let Some(tcp) = view_mut::<Tcp>(&mut buffer[start..], packet.l4) {
        let old = u16::from_be_bytes([tcp.offset, tcp.flags]);
        tcp.offset += (option.len() as u8 / 4) << 4;
        let new = u16::from_be_bytes([tcp.offset, tcp.flags]);
        tcp.checksum.set(update16(tcp.checksum.get(), old, new));
    }
    Ok(start)
}

/// Overwrites options of this kind that the sender put into its packet, whatever their length; says
/// whether there were any. A malformed option ends the search, as it ends that of whoever reads them.
pub fn erase_toa(frame: &mut [u8], packet: &Packet) -> bool {
    let Transport::Tcp { .. } = packet.transport else { return false };
    let from = packet.l4 + FIXED_LEN;
    let Some(until) = header_end(frame, packet).filter(|until| *until >= from) else {
        return false;
    };
    let (mut old, mut new) = ([0; OPTIONS_LEN_MAX], [0; OPTIONS_LEN_MAX]);
    let (old, new) = (&mut old[..until - from], &mut new[..until - from]);
    old.copy_from_slice(&frame[from..until]);
    new.copy_from_slice(old);
    for option in options(frame, packet).into_iter().flatten().map_while(Result::ok) {
        if option.kind == TOA_KIND {
            let kind_at = option.value.start - 2;
            new[kind_at - from..option.value.end - from].fill(NO_OPERATION);
        }
    }
    if *new == *old {
        return false;
    }
    frame[from..until].copy_from_slice(new);
    if let Some(tcp) = view_mut::<Tcp>(frame, packet.l4) {
        tcp.checksum.set(update_bytes(tcp.checksum.get(), old, new));
    }
    true
}
