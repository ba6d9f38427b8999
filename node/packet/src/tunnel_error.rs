//! ICMP and ICMPv6 errors about the outer packets of tunnels, as a socket of the kernel gives them.
//!
//! Guarantees: nothing is read beyond the message, however little it quotes; a message of IPv4 with a
//! wrong checksum is refused (that of ICMPv6 the kernel checks). Not checked: the checksum of what is
//! quoted.

use std::net::IpAddr;

use crate::{
    Icmp, Ipv4, Ipv6,
    checksum::internet_checksum,
    header::{ip_protocol, view},
    ipv4::OFFSET,
    quote::{FRAGMENTATION_NEEDED_V4, is_error},
};

/// An error about a packet that may have been the outer one of a tunnel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TunnelError {
    /// Who sent the packet.
    pub src: IpAddr,
    /// For whom it was.
    pub dst: IpAddr,
    /// Its protocol.
    pub protocol: u8,
    /// The destination port, of UDP.
    pub dst_port: Option<u16>,
    /// The packet was too big: the largest that goes through.
    pub mtu: Option<u16>,
}

/// MTUs that links had: what a router may mean that does not say (RFC 1191 section 7.1).
const PLATEAUS: [u16; 10] = [32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68];
const TOO_BIG_V6: u8 = 2;

/// Reads a message that starts with its IP header.
#[must_use]
pub fn tunnel_error_v4(packet: &[u8]) -> Option<TunnelError> {
    let ip = view::<Ipv4>(packet, 0)?;
    let message = packet.get(usize::from(ip.version_ihl & 0x0f) * 4..)?;
    let icmp = view::<Icmp>(message, 0)?;
    if internet_checksum(0, message) != 0 || !is_error(false, icmp.kind) {
        return None;
    }
    let quoted = view::<Ipv4>(message, size_of::<Icmp>())?;
    if quoted.version_ihl >> 4 != 4 || quoted.fragment.get() & OFFSET != 0 {
        return None;
    }
    let l4 = size_of::<Icmp>() + usize::from(quoted.version_ihl & 0x0f) * 4;
    let told = u16::from_be_bytes([icmp.rest[2], icmp.rest[3]]);
    let mtu = ((icmp.kind, icmp.code) == FRAGMENTATION_NEEDED_V4).then(|| match told {
        //= RFC 1191 section 5: a router that does not know of this leaves the field 0
        0 => below(quoted.total_len.get()),
        told => told,
    });
    Some(TunnelError {
        src: IpAddr::from(quoted.src),
        dst: IpAddr::from(quoted.dst),
        protocol: quoted.protocol,
        dst_port: port(quoted.protocol, message, l4),
        mtu,
    })
}

/// Reads a message of ICMPv6, which comes without its IP header.
#[must_use]
pub fn tunnel_error_v6(message: &[u8]) -> Option<TunnelError> {
    let icmp = view::<Icmp>(message, 0)?;
    if !is_error(true, icmp.kind) {
        return None;
    }
    let quoted = view::<Ipv6>(message, size_of::<Icmp>())?;
    if quoted.version_class_flow.get() >> 28 != 6 {
        return None;
    }
    let l4 = size_of::<Icmp>() + size_of::<Ipv6>();
    let told = u32::from_be_bytes(icmp.rest);
    let mtu = (icmp.kind == TOO_BIG_V6).then(|| u16::try_from(told).unwrap_or(u16::MAX));
    Some(TunnelError {
        src: IpAddr::from(quoted.src),
        dst: IpAddr::from(quoted.dst),
        protocol: quoted.next_header,
        dst_port: port(quoted.next_header, message, l4),
        mtu,
    })
}

fn port(protocol: u8, message: &[u8], l4: usize) -> Option<u16> {
    let ports = view::<[u8; 4]>(message, l4).filter(|_| protocol == ip_protocol::UDP)?;
    Some(u16::from_be_bytes([ports[2], ports[3]]))
}

/// The next MTU below the length of a packet that was too big.
fn below(len: u16) -> u16 {
    PLATEAUS.into_iter().find(|mtu| *mtu < len).unwrap_or(0)
}
