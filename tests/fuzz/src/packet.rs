//! A frame, read, and one thing done to it: rewritten, answered or put into a tunnel.
//!
//! An input is an octet that says what, one that says how, and the frame. The addresses and ports
//! that are put into it are fixed. With [`AS_IT_IS`] the checksums are those of the input, otherwise
//! they are set right first.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use steadfast_packet::{
    ANSWER_LEN_MAX, Content, OUTER_LEN_MAX, Outer, Packet, Parsed, SEGMENT_LEN_MAX, Segment,
    SeqShift, Transport, Tunnel, TunnelError, UdpChecksum, add_toa, advertisement, arp_reply,
    clamp_mss, decrement_ttl, destination_cid, echo_reply, encapsulate, erase_toa, packet_too_big,
    parse, parse_error, port_unreachable, rewrite_destination, rewrite_error_destination,
    rewrite_error_source, rewrite_passive_reply, rewrite_source, sctp_abort, segment_options,
    shift_numbers, tag, tcp_payload, tcp_reset, toa_len, tunnel_error_v4, tunnel_error_v6, untag,
    write_segment,
};

use crate::wire;

/// What can be done.
pub const DEEDS: u8 = 17;
/// The checksums are those of the input.
pub const AS_IT_IS: u8 = 0x80;
/// There is no room behind the frame for a longer answer.
pub const NO_ROOM: u8 = 0x40;

/// The real server in replies to PASV.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 18, 1, 21);
const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);
const ADDR_6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);
const MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];
const PORT: u16 = 4711;

const TUNNELS: [Tunnel; 6] = [
    Tunnel::IpIp,
    Tunnel::Gue { port: 6080, checksum: UdpChecksum::ByFamily },
    Tunnel::Gue { port: 6080, checksum: UdpChecksum::On },
    Tunnel::Gue { port: 6080, checksum: UdpChecksum::Off },
    Tunnel::Gre { checksum: false },
    Tunnel::Gre { checksum: true },
];

/// Runs one input.
///
/// # Panics
/// When something is wrong.
pub fn run(input: &[u8]) {
    let [what, how, frame @ ..] = input else { return };
    let mut frame = frame.to_vec();
    if how & AS_IT_IS == 0 {
        wire::repair(&mut frame);
    }
    let _ = destination_cid(&frame);
    tunnel_errors(&frame);
    if what % DEEDS == 0 {
        retag(&frame);
    }
    let Ok(parsed) = parse(&frame) else { return };
    match parsed.content {
        Content::Ip(packet) => {
            assert!(packet.l3 < packet.l4 && packet.l4 <= packet.end && packet.end <= frame.len());
            assert_eq!(packet.src.is_ipv4(), packet.dst.is_ipv4(), "of two families");
            if let Transport::Tcp { .. } = packet.transport {
                let header = usize::from(frame[packet.l4 + 12] >> 4) * 4;
                assert!(header >= 20 && packet.l4 + header <= packet.end, "a header too long");
            }
            match what % DEEDS {
                0..7 => change(*what, *how, frame, &packet),
                7..12 => answer(*what, *how, frame, &packet),
                12 => wrap(*how, &frame, &packet),
                13 => shift(frame, &packet),
                14 => add_option(*how, &frame, &packet),
                15 => {
                    let was_right = wire::is_right(&frame);
                    let _ = erase_toa(&mut frame, &packet);
                    assert_eq!(wire::is_right(&frame), was_right, "{frame:02x?}");
                }
                _ => offer(&frame, &packet),
            }
        }
        Content::ArpRequest(_) | Content::Solicitation(_) => question(frame, parsed),
        Content::ArpOther | Content::Other(_) => {}
    }
}

/// Errors about tunnels, as sockets give them: of ICMP with its IP header, of ICMPv6 without it.
fn tunnel_errors(frame: &[u8]) {
    const ETHERNET: usize = 14;
    const IPV6: usize = 40;
    const UDP: u8 = 17;
    let found = [
        frame.get(ETHERNET..).and_then(tunnel_error_v4),
        frame.get(ETHERNET + IPV6..).and_then(tunnel_error_v6),
    ];
    for (error, is_v6) in found.into_iter().zip([false, true]) {
        let Some(TunnelError { src, dst, protocol, dst_port, .. }) = error else { continue };
        assert_eq!((src.is_ipv6(), dst.is_ipv6()), (is_v6, is_v6), "of another family");
        assert!(dst_port.is_none() || protocol == UDP, "a port of protocol {protocol}");
    }
}

/// What a handshake offers can be written, and reads back as it was.
fn offer(frame: &[u8], packet: &Packet) {
    let Transport::Tcp { src_port, dst_port, flags } = packet.transport else { return };
    let Ok(options) = segment_options(frame, packet) else { return };
    let segment = Segment {
        src: (packet.src, src_port).into(),
        dst: (packet.dst, dst_port).into(),
        seq: 1,
        ack: 2,
        flags: flags.0,
        window: 3,
        options,
    };
    let mut buffer = [0xee; SEGMENT_LEN_MAX];
    let len = write_segment(&mut buffer, &segment).expect("it fits, and is of one family");
    let written = buffer.get(..len).expect("it lies in its buffer");
    let Content::Ip(again) = parse(written).expect("a segment that can be read").content else {
        panic!("a segment that is no packet")
    };
    assert_eq!((again.src, again.dst), (packet.src, packet.dst));
    assert_eq!(again.transport, packet.transport);
    assert_eq!(segment_options(written, &again), Ok(options), "{written:02x?}");
    assert_eq!(wire::is_right(written), Some(true), "{written:02x?}");
}

/// A tag that comes off can be put on again.
fn retag(frame: &[u8]) {
    let mut buffer = frame.to_vec();
    let Some(bare) = untag(&mut buffer, 0, frame.len()) else { return };
    let (start, len) = tag(&mut buffer, bare.start, bare.len, bare.vlan).expect("there is room");
    assert_eq!((start, len), (0, frame.len()));
    assert_eq!((&buffer[..14], &buffer[16..]), (&frame[..14], &frame[16..]));
}

/// What is changed in place can be read again, and its checksum is as right as it was.
fn change(what: u8, how: u8, mut frame: Vec<u8>, packet: &Packet) {
    let was_right = wire::is_right(&frame);
    let behind = frame[packet.end..].to_vec();
    let addr: IpAddr = if packet.is_ipv6() { ADDR_6.into() } else { VIP.into() };
    match what % DEEDS {
        // Nobody translates what has no ports, but for fragments, which have no checksum.
        0 | 1 if packet.tuple().is_none() && packet.fragment.is_none() => return,
        0 => rewrite_destination(&mut frame, packet, addr, PORT),
        1 => rewrite_source(&mut frame, packet, addr, PORT),
        2 => {
            let _ = decrement_ttl(&mut frame, packet);
        }
        3 => {
            let _ = clamp_mss(&mut frame, packet, u16::from(how & 0x3f) * 32);
        }
        4 => {
            if let Some(payload) = tcp_payload(&frame, packet) {
                let _ = rewrite_passive_reply(&mut frame, packet, (payload, None), SERVER, VIP);
            }
        }
        deed => {
            let Ok(Some(error)) = parse_error(&frame, packet) else { return };
            let quoted = &error.quoted;
            assert!(packet.l4 < quoted.l3 && quoted.l3 < quoted.l4 && quoted.l4 < quoted.end);
            assert!(quoted.end <= packet.end, "more is quoted than there is");
            let rewrite = if deed == 5 { rewrite_error_destination } else { rewrite_error_source };
            rewrite(&mut frame, packet, &error, addr, PORT);
        }
    }
    let again = parse(&frame).expect("a frame that was changed can be read");
    let Content::Ip(again) = again.content else { panic!("it was IP") };
    assert_eq!((again.l3, again.l4, again.end), (packet.l3, packet.l4, packet.end));
    assert_eq!(wire::is_right(&frame), was_right, "{frame:02x?}");
    assert_eq!(frame[packet.end..], behind, "what follows the packet was changed");
}

/// An answer is a whole frame with right checksums; what is no question for it does no harm.
fn answer(what: u8, how: u8, received: Vec<u8>, packet: &Packet) {
    let was_right = wire::is_right(&received);
    let mut buffer = received;
    if how & NO_ROOM == 0 {
        buffer.resize(buffer.len().max(ANSWER_LEN_MAX), 0xee);
    }
    let addr: IpAddr = if packet.is_ipv6() { ADDR_6.into() } else { VIP.into() };
    let answered = match what % DEEDS {
        7 => tcp_reset(&mut buffer, packet),
        8 => sctp_abort(&mut buffer, packet).map(|len| len.unwrap_or_default()),
        9 => echo_reply(&mut buffer, packet),
        10 => port_unreachable(&mut buffer, packet),
        _ => packet_too_big(&mut buffer, packet, addr, 1280),
    };
    let Ok(len) = answered else { return };
    let is_asked = match what % DEEDS {
        7 => matches!(packet.transport, Transport::Tcp { .. }),
        8 => matches!(packet.transport, Transport::Sctp { .. }),
        9 => packet.transport == Transport::EchoRequest,
        _ => true,
    };
    if len == 0 || !is_asked {
        return;
    }
    let sent = buffer.get(..len).expect("an answer lies in its buffer");
    assert!(parse(sent).is_ok(), "an answer that cannot be read: {sent:02x?}");
    let is_right = wire::is_right(sent);
    if what % DEEDS == 9 {
        assert!(was_right != Some(true) || is_right == Some(true), "{sent:02x?}");
    } else {
        assert_eq!(is_right, Some(true), "{sent:02x?}");
    }
}

/// What is put into a tunnel lies there as it was.
fn wrap(how: u8, received: &[u8], packet: &Packet) {
    let tunnel = TUNNELS[usize::from(how & 7) % TUNNELS.len()];
    let (src, dst): (IpAddr, IpAddr) = if how & 8 == 0 {
        (VIP.into(), SERVER.into())
    } else {
        (ADDR_6.into(), Ipv6Addr::LOCALHOST.into())
    };
    let outer = Outer { tunnel, src, dst, flow_hash: 0x1234_5678, id: 9 };
    let room = if how & NO_ROOM == 0 { OUTER_LEN_MAX } else { 24 };
    let mut buffer = [&vec![0xee; room][..], received].concat();
    let Ok(sent) = encapsulate(&mut buffer, room, packet, &outer) else { return };
    let sent = buffer.get_mut(sent.start..sent.start + sent.len).expect("it lies in its buffer");
    steadfast_packet::set_macs(sent, MAC, MAC);
    let inner = &received[packet.l3..packet.end];
    assert!(sent.ends_with(inner), "the packet in the tunnel is another");
    let Content::Ip(outer) = parse(sent).expect("an outer packet that can be read").content else {
        panic!("an outer packet that is none")
    };
    assert_eq!((outer.src, outer.dst), (src, dst));
    // Over IPv6 an UDP header should have one, and has none where that was asked for.
    let has_none = matches!(tunnel, Tunnel::Gue { checksum: UdpChecksum::Off, .. });
    assert!(has_none || wire::is_right(sent) != Some(false), "{sent:02x?}");
}

/// Numbers that are shifted, and back, are what they were.
fn shift(mut frame: Vec<u8>, packet: &Packet) {
    let (received, was_right) = (frame.clone(), wire::is_right(&frame));
    let there = SeqShift {
        seq: 0x8000_0001,
        ack: 77,
        ts_val: 0xffff_0000,
        ts_ecr: 9,
        ..SeqShift::default()
    };
    if shift_numbers(&mut frame, packet, &there).is_err() {
        assert_eq!(frame, received, "shifted in part");
        return;
    }
    assert_eq!(wire::is_right(&frame), was_right, "{frame:02x?}");
    let back = |number: u32| 0_u32.wrapping_sub(number);
    let back = SeqShift {
        seq: back(there.seq),
        ack: back(there.ack),
        ts_val: back(there.ts_val),
        ts_ecr: back(there.ts_ecr),
        ..SeqShift::default()
    };
    shift_numbers(&mut frame, packet, &back).expect("what could be shifted can be shifted back");
    // Both zeroes are one checksum.
    let checksum = packet.l4 + 16..packet.l4 + 18;
    let is_tcp = matches!(packet.transport, Transport::Tcp { .. });
    let differs = |at: &usize| frame[*at] != received[*at] && !(is_tcp && checksum.contains(at));
    assert!(!(0..frame.len()).any(|at| differs(&at)), "{received:02x?}\n{frame:02x?}");
}

/// The client's address, as an option behind the fixed header.
fn add_option(how: u8, received: &[u8], packet: &Packet) {
    let was_right = wire::is_right(received);
    let client: IpAddr = if how & 8 == 0 { VIP.into() } else { ADDR_6.into() };
    let room = if how & NO_ROOM == 0 { OUTER_LEN_MAX } else { 12 };
    let mut buffer = [&vec![0xee; room][..], received].concat();
    let Ok(start) = add_toa(&mut buffer, room, packet, (client, PORT).into()) else {
        assert!(buffer.ends_with(received), "added in part");
        return;
    };
    let sent = &buffer[start..];
    assert_eq!(sent.len(), received.len() + toa_len(client.is_ipv6()));
    assert!(parse(sent).is_ok(), "a packet with an option that cannot be read: {sent:02x?}");
    assert_eq!(wire::is_right(sent), was_right, "{sent:02x?}");
}

/// A question for an address is answered by a whole frame.
fn question(frame: Vec<u8>, parsed: Parsed) {
    let mut buffer = frame;
    buffer.resize(buffer.len().max(ANSWER_LEN_MAX), 0xee);
    let len = match parsed.content {
        Content::ArpRequest(request) => arp_reply(&mut buffer, MAC, request),
        Content::Solicitation(solicitation) => advertisement(&mut buffer, MAC, solicitation, true),
        _ => return,
    };
    let sent = buffer.get(..len.expect("there is room")).expect("it lies in its buffer");
    assert!(parse(sent).is_ok(), "an answer that cannot be read: {sent:02x?}");
    assert_ne!(wire::is_right(sent), Some(false), "{sent:02x?}");
}
