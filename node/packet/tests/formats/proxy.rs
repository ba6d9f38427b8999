//! The PROXY header in a segment: what comes out is what etherparse builds and computes.

use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, TcpHeader};
use proptest::prelude::*;
use steadfast_packet::{
    Content, Packet, add_proxy, cut_payload, parse, proxy_len, set_acknowledged,
};

const HEADROOM: usize = 64;

fn frame(v6: bool, header: &TcpHeader, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = match v6 {
        false => builder.ipv4([198, 18, 1, 200], [198, 18, 1, 21], 64),
        true => builder.ipv6([1; 16], [2; 16], 64),
    };
    let mut frame = Vec::new();
    builder.tcp_header(header.clone()).write(&mut frame, payload).unwrap();
    frame
}

fn packet_of(frame: &[u8]) -> Packet {
    let Content::Ip(packet) = parse(frame).unwrap().content else { panic!() };
    packet
}

/// The example of the specification, by hand: 28 and 52 octets.
fn header_of(client: SocketAddr, vip: SocketAddr) -> Vec<u8> {
    let mut header = b"\x0D\x0A\x0D\x0A\x00\x0D\x0A\x51\x55\x49\x54\x0A\x21".to_vec();
    header.extend(if client.is_ipv4() { [0x11, 0, 12] } else { [0x21, 0, 36] });
    for addr in [client.ip(), vip.ip()] {
        match addr {
            IpAddr::V4(addr) => header.extend(addr.octets()),
            IpAddr::V6(addr) => header.extend(addr.octets()),
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(vip.port().to_be_bytes());
    header
}

fn ends() -> impl Strategy<Value = (SocketAddr, SocketAddr)> {
    let v4 = || any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
    let v6 = || any::<([u8; 16], u16)>().prop_map(SocketAddr::from);
    prop_oneof![(v4(), v4()), (v6(), v6())]
}

fn tcp_header() -> impl Strategy<Value = TcpHeader> {
    let numbers = any::<(u32, u32, u16)>();
    (numbers, any::<(bool, bool, bool)>(), 0_usize..=10).prop_map(
        |((seq, ack, urgent), (psh, fin, urg), words)| {
            let mut header = TcpHeader::new(4000, 80, seq, 512);
            (header.ack, header.acknowledgment_number) = (true, ack);
            (header.psh, header.fin, header.urg) = (psh, fin, urg);
            header.urgent_pointer = urgent / 2;
            header.set_options_raw(&vec![1; words * 4]).unwrap();
            header
        },
    )
}

/// Both zeros of a checksum are one number.
fn assert_same(mut found: Vec<u8>, expected: &[u8], packet: &Packet) {
    let at = packet.l4 + 16;
    let sum = |frame: &[u8]| u16::from_be_bytes([frame[at], frame[at + 1]]) % 0xffff;
    assert_eq!(sum(&found), sum(expected), "checksum");
    found[at..at + 2].copy_from_slice(&expected[at..at + 2]);
    assert_eq!(found, expected);
}

proptest! {
    /// A failure prints its input; PROPTEST_RNG_SEED replays a run.
    #[test]
    fn a_header_stands_before_the_payload(
        (client, vip) in ends(),
        header in tcp_header(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        padding in 0_usize..8,
    ) {
        let v6 = client.is_ipv6();
        let before = frame(v6, &header, &payload);
        let packet = packet_of(&before);
        let mut buffer = [vec![0xee; HEADROOM], before, vec![0xdd; padding]].concat();
        let start = add_proxy(&mut buffer, HEADROOM, &packet, client, vip).unwrap();
        let put = header_of(client, vip);
        prop_assert_eq!(put.len(), if v6 { 52 } else { 28 });
        prop_assert_eq!((start, put.len()), (HEADROOM - put.len(), proxy_len(v6)));
        let mut grown = header.clone();
        if header.urg {
            grown.urgent_pointer += put.len() as u16;
        }
        let expected = frame(v6, &grown, &[put, payload].concat());
        assert_same(buffer[start..buffer.len() - padding].to_vec(), &expected, &packet);
    }

    #[test]
    fn a_cut_segment_is_one_without_payload_and_fin(
        v6 in any::<bool>(),
        header in tcp_header(),
        payload in proptest::collection::vec(any::<u8>(), 0..300),
        ack in any::<u32>(),
    ) {
        let mut found = frame(v6, &header, &payload);
        let packet = packet_of(&found);
        let cut = cut_payload(&mut found, &packet);
        set_acknowledged(&mut found, &cut, ack);
        let mut bare = TcpHeader { fin: false, ..header };
        bare.acknowledgment_number = ack;
        let expected = frame(v6, &bare, b"");
        prop_assert_eq!(cut.end, expected.len());
        prop_assert_eq!(packet_of(&found), cut);
        found.truncate(cut.end);
        assert_same(found, &expected, &packet);
    }
}

#[test]
fn what_has_no_room_is_left_alone() {
    let v4: SocketAddr = "203.0.113.9:4711".parse().unwrap();
    let v6: SocketAddr = "[2001:db8::9]:4711".parse().unwrap();
    for (description, headroom, client, vip) in
        [("no room in front", 27, v4, v4), ("two families", HEADROOM, v4, v6)]
    {
        let before = frame(false, &TcpHeader::new(1, 2, 3, 4), b"data");
        let mut buffer = [vec![0xee; headroom], before.clone()].concat();
        let unchanged = buffer.clone();
        let result = add_proxy(&mut buffer, headroom, &packet_of(&before), client, vip);
        assert!(result.is_err(), "{description}");
        assert_eq!(buffer, unchanged, "{description}");
    }
}
