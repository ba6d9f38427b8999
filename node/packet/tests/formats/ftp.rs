//! 227 replies in segments, as a table, and at random against a second reader.

use std::net::Ipv4Addr;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use steadfast_packet::{
    Content, Packet, PassiveReply, internet_checksum, parse, passive_text, pseudo_sum,
    rewrite_passive_reply, tcp_payload,
};

const CLIENT: [u8; 4] = [198, 18, 0, 2];

fn segment(server: Ipv4Addr, payload: &[u8]) -> (Vec<u8>, Packet) {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
        .ipv4(server.octets(), CLIENT, 64)
        .tcp(21, 40_000, 1000, 8192)
        .ack(77)
        .options(&[etherparse::TcpOptionElement::Timestamp(1, 2)])
        .unwrap()
        .write(&mut frame, payload)
        .unwrap();
    // Padding is no part of it.
    frame.extend([0xaa; 3]);
    let Content::Ip(packet) = parse(&frame).unwrap().content else { panic!("no packet") };
    (frame, packet)
}

/// What became of it, and the payload then. The checksum is right in every case.
fn rewritten(server: Ipv4Addr, vip: Ipv4Addr, payload: &[u8]) -> (PassiveReply, Vec<u8>) {
    rewritten_from((0, None), server, vip, payload)
}

/// The same, with lines from an offset in the payload on, and one that is known there. What is told is
/// an offset in the payload too.
fn rewritten_from(
    (from, known): (usize, Option<usize>),
    server: Ipv4Addr,
    vip: Ipv4Addr,
    payload: &[u8],
) -> (PassiveReply, Vec<u8>) {
    let (mut frame, packet) = segment(server, payload);
    let before = frame.clone();
    let at = tcp_payload(&frame, &packet).unwrap();
    let what = (at + from, known.map(|known| at + known));
    let found = match rewrite_passive_reply(&mut frame, &packet, what, server, vip) {
        PassiveReply::Tight { line, address } => {
            PassiveReply::Tight { line: line - at, address: address.start - at..address.end - at }
        }
        found => found,
    };
    let tcp = &frame[packet.l4..packet.end];
    let sum = pseudo_sum(packet.src, packet.dst, 6, tcp.len() as u32);
    assert_eq!(internet_checksum(sum, tcp), 0, "the checksum");
    let header = usize::from(tcp[12] >> 4) * 4;
    assert_eq!(frame[..packet.l4 + 16], before[..packet.l4 + 16], "sequence numbers and all else");
    assert_eq!(frame[packet.end..], [0xaa; 3]);
    (found, tcp[header..].to_vec())
}

#[test]
fn a_reply_names_the_vip_and_keeps_its_length() {
    use PassiveReply::{None, Rewritten, Tight, Unfit};
    let short = Ipv4Addr::new(10, 0, 0, 1);
    let long = Ipv4Addr::new(198, 180, 100, 100);
    let cases = [
        (
            "a longer address takes a word's place",
            (short, long),
            "227 Entering Passive Mode (10,0,0,1,156,64).\r\n",
            (Rewritten, "227 Entering       (198,180,100,100,156,64).\r\n"),
        ),
        (
            "a shorter one leaves room",
            (long, short),
            "227 Entering Passive Mode (198,180,100,100,156,64).\r\n",
            (Rewritten, "227 Entering Passive Mode        (10,0,0,1,156,64).\r\n"),
        ),
        (
            "of the same length",
            (short, Ipv4Addr::new(10, 0, 0, 9)),
            "227 Entering Passive Mode (10,0,0,1,4,5)\r\n",
            (Rewritten, "227 Entering Passive Mode (10,0,0,9,4,5)\r\n"),
        ),
        (
            "without parentheses",
            (short, Ipv4Addr::new(10, 0, 0, 99)),
            "227 Passive =10,0,0,1,4,5\r\n",
            (Rewritten, "227 Passive=10,0,0,99,4,5\r\n"),
        ),
        (
            "behind another reply",
            (short, Ipv4Addr::new(10, 0, 0, 99)),
            "200 ok\r\n227 Mode ok (10,0,0,1,4,5)\r\n200 227 (10,0,0,1,4,5)\r\n",
            (Rewritten, "200 ok\r\n227 Mode ok(10,0,0,99,4,5)\r\n200 227 (10,0,0,1,4,5)\r\n"),
        ),
        ("another address", (short, long), "227 x (10,0,0,2,4,5)\r\n", (None, "")),
        ("another reply", (short, long), "226 x (10,0,0,1,4,5)\r\n", (None, "")),
        ("229 has no address", (short, long), "229 Extended (|||4005|)\r\n", (None, "")),
        (
            "no text that makes room",
            (short, long),
            "227 (10,0,0,1,4,5)\r\n",
            (Tight { line: 0, address: 5..13 }, ""),
        ),
        (
            "not even a parenthesis, behind one that has room",
            (short, Ipv4Addr::new(10, 0, 0, 99)),
            "227 ok (10,0,0,1,4,5)\r\n227 10,0,0,1,4,5\r\n227 ok (10,0,0,1,4,5)\r\n",
            (
                Tight { line: 23, address: 27..35 },
                "227 ok(10,0,0,99,4,5)\r\n227 10,0,0,1,4,5\r\n227 ok (10,0,0,1,4,5)\r\n",
            ),
        ),
        (
            "zeroes that nobody needs",
            (short, Ipv4Addr::new(10, 0, 0, 99)),
            "227 (010,000,000,001,4,5)\r\n",
            (Rewritten, "227       (10,0,0,99,4,5)\r\n"),
        ),
        (
            "split before its end",
            (short, long),
            "227 Entering Passive Mode (10,0,0,1,4,",
            (Unfit, ""),
        ),
        (
            "no end of the line",
            (short, long),
            "227 Entering Passive Mode (10,0,0,1,4,5)",
            (Unfit, ""),
        ),
        ("no address", (short, long), "227 Entering Passive Mode\r\n", (Unfit, "")),
        ("no number of an address", (short, long), "227 Mode (10,0,0,256,4,5)\r\n", (Unfit, "")),
        ("nothing", (short, long), "", (None, "")),
    ];
    for (description, (server, vip), payload, (found, expected)) in cases {
        let (is, text) = rewritten(server, vip, payload.as_bytes());
        let text = String::from_utf8(text).unwrap();
        let expected = if expected.is_empty() { payload } else { expected };
        assert_eq!((is, text.as_str()), (found, expected), "{description}");
        assert_eq!(text.len(), payload.len(), "{description}");
    }
}

#[test]
fn replies_before_are_left_alone_and_so_is_a_known_one() {
    let (short, vip) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 99));
    assert_eq!(passive_text(vip), "10,0,0,99");
    let payload = b"227 (10,0,0,1,4,5)\r\n227 (10,0,0,1,6,7)\r\n227 ok (10,0,0,1,8,9)\r\n";
    let tight = |line, address| PassiveReply::Tight { line, address };
    let cases = [
        ((0, None), tight(0, 5..13)),
        ((13, None), tight(20, 25..33)),
        ((0, Some(5)), tight(20, 25..33)),
        ((0, Some(25)), tight(0, 5..13)),
        ((13, Some(25)), PassiveReply::Rewritten),
        ((33, Some(5)), PassiveReply::Rewritten),
    ];
    for (what, expected) in cases {
        assert_eq!(rewritten_from(what, short, vip, payload).0, expected, "{what:?}");
    }
}

proptest! {
    /// Read as a client does it (RFC 1123 section 4.1.2.6): the six numbers after the first digit.
    #[test]
    fn clients_read_the_vip_and_the_port(
        server in any::<u32>(),
        vip in any::<u32>(),
        port in any::<[u8; 2]>(),
        text in "[A-Za-z ]{8,30}",
        before in prop_oneof![Just(""), Just("200 Type set to I.\r\n"), Just("200 odd\r\n")],
    ) {
        let (server, vip) = (Ipv4Addr::from_bits(server), Ipv4Addr::from_bits(vip));
        let numbers = server.to_string().replace('.', ",");
        let [high, low] = port;
        let payload = format!("{before}227 {text}({numbers},{high},{low})\r\n");
        let (found, after) = rewritten(server, vip, payload.as_bytes());
        prop_assert_eq!(found, PassiveReply::Rewritten);
        prop_assert_eq!(after.len(), payload.len());
        let after = String::from_utf8(after).unwrap();
        let reply = after.strip_prefix(before).unwrap().strip_prefix("227 ").unwrap();
        let from = reply.find(|c: char| c.is_ascii_digit()).unwrap();
        let end = reply[from..].find(')').unwrap();
        let read: Vec<u8> =
            reply[from..from + end].split(',').map(|number| number.parse().unwrap()).collect();
        let mut expected = vip.octets().to_vec();
        expected.extend(port);
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn nothing_makes_it_panic(payload in "(227 )?[0-9,() a\r\n]{0,60}") {
        let (_, text) = rewritten(
            Ipv4Addr::new(1, 1, 1, 1),
            Ipv4Addr::new(198, 180, 100, 100),
            payload.as_bytes(),
        );
        prop_assert_eq!(text.len(), payload.len());
    }
}
