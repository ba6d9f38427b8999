//! ICMP errors against a second reader (etherparse) and full computation, over random errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Extensions, Ipv6FragmentHeader, Ipv6Header, Ipv6RawExtHeader,
    NetHeaders, PacketBuilder, PacketHeaders, TcpHeader, TransportHeader, ip_number,
};
use proptest::prelude::*;
use steadfast_packet::{
    Content, IcmpError, Packet, ParseError, Protocol, internet_checksum, parse, parse_error,
    pseudo_sum, rewrite_error_destination, rewrite_error_source, shift_quoted_seq,
};

const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 0xc], [2, 0, 0, 0, 0, 0xd]);
const ETHERNET: usize = 14;
const ICMP: usize = 8;

/// A random error: what it quotes, how much of it, who sends it.
#[derive(Clone, Debug)]
struct Sample {
    tcp: bool,
    /// Of the quoted packet.
    src: IpAddr,
    dst: IpAddr,
    ports: (u16, u16),
    /// IPv4: words of options; IPv6: extension headers.
    options: usize,
    /// IPv6: a first fragment.
    fragment: bool,
    udp_checksum: bool,
    payload: Vec<u8>,
    /// How much is quoted after the quoted ports.
    quoted: usize,
    /// Who sends the error: always to the source of the quoted packet.
    router: u128,
    kind: usize,
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(src, dst)| (src.into(), dst.into())),
        any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(src, dst)| (src.into(), dst.into())),
    ]
}

/// One of the family of `like`.
fn another(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(bits as u32).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

fn sample() -> impl Strategy<Value = Sample> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    let payload = proptest::collection::vec(any::<u8>(), 0..80);
    let rest = (0..1000usize, any::<u128>(), 0..4usize);
    (flags, addresses(), any::<(u16, u16)>(), 0..=10usize, payload, rest).prop_map(
        |((tcp, fragment, udp_checksum), (src, dst), ports, options, payload, rest)| {
            let (quoted, router, kind) = rest;
            Sample {
                tcp,
                src,
                dst,
                ports,
                options,
                fragment,
                udp_checksum,
                payload,
                quoted,
                router,
                kind,
            }
        },
    )
}

impl Sample {
    fn is_ipv4(&self) -> bool {
        self.src.is_ipv4()
    }

    /// The packet that the error is about, from its IP header on.
    fn packet(&self) -> Vec<u8> {
        let protocol = if self.tcp { ip_number::TCP } else { ip_number::UDP };
        let headers = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip = Ipv4Header::new(0, 1, protocol, src.octets(), dst.octets()).unwrap();
                ip.options = vec![1u8; self.options * 4].as_slice().try_into().unwrap();
                IpHeaders::Ipv4(ip, Default::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    hop_limit: 1,
                    next_header: protocol,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                let mut extensions = Ipv6Extensions::default();
                if self.options > 0 {
                    let padding = [1, 4, 0, 0, 0, 0];
                    let options = Ipv6RawExtHeader::new_raw(protocol, &padding).unwrap();
                    extensions.hop_by_hop_options = Some(options);
                }
                if self.fragment {
                    extensions.fragment =
                        Some(Ipv6FragmentHeader::new(protocol, 0.try_into().unwrap(), true, 7));
                }
                IpHeaders::Ipv6(ip, extensions)
            }
            _ => unreachable!("two families"),
        };
        let builder = PacketBuilder::ip(headers);
        let mut packet = Vec::new();
        if self.tcp {
            let header = TcpHeader::new(self.ports.0, self.ports.1, 7, 1000);
            builder.tcp_header(header).write(&mut packet, &self.payload).unwrap();
        } else {
            let builder = builder.udp(self.ports.0, self.ports.1);
            builder.write(&mut packet, &self.payload).unwrap();
            if !self.udp_checksum {
                let at = packet.len() - self.payload.len() - 2;
                packet[at..at + 2].fill(0);
            }
        }
        if self.fragment && !self.is_ipv4() {
            // etherparse 0.19 writes "more fragments" into another bit.
            let at = 40 + if self.options > 0 { 8 } else { 0 } + 2;
            packet[at..at + 2].copy_from_slice(&[0, 1]);
        }
        packet
    }

    fn transport_len(&self) -> usize {
        self.payload.len() + if self.tcp { 20 } else { 8 }
    }

    /// How much of the packet is quoted: its ports at least.
    fn quoted_len(&self, packet: &[u8]) -> usize {
        let ports = packet.len() - self.transport_len() + 4;
        ports + self.quoted % (packet.len() - ports + 1)
    }

    /// The error as a frame, all checksums right.
    fn frame(&self) -> Vec<u8> {
        let packet = self.packet();
        let quoted = &packet[..self.quoted_len(&packet)];
        let router = another(self.src, self.router);
        let kinds = if self.is_ipv4() { [3, 4, 11, 12] } else { [1, 2, 3, 4] };
        let mut message = vec![kinds[self.kind], 1, 0, 0, 0, 0, 5, 0];
        message.extend(quoted);
        let protocol = if self.is_ipv4() { ip_number::ICMP } else { ip_number::IPV6_ICMP };
        let sum = match self.is_ipv4() {
            true => 0,
            false => pseudo_sum(router, self.src, protocol.0, message.len() as u32),
        };
        let checksum = internet_checksum(sum, &message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let builder = PacketBuilder::ethernet2(MACS.0, MACS.1);
        let mut frame = Vec::new();
        let builder = match (router, self.src) {
            (IpAddr::V4(router), IpAddr::V4(dst)) => builder.ipv4(router.octets(), dst.octets(), 9),
            (IpAddr::V6(router), IpAddr::V6(dst)) => builder.ipv6(router.octets(), dst.octets(), 9),
            _ => unreachable!("two families"),
        };
        builder.write(&mut frame, protocol, &message).unwrap();
        frame
    }
}

fn packet(frame: &[u8]) -> Packet {
    match parse(frame).unwrap().content {
        Content::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

fn error(frame: &[u8]) -> IcmpError {
    parse_error(frame, &packet(frame)).unwrap().expect("an error")
}

/// The checksum of the message, and the one it should have.
fn message_checksums(frame: &[u8]) -> (u16, u16) {
    let packet = packet(frame);
    let mut message = frame[packet.l4..packet.end].to_vec();
    let found = u16::from_be_bytes([message[2], message[3]]);
    message[2..4].fill(0);
    let sum = match packet.is_ipv6() {
        true => pseudo_sum(packet.src, packet.dst, 58, message.len() as u32),
        false => 0,
    };
    (found, internet_checksum(sum, &message))
}

/// The transport checksum of a whole packet, if it has one, and the one it should have.
fn transport_checksums(packet: &[u8]) -> Option<(u16, u16)> {
    let read = PacketHeaders::from_ip_slice(packet).unwrap();
    let payload = read.payload.slice();
    Some(match (&read.transport?, &read.net?) {
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv4(ip, _)) => {
            (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap())
        }
        (TransportHeader::Tcp(tcp), NetHeaders::Ipv6(ip, _)) => {
            (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).unwrap())
        }
        (TransportHeader::Udp(udp), _) if udp.checksum == 0 => return None,
        (TransportHeader::Udp(udp), NetHeaders::Ipv4(ip, _)) => {
            (udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap())
        }
        (TransportHeader::Udp(udp), NetHeaders::Ipv6(ip, _)) => {
            (udp.checksum, udp.calc_checksum_ipv6(ip, payload).unwrap())
        }
        other => panic!("not TCP or UDP: {other:?}"),
    })
}

/// What is behind the two rewrites: which addresses and ports change, and which stay.
fn rewrite(frame: &mut [u8], to_server: bool, addr: IpAddr, port: u16) {
    const BEHIND: [u8; 24] = [0xee; 24];
    let (packet, error) = (packet(frame), error(frame));
    let mut buffer = [&*frame, &BEHIND[..]].concat();
    if to_server {
        rewrite_error_destination(&mut buffer, &packet, &error, addr, port);
    } else {
        rewrite_error_source(&mut buffer, &packet, &error, addr, port);
    }
    assert_eq!(buffer[frame.len()..], BEHIND, "what is behind the packet");
    frame.copy_from_slice(&buffer[..frame.len()]);
}

proptest! {
    #[test]
    fn reads_whom_an_error_is_about(sample in sample()) {
        let frame = sample.frame();
        let quoted = error(&frame).quoted;
        let protocol = if sample.tcp { Protocol::Tcp } else { Protocol::Udp };
        prop_assert_eq!((quoted.src, quoted.dst), (sample.src, sample.dst));
        prop_assert_eq!((quoted.src_port, quoted.dst_port), sample.ports);
        prop_assert_eq!(quoted.protocol, protocol);
    }

    #[test]
    fn the_sender_of_a_shifted_segment_finds_its_number(sample in sample(), by in any::<u32>()) {
        let frame = sample.frame();
        let (outer, quoted) = (packet(&frame), error(&frame).quoted);
        const BEHIND: [u8; 24] = [0xee; 24];
        let mut changed = [&frame[..], &BEHIND].concat();
        shift_quoted_seq(&mut changed, &outer, &error(&frame), by);
        prop_assert_eq!(changed.split_off(frame.len()), BEHIND, "what is behind the packet");
        let (found, right) = message_checksums(&changed);
        prop_assert_eq!(found, right, "the message");
        let seq = quoted.l4 + 4..quoted.l4 + 8;
        if !sample.tcp || seq.end > quoted.end {
            prop_assert_eq!(changed, frame, "not so much is quoted");
            return Ok(());
        }
        let number = |frame: &[u8]| u32::from_be_bytes(frame[seq.clone()].try_into().unwrap());
        prop_assert_eq!(number(&changed), number(&frame).wrapping_add(by));
        let whole = sample.packet();
        if (sample.is_ipv4() || !sample.fragment) && frame[quoted.l3..quoted.end] == whole {
            let (found, right) = transport_checksums(&changed[quoted.l3..quoted.end]).unwrap();
            prop_assert_eq!(found, right, "the quoted segment");
        }
        shift_quoted_seq(&mut changed, &outer, &error(&frame), by.wrapping_neg());
        prop_assert_eq!(changed, frame);
    }

    #[test]
    fn a_right_error_stays_right(
        sample in sample(), to_server in any::<bool>(), bits in any::<u128>(), port in any::<u16>(),
    ) {
        let frame = sample.frame();
        let addr = another(sample.src, bits);
        let mut changed = frame.clone();
        rewrite(&mut changed, to_server, addr, port);
        let (found, right) = message_checksums(&changed);
        prop_assert_eq!(found, right, "the message");
        let (before, after) = (packet(&frame), packet(&changed));
        let (old, new) = (error(&frame).quoted, error(&changed).quoted);
        if to_server {
            prop_assert_eq!((after.src, after.dst), (before.src, addr));
            prop_assert_eq!((new.src, new.src_port, new.dst), (addr, port, old.dst));
            prop_assert_eq!(new.dst_port, old.dst_port);
        } else {
            prop_assert_eq!((after.src, after.dst), (addr, before.dst));
            prop_assert_eq!((new.dst, new.dst_port, new.src), (addr, port, old.src));
            prop_assert_eq!(new.src_port, old.src_port);
        }
        // Both IPv4 headers: parse() has checked the outer one.
        if sample.is_ipv4() {
            prop_assert_eq!(internet_checksum(0, &changed[new.l3..new.l4]), 0, "quoted header");
        }
        // The quoted transport checksum, once the rest of the packet is put behind it again.
        let whole = sample.packet();
        let quoted = &changed[new.l3..new.end];
        let mut put_together = quoted.to_vec();
        put_together.extend(&whole[quoted.len()..]);
        let checksum_at = new.l4 - new.l3 + if sample.tcp { 16 } else { 6 };
        let is_whole = sample.is_ipv4() || !sample.fragment;
        if is_whole && quoted.len() >= checksum_at + 2 {
            if let Some((found, right)) = transport_checksums(&put_together) {
                prop_assert_eq!(found, right, "quoted transport");
            } else {
                prop_assert!(!sample.udp_checksum || sample.tcp, "a checksum became none");
            }
        }
        prop_assert_eq!(changed.len(), frame.len());
    }

    /// Whatever is wrong with the checksum of the message is wrong by as much afterwards.
    #[test]
    fn a_wrong_error_stays_wrong(
        sample in sample(), to_server in any::<bool>(), bits in any::<u128>(), port in any::<u16>(),
        at in any::<prop::sample::Index>(), flip in 1..=255u8,
    ) {
        let mut frame = sample.frame();
        // Somewhere after the quoted headers, or in the part of the ICMP header that is free.
        let quoted = error(&frame).quoted;
        let free: Vec<usize> = (quoted.l3 - 4..quoted.l3)
            .chain(frame.len().min(quoted.l4 + 20)..frame.len())
            .collect();
        frame[free[at.index(free.len())]] ^= flip;
        rewrite(&mut frame, to_server, another(sample.src, bits), port);
        let (found, right) = message_checksums(&frame);
        prop_assert_ne!(found, right);
    }

    /// Senders change the quoted header: what was wrong in it stays so, and the message right.
    #[test]
    fn a_wrong_quoted_header_stays_wrong(
        sample in sample(), to_server in any::<bool>(), bits in any::<u128>(), flip in 1..=255u8,
    ) {
        let mut sample = sample;
        (sample.src, sample.dst) = (Ipv4Addr::from_bits(7).into(), Ipv4Addr::from_bits(8).into());
        let mut frame = sample.frame();
        let quoted = error(&frame).quoted;
        // Under the checksum of the message that is made right again: the time to live.
        frame[quoted.l3 + 8] ^= flip;
        let right = message_checksums(&frame).1.to_be_bytes();
        let icmp = packet(&frame).l4;
        frame[icmp + 2..icmp + 4].copy_from_slice(&right);
        rewrite(&mut frame, to_server, another(sample.src, bits), 1);
        prop_assert_ne!(internet_checksum(0, &frame[quoted.l3..quoted.l4]), 0);
        let (found, right) = message_checksums(&frame);
        prop_assert_eq!(found, right);
    }

    #[test]
    fn cut_and_mangled_errors_never_panic(
        sample in sample(), cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(), value in any::<u8>(), bits in any::<u128>(),
    ) {
        let mut frame = sample.frame();
        let (whole, found) = (packet(&frame), error(&frame));
        let at = ETHERNET + at.index(frame.len() - ETHERNET);
        frame[at] = value;
        let exercise = |frame: &mut [u8], packet: &Packet| {
            if let Ok(Some(error)) = parse_error(frame, packet) {
                assert!(error.quoted.l4 + 4 <= error.quoted.end && error.quoted.end <= packet.end);
                for addr in [another(sample.src, bits), Ipv6Addr::LOCALHOST.into()] {
                    rewrite_error_source(frame, packet, &error, addr, 1);
                    rewrite_error_destination(frame, packet, &error, addr, 1);
                }
            }
        };
        exercise(&mut frame, &whole);
        // The quotation is cut short, and the lengths say so.
        let icmp = whole.l4 + ICMP;
        for end in icmp..=frame.len() {
            exercise(&mut frame.clone(), &Packet { end, ..whole });
        }
        // An error that is no longer in its buffer changes nothing and panics nowhere.
        frame.truncate(cut.index(frame.len()));
        exercise(&mut frame, &whole);
        let before = frame.clone();
        rewrite_error_source(&mut frame, &whole, &found, another(sample.src, bits), 1);
        prop_assert!(frame == before, "changed something that is not all there");
    }
}

fn plain(v4: bool) -> Sample {
    let addr = |v4_text: &str, v6_text: &str| -> IpAddr {
        (if v4 { v4_text } else { v6_text }).parse().unwrap()
    };
    Sample {
        tcp: true,
        src: addr("198.18.0.100", "2001:db8::100"),
        dst: addr("203.0.113.7", "2001:db8:7::7"),
        ports: (80, 4000),
        options: 0,
        fragment: false,
        udp_checksum: true,
        payload: vec![],
        quoted: 0,
        router: 9,
        kind: 0,
    }
}

/// What is no error, and what quotes too little or what nobody can know.
#[test]
fn what_is_no_error_and_what_cannot_be_read() {
    type Change = fn(&mut Vec<u8>, usize);
    let none = Ok(None);
    let unreadable = Err(ParseError::Quote);
    // (description, IPv4, change given the start of the ICMP header, expected)
    let cases: [(&str, bool, Change, _); 12] = [
        ("a redirect", true, |f, icmp| f[icmp] = 5, none),
        ("an echo reply", true, |f, icmp| f[icmp] = 0, none),
        ("a reply of ICMPv6", false, |f, icmp| f[icmp] = 129, none),
        ("a quoted version 6 in IPv4", true, |f, icmp| f[icmp + 8] = 0x65, unreadable),
        ("a quoted version 4 in IPv6", false, |f, icmp| f[icmp + 8] = 0x45, unreadable),
        ("a quoted header of 16 bytes", true, |f, icmp| f[icmp + 8] = 0x44, unreadable),
        ("a quoted header past the end", true, |f, icmp| f[icmp + 8] = 0x4f, unreadable),
        ("a quoted later fragment", true, |f, icmp| f[icmp + 8 + 7] = 1, unreadable),
        ("a quoted ICMP", true, |f, icmp| f[icmp + 8 + 9] = 1, unreadable),
        ("a quoted ICMPv6", false, |f, icmp| f[icmp + 8 + 6] = 58, unreadable),
        ("an extension past the end", false, |f, icmp| f[icmp + 8 + 6] = 60, unreadable),
        (
            "nothing quoted",
            true,
            |f, icmp| {
                f.truncate(icmp + 8);
                f[17] = 28;
                f[24..26].fill(0);
                let sum = internet_checksum(0, &f[14..34]).to_be_bytes();
                f[24..26].copy_from_slice(&sum);
            },
            unreadable,
        ),
    ];
    for (description, v4, change, expected) in cases {
        let mut frame = plain(v4).frame();
        let icmp = packet(&frame).l4;
        change(&mut frame, icmp);
        assert_eq!(parse_error(&frame, &packet(&frame)), expected, "{description}");
    }
}
