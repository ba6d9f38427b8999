//! The end of a tunnel, for kernels that have no drivers for IPIP, GRE and GUE.
//!
//! Guarantees: what comes out is the inner packet, byte for byte, and only if the outer headers
//! are what their RFCs say and it is for one of the addresses served here. The kernel itself
//! checks outer IP headers and UDP checksums; packets reach it again through a raw socket, whose
//! loopback way takes them for its own, whatever interface the tunnel came by. IPv4 only.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
    thread,
};

use rustix::{
    fd::OwnedFd,
    net::{
        AddressFamily, Protocol, RecvFlags, SendFlags, SocketType, bind, ipproto, recv, sendto,
        socket,
    },
};

/// The UDP port of GUE.
pub const GUE_PORT: u16 = 6080;

/// The largest packet there is.
const PACKET_BYTES_MAX: usize = 65_535;

/// Packets that were refused are told about up to this many.
const REFUSALS_TOLD: u32 = 20;

/// How packets arrive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    IpIp,
    Gre,
    Gue,
}

/// Takes packets out of tunnels to this host and hands those for `addresses` to its kernel, until
/// the process ends.
///
/// # Errors
/// Without the right to raw sockets, or when a port is taken.
pub fn start(addresses: &[Ipv4Addr]) -> io::Result<()> {
    for kind in [Kind::IpIp, Kind::Gre, Kind::Gue] {
        let from = open(kind)?;
        let to = raw(ipproto::RAW)?;
        let addresses = addresses.to_vec();
        let name = format!("tunnel-{kind:?}").to_lowercase();
        thread::Builder::new().name(name).spawn(move || run(kind, &from, &to, &addresses))?;
    }
    Ok(())
}

fn open(kind: Kind) -> io::Result<OwnedFd> {
    match kind {
        Kind::IpIp => raw(ipproto::IPIP),
        Kind::Gre => raw(ipproto::GRE),
        Kind::Gue => {
            let udp = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            bind(&udp, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, GUE_PORT))?;
            Ok(udp)
        }
    }
}

fn raw(protocol: Protocol) -> io::Result<OwnedFd> {
    Ok(socket(AddressFamily::INET, SocketType::RAW, Some(protocol))?)
}

fn run(kind: Kind, from: &OwnedFd, to: &OwnedFd, addresses: &[Ipv4Addr]) {
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    let mut refused = 0;
    loop {
        let len = match recv(from, &mut buffer[..], RecvFlags::empty()) {
            Ok((_, len)) => len.min(PACKET_BYTES_MAX),
            Err(error) => {
                eprintln!("no more packets through {kind:?}: {error}");
                return;
            }
        };
        let done = take_out(kind, &buffer[..len]).and_then(|(dst, packet)| {
            if !addresses.contains(&dst) {
                return Err("it is for an address that is not served here");
            }
            let there = SocketAddrV4::new(dst, 0);
            sendto(to, packet, SendFlags::empty(), &there)
                .map(drop)
                .map_err(|_| "the kernel does not take it")
        });
        if let Err(why) = done {
            refused += 1;
            if refused <= REFUSALS_TOLD {
                eprintln!("a packet through {kind:?} is refused: {why}");
            }
        }
    }
}

/// The destination of the inner packet, and the packet.
fn take_out(kind: Kind, datagram: &[u8]) -> Result<(Ipv4Addr, &[u8]), &'static str> {
    // A raw socket gives the outer IP header too, a UDP socket does not.
    let payload = match kind {
        Kind::Gue => datagram,
        Kind::IpIp | Kind::Gre => datagram.get(header_len(datagram)?..).unwrap_or_default(),
    };
    let packet = match (kind, payload) {
        (Kind::IpIp, packet) => packet,
        // Variant 0 without options, IPv4 follows.
        (Kind::Gue, [0, 4, 0, 0, packet @ ..]) => packet,
        (Kind::Gre, [0, 0, 0x08, 0, packet @ ..]) => packet,
        (Kind::Gre, [0x80, 0, 0x08, 0, _, _, 0, 0, packet @ ..]) => {
            if checksum(payload) != 0 {
                return Err("wrong GRE checksum");
            }
            packet
        }
        (Kind::Gue | Kind::Gre, _) => return Err("unknown tunnel header"),
    };
    let len = header_len(packet)?;
    if checksum(&packet[..len]) != 0 {
        return Err("wrong inner header checksum");
    }
    if usize::from(u16::from_be_bytes([packet[2], packet[3]])) != packet.len() {
        return Err("inner length that does not fit");
    }
    Ok((Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]), packet))
}

/// Length of an IPv4 header that is wholly there.
fn header_len(packet: &[u8]) -> Result<usize, &'static str> {
    let first = packet.first().copied().unwrap_or(0);
    let len = usize::from(first & 0xf) * 4;
    let fits = first >> 4 == 4 && len >= 20 && packet.len() >= len;
    if fits { Ok(len) } else { Err("no IPv4 header") }
}

/// 0 for bytes whose checksum is right (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2);
    let mut sum: u32 =
        words.map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 198.18.0.200 to 198.18.0.100, UDP, nine octets of data.
    fn inner() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 29, 0, 7, 0x40, 0, 63, 17, 0, 0];
        packet.extend([198, 18, 0, 200, 198, 18, 0, 100]);
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(*b"some data");
        packet
    }

    fn outer(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 63, protocol, 0, 0];
        packet.extend([198, 18, 0, 1, 198, 18, 0, 11]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn each_tunnel_gives_its_packet_and_nothing_else_does() {
        let inner = inner();
        let with = |head: &[u8]| [head, &inner].concat();
        let mut gre = with(&[0x80, 0, 8, 0, 0, 0, 0, 0]);
        let sum = checksum(&gre).to_be_bytes();
        gre[4..6].copy_from_slice(&sum);
        let good = [
            (Kind::IpIp, outer(4, &inner)),
            (Kind::Gre, outer(47, &with(&[0, 0, 8, 0]))),
            (Kind::Gre, outer(47, &gre)),
            (Kind::Gue, with(&[0, 4, 0, 0])),
        ];
        for (kind, datagram) in &good {
            let found = take_out(*kind, datagram);
            assert_eq!(found, Ok((Ipv4Addr::new(198, 18, 0, 100), &inner[..])), "{kind:?}");
            for end in 0..datagram.len() {
                assert!(take_out(*kind, &datagram[..end]).is_err(), "{kind:?} cut at {end}");
            }
        }
        gre[5] ^= 1;
        let bad = [
            (Kind::Gre, outer(47, &gre), "wrong GRE checksum"),
            (Kind::Gre, outer(47, &with(&[0x20, 0, 8, 0])), "unknown tunnel header"),
            (Kind::Gue, with(&[0, 41, 0, 0]), "unknown tunnel header"),
            (Kind::Gue, with(&[0, 4, 0, 1]), "unknown tunnel header"),
            (Kind::IpIp, outer(4, &[inner.clone(), vec![0]].concat()), "does not fit"),
        ];
        for (kind, datagram, why) in bad {
            assert!(take_out(kind, &datagram).unwrap_err().contains(why), "{kind:?}: {why}");
        }
    }
}
