//! Reading and rewriting against a second reader (etherparse), over random frames.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;

use etherparse::{
    Ipv4Header, NetHeaders, PacketBuilder, PacketHeaders, TransportHeader, ip_number,
};
use proptest::prelude::*;
use steadfast_packet::{
    ANSWER_LEN_MAX, Content, FRAME_LEN_MIN, Ipv4Packet, Transport, arp_reply, decrement_ttl,
    echo_reply, gratuitous_arp, parse, port_unreachable, rewrite_destination, rewrite_source,
    tcp_reset,
};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xd];

/// A random TCP or UDP packet.
#[derive(Clone, Debug)]
struct Sample {
    tcp: bool,
    src: [u8; 4],
    dst: [u8; 4],
    ports: (u16, u16),
    ttl: u8,
    options: usize,
    flags: u8,
    seq: (u32, u32),
    payload: Vec<u8>,
    udp_checksum: bool,
    padding: usize,
}

fn sample() -> impl Strategy<Value = Sample> {
    (
        (any::<bool>(), any::<[u8; 4]>(), any::<[u8; 4]>(), any::<(u16, u16)>(), any::<u8>()),
        (0..=10usize, any::<u8>(), any::<(u32, u32)>()),
        (proptest::collection::vec(any::<u8>(), 0..64), any::<bool>(), 0..20usize),
    )
        .prop_map(
            |((tcp, src, dst, ports, ttl), (words, flags, seq), (payload, sum, padding))| {
                let options = words * 4;
                let udp_checksum = sum;
                Sample {
                    tcp,
                    src,
                    dst,
                    ports,
                    ttl,
                    options,
                    flags,
                    seq,
                    payload,
                    udp_checksum,
                    padding,
                }
            },
        )
}

impl Sample {
    fn frame(&self) -> Vec<u8> {
        let protocol = if self.tcp { ip_number::TCP } else { ip_number::UDP };
        let mut ip = Ipv4Header::new(0, self.ttl, protocol, self.src, self.dst).unwrap();
        ip.options = vec![1u8; self.options].as_slice().try_into().unwrap();
        let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
            .ip(etherparse::IpHeaders::Ipv4(ip, Default::default()));
        let mut frame = Vec::new();
        if self.tcp {
            let (seq, ack) = self.seq;
            let mut tcp = etherparse::TcpHeader::new(self.ports.0, self.ports.1, seq, 1000);
            tcp.acknowledgment_number = ack;
            (tcp.fin, tcp.syn) = (self.flags & 1 != 0, self.flags & 2 != 0);
            (tcp.rst, tcp.ack) = (self.flags & 4 != 0, self.flags & 0x10 != 0);
            builder.tcp_header(tcp).write(&mut frame, &self.payload).unwrap();
        } else {
            let builder = builder.udp(self.ports.0, self.ports.1);
            builder.write(&mut frame, &self.payload).unwrap();
            if !self.udp_checksum {
                let at = 14 + 20 + self.options + 6;
                frame[at..at + 2].fill(0);
            }
        }
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }
}

fn ipv4(frame: &[u8]) -> Ipv4Packet {
    match parse(frame).unwrap().content {
        Content::Ipv4(packet) => packet,
        other => panic!("not IPv4: {other:?}"),
    }
}

/// Header and transport checksums as they should be, computed from scratch by etherparse.
fn assert_checksums(frame: &[u8]) {
    let read = PacketHeaders::from_ethernet_slice(frame).unwrap();
    let Some(NetHeaders::Ipv4(ip, _)) = &read.net else { panic!("not IPv4") };
    assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 checksum");
    let payload = read.payload.slice();
    match &read.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            assert_eq!(tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap(), "TCP checksum");
        }
        Some(TransportHeader::Udp(udp)) if udp.checksum != 0 => {
            assert_eq!(udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap(), "UDP checksum");
        }
        Some(TransportHeader::Icmpv4(icmp)) => {
            assert_eq!(icmp.checksum, icmp.icmp_type.calc_checksum(payload), "ICMP checksum");
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn reads_what_etherparse_reads(sample in sample()) {
        let frame = sample.frame();
        let packet = ipv4(&frame);
        let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(NetHeaders::Ipv4(ip, _)) = &read.net else { panic!("not IPv4") };
        prop_assert_eq!((packet.src, packet.dst), (ip.source.into(), ip.destination.into()));
        prop_assert_eq!(packet.ttl, ip.time_to_live);
        prop_assert_eq!(packet.len(), usize::from(ip.total_len));
        prop_assert_eq!(packet.l4, 14 + ip.header_len());
        let (_, src_port, dst_port) = packet.tuple().unwrap();
        match read.transport.unwrap() {
            TransportHeader::Tcp(tcp) => {
                prop_assert_eq!((src_port, dst_port), (tcp.source_port, tcp.destination_port));
                let Transport::Tcp { flags, .. } = packet.transport else { panic!("not TCP") };
                prop_assert_eq!((flags.syn(), flags.ack()), (tcp.syn, tcp.ack));
                prop_assert_eq!((flags.fin(), flags.rst()), (tcp.fin, tcp.rst));
            }
            TransportHeader::Udp(udp) => {
                prop_assert_eq!((src_port, dst_port), (udp.source_port, udp.destination_port));
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    #[test]
    fn rewriting_keeps_checksums_right(
        sample in sample(), addr in any::<u32>(), port in any::<u16>(), source in any::<bool>(),
    ) {
        let mut frame = sample.frame();
        let before = frame.clone();
        let packet = ipv4(&frame);
        let alive = decrement_ttl(&mut frame, &packet);
        prop_assert_eq!(alive, sample.ttl > 1);
        let addr = Ipv4Addr::from_bits(addr);
        if source {
            rewrite_source(&mut frame, &packet, addr, port);
        } else {
            rewrite_destination(&mut frame, &packet, addr, port);
        }
        assert_checksums(&frame);
        let after = ipv4(&frame);
        let (_, src_port, dst_port) = after.tuple().unwrap();
        let (src, dst) = (Ipv4Addr::from(sample.src), Ipv4Addr::from(sample.dst));
        if source {
            prop_assert_eq!((after.src, src_port), (addr, port));
            prop_assert_eq!((after.dst, dst_port), (dst, sample.ports.1));
        } else {
            prop_assert_eq!((after.dst, dst_port), (addr, port));
            prop_assert_eq!((after.src, src_port), (src, sample.ports.0));
        }
        prop_assert_eq!(after.ttl, if alive { sample.ttl - 1 } else { sample.ttl });
        prop_assert_eq!(&frame[after.l4 + 8..after.l4 + 8 + sample.payload.len().min(2)],
            &before[packet.l4 + 8..packet.l4 + 8 + sample.payload.len().min(2)]);
        if !sample.tcp && !sample.udp_checksum {
            prop_assert_eq!(&frame[after.l4 + 6..after.l4 + 8], &[0, 0], "no checksum stays none");
        }
    }

    #[test]
    fn a_wrong_checksum_stays_wrong(sample in sample(), addr in any::<u32>(), port in any::<u16>()) {
        prop_assume!(sample.tcp);
        let mut frame = sample.frame();
        let packet = ipv4(&frame);
        frame[packet.l4 + 16] ^= 0x40;
        rewrite_destination(&mut frame, &packet, Ipv4Addr::from_bits(addr), port);
        let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(NetHeaders::Ipv4(ip, _)) = &read.net else { panic!("not IPv4") };
        let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("not TCP") };
        let right = tcp.calc_checksum_ipv4(ip, read.payload.slice()).unwrap();
        prop_assert_ne!(tcp.checksum, right);
    }

    #[test]
    fn resets_follow_rfc_9293(sample in sample()) {
        prop_assume!(sample.tcp && sample.flags & 4 == 0);
        let frame = sample.frame();
        let packet = ipv4(&frame);
        let mut buffer = frame.clone();
        buffer.resize(frame.len().max(ANSWER_LEN_MAX), 0xaa);
        let len = tcp_reset(&mut buffer, &packet).unwrap();
        prop_assert_eq!(len, FRAME_LEN_MIN);
        assert_checksums(&buffer[..len]);
        let read = PacketHeaders::from_ethernet_slice(&buffer[..len]).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = read.transport else { panic!("not TCP") };
        prop_assert_eq!((tcp.source_port, tcp.destination_port), (sample.ports.1, sample.ports.0));
        prop_assert!(tcp.rst && !tcp.syn && !tcp.fin);
        let (seq, ack) = sample.seq;
        if sample.flags & 0x10 != 0 {
            prop_assert_eq!((tcp.sequence_number, tcp.ack), (ack, false));
        } else {
            let len = sample.payload.len() as u32 + u32::from(sample.flags & 1 != 0)
                + u32::from(sample.flags & 2 != 0);
            prop_assert_eq!((tcp.sequence_number, tcp.ack), (0, true));
            prop_assert_eq!(tcp.acknowledgment_number, seq.wrapping_add(len));
        }
    }

    #[test]
    fn port_unreachable_quotes_the_packet(sample in sample()) {
        let frame = sample.frame();
        let packet = ipv4(&frame);
        let mut buffer = frame.clone();
        buffer.resize(frame.len().max(ANSWER_LEN_MAX), 0xaa);
        let len = port_unreachable(&mut buffer, &packet).unwrap();
        prop_assert!(len <= ANSWER_LEN_MAX);
        assert_checksums(&buffer[..len]);
        let answer = ipv4(&buffer[..len]);
        prop_assert_eq!((answer.src, answer.dst), (packet.dst, packet.src));
        prop_assert_eq!(&buffer[answer.l4..answer.l4 + 2], &[3, 3]);
        prop_assert_eq!(&buffer[answer.l4 + 8..answer.end], &frame[14..packet.l4 + 8]);
        prop_assert_eq!((&buffer[..6], &buffer[6..12]), (&CLIENT_MAC[..], &OWN_MAC[..]));
    }

    #[test]
    fn garbage_never_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ethertype in 0..4usize,
    ) {
        let kinds = [0x0800u16, 0x0806, 0x86dd, 0x1234];
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&kinds[ethertype].to_be_bytes());
            bytes[14] = 0x45;
        }
        exercise(&bytes);
    }

    #[test]
    fn truncated_and_mangled_frames_never_panic(
        sample in sample(), cut in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(), value in any::<u8>(),
    ) {
        let mut frame = sample.frame();
        let at = at.index(frame.len());
        frame[at] = value;
        exercise(&frame);
        let packet = ipv4_of(&frame);
        frame.truncate(cut.index(frame.len()));
        exercise(&frame);
        // A packet that is no longer in its buffer changes nothing and panics nowhere.
        if let Some(packet) = packet {
            change(&mut frame, &packet);
        }
    }
}

fn ipv4_of(frame: &[u8]) -> Option<Ipv4Packet> {
    match parse(frame).ok()?.content {
        Content::Ipv4(packet) => Some(packet),
        _ => None,
    }
}

fn exercise(frame: &[u8]) {
    if let Some(packet) = ipv4_of(frame) {
        assert!(packet.l4 <= packet.end && packet.end <= frame.len());
        change(&mut frame.to_vec(), &packet);
    }
}

fn change(frame: &mut [u8], packet: &Ipv4Packet) {
    let _ = decrement_ttl(frame, packet);
    rewrite_source(frame, packet, Ipv4Addr::LOCALHOST, 1);
    rewrite_destination(frame, packet, Ipv4Addr::LOCALHOST, 1);
    let _ = echo_reply(frame, packet);
    let _ = tcp_reset(frame, packet);
    let _ = port_unreachable(frame, packet);
    let _ = arp_reply(frame, OWN_MAC, Ipv4Addr::LOCALHOST);
}

#[test]
fn echo_is_answered_with_the_same_data() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4([198, 18, 0, 2], [198, 18, 0, 100], 63)
        .icmpv4_echo_request(7, 9)
        .write(&mut frame, b"some data")
        .unwrap();
    let packet = ipv4(&frame);
    assert_eq!(packet.transport, Transport::EchoRequest);
    let len = echo_reply(&mut frame, &packet).unwrap();
    assert_eq!(len, packet.end, "no room to pad here");
    assert_checksums(&frame);
    let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
    let Some(TransportHeader::Icmpv4(icmp)) = read.transport else { panic!("not ICMP") };
    let header = etherparse::IcmpEchoHeader { id: 7, seq: 9 };
    assert_eq!(icmp.icmp_type, etherparse::Icmpv4Type::EchoReply(header));
    assert_eq!(read.payload.slice(), b"some data");
    let reply = ipv4(&frame);
    assert_eq!((reply.src, reply.dst, reply.ttl), (packet.dst, packet.src, 64));
}

#[test]
fn arp_is_asked_and_answered() {
    let vip = Ipv4Addr::new(198, 18, 0, 100);
    let mut frame = gratuitous_arp(CLIENT_MAC, vip);
    let expected = "ffffffffffff02000000000c08060001080006040001\
                    02000000000cc6120064000000000000c6120064";
    assert_eq!(hex(&frame[..42]), expected);
    let Content::ArpRequest(request) = parse(&frame).unwrap().content else { panic!("no request") };
    assert_eq!((request.sender, request.target), (vip, vip));
    frame[31] = 2; // now asked by 198.18.0.2
    assert_eq!(arp_reply(&mut frame, OWN_MAC, vip), Ok(60));
    let expected = "02000000000c02000000000d08060001080006040002\
                    02000000000dc612006402000000000cc6120002";
    assert_eq!(hex(&frame[..42]), expected);
    assert_eq!(parse(&frame).unwrap().content, Content::ArpOther);
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn fragments_and_impossible_lengths_are_told_apart() {
    let sample = Sample {
        tcp: true,
        src: [198, 18, 0, 2],
        dst: [198, 18, 0, 100],
        ports: (4000, 80),
        ttl: 64,
        options: 0,
        flags: 2,
        seq: (1, 0),
        payload: vec![],
        udp_checksum: true,
        padding: 0,
    };
    // (description, byte to set, value, expected)
    let cases: [(&str, usize, u8, &str); 8] = [
        ("as it is", 0, 2, "tcp"),
        ("more fragments", 20, 0x20, "fragment"),
        ("an offset", 21, 1, "fragment"),
        ("version 6 in an IPv4 frame", 14, 0x65, "Version"),
        ("header of 16 bytes", 14, 0x44, "Length(\"IPv4\")"),
        ("longer than the frame", 17, 41, "Length(\"IPv4\")"),
        ("TCP header of 16 bytes", 46, 0x40, "Length(\"TCP\")"),
        ("TCP header past the end", 46, 0x60, "Length(\"TCP\")"),
    ];
    for (description, at, value, expected) in cases {
        let mut frame = sample.frame();
        frame[at] = value;
        frame[24..26].fill(0);
        let checksum = steadfast_packet::internet_checksum(0, &frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        let found = match parse(&frame) {
            Ok(parsed) => match parsed.content {
                Content::Ipv4(packet) if packet.transport == Transport::Fragment => {
                    "fragment".to_owned()
                }
                Content::Ipv4(packet) if packet.tuple().is_some() => "tcp".to_owned(),
                other => format!("{other:?}"),
            },
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(found, expected, "{description}");
    }
}
