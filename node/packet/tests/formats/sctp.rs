//! SCTP: reading, rewriting and refusing, against a CRC a bit at a time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketHeaders};
use proptest::prelude::*;
use steadfast_packet::{
    ANSWER_LEN_MAX, Chunk, Content, Packet, ParseError, Transport, parse, rewrite_destination,
    rewrite_source, sctp_abort,
};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xd];
const SCTP: IpNumber = IpNumber(132);
const TAG: u32 = 0x5a5a_0102;

/// Straight from the definition in RFC 9260 appendix A.
fn crc32c(bytes: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for octet in bytes {
        for bit in 0..8 {
            let feedback = (crc ^ u32::from(octet >> bit)) & 1;
            crc = (crc >> 1) ^ (feedback * 0x82f6_3b78);
        }
    }
    (!crc).to_le_bytes()
}

/// A chunk with its padding.
fn chunk(kind: Chunk, value: &[u8]) -> Vec<u8> {
    let mut chunk = vec![kind.0, 0];
    chunk.extend_from_slice(&(4 + value.len() as u16).to_be_bytes());
    chunk.extend_from_slice(value);
    chunk.resize(chunk.len().next_multiple_of(4), 0);
    chunk
}

/// An SCTP packet with a right checksum.
fn sctp(ports: (u16, u16), tag: u32, chunks: &[u8]) -> Vec<u8> {
    let mut packet = [ports.0.to_be_bytes(), ports.1.to_be_bytes()].concat();
    packet.extend_from_slice(&tag.to_be_bytes());
    packet.extend_from_slice(&[0; 4]);
    packet.extend_from_slice(chunks);
    let crc = crc32c(&packet);
    packet[8..12].copy_from_slice(&crc);
    packet
}

fn frame(src: IpAddr, dst: IpAddr, payload: &[u8]) -> Vec<u8> {
    let ip = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ip = Ipv4Header::new(0, 64, SCTP, src.octets(), dst.octets()).unwrap();
            IpHeaders::Ipv4(ip, Default::default())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = Ipv6Header {
                hop_limit: 64,
                next_header: SCTP,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(ip, Default::default())
        }
        _ => unreachable!("two families"),
    };
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ip(ip);
    builder.write(&mut frame, SCTP, payload).unwrap();
    frame
}

fn packet(frame: &[u8]) -> Packet {
    match parse(frame).unwrap().content {
        Content::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

/// The checksum that is in a frame, and the one that should be.
fn checksums(frame: &[u8]) -> ([u8; 4], [u8; 4]) {
    let packet = packet(frame);
    let mut sctp = frame[packet.l4..packet.end].to_vec();
    let found = sctp[8..12].try_into().unwrap();
    sctp[8..12].fill(0);
    (found, crc32c(&sctp))
}

fn addresses() -> impl Strategy<Value = [IpAddr; 3]> {
    prop_oneof![
        any::<[Ipv4Addr; 3]>().prop_map(|all| all.map(IpAddr::from)),
        any::<[Ipv6Addr; 3]>().prop_map(|all| all.map(IpAddr::from)),
    ]
}

const FOUR: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 2));
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 0, 100));

proptest! {
    #[test]
    fn checksums_that_were_right_stay_right_and_wrong_ones_wrong(
        [src, dst, new] in addresses(),
        ports in any::<(u16, u16)>(),
        new_port in any::<u16>(),
        data in proptest::collection::vec(any::<u8>(), 0..1_400),
        error in any::<u32>(),
    ) {
        let payload = sctp(ports, TAG, &chunk(Chunk::DATA, &data));
        for error in [0, error] {
            let mut before = frame(src, dst, &payload);
            let l4 = packet(&before).l4;
            before[l4 + 8..l4 + 12].iter_mut().zip(error.to_le_bytes()).for_each(|(b, e)| *b ^= e);
            before.extend_from_slice(&[0xee; 7]);
            let parsed = packet(&before);
            let mut to = before.clone();
            rewrite_destination(&mut to, &parsed, new, new_port);
            let mut from = before.clone();
            rewrite_source(&mut from, &parsed, new, new_port);
            for (frame, src, dst, ports) in [
                (&to, src, new, (ports.0, new_port)),
                (&from, new, dst, (new_port, ports.1)),
            ] {
                let read = packet(frame);
                prop_assert_eq!((read.src, read.dst), (src, dst));
                prop_assert_eq!(
                    read.transport,
                    Transport::Sctp { src_port: ports.0, dst_port: ports.1, chunk: Chunk::DATA }
                );
                let (found, right) = checksums(frame);
                let difference = u32::from_le_bytes(found) ^ u32::from_le_bytes(right);
                prop_assert_eq!(difference, error, "the error that was there, no other");
                prop_assert!(PacketHeaders::from_ethernet_slice(frame).is_ok());
            }
        }
    }

    #[test]
    fn nothing_in_a_packet_makes_it_panic(
        payload in proptest::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut frame = frame(FOUR, VIP, &payload);
        if let Ok(parsed) = parse(&frame) && let Content::Ip(packet) = parsed.content {
            rewrite_destination(&mut frame, &packet, FOUR, 7);
            let mut buffer = frame.clone();
            buffer.resize(ANSWER_LEN_MAX, 0);
            let _ = sctp_abort(&mut buffer, &packet);
        }
    }
}

#[test]
fn the_first_chunk_says_what_a_packet_is() {
    let cookie = |kind| chunk(kind, b"cooki");
    let all = |chunks: &[Vec<u8>]| chunks.concat();
    let data = chunk(Chunk::DATA, b"payload");
    let abort = chunk(Chunk::ABORT, b"");
    let cases = [
        (all(&[chunk(Chunk::INIT, &[0; 16])]), Chunk::INIT),
        (all(&[cookie(Chunk::COOKIE_ECHO), data.clone()]), Chunk::COOKIE_ECHO),
        (all(&[cookie(Chunk::COOKIE_ECHO), abort.clone()]), Chunk::ABORT),
        (all(&[cookie(Chunk::COOKIE_ACK), abort.clone()]), Chunk::ABORT),
        (all(&[data.clone(), abort]), Chunk::DATA),
        (all(&[cookie(Chunk(3)), data]), Chunk(3)),
    ];
    for (chunks, expected) in cases {
        match packet(&frame(FOUR, VIP, &sctp((4000, 80), TAG, &chunks))).transport {
            Transport::Sctp { chunk, .. } => assert_eq!(chunk, expected),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn packets_without_a_chunk_are_refused() {
    let whole = sctp((4000, 80), TAG, &chunk(Chunk::DATA, b""));
    for len in 0..16 {
        let what = if len < 12 { "SCTP" } else { "SCTP chunk" };
        let refused = parse(&frame(FOUR, VIP, &whole[..len])).unwrap_err();
        assert_eq!(refused, ParseError::Truncated(what), "{len}");
    }
    let mut short = whole;
    short[15] = 3;
    let refused = parse(&frame(FOUR, VIP, &short)).unwrap_err();
    assert_eq!(refused, ParseError::Length("SCTP chunk"));
}

/// Type, flags and tag of an answer, whose checksum and addresses are looked at here.
fn answer(src: IpAddr, dst: IpAddr, payload: &[u8]) -> Option<(u8, u8, u32)> {
    let mut buffer = frame(src, dst, payload);
    let parsed = packet(&buffer);
    buffer.resize(ANSWER_LEN_MAX, 0);
    let len = sctp_abort(&mut buffer, &parsed).unwrap()?;
    let answer = &buffer[..len];
    assert_eq!((&answer[..6], &answer[6..12]), (&CLIENT_MAC[..], &OWN_MAC[..]));
    let read = packet(answer);
    assert_eq!((read.src, read.dst), (dst, src));
    let (found, right) = checksums(answer);
    assert_eq!(found, right);
    let l4 = &answer[read.l4..read.end];
    assert_eq!((&l4[..2], &l4[2..4]), (&payload[2..4], &payload[..2]), "ports");
    assert_eq!((l4.len(), &l4[14..16]), (16, &[0, 4][..]), "one chunk without a value");
    Some((l4[12], l4[13], u32::from_be_bytes(l4[4..8].try_into().unwrap())))
}

#[test]
fn packets_of_no_association_get_what_rfc_9260_says() {
    let one = |tag, kind, value: &[u8]| sctp((4000, 80), tag, &chunk(kind, value));
    let offer = [TAG.to_be_bytes(), [0; 4], [0; 4], [0; 4]].concat();
    let with_abort = [chunk(Chunk::DATA, b"payload"), chunk(Chunk::ABORT, b"")].concat();
    let mut broken = one(7, Chunk::DATA, b"payload");
    broken[20] ^= 1;
    let (abort, complete) = (Chunk::ABORT.0, Chunk::SHUTDOWN_COMPLETE.0);
    let cases = [
        ("an INIT: the tag it offers", one(0, Chunk::INIT, &offer), Some((abort, 0, TAG))),
        ("an INIT with a tag", one(7, Chunk::INIT, &offer), None),
        ("an INIT that offers no tag", one(0, Chunk::INIT, &[0; 16]), None),
        ("an INIT that ends early", one(0, Chunk::INIT, &[1; 12]), None),
        ("DATA: the tag reflected", one(7, Chunk::DATA, b"payload"), Some((abort, 1, 7))),
        ("INIT ACK", one(7, Chunk::INIT_ACK, &offer), Some((abort, 1, 7))),
        ("COOKIE ECHO", one(7, Chunk::COOKIE_ECHO, b"cookie"), Some((abort, 1, 7))),
        ("SHUTDOWN", one(7, Chunk::SHUTDOWN, &[0; 4]), Some((abort, 1, 7))),
        ("SHUTDOWN ACK", one(7, Chunk::SHUTDOWN_ACK, b""), Some((complete, 1, 7))),
        ("SHUTDOWN COMPLETE", one(7, Chunk::SHUTDOWN_COMPLETE, b""), None),
        ("COOKIE ACK", one(7, Chunk::COOKIE_ACK, b""), None),
        ("ERROR, stale cookie", one(7, Chunk::ERROR, &[0, 3, 0, 8, 0, 0, 0, 1]), None),
        (
            "an ERROR without a cause, before what reads like one",
            sctp((4000, 80), 7, &[chunk(Chunk::ERROR, b""), chunk(Chunk(0), b"")].concat()),
            Some((abort, 1, 7)),
        ),
        (
            "an ERROR without a cause, before octets that read like a stale cookie",
            sctp((4000, 80), 7, &[chunk(Chunk::ERROR, b""), vec![0, 3, 0, 4]].concat()),
            Some((abort, 1, 7)),
        ),
        ("another ERROR", one(7, Chunk::ERROR, &[0, 6, 0, 4]), Some((abort, 1, 7))),
        ("ABORT", one(7, Chunk::ABORT, b""), None),
        ("an ABORT that is not the first", sctp((4000, 80), 7, &with_abort), None),
        ("a wrong checksum", broken, None),
    ];
    let six = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    for (description, payload, expected) in cases {
        assert_eq!(answer(FOUR, VIP, &payload), expected, "{description}");
        assert_eq!(answer(six(2), six(100), &payload), expected, "{description}, IPv6");
    }
}
