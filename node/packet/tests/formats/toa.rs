//! The client's address as a TCP option: what comes out is what etherparse builds and computes.

use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, PacketHeaders, TransportHeader};
use proptest::prelude::*;
use steadfast_packet::{Content, Packet, TOA_KIND, add_toa, erase_toa, lower_mss, parse, toa_len};

const HEADROOM: usize = 64;

fn frame(v6: bool, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let builder = match v6 {
        false => builder.ipv4([198, 18, 1, 200], [198, 18, 1, 21], 64),
        true => builder.ipv6([1; 16], [2; 16], 64),
    };
    let mut frame = Vec::new();
    let builder = builder.tcp(4000, 80, 1000, 512).ack(7).options_raw(options).unwrap();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn packet_of(frame: &[u8]) -> Packet {
    let Content::Ip(packet) = parse(frame).unwrap().content else { panic!() };
    packet
}

fn option_of(client: SocketAddr) -> Vec<u8> {
    let mut option = vec![TOA_KIND, if client.is_ipv4() { 8 } else { 20 }];
    option.extend(client.port().to_be_bytes());
    match client.ip() {
        IpAddr::V4(addr) => option.extend(addr.octets()),
        IpAddr::V6(addr) => option.extend(addr.octets()),
    }
    option
}

/// The kinds of all options up to the end or the first malformed one.
fn kinds(mut options: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    loop {
        options = match *options {
            [] | [0, ..] => return kinds,
            [1, ..] => &options[1..],
            [kind, len, ..] if len >= 2 && usize::from(len) <= options.len() => {
                kinds.push(kind);
                &options[usize::from(len)..]
            }
            _ => return kinds,
        };
    }
}

fn client() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(addr, port)| (addr, port).into()),
        any::<([u8; 16], u16)>().prop_map(|(addr, port)| (addr, port).into()),
    ]
}

proptest! {
    /// A failure prints its input; PROPTEST_RNG_SEED replays a run.
    #[test]
    fn the_option_is_added_whole_and_checksums_stay_right(
        client in client(),
        words in 0_usize..=10,
        payload in proptest::collection::vec(any::<u8>(), 0..600),
        padding in 0_usize..8,
        wrong in prop_oneof![Just(0), any::<u16>()],
    ) {
        let v6 = client.is_ipv6();
        // Of a kind that nobody knows: read as one by no reader but ours.
        let options = vec![1; words * 4];
        let mut before = frame(v6, &options, &payload);
        let packet = packet_of(&before);
        before.extend(vec![0; padding]);
        // An error in what was received stays the same error.
        let at = packet.l4 + 16;
        let right = u16::from_be_bytes([before[at], before[at + 1]]);
        before[at..at + 2].copy_from_slice(&(right ^ wrong).to_be_bytes());
        let mut buffer = [vec![0xee; HEADROOM], before.clone()].concat();
        let fits = options.len() + toa_len(v6) <= 40;
        match add_toa(&mut buffer, HEADROOM, &packet, client) {
            Ok(start) => {
                prop_assert!(fits);
                prop_assert_eq!(start, HEADROOM - toa_len(v6));
                let expected = frame(v6, &[option_of(client), options].concat(), &payload);
                let mut after = buffer[start..].to_vec();
                if wrong == 0 {
                    // The second reader computes it from nothing; both zeros are one number.
                    let read = PacketHeaders::from_ethernet_slice(&after).unwrap();
                    let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("no TCP") };
                    prop_assert_eq!(kinds(tcp.options.as_slice())[0], TOA_KIND);
                    let sum = u16::from_be_bytes([expected[at], expected[at + 1]]);
                    prop_assert_eq!(tcp.checksum % 0xffff, sum % 0xffff);
                }
                after.truncate(expected.len());
                after[at..at + 2].copy_from_slice(&expected[at..at + 2]);
                prop_assert_eq!(after, expected);
            }
            Err(_) => {
                prop_assert!(!fits);
                prop_assert_eq!(&buffer[HEADROOM..], &before[..], "changed");
            }
        }
    }

    #[test]
    fn a_wrong_checksum_stays_as_wrong(client in client(), wrong in 1_u16..0xffff) {
        let before = frame(client.is_ipv6(), &[], b"data");
        let packet = packet_of(&before);
        let at = HEADROOM + packet.l4 + 16;
        let checksum_after = |wrong: u16| {
            let mut buffer = [vec![0; HEADROOM], before.clone()].concat();
            let sum = u32::from(u16::from_be_bytes([buffer[at], buffer[at + 1]])) + u32::from(wrong);
            let sum = (sum & 0xffff) + (sum >> 16);
            buffer[at..at + 2].copy_from_slice(&(sum as u16).to_be_bytes());
            let start = add_toa(&mut buffer, HEADROOM, &packet, client).unwrap();
            let at = start + packet.l4 + 16;
            u32::from(u16::from_be_bytes([buffer[at], buffer[at + 1]]))
        };
        let error = (checksum_after(wrong) + 0xffff - checksum_after(0)) % 0xffff;
        prop_assert_eq!(error, u32::from(wrong) % 0xffff);
    }

    #[test]
    fn no_option_of_that_kind_is_left(
        mut options in proptest::collection::vec(
            prop_oneof![Just(TOA_KIND), Just(8), Just(20), 0_u8..6, any::<u8>()], 0..40),
        v6 in any::<bool>(),
    ) {
        options.resize(options.len().next_multiple_of(4), 0);
        let before = frame(v6, &options, b"payload");
        let packet = packet_of(&before);
        let mut after = before.clone();
        let erased = erase_toa(&mut after, &packet);
        let (had, has) = (kinds(&options), kinds(&after[packet.l4 + 20..][..options.len()]));
        prop_assert_eq!(erased, had.contains(&TOA_KIND));
        let others: Vec<u8> = had.into_iter().filter(|kind| *kind != TOA_KIND).collect();
        prop_assert_eq!(has, others);
        let read = PacketHeaders::from_ethernet_slice(&after).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("no TCP") };
        let rebuilt = frame(v6, tcp.options.as_slice(), b"payload");
        let sum = |frame: &[u8]| u16::from_be_bytes([frame[packet.l4 + 16], frame[packet.l4 + 17]]);
        prop_assert_eq!(sum(&after) % 0xffff, sum(&rebuilt) % 0xffff);
    }
}

#[test]
fn options_of_a_sender_are_erased() {
    let cases: [(&str, Vec<u8>, Vec<u8>); 6] = [
        ("alone", vec![254, 8, 0, 1, 203, 0, 113, 1], vec![1; 8]),
        (
            "behind others",
            vec![1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 254, 8, 0, 1, 9, 9, 9, 9, 0],
            vec![1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1, 1, 1, 1, 1, 1, 1, 0],
        ),
        ("twice", vec![254, 4, 9, 9, 254, 8, 0, 1, 203, 0, 113, 1], vec![1; 12]),
        ("behind the end", vec![0, 254, 3, 0], vec![0, 254, 3, 0]),
        ("longer than what is there", vec![254, 8, 0, 1], vec![254, 8, 0, 1]),
        ("inside another", vec![30, 4, 254, 2], vec![30, 4, 254, 2]),
    ];
    for (description, options, expected) in cases {
        let mut found = frame(false, &options, b"data");
        let packet = packet_of(&found);
        assert_eq!(erase_toa(&mut found, &packet), options != expected, "{description}");
        assert_eq!(found, frame(false, &expected, b"data"), "{description}");
    }
}

#[test]
fn what_has_no_room_is_left_alone() {
    let client: SocketAddr = "203.0.113.9:4711".parse().unwrap();
    let whole = frame(false, &[], b"data");
    let mut fragment = whole.clone();
    // More fragments, in place of: no fragments.
    assert_eq!(fragment[20], 0x40);
    fragment[20] = 0x20;
    let sum = u16::from_be_bytes([fragment[24], fragment[25]]) + 0x2000;
    fragment[24..26].copy_from_slice(&sum.to_be_bytes());
    let cases: [(&str, Vec<u8>, usize); 3] = [
        ("no room in the header", frame(false, &[1; 36], b"data"), HEADROOM),
        ("no room in front", whole, 7),
        ("a first fragment", fragment, HEADROOM),
    ];
    for (description, before, headroom) in cases {
        let mut buffer = [vec![0xee; headroom], before.clone()].concat();
        let unchanged = buffer.clone();
        let result = add_toa(&mut buffer, headroom, &packet_of(&before), client);
        assert!(result.is_err(), "{description}");
        assert_eq!(buffer, unchanged, "{description}");
    }
}

#[test]
fn a_segment_size_is_lowered_for_what_will_be_added() {
    let syn = |mss: u16| {
        let [high, low] = mss.to_be_bytes();
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([1, 2, 3, 4], [5, 6, 7, 8], 64);
        let builder = builder.tcp(80, 4000, 1000, 512).syn().ack(7);
        let builder = builder.options_raw(&[1, 1, 1, 2, 4, high, low, 1]).unwrap();
        let mut frame = Vec::new();
        builder.write(&mut frame, &[]).unwrap();
        frame
    };
    for (announced, by, least, expected) in
        [(1460, 8, 536, 1452), (1440, 20, 536, 1420), (540, 8, 536, 536), (400, 8, 536, 400)]
    {
        let mut frame = syn(announced);
        let packet = packet_of(&frame);
        assert_eq!(lower_mss(&mut frame, &packet, by, least), announced != expected);
        assert_eq!(frame, syn(expected), "{announced} by {by}");
    }
}
