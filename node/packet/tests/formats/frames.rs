//! Reading and rewriting against a second reader (etherparse), over random frames.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Header, Ipv6RawExtHeader, NetHeaders, PacketBuilder, PacketHeaders,
    TransportHeader, ip_number,
};
use proptest::prelude::*;
use steadfast_packet::{
    ANSWER_LEN_MAX, ArpRequest, Content, FRAME_LEN_MIN, Packet, Solicitation, Transport,
    advertisement, arp_reply, decrement_ttl, echo_reply, gratuitous_arp, internet_checksum, parse,
    port_unreachable, pseudo_sum, rewrite_destination, rewrite_source, tcp_reset, time_exceeded,
    unsolicited_advertisement,
};

const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xc];
const OWN_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0xd];

/// A random TCP or UDP packet.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) tcp: bool,
    pub(super) src: IpAddr,
    dst: IpAddr,
    ports: (u16, u16),
    pub(super) ttl: u8,
    pub(super) options: usize,
    flags: u8,
    seq: (u32, u32),
    payload: Vec<u8>,
    udp_checksum: bool,
    padding: usize,
}

/// Two of one family.
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

pub(super) fn sample() -> impl Strategy<Value = Sample> {
    (
        (any::<bool>(), addresses(), any::<(u16, u16)>(), any::<u8>()),
        (0..=10usize, any::<u8>(), any::<(u32, u32)>()),
        (proptest::collection::vec(any::<u8>(), 0..64), any::<bool>(), 0..20usize),
    )
        .prop_map(
            |((tcp, (src, dst), ports, ttl), (words, flags, seq), (payload, sum, padding))| {
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
    pub(super) fn frame(&self) -> Vec<u8> {
        let protocol = if self.tcp { ip_number::TCP } else { ip_number::UDP };
        let headers = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let (src, dst) = (src.octets(), dst.octets());
                let mut ip = Ipv4Header::new(0, self.ttl, protocol, src, dst).unwrap();
                ip.options = vec![1u8; self.options].as_slice().try_into().unwrap();
                IpHeaders::Ipv4(ip, Default::default())
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    hop_limit: self.ttl,
                    next_header: protocol,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                let mut extensions = etherparse::Ipv6Extensions::default();
                if self.options > 0 {
                    // One option of padding that fills the header: PadN.
                    let mut padding = vec![0; self.extension_len() - 2];
                    (padding[0], padding[1]) = (1, (self.extension_len() - 4) as u8);
                    let header = Ipv6RawExtHeader::new_raw(protocol, &padding).unwrap();
                    extensions.hop_by_hop_options = Some(header);
                }
                IpHeaders::Ipv6(ip, extensions)
            }
            _ => unreachable!("two families"),
        };
        let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ip(headers);
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
                let at = self.l4() + 6;
                frame[at..at + 2].fill(0);
            }
        }
        frame.resize(frame.len() + self.padding, 0xee);
        frame
    }

    /// Length of the hop-by-hop options header, where there is one.
    fn extension_len(&self) -> usize {
        self.options.div_ceil(8) * 8
    }

    fn l4(&self) -> usize {
        match self.src {
            IpAddr::V4(_) => 14 + 20 + self.options,
            IpAddr::V6(_) => 14 + 40 + self.extension_len(),
        }
    }
}

pub(super) fn packet(frame: &[u8]) -> Packet {
    match parse(frame).unwrap().content {
        Content::Ip(packet) => packet,
        other => panic!("not IP: {other:?}"),
    }
}

/// Header and transport checksums as they should be, computed from scratch by etherparse.
fn assert_checksums(frame: &[u8]) {
    let read = PacketHeaders::from_ethernet_slice(frame).unwrap();
    if let Some(NetHeaders::Ipv4(ip, _)) = &read.net {
        assert_eq!(ip.header_checksum, ip.calc_header_checksum(), "IPv4 checksum");
    }
    if let Some((found, right)) = checksums(&read) {
        assert_eq!(found, right, "transport checksum");
    }
}

/// The transport checksum that is there, if any, and the right one.
fn checksums(read: &PacketHeaders<'_>) -> Option<(u16, u16)> {
    let payload = read.payload.slice();
    let pair = match (&read.transport, read.net.as_ref().unwrap()) {
        (Some(TransportHeader::Tcp(tcp)), NetHeaders::Ipv4(ip, _)) => {
            (tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).unwrap())
        }
        (Some(TransportHeader::Tcp(tcp)), NetHeaders::Ipv6(ip, _)) => {
            (tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).unwrap())
        }
        (Some(TransportHeader::Udp(udp)), _) if udp.checksum == 0 => return None,
        (Some(TransportHeader::Udp(udp)), NetHeaders::Ipv4(ip, _)) => {
            (udp.checksum, udp.calc_checksum_ipv4(ip, payload).unwrap())
        }
        (Some(TransportHeader::Udp(udp)), NetHeaders::Ipv6(ip, _)) => {
            (udp.checksum, udp.calc_checksum_ipv6(ip, payload).unwrap())
        }
        (Some(TransportHeader::Icmpv4(icmp)), _) => {
            (icmp.checksum, icmp.icmp_type.calc_checksum(payload))
        }
        (Some(TransportHeader::Icmpv6(icmp)), NetHeaders::Ipv6(ip, _)) => {
            let (src, dst) = (ip.source, ip.destination);
            (icmp.checksum, icmp.icmp_type.calc_checksum(src, dst, payload).unwrap())
        }
        _ => return None,
    };
    Some(pair)
}

proptest! {
    #[test]
    fn reads_what_etherparse_reads(sample in sample()) {
        let frame = sample.frame();
        let packet = packet(&frame);
        let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        match read.net.as_ref().unwrap() {
            NetHeaders::Ipv4(ip, _) => {
                let (src, dst) = (Ipv4Addr::from(ip.source), Ipv4Addr::from(ip.destination));
                prop_assert_eq!((packet.src, packet.dst), (src.into(), dst.into()));
                prop_assert_eq!(packet.ttl, ip.time_to_live);
                prop_assert_eq!(packet.len(), usize::from(ip.total_len));
                prop_assert_eq!(packet.l4, 14 + ip.header_len());
            }
            NetHeaders::Ipv6(ip, extensions) => {
                let (src, dst) = (Ipv6Addr::from(ip.source), Ipv6Addr::from(ip.destination));
                prop_assert_eq!((packet.src, packet.dst), (src.into(), dst.into()));
                prop_assert_eq!(packet.ttl, ip.hop_limit);
                prop_assert_eq!(packet.len(), 40 + usize::from(ip.payload_length));
                prop_assert_eq!(packet.l4, 14 + 40 + extensions.header_len());
            }
            NetHeaders::Arp(_) => panic!("ARP"),
        }
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
        sample in sample(), addr in any::<u128>(), port in any::<u16>(), source in any::<bool>(),
    ) {
        let mut frame = sample.frame();
        let before = frame.clone();
        let packet = packet(&frame);
        let alive = decrement_ttl(&mut frame, &packet);
        prop_assert_eq!(alive, sample.ttl > 1);
        let addr = another(sample.src, addr);
        if source {
            rewrite_source(&mut frame, &packet, addr, port);
        } else {
            rewrite_destination(&mut frame, &packet, addr, port);
        }
        assert_checksums(&frame);
        let Content::Ip(after) = parse(&frame).unwrap().content else { panic!("not IP") };
        let (_, src_port, dst_port) = after.tuple().unwrap();
        let (src, dst) = (sample.src, sample.dst);
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
    fn a_wrong_checksum_stays_wrong(sample in sample(), addr in any::<u128>(), port in any::<u16>()) {
        prop_assume!(sample.tcp);
        let mut frame = sample.frame();
        let packet = packet(&frame);
        frame[packet.l4 + 16] ^= 0x40;
        rewrite_destination(&mut frame, &packet, another(sample.src, addr), port);
        let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
        let (found, right) = checksums(&read).unwrap();
        prop_assert_ne!(found, right);
    }

    #[test]
    fn resets_follow_rfc_9293(sample in sample()) {
        prop_assume!(sample.tcp && sample.flags & 4 == 0);
        let frame = sample.frame();
        let packet = packet(&frame);
        let mut buffer = frame.clone();
        buffer.resize(frame.len().max(ANSWER_LEN_MAX), 0xaa);
        let len = tcp_reset(&mut buffer, &packet).unwrap();
        prop_assert_eq!(len, if packet.is_ipv6() { 14 + 40 + 20 } else { FRAME_LEN_MIN });
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
        let packet = packet(&frame);
        let mut buffer = frame.clone();
        buffer.resize(frame.len().max(ANSWER_LEN_MAX), 0xaa);
        let len = port_unreachable(&mut buffer, &packet).unwrap();
        prop_assert!(len <= ANSWER_LEN_MAX);
        assert_checksums(&buffer[..len]);
        let Content::Ip(answer) = parse(&buffer[..len]).unwrap().content else { panic!("not IP") };
        prop_assert_eq!((answer.src, answer.dst), (packet.dst, packet.src));
        let unreachable = if packet.is_ipv6() { [1, 4] } else { [3, 3] };
        prop_assert_eq!(&buffer[answer.l4..answer.l4 + 2], &unreachable);
        prop_assert_eq!(&buffer[answer.l4 + 8..answer.end], &frame[14..packet.end]);
        prop_assert_eq!((&buffer[..6], &buffer[6..12]), (&CLIENT_MAC[..], &OWN_MAC[..]));
    }

    #[test]
    fn garbage_never_panics(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ethertype in 0..4usize,
    ) {
        let kinds = [0x0800u16, 0x0806, 0x86dd, 0x1234];
        if bytes.len() > 14 {
            bytes[12..14].copy_from_slice(&kinds[ethertype].to_be_bytes());
            bytes[14] = if ethertype == 2 { 0x60 } else { 0x45 };
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
        let packet = packet_of(&frame);
        frame.truncate(cut.index(frame.len()));
        exercise(&frame);
        // A packet that is no longer in its buffer changes nothing and panics nowhere.
        if let Some(packet) = packet {
            change(&mut frame, &packet);
        }
    }
}

fn packet_of(frame: &[u8]) -> Option<Packet> {
    match parse(frame).ok()?.content {
        Content::Ip(packet) => Some(packet),
        _ => None,
    }
}

fn exercise(frame: &[u8]) {
    if let Some(packet) = packet_of(frame) {
        assert!(packet.l4 <= packet.end && packet.end <= frame.len());
        change(&mut frame.to_vec(), &packet);
    }
}

fn change(frame: &mut [u8], packet: &Packet) {
    let _ = decrement_ttl(frame, packet);
    rewrite_source(frame, packet, Ipv4Addr::LOCALHOST.into(), 1);
    rewrite_destination(frame, packet, Ipv6Addr::LOCALHOST.into(), 1);
    let _ = echo_reply(frame, packet);
    let _ = tcp_reset(frame, packet);
    let _ = port_unreachable(frame, packet);
    let _ = time_exceeded(frame, packet, packet.dst);
    let (sender, target) = (Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
    let _ = arp_reply(frame, OWN_MAC, ArpRequest { l3: packet.l3, sender, target });
    let (sender, target) = (Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
    let asked = Solicitation { l3: packet.l3, sender, target };
    let _ = advertisement(frame, OWN_MAC, asked, true);
}

#[test]
fn echo_is_answered_with_the_same_data() {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4([198, 18, 0, 2], [198, 18, 0, 100], 63)
        .icmpv4_echo_request(7, 9)
        .write(&mut frame, b"some data")
        .unwrap();
    let packet = packet(&frame);
    assert_eq!(packet.transport, Transport::EchoRequest);
    let len = echo_reply(&mut frame, &packet).unwrap();
    assert_eq!(len, packet.end, "no room to pad here");
    assert_checksums(&frame);
    let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
    let Some(TransportHeader::Icmpv4(icmp)) = read.transport else { panic!("not ICMP") };
    let header = etherparse::IcmpEchoHeader { id: 7, seq: 9 };
    assert_eq!(icmp.icmp_type, etherparse::Icmpv4Type::EchoReply(header));
    assert_eq!(read.payload.slice(), b"some data");
    let Content::Ip(reply) = parse(&frame).unwrap().content else { panic!("not IP") };
    assert_eq!((reply.src, reply.dst, reply.ttl), (packet.dst, packet.src, 64));
}

#[test]
fn echo_over_ipv6_is_answered_with_the_same_data() {
    let (client, vip): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8::2".parse().unwrap(), "2001:db8::100".parse().unwrap());
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv6(client.octets(), vip.octets(), 63)
        .icmpv6_echo_request(7, 9)
        .write(&mut frame, b"some data")
        .unwrap();
    let request = packet(&frame);
    assert_eq!(request.transport, Transport::EchoRequest);
    assert_eq!(echo_reply(&mut frame, &request), Ok(request.end));
    assert_checksums(&frame);
    let read = PacketHeaders::from_ethernet_slice(&frame).unwrap();
    let Some(TransportHeader::Icmpv6(icmp)) = read.transport else { panic!("not ICMPv6") };
    let header = etherparse::IcmpEchoHeader { id: 7, seq: 9 };
    assert_eq!(icmp.icmp_type, etherparse::Icmpv6Type::EchoReply(header));
    assert_eq!(read.payload.slice(), b"some data");
    let reply = packet(&frame);
    assert_eq!((reply.src, reply.dst, reply.ttl), (vip.into(), client.into(), 64));
}

/// A solicitation for `target`, right in every respect.
fn solicitation(sender: Ipv6Addr, target: Ipv6Addr, option: bool) -> Vec<u8> {
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), 0);
    let group = Ipv6Addr::from_bits(group.to_bits() | u128::from(u16::from_be_bytes([b, c])));
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    if option {
        message.extend([1, 1]);
        message.extend(CLIENT_MAC);
    }
    let sum = pseudo_sum(sender.into(), group.into(), 58, message.len() as u32);
    let checksum = internet_checksum(sum, &message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
    frame.extend(CLIENT_MAC);
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, message.len() as u8, 58, 255]);
    frame.extend(sender.octets());
    frame.extend(group.octets());
    frame.extend(message);
    frame
}

#[test]
fn solicitations_are_answered_as_rfc_4861_says() {
    let (asker, vip): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8::2".parse().unwrap(), "2001:db8::1234:5678".parse().unwrap());
    let unsure = Ipv6Addr::UNSPECIFIED;
    // (description, who asks, for a gateway address, to whom, destination MAC, flags)
    let all: Ipv6Addr = "ff02::1".parse().unwrap();
    let all_mac = [0x33, 0x33, 0, 0, 0, 1];
    let cases = [
        ("a neighbour", asker, false, asker, CLIENT_MAC, 0x60),
        ("a server for its gateway", asker, true, asker, CLIENT_MAC, 0xe0),
        ("one that checks for duplicates", unsure, false, all, all_mac, 0x20),
    ];
    for (description, sender, router, dst, dst_mac, flags) in cases {
        let mut frame = solicitation(sender, vip, !sender.is_unspecified());
        let Content::Solicitation(asked) = parse(&frame).unwrap().content else {
            panic!("{description}: no solicitation")
        };
        assert_eq!((asked.sender, asked.target), (sender, vip), "{description}");
        frame.resize(200, 0xee);
        let len = advertisement(&mut frame, OWN_MAC, asked, router).unwrap();
        let read = PacketHeaders::from_ethernet_slice(&frame[..len]).unwrap();
        assert_checksums(&frame[..len]);
        let Some(NetHeaders::Ipv6(ip, _)) = &read.net else { panic!("not IPv6") };
        assert_eq!((ip.source, ip.destination), (vip.octets(), dst.octets()), "{description}");
        assert_eq!(ip.hop_limit, 255, "{description}");
        assert_eq!((&frame[..6], &frame[6..12]), (&dst_mac[..], &OWN_MAC[..]), "{description}");
        assert_eq!(frame[54..56], [136, 0], "{description}: an advertisement");
        assert_eq!(frame[58], flags, "{description}: flags");
        assert_eq!(frame[62..78], vip.octets(), "{description}: target");
        assert_eq!(frame[78..len], [&[2, 1][..], &OWN_MAC].concat(), "{description}: option");
    }
    let announced = unsolicited_advertisement(OWN_MAC, vip, true);
    assert_checksums(&announced);
    assert_eq!((&announced[..6], announced[58]), (&all_mac[..], 0xa0), "to all, override, router");
}

#[test]
fn solicitations_that_rfc_4861_discards_are_malformed() {
    let (asker, vip): (Ipv6Addr, Ipv6Addr) =
        ("2001:db8::2".parse().unwrap(), "2001:db8::1234:5678".parse().unwrap());
    let good = || solicitation(asker, vip, true);
    let with = |at: usize, value: u8| {
        let mut frame = good();
        frame[at] = value;
        // The checksum is right again.
        frame[56..58].fill(0);
        let message = frame[54..].to_vec();
        let dst: [u8; 16] = frame[38..54].try_into().unwrap();
        let sum = pseudo_sum(asker.into(), IpAddr::from(dst), 58, message.len() as u32);
        let checksum = internet_checksum(sum, &message).to_be_bytes();
        frame[56..58].copy_from_slice(&checksum);
        frame
    };
    let mut wrong_sum = good();
    wrong_sum[57] ^= 1;
    let mut unsure_to_one = solicitation(Ipv6Addr::UNSPECIFIED, vip, false);
    // The destination's group changes, and with it the pseudo header.
    unsure_to_one[38..54].copy_from_slice(&vip.octets());
    unsure_to_one[56..58].fill(0);
    let sum = pseudo_sum(Ipv6Addr::UNSPECIFIED.into(), vip.into(), 58, 24);
    let checksum = internet_checksum(sum, &unsure_to_one[54..]).to_be_bytes();
    unsure_to_one[56..58].copy_from_slice(&checksum);
    let cases = [
        ("as it is", good(), true),
        ("hop limit 254: from beyond a router", with(21, 254), false),
        ("code 1", with(55, 1), false),
        ("wrong checksum", wrong_sum, false),
        ("multicast target", with(62, 0xff), false),
        ("option of no length", with(79, 0), false),
        ("option past the end", with(79, 2), false),
        ("unsure, with its address", solicitation(Ipv6Addr::UNSPECIFIED, vip, true), false),
        ("unsure, not to the group", unsure_to_one, false),
    ];
    for (description, frame, valid) in cases {
        let found = parse(&frame).map(|parsed| parsed.content);
        let is_solicitation = matches!(found, Ok(Content::Solicitation(_)));
        assert_eq!(is_solicitation, valid, "{description}: {found:?}");
    }
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
    assert_eq!(arp_reply(&mut frame, OWN_MAC, request), Ok(60));
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
        src: Ipv4Addr::new(198, 18, 0, 2).into(),
        dst: Ipv4Addr::new(198, 18, 0, 100).into(),
        ports: (4000, 80),
        ttl: 64,
        options: 0,
        flags: 2,
        seq: (1, 0),
        payload: vec![0; 4],
        udp_checksum: true,
        padding: 0,
    };
    // (description, byte to set, value, expected)
    let cases: [(&str, usize, u8, &str); 10] = [
        ("as it is", 0, 2, "tcp"),
        ("more fragments", 20, 0x20, "tcp, first fragment"),
        ("an offset inside the TCP header: RFC 3128", 21, 1, "Fragment"),
        ("another", 21, 2, "Fragment"),
        ("an offset after it", 21, 3, "fragment"),
        ("version 6 in an IPv4 frame", 14, 0x65, "Version"),
        ("header of 16 bytes", 14, 0x44, "Length(\"IPv4\")"),
        ("longer than the frame", 17, 45, "Length(\"IPv4\")"),
        ("TCP header of 16 bytes", 46, 0x40, "Length(\"TCP\")"),
        ("TCP header past the end", 46, 0x70, "Length(\"TCP\")"),
    ];
    for (description, at, value, expected) in cases {
        let mut frame = sample.frame();
        frame[at] = value;
        frame[24..26].fill(0);
        let checksum = steadfast_packet::internet_checksum(0, &frame[14..34]);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        let found = match parse(&frame) {
            Ok(parsed) => match parsed.content {
                Content::Ip(packet) if packet.transport == Transport::Fragment => {
                    assert_eq!(packet.fragment.map(|f| (f.offset, f.more)), Some((24, false)));
                    "fragment".to_owned()
                }
                Content::Ip(packet) if packet.fragment.is_some() => {
                    assert_eq!(packet.fragment.map(|f| (f.offset, f.more)), Some((0, true)));
                    assert!(packet.tuple().is_some());
                    "tcp, first fragment".to_owned()
                }
                Content::Ip(packet) if packet.tuple().is_some() => "tcp".to_owned(),
                other => format!("{other:?}"),
            },
            Err(error) => format!("{error:?}"),
        };
        assert_eq!(found, expected, "{description}");
    }
}

#[test]
fn ipv4_options_go_along_but_for_source_routes() {
    let to = [2; 4];
    // (description, options, accepted)
    let cases: [(&str, &[u8], bool); 19] = [
        ("none", &[], true),
        ("no operation", &[1, 1, 1, 1], true),
        ("record route", &[&[7, 7, 4][..], &to, &[0]].concat(), true),
        ("timestamp", &[68, 8, 5, 0, 0, 0, 0, 0], true),
        ("router alert, RFC 2113", &[148, 4, 0, 0], true),
        ("one that nobody knows", &[222, 4, 9, 9], true),
        ("one that fills the header", &[&[222, 40][..], &[9; 38]].concat(), true),
        ("loose source route", &[&[131, 7, 4][..], &to, &[0]].concat(), false),
        ("strict source route", &[&[137, 7, 4][..], &to, &[0]].concat(), false),
        ("one that is used up", &[&[131, 7, 8][..], &to, &[0]].concat(), false),
        ("one of wrong length", &[131, 0, 0, 0], false),
        ("one without a length", &[1, 1, 1, 131], false),
        ("behind another option", &[&[148, 4, 0, 0, 1, 131, 7, 4][..], &to].concat(), false),
        ("behind the end of the list", &[&[0, 131, 7, 4][..], &to].concat(), true),
        ("inside another option", &[222, 4, 131, 4], true),
        ("no length", &[1, 1, 1, 7], false),
        ("length 0", &[7, 0, 0, 0], false),
        ("length 1", &[7, 1, 1, 1], false),
        ("beyond the header", &[222, 5, 0, 0], false),
    ];
    for (description, options, accepted) in cases {
        for later in [false, true] {
            let mut ip = Ipv4Header::new(0, 9, ip_number::UDP, [1; 4], to).unwrap();
            ip.options = options.try_into().unwrap();
            ip.dont_fragment = false;
            ip.fragment_offset = if later { 3 } else { 0 }.try_into().unwrap();
            let headers = IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default());
            let mut frame = Vec::new();
            let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ip(headers);
            builder.write(&mut frame, ip_number::UDP, &[0, 1, 0, 2, 0, 8, 0, 0]).unwrap();
            if accepted {
                assert_eq!(packet(&frame).l4, 34 + options.len(), "{description}");
            } else {
                let refused = Err(steadfast_packet::ParseError::Options);
                assert_eq!(parse(&frame), refused, "{description}");
            }
        }
    }
}

/// Fragments of UDP, IPv4 and IPv6: (description, offset, more, octets, refused).
#[test]
fn fragments_that_nobody_makes_are_refused() {
    let cases = [
        ("the first", 0, true, 64, false),
        ("one in the middle", 64, true, 64, false),
        ("the last, of any length", 128, false, 7, false),
        ("one that is no multiple of eight", 64, true, 63, true),
        ("an empty one", 64, true, 0, true),
        ("an empty last one", 64, false, 0, true),
        ("one up to the longest packet", 65_528, false, 7, false),
        ("one that goes beyond it", 65_528, false, 8, true),
    ];
    for (description, offset, more, len, refused) in cases {
        for v6 in [false, true] {
            let frame = fragment(v6, offset, more, len);
            let found = parse(&frame);
            if refused {
                assert_eq!(found, Err(steadfast_packet::ParseError::Fragment), "{description}");
                continue;
            }
            let fragment = packet(&frame).fragment.unwrap();
            assert_eq!((fragment.offset, fragment.more), (offset, more), "{description}");
            assert_eq!((fragment.len, fragment.id), (len, 7), "{description}, IPv6 {v6}");
        }
    }
}

/// A part of a UDP packet of `len` octets; the first has a header.
fn fragment(v6: bool, offset: u32, more: bool, len: u32) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
    let units = u16::try_from(offset / 8).unwrap().try_into().unwrap();
    let headers = if v6 {
        let ip = Ipv6Header { next_header: ip_number::UDP, ..Ipv6Header::default() };
        let fragment = etherparse::Ipv6FragmentHeader::new(ip_number::UDP, units, more, 7);
        let fragment = Some(fragment);
        IpHeaders::Ipv6(ip, etherparse::Ipv6Extensions { fragment, ..Default::default() })
    } else {
        let mut ip = Ipv4Header::new(0, 9, ip_number::UDP, [1; 4], [2; 4]).unwrap();
        (ip.identification, ip.more_fragments, ip.fragment_offset) = (7, more, units);
        ip.dont_fragment = false;
        IpHeaders::Ipv4(ip, Default::default())
    };
    let mut payload = vec![0x5a; len as usize];
    if offset == 0 {
        payload[4..6].copy_from_slice(&1000_u16.to_be_bytes());
    }
    let mut frame = Vec::new();
    builder.ip(headers).write(&mut frame, ip_number::UDP, &payload).unwrap();
    if v6 {
        // etherparse 0.19 writes "more fragments" into another bit.
        let field = (offset as u16 | u16::from(more)).to_be_bytes();
        frame[56..58].copy_from_slice(&field);
    }
    frame
}
