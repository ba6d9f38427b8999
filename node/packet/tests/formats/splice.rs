//! Octets of a TCP payload that are replaced by more or cut off: what etherparse builds from the new
//! payload is what has to come out.

use std::{net::IpAddr, ops::Range};

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};
use proptest::prelude::*;
use steadfast_packet::{Content, Packet, cut, cut_payload, parse, splice};

const HEADROOM: usize = 40;
/// Padding behind the packet.
const BEHIND: [u8; 5] = [0xaa; 5];

fn frame(ipv6: bool, urgent: u16, payload: &[u8]) -> Vec<u8> {
    let headers = if ipv6 {
        let header = Ipv6Header { hop_limit: 64, next_header: IpNumber::TCP, ..Default::default() };
        IpHeaders::Ipv6(header, etherparse::Ipv6Extensions::default())
    } else {
        let header = Ipv4Header { time_to_live: 64, protocol: IpNumber::TCP, ..Default::default() };
        IpHeaders::Ipv4(header, etherparse::Ipv4Extensions::default())
    };
    let mut tcp = TcpHeader::new(21, 40_000, 1000, 8192);
    (tcp.ack, tcp.fin, tcp.urg) = (true, false, urgent > 0);
    tcp.urgent_pointer = urgent;
    tcp.set_options(&[etherparse::TcpOptionElement::Timestamp(1, 2)]).unwrap();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    builder.ip(headers).tcp_header(tcp).write(&mut frame, payload).unwrap();
    frame
}

fn packet_of(frame: &[u8]) -> Packet {
    let Content::Ip(packet) = parse(frame).unwrap().content else { panic!("no packet") };
    assert!(matches!(packet.src, IpAddr::V4(_) | IpAddr::V6(_)));
    packet
}

/// In a buffer with room in front, and where its payload begins.
fn received(frame: &[u8]) -> (Vec<u8>, Packet, usize) {
    let buffer = [&[0xee; HEADROOM][..], frame, &BEHIND].concat();
    let packet = packet_of(frame);
    (buffer, packet, packet.l4 + 32)
}

proptest! {
    #[test]
    fn spliced_packets_are_what_another_writes(
        payload in prop::collection::vec(any::<u8>(), 1..100),
        range in any::<(prop::sample::Index, prop::sample::Index)>(),
        more in prop::collection::vec(any::<u8>(), 0..20),
        ipv6 in any::<bool>(),
        urgent in 0..100_u16,
    ) {
        let (a, b) = (range.0.index(payload.len()), range.1.index(payload.len()));
        let octets = a.min(b)..a.max(b);
        let new = [&payload[octets.clone()], &more].concat();
        let urgent = urgent.min(payload.len() as u16);
        let (mut buffer, packet, at) = received(&frame(ipv6, urgent, &payload));
        let place = at + octets.start..at + octets.end;
        let (start, spliced) = splice(&mut buffer, HEADROOM, &packet, place, &new).unwrap();
        prop_assert_eq!(start, HEADROOM - more.len());
        let whole = [&payload[..octets.start], &new, &payload[octets.end..]].concat();
        let is_behind = urgent > 0 && usize::from(urgent) >= octets.end;
        let urgent = if is_behind { urgent + more.len() as u16 } else { urgent };
        let expected = frame(ipv6, urgent, &whole);
        prop_assert_eq!(&buffer[start..start + spliced.end], &expected[..]);
        prop_assert_eq!(spliced, packet_of(&expected));
        prop_assert_eq!(&buffer[start + spliced.end..], &BEHIND[..]);
    }

    #[test]
    fn cut_packets_are_what_another_writes(
        payload in prop::collection::vec(any::<u8>(), 1..100),
        keep in any::<prop::sample::Index>(),
        ipv6 in any::<bool>(),
    ) {
        let keep = keep.index(payload.len());
        let (mut buffer, packet, at) = received(&frame(ipv6, 0, &payload));
        let expected = frame(ipv6, 0, &payload[..keep]);
        let left = cut(&mut buffer[HEADROOM..], &packet, at + keep);
        prop_assert_eq!(left, packet_of(&expected));
        prop_assert_eq!(&buffer[HEADROOM..HEADROOM + left.end], &expected[..]);
        let bare = cut_payload(&mut buffer[HEADROOM..], &left);
        let expected = frame(ipv6, 0, b"");
        prop_assert_eq!(&buffer[HEADROOM..HEADROOM + bare.end], &expected[..]);
    }
}

#[test]
fn what_does_not_fit_changes_nothing() {
    let (buffer, packet, at) = received(&frame(false, 0, b"0123456789"));
    let refused = |start: usize, octets: Range<usize>, new: &[u8]| {
        let mut changed = buffer.clone();
        let result = splice(&mut changed, start, &packet, octets, new);
        assert_eq!((result.is_err(), &changed), (true, &buffer));
    };
    refused(HEADROOM, at + 2..at + 8, b"fewer");
    refused(HEADROOM, at - 1..at + 3, b"of the header");
    refused(HEADROOM, at + 8..at + 11, b"behind it");
    refused(HEADROOM, at..at + 1, &[0; HEADROOM + 2]);
    refused(buffer.len() + 1, at..at + 1, b"no frame");
    for end in [at - 1, at + 11] {
        let mut changed = buffer.clone();
        assert_eq!(cut(&mut changed[HEADROOM..], &packet, end), packet);
        assert_eq!(changed, buffer);
    }
}
