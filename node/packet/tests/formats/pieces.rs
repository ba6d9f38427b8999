//! IPv4 packets in pieces: sizes, headers and options, and that they are the packet again.

use etherparse::{IpDscp, Ipv4Header, Ipv4Options, ip_number};
use steadfast_packet::{Content, PIECES_MAX, Packet, Pieces, parse};

const ETHERNET: usize = 14;

/// A UDP packet, or a part of one, of exactly `len` octets.
fn packet(len: usize, options: &[u8], (offset, more): (u16, bool)) -> Vec<u8> {
    let mut ip =
        Ipv4Header::new(0, 64, ip_number::UDP, [198, 18, 0, 2], [198, 18, 0, 100]).unwrap();
    ip.options = Ipv4Options::try_from(options).unwrap();
    ip.set_payload_len(len - ip.header_len()).unwrap();
    (ip.identification, ip.more_fragments) = (0x1234, more);
    ip.fragment_offset = (offset / 8).try_into().unwrap();
    (ip.dont_fragment, ip.dscp) = (false, IpDscp::try_new(46).unwrap());
    ip.header_checksum = ip.calc_header_checksum();
    let mut frame = [&[2; 6][..], &[4; 6], &[8, 0]].concat();
    ip.write(&mut frame).unwrap();
    let payload: Vec<u8> = (0..len - ip.header_len()).map(|n| (n * 7 + n / 256) as u8).collect();
    frame.extend(&payload);
    if offset == 0 {
        let l4 = ETHERNET + ip.header_len();
        frame[l4..l4 + 8].copy_from_slice(&[0x10, 0, 0, 80, 1, 0, 0, 0]);
    }
    frame
}

fn read(frame: &[u8]) -> Packet {
    match parse(frame).unwrap().content {
        Content::Ip(packet) => packet,
        other => panic!("{other:?}"),
    }
}

/// All pieces, the first as it is left in place.
fn cut(frame: &[u8], room: usize) -> Option<Vec<Vec<u8>>> {
    let packet = read(frame);
    let pieces = Pieces::new(&packet, room)?;
    let mut all = Vec::new();
    for number in 0..pieces.count() {
        let mut to = vec![0xee; pieces.frame_len_max()];
        let said = pieces.write(number, frame, &mut to).unwrap();
        to.truncate(said.end);
        assert_eq!(read(&to), said, "what it is said to be");
        all.push(to);
    }
    let mut first = frame.to_vec();
    let said = pieces.keep_first(&mut first).unwrap();
    assert_eq!(first[..said.end], all[0], "in place or not");
    assert!(pieces.write(pieces.count(), frame, &mut vec![0; 9000]).is_err());
    Some(all)
}

#[test]
fn pieces_are_as_long_as_fits_and_end_as_the_packet_did() {
    // Length of the packet, its offset, more follow, room; (offset, payload, more) of each piece.
    type Case = (usize, (u16, bool), usize, &'static [(u32, u32, bool)]);
    let table: [Case; 8] = [
        (1500, (0, false), 1480, &[(0, 1456, true), (1456, 24, false)]),
        (1500, (0, false), 1486, &[(0, 1464, true), (1464, 16, false)]),
        (1500, (0, false), 576, &[(0, 552, true), (552, 552, true), (1104, 376, false)]),
        (1500, (0, true), 1480, &[(0, 1456, true), (1456, 24, true)]),
        (1500, (2960, true), 1000, &[(2960, 976, true), (3936, 504, true)]),
        (1500, (0, false), 761, &[(0, 736, true), (736, 736, true), (1472, 8, false)]),
        (1497, (0, false), 761, &[(0, 736, true), (736, 741, false)]),
        (921, (2960, false), 900, &[(2960, 880, true), (3840, 21, false)]),
    ];
    for (len, part, room, expected) in table {
        let frame = packet(len, &[], part);
        let all = cut(&frame, room).unwrap();
        let found: Vec<_> = all.iter().map(|piece| read(piece).fragment.unwrap()).collect();
        assert!(found.iter().all(|f| (f.id, f.protocol) == (0x1234, 17)), "{found:?}");
        let found: Vec<_> = found.iter().map(|f| (f.offset, f.len, f.more)).collect();
        assert_eq!(found, expected, "{len} octets at {part:?}, room {room}");
    }
}

#[test]
fn put_together_again_pieces_are_the_packet() {
    for options in [&[][..], &[1, 1, 1, 1], &[0x94, 4, 0, 0, 7, 7, 4, 0, 0, 0, 0, 0]] {
        for len in [600, 1499, 1500, 3000] {
            for room in [256, 300, 575, 576, 599, 1499] {
                let frame = packet(len, options, (0, false));
                let Some(all) = cut(&frame, room) else {
                    panic!("{len} octets, {} of options, room {room}", options.len())
                };
                let header = ETHERNET + 20 + options.len();
                let mut together = Vec::new();
                for piece in &all {
                    let packet = read(piece);
                    assert!(packet.len() <= room.max(len.min(room)));
                    assert_eq!(packet.fragment.map_or(0, |f| f.offset as usize), together.len());
                    assert_eq!((packet.l4, packet.ttl, packet.tos), (header, 64, 46 << 2));
                    together.extend_from_slice(&piece[packet.l4..packet.end]);
                }
                assert_eq!(together, frame[header..], "{len} octets, room {room}");
                let last = read(all.last().unwrap()).fragment;
                assert!(last.is_none_or(|last| !last.more));
            }
        }
    }
}

/// Options: RFC 791 section 3.1 says of each whether it is copied.
#[test]
fn options_of_the_first_alone_are_padding_in_the_others() {
    // Options, and what they are in pieces after the first.
    let table: [(&str, &[u8], &[u8]); 4] = [
        ("router alert is copied", &[0x94, 4, 0, 0], &[0x94, 4, 0, 0]),
        ("record route is not", &[7, 7, 4, 9, 9, 9, 9, 0], &[1, 1, 1, 1, 1, 1, 1, 0]),
        (
            "one of each",
            &[1, 0x94, 4, 0, 0, 68, 4, 5, 0, 0, 0, 0],
            &[1, 0x94, 4, 0, 0, 1, 1, 1, 1, 0, 0, 0],
        ),
        ("nothing is looked at behind the end", &[0, 7, 3, 4], &[0, 7, 3, 4]),
    ];
    for (description, options, expected) in table {
        let all = cut(&packet(1500, options, (0, false)), 1400).unwrap();
        let at = ETHERNET + 20..ETHERNET + 20 + options.len();
        assert_eq!(all[0][at.clone()], *options, "{description}: the first");
        assert_eq!(all[1][at], *expected, "{description}");
    }
}

#[test]
fn pieces_are_bounded() {
    let frame = packet(1500, &[], (0, false));
    assert_eq!(cut(&frame, 20 + 96).unwrap().len(), PIECES_MAX);
    assert_eq!(cut(&frame, 20 + 95), None, "one more");
    for room in [0, 19, 20, 27] {
        assert_eq!(cut(&frame, room), None, "no room for eight octets");
    }
}

/// Offsets beyond 65,535 octets cannot be said.
#[test]
fn a_piece_too_far_out_is_refused_by_the_parser_already() {
    assert!(parse(&packet(1500, &[], (65_528, false))).is_err());
}
