//! Encapsulation against a second reader (etherparse), over random packets, and segment sizes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    EtherType, IpHeaders, IpNumber, Ipv4Header, Ipv6Header, LinkHeader, NetHeaders, PacketBuilder,
    PacketHeaders, TcpOptionElement, TransportHeader, ip_number,
};
use proptest::prelude::*;
use steadfast_packet::{
    ANSWER_LEN_MAX, Content, Encapsulated, OUTER_LEN_MAX, Outer, Packet, Tunnel, UdpChecksum,
    clamp_mss, encapsulate, internet_checksum, packet_too_big, parse,
};

const ETHERNET: usize = 14;

/// A random inner packet.
#[derive(Clone, Debug)]
struct Inner {
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    tos: u8,
    dont_fragment: bool,
    tcp: bool,
    payload: Vec<u8>,
    padding: usize,
}

fn addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<(Ipv4Addr, Ipv4Addr)>().prop_map(|(src, dst)| (src.into(), dst.into())),
        any::<(Ipv6Addr, Ipv6Addr)>().prop_map(|(src, dst)| (src.into(), dst.into())),
    ]
}

fn inner() -> impl Strategy<Value = Inner> {
    (
        (addresses(), any::<u8>(), any::<u8>(), any::<bool>(), any::<bool>()),
        (proptest::collection::vec(any::<u8>(), 0..80), 0..20usize),
    )
        .prop_map(|(((src, dst), ttl, tos, dont_fragment, tcp), (payload, padding))| Inner {
            src,
            dst,
            ttl,
            tos,
            dont_fragment,
            tcp,
            payload,
            padding,
        })
}

fn tunnel() -> impl Strategy<Value = Tunnel> {
    let checksum =
        prop_oneof![Just(UdpChecksum::ByFamily), Just(UdpChecksum::On), Just(UdpChecksum::Off)];
    prop_oneof![
        Just(Tunnel::IpIp),
        (any::<u16>(), checksum).prop_map(|(port, checksum)| Tunnel::Gue { port, checksum }),
        any::<bool>().prop_map(|checksum| Tunnel::Gre { checksum }),
    ]
}

fn outer() -> impl Strategy<Value = Outer> {
    (tunnel(), addresses(), any::<u32>(), any::<u16>())
        .prop_map(|(tunnel, (src, dst), flow_hash, id)| Outer { tunnel, src, dst, flow_hash, id })
}

impl Inner {
    fn frame(&self) -> Vec<u8> {
        let headers = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip =
                    Ipv4Header::new(0, self.ttl, ip_number::UDP, src.octets(), dst.octets())
                        .unwrap();
                (ip.dscp, ip.ecn) =
                    ((self.tos >> 2).try_into().unwrap(), (self.tos & 3).try_into().unwrap());
                ip.dont_fragment = self.dont_fragment;
                IpHeaders::Ipv4(ip, Default::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    traffic_class: self.tos,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(ip, Default::default())
            }
            _ => unreachable!("two families"),
        };
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(headers);
        let mut frame = Vec::new();
        if self.tcp {
            builder.tcp(1, 2, 3, 4).write(&mut frame, &self.payload).unwrap();
        } else {
            builder.udp(1, 2).write(&mut frame, &self.payload).unwrap();
        }
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }
}

fn packet(frame: &[u8]) -> Packet {
    match parse(frame).unwrap().content {
        Content::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

/// The frame with its tunnel headers, and where the inner packet starts in it.
fn encapsulated(frame: &[u8], outer: &Outer) -> (Vec<u8>, usize) {
    let packet = packet(frame);
    let mut buffer = vec![0xaa; OUTER_LEN_MAX];
    buffer.extend_from_slice(frame);
    let Encapsulated { start, len } =
        encapsulate(&mut buffer, OUTER_LEN_MAX, &packet, outer).unwrap();
    assert_eq!(&buffer[OUTER_LEN_MAX + packet.l3..], &frame[packet.l3..], "inner packet touched");
    let at = len - packet.len();
    (buffer[start..start + len].to_vec(), at)
}

proptest! {
    #[test]
    fn outer_headers_are_what_etherparse_reads(inner in inner(), outer in outer()) {
        let frame = inner.frame();
        let (out, at) = encapsulated(&frame, &outer);
        let six = outer.dst.is_ipv6();
        let inner_six = inner.dst.is_ipv6();
        let overhead = outer.tunnel.overhead(six);
        prop_assert_eq!(at, ETHERNET + overhead);

        let read = PacketHeaders::from_ethernet_slice(&out).unwrap();
        let Some(LinkHeader::Ethernet2(ethernet)) = read.link else { panic!("no Ethernet") };
        let kind = if six { EtherType::IPV6 } else { EtherType::IPV4 };
        prop_assert_eq!(ethernet.ether_type, kind);
        let inside = if inner_six { ip_number::IPV6 } else { ip_number::IPV4 };
        let protocol = match outer.tunnel {
            Tunnel::IpIp => inside,
            Tunnel::Gue { .. } => ip_number::UDP,
            Tunnel::Gre { .. } => ip_number::GRE,
        };
        match read.net.as_ref().unwrap() {
            NetHeaders::Ipv4(ip, _) => {
                prop_assert_eq!(IpAddr::from(ip.source), outer.src);
                prop_assert_eq!(IpAddr::from(ip.destination), outer.dst);
                prop_assert_eq!(ip.header_checksum, ip.calc_header_checksum());
                prop_assert_eq!(ip.time_to_live, inner.ttl);
                prop_assert_eq!(ip.dscp.value() << 2 | ip.ecn.value(), inner.tos);
                prop_assert_eq!(ip.protocol, protocol);
                prop_assert_eq!(usize::from(ip.total_len), out.len() - ETHERNET);
                let dont_fragment = inner.dont_fragment && !inner_six;
                prop_assert_eq!(ip.dont_fragment, dont_fragment);
                prop_assert_eq!(ip.identification, if dont_fragment { 0 } else { outer.id });
            }
            NetHeaders::Ipv6(ip, _) => {
                prop_assert_eq!(IpAddr::from(ip.source), outer.src);
                prop_assert_eq!(IpAddr::from(ip.destination), outer.dst);
                prop_assert_eq!(ip.hop_limit, inner.ttl);
                prop_assert_eq!(ip.traffic_class, inner.tos);
                prop_assert_eq!(ip.flow_label.value(), outer.flow_hash & 0xf_ffff);
                prop_assert_eq!(ip.next_header, protocol);
                prop_assert_eq!(usize::from(ip.payload_length), out.len() - ETHERNET - 40);
            }
            NetHeaders::Arp(_) => panic!("ARP"),
        }

        let l4 = ETHERNET + if six { 40 } else { 20 };
        match outer.tunnel {
            Tunnel::IpIp => {}
            Tunnel::Gue { port, checksum } => {
                let Some(TransportHeader::Udp(udp)) = &read.transport else { panic!("no UDP") };
                prop_assert_eq!(udp.destination_port, port);
                prop_assert_eq!(udp.source_port, 0xc000 | (outer.flow_hash & 0x3fff) as u16);
                prop_assert_eq!(usize::from(udp.length), out.len() - l4);
                let payload = read.payload.slice();
                let right = match read.net.as_ref().unwrap() {
                    NetHeaders::Ipv4(ip, _) => udp.calc_checksum_ipv4(ip, payload).unwrap(),
                    NetHeaders::Ipv6(ip, _) => udp.calc_checksum_ipv6(ip, payload).unwrap(),
                    NetHeaders::Arp(_) => panic!("ARP"),
                };
                let on = checksum == UdpChecksum::On || (checksum == UdpChecksum::ByFamily && six);
                prop_assert_eq!(udp.checksum, if on { right } else { 0 });
                prop_assert_eq!(&payload[..4], &[0, inside.0, 0, 0], "GUE variant 0");
            }
            Tunnel::Gre { checksum } => {
                let kind = if inner_six { EtherType::IPV6 } else { EtherType::IPV4 };
                let flags: u16 = if checksum { 0x8000 } else { 0 };
                prop_assert_eq!(&out[l4..l4 + 2], &flags.to_be_bytes());
                prop_assert_eq!(&out[l4 + 2..l4 + 4], &kind.0.to_be_bytes());
                if checksum {
                    prop_assert_eq!(internet_checksum(0, &out[l4..]), 0);
                    prop_assert_eq!(&out[l4 + 6..l4 + 8], &[0, 0], "reserved");
                }
            }
        }
    }

    #[test]
    fn a_buffer_without_room_is_refused(inner in inner(), outer in outer(), room in 0..60usize) {
        let frame = inner.frame();
        let packet = packet(&frame);
        let needs = outer.tunnel.overhead(outer.dst.is_ipv6());
        let mut buffer = vec![0xaa; room];
        buffer.extend_from_slice(&frame);
        let before = buffer.clone();
        let done = encapsulate(&mut buffer, room, &packet, &outer);
        prop_assert_eq!(done.is_ok(), room >= needs);
        if done.is_err() {
            prop_assert_eq!(buffer, before);
        }
    }

    #[test]
    fn too_big_says_how_much_goes_through(inner in inner(), mtu in any::<u16>()) {
        let frame = inner.frame();
        let packet = packet(&frame);
        let mut buffer = frame.clone();
        buffer.resize(frame.len().max(ANSWER_LEN_MAX), 0xaa);
        let len = packet_too_big(&mut buffer, &packet, packet.dst, mtu).unwrap();
        let answer = match parse(&buffer[..len]).unwrap().content {
            Content::Ip(answer) => answer,
            other => panic!("not IP: {other:?}"),
        };
        prop_assert_eq!((answer.src, answer.dst), (packet.dst, packet.src));
        let kind = if packet.is_ipv6() { [2, 0] } else { [3, 4] };
        prop_assert_eq!(&buffer[answer.l4..answer.l4 + 2], &kind);
        let [high, low] = mtu.to_be_bytes();
        prop_assert_eq!(&buffer[answer.l4 + 4..answer.l4 + 8], &[0, 0, high, low]);
        prop_assert_eq!(&buffer[answer.l4 + 8..answer.end], &frame[packet.l3..packet.end]);
        let read = PacketHeaders::from_ethernet_slice(&buffer[..len]).unwrap();
        match (&read.transport, &read.net) {
            (Some(TransportHeader::Icmpv4(icmp)), _) => {
                let right = icmp.icmp_type.calc_checksum(read.payload.slice());
                prop_assert_eq!(icmp.checksum, right);
            }
            (Some(TransportHeader::Icmpv6(icmp)), Some(NetHeaders::Ipv6(ip, _))) => {
                let payload = read.payload.slice();
                let right =
                    icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).unwrap();
                prop_assert_eq!(icmp.checksum, right);
            }
            other => panic!("no ICMP: {other:?}"),
        }
    }

    #[test]
    fn a_segment_size_is_lowered_wherever_the_option_stands(
        mss in any::<u16>(), most in any::<u16>(), before in 0..6usize, after in 0..6usize,
        syn in any::<bool>(), six in any::<bool>(),
    ) {
        let mut options = vec![TcpOptionElement::Noop; before];
        options.push(TcpOptionElement::MaximumSegmentSize(mss));
        options.extend(vec![TcpOptionElement::Noop; after]);
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let builder =
            if six { builder.ipv6([1; 16], [2; 16], 9) } else { builder.ipv4([1; 4], [2; 4], 9) };
        let mut builder = builder.tcp(1, 2, 3, 4).options(&options).unwrap();
        if syn {
            builder = builder.syn();
        }
        let mut frame = Vec::new();
        builder.write(&mut frame, b"data").unwrap();
        let packet = packet(&frame);
        let untouched = frame.clone();
        let lowered = clamp_mss(&mut frame, &packet, most);
        prop_assert_eq!(lowered, syn && mss > most);
        let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let Some(TransportHeader::Tcp(tcp)) = &read.transport else { panic!("no TCP") };
        let found = tcp.options_iterator().find_map(|option| match option.unwrap() {
            TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
            _ => None,
        });
        prop_assert_eq!(found, Some(if lowered { most } else { mss }));
        let right = match read.net.as_ref().unwrap() {
            NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, read.payload.slice()).unwrap(),
            NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, read.payload.slice()).unwrap(),
            NetHeaders::Arp(_) => panic!("ARP"),
        };
        prop_assert_eq!(tcp.checksum, right);
        let changed = frame.iter().zip(&untouched).filter(|(a, b)| a != b).count();
        prop_assert!(changed <= 4, "{} octets changed", changed);
    }

    #[test]
    fn odd_tcp_options_change_nothing(
        options in proptest::collection::vec(any::<u8>(), 0..40), most in any::<u16>(),
    ) {
        let mut header = etherparse::TcpHeader::new(1, 2, 3, 4);
        header.syn = true;
        header.set_options_raw(&options).unwrap();
        let mut frame = Vec::new();
        PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([1; 4], [2; 4], 9)
            .tcp_header(header.clone())
            .write(&mut frame, b"data")
            .unwrap();
        let packet = packet(&frame);
        let before = frame.clone();
        let lowered = clamp_mss(&mut frame, &packet, most);
        prop_assert_eq!(lowered, before != frame);
        // The second reader stops at the first malformed option too.
        let second = header
            .options_iterator()
            .map_while(Result::ok)
            .find_map(|option| match option {
                TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
                _ => None,
            });
        if let Some(mss) = second {
            prop_assert_eq!(lowered, mss > most);
        }
    }
}

#[test]
fn the_arithmetic_is_that_of_lvs() {
    use Tunnel::{Gre, Gue, IpIp};
    let gue = Gue { port: 6080, checksum: UdpChecksum::ByFamily };
    let table = [
        // Tunnel, over IPv4, over IPv6.
        (IpIp, 20, 40),
        (gue, 32, 52),
        (Gre { checksum: false }, 24, 44),
        (Gre { checksum: true }, 28, 48),
    ];
    for (tunnel, four, six) in table {
        assert_eq!((tunnel.overhead(false), tunnel.overhead(true)), (four, six), "{tunnel:?}");
    }
    assert_eq!(OUTER_LEN_MAX, ETHERNET + 52);
    assert_eq!(IpNumber::IPV4.0, 4);
}
