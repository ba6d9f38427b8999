//! The headers of tunnels, read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How packets arrive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    /// IPv4 right behind the outer header.
    Ip4,
    /// IPv6 right behind the outer header.
    Ip6,
    /// GRE, either family.
    Gre,
    /// GUE, either family.
    Gue,
}

/// Family of the outer header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Outer {
    V4,
    V6,
}

/// Family of the inner packet, as the header before it says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Inner {
    V4,
    V6,
}

/// Length of an IPv6 header (RFC 8200 section 3).
const IPV6_LEN: usize = 40;

/// The destination of the inner packet, and the packet.
///
/// # Errors
/// Why it is none.
pub(super) fn take_out(
    kind: Kind,
    outer: Outer,
    datagram: &[u8],
) -> Result<(IpAddr, &[u8]), &'static str> {
    // A raw socket of IPv4 gives the outer header too (raw(7)); one of IPv6 does not (RFC 3542
    // section 3), and UDP sockets never do.
    let payload = match (kind, outer) {
        (Kind::Gue, _) | (_, Outer::V6) => datagram,
        (_, Outer::V4) => datagram.get(header_len(datagram)?..).unwrap_or_default(),
    };
    let (inner, packet) = match (kind, payload) {
        (Kind::Ip4, packet) => (Inner::V4, packet),
        (Kind::Ip6, packet) => (Inner::V6, packet),
        // Variant 0 without options, then the number of the protocol that follows.
        (Kind::Gue, [0, 4, 0, 0, packet @ ..]) => (Inner::V4, packet),
        (Kind::Gue, [0, 41, 0, 0, packet @ ..]) => (Inner::V6, packet),
        (Kind::Gre, [0, 0, 0x08, 0, packet @ ..]) => (Inner::V4, packet),
        (Kind::Gre, [0, 0, 0x86, 0xdd, packet @ ..]) => (Inner::V6, packet),
        (Kind::Gre, [0x80, 0, protocol @ ..]) => {
            let found = match protocol {
                [0x08, 0, _, _, 0, 0, packet @ ..] => (Inner::V4, packet),
                [0x86, 0xdd, _, _, 0, 0, packet @ ..] => (Inner::V6, packet),
                _ => return Err("unknown tunnel header"),
            };
            if checksum(payload) != 0 {
                return Err("wrong GRE checksum");
            }
            found
        }
        (Kind::Gue | Kind::Gre, _) => return Err("unknown tunnel header"),
    };
    let dst = match inner {
        Inner::V4 => of_v4(packet)?.into(),
        Inner::V6 => of_v6(packet)?.into(),
    };
    Ok((dst, packet))
}

fn of_v4(packet: &[u8]) -> Result<Ipv4Addr, &'static str> {
    let len = header_len(packet)?;
    if checksum(&packet[..len]) != 0 {
        return Err("wrong inner header checksum");
    }
    if usize::from(u16::from_be_bytes([packet[2], packet[3]])) != packet.len() {
        return Err("inner length that does not fit");
    }
    Ok(Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]))
}

fn of_v6(packet: &[u8]) -> Result<Ipv6Addr, &'static str> {
    if packet.len() < IPV6_LEN || packet[0] >> 4 != 6 {
        return Err("no IPv6 header");
    }
    if IPV6_LEN + usize::from(u16::from_be_bytes([packet[4], packet[5]])) != packet.len() {
        return Err("inner length that does not fit");
    }
    let dst: [u8; 16] = packet[24..IPV6_LEN].try_into().map_err(|_| "no IPv6 header")?;
    Ok(dst.into())
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

    const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);
    const VIP_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x18, 0, 0, 0, 0, 0x100);

    /// 198.18.0.200 to the VIP, UDP, nine octets of data.
    fn inner() -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 29, 0, 7, 0x40, 0, 63, 17, 0, 0];
        packet.extend([198, 18, 0, 200]);
        packet.extend(VIP.octets());
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(*b"some data");
        packet
    }

    fn inner_6() -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 9, 17, 63];
        packet.extend([7; 16]);
        packet.extend(VIP_6.octets());
        packet.extend(*b"some data");
        packet
    }

    fn outer(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 63, protocol, 0, 0];
        packet.extend([198, 18, 0, 1, 198, 18, 0, 11]);
        packet.extend(payload);
        packet
    }

    fn with_sum(mut gre: Vec<u8>) -> Vec<u8> {
        let sum = checksum(&gre).to_be_bytes();
        gre[4..6].copy_from_slice(&sum);
        gre
    }

    #[test]
    fn each_tunnel_gives_its_packet_and_nothing_else_does() {
        for (inner, dst, direct, number, ether) in [
            (inner(), IpAddr::V4(VIP), Kind::Ip4, 4, [0x08, 0]),
            (inner_6(), IpAddr::V6(VIP_6), Kind::Ip6, 41, [0x86, 0xdd]),
        ] {
            let with = |head: &[u8]| [head, &inner].concat();
            let gre = with(&[&[0, 0], &ether[..]].concat());
            let summed = with_sum(with(&[&[0x80, 0], &ether[..], &[0, 0, 0, 0]].concat()));
            let gue = with(&[0, number, 0, 0]);
            let good = [
                (direct, Outer::V4, outer(number, &inner)),
                (direct, Outer::V6, inner.clone()),
                (Kind::Gre, Outer::V4, outer(47, &gre)),
                (Kind::Gre, Outer::V6, gre),
                (Kind::Gre, Outer::V4, outer(47, &summed)),
                (Kind::Gre, Outer::V6, summed),
                (Kind::Gue, Outer::V4, gue.clone()),
                (Kind::Gue, Outer::V6, gue),
            ];
            for (kind, family, datagram) in &good {
                let found = take_out(*kind, *family, datagram);
                assert_eq!(found, Ok((dst, &inner[..])), "{kind:?} in {family:?}");
                for end in 0..datagram.len() {
                    let cut = take_out(*kind, *family, &datagram[..end]);
                    assert!(cut.is_err(), "{kind:?} in {family:?} cut at {end}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_tunnel_packet_is_refused_with_a_reason() {
        let inner = inner();
        let with = |head: &[u8]| [head, &inner].concat();
        let mut gre = with_sum(with(&[0x80, 0, 8, 0, 0, 0, 0, 0]));
        gre[5] ^= 1;
        let bad = [
            (Kind::Gre, outer(47, &gre), "wrong GRE checksum"),
            (Kind::Gre, outer(47, &with(&[0x20, 0, 8, 0])), "unknown tunnel header"),
            (Kind::Gue, with(&[0, 41, 0, 0]), "no IPv6 header"),
            (Kind::Gue, with(&[0, 6, 0, 0]), "unknown tunnel header"),
            (Kind::Gue, with(&[0, 4, 0, 1]), "unknown tunnel header"),
            (Kind::Ip4, outer(4, &[inner.clone(), vec![0]].concat()), "does not fit"),
            (Kind::Ip4, outer(4, &inner_6()), "no IPv4 header"),
            (Kind::Ip6, outer(41, &[inner_6(), vec![0]].concat()), "does not fit"),
        ];
        for (kind, datagram, why) in bad {
            let told = take_out(kind, Outer::V4, &datagram).unwrap_err();
            assert!(told.contains(why), "{kind:?}: {told}, not {why}");
        }
    }
}
