//! Packets in, packets inside packets out: every tunnel, every pair of families, and what is too
//! big for its way.

use std::net::IpAddr;

use crate::lab::*;
use etherparse::{
    IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketHeaders, TcpOptionElement,
    TransportHeader, ip_number,
};
use steadfast_dataplane::{
    ConfigSpec, Forwarding, GroupSpec, Listen, MssClamp, NextHops, NextHopsSpec, PortSpec,
    Protocol, Reason, Route, Sent, ServiceSpec, State,
};
use steadfast_packet::{Tunnel, UdpChecksum};

const ROUTER: [u8; 6] = [2, 0, 0, 0, 1, 1];
const CLIENT_4: &str = "198.18.0.2";
const CLIENT_6: &str = "2001:db8::2";
const VIP_4: &str = "198.18.0.100";
const VIP_6: &str = "2001:db8::100";
const SERVER_4: &str = "203.0.113.21";
const SERVER_6: &str = "2001:db8:9::21";
const OWN_4: &str = "198.18.0.11";
const OWN_6: &str = "2001:db8::11";
const ETHERNET: usize = 14;

const TUNNELS: [Tunnel; 6] = [
    Tunnel::IpIp,
    Tunnel::Gue { port: 6080, checksum: UdpChecksum::ByFamily },
    Tunnel::Gue { port: 5555, checksum: UdpChecksum::On },
    Tunnel::Gue { port: 6080, checksum: UdpChecksum::Off },
    Tunnel::Gre { checksum: false },
    Tunnel::Gre { checksum: true },
];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vip(six: bool) -> &'static str {
    if six { VIP_6 } else { VIP_4 }
}

fn client(six: bool) -> &'static str {
    if six { CLIENT_6 } else { CLIENT_4 }
}

/// TCP and UDP on port 80 of the VIP of one family; the server is behind a router.
fn lab(forwarding: Forwarding, inner_six: bool, server_addr: &str, mtu: u32) -> Lab {
    lab_with(forwarding, inner_six, server_addr, mtu, MssClamp::Off)
}

fn lab_with(
    forwarding: Forwarding,
    inner_six: bool,
    server_addr: &str,
    mtu: u32,
    mss_clamp: MssClamp,
) -> Lab {
    let of = |id: u32, protocol| ServiceSpec {
        listen: vec![Listen::new(protocol, ip(vip(inner_six)), 80)],
        forwarding,
        mss_clamp,
        ..service(id, protocol, 80, vec![server(id * 10, server_addr, 80)])
    };
    let spec = ConfigSpec {
        generation: 1,
        groups: vec![GroupSpec {
            id: GROUP,
            vips: vec![ip(VIP_4), ip(VIP_6)],
            ..GroupSpec::default()
        }],
        services: vec![of(1, Protocol::Tcp), of(2, Protocol::Udp)],
        workers: 2,
        now_ns: 0,
        port_slot: None,
        servers_given: Default::default(),
    };
    let lab = Lab::with(spec, 1000);
    lab.shared.set_next_hops(NextHops::new(hops(mtu, vec![ip(OWN_4), ip(OWN_6)])));
    lab
}

fn hops(mtu: u32, addrs: Vec<IpAddr>) -> NextHopsSpec {
    let route = |prefix: &str, prefix_len, gateway: Option<&str>| Route {
        prefix: ip(prefix),
        prefix_len,
        port: Some(0),
        gateway: gateway.map(ip),
        src: None,
        mtu: None,
    };
    NextHopsSpec {
        generation: 2,
        ports: vec![PortSpec { mac: FRONT, addrs, mtu, ..PortSpec::default() }],
        routes: vec![
            route("198.18.0.0", 24, None),
            route("0.0.0.0", 0, Some("198.18.0.1")),
            route("2001:db8::", 64, None),
            route("::", 0, Some("2001:db8::1")),
        ],
        neighbours: vec![
            (0, ip("198.18.0.1"), ROUTER),
            (0, ip("2001:db8::1"), ROUTER),
            (0, ip(CLIENT_4), CLIENT),
            (0, ip(CLIENT_6), CLIENT),
        ],
    }
}

/// A packet of exactly `len` octets from the client.
#[derive(Clone, Copy)]
struct Given {
    six: bool,
    tcp: bool,
    client_port: u16,
    ttl: u8,
    dscp_ecn: u8,
    dont_fragment: bool,
    len: usize,
}

const PLAIN: Given = Given {
    six: false,
    tcp: false,
    client_port: 4000,
    ttl: 64,
    dscp_ecn: 0,
    dont_fragment: true,
    len: 100,
};

impl Given {
    fn frame(self) -> Vec<u8> {
        let mut frame = Vec::new();
        let headers = if self.six { 40 } else { 20 } + if self.tcp { 20 } else { 8 };
        let payload = vec![0x5a; self.len - headers];
        let builder = PacketBuilder::ethernet2(CLIENT, FRONT);
        let builder = match (ip(client(self.six)), ip(vip(self.six))) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip =
                    Ipv4Header::new(0, self.ttl, ip_number::UDP, src.octets(), dst.octets())
                        .unwrap();
                ip.dscp = (self.dscp_ecn >> 2).try_into().unwrap();
                ip.ecn = (self.dscp_ecn & 3).try_into().unwrap();
                (ip.dont_fragment, ip.identification) = (self.dont_fragment, 77);
                builder.ip(etherparse::IpHeaders::Ipv4(ip, Default::default()))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = Ipv6Header {
                    traffic_class: self.dscp_ecn,
                    hop_limit: self.ttl,
                    source: src.octets(),
                    destination: dst.octets(),
                    ..Ipv6Header::default()
                };
                builder.ip(etherparse::IpHeaders::Ipv6(ip, Default::default()))
            }
            _ => unreachable!("two families"),
        };
        if self.tcp {
            builder.tcp(self.client_port, 80, 7, 512).syn().write(&mut frame, &payload).unwrap();
        } else {
            builder.udp(self.client_port, 80).write(&mut frame, &payload).unwrap();
        }
        frame
    }

    /// As it leaves inside a tunnel: one hop further.
    fn inside(self) -> Vec<u8> {
        Self { ttl: self.ttl - 1, ..self }.frame()[ETHERNET..].to_vec()
    }
}

/// The frame that must leave, written by etherparse. `entropy` is the source port of GUE or the
/// flow label, whichever there is, as found.
fn expected(tunnel: Tunnel, outer_six: bool, given: Given, port: u16, label: u32) -> Vec<u8> {
    let inner = given.inside();
    let protocol = if given.six { ip_number::IPV6 } else { ip_number::IPV4 };
    let ethertype: u16 = if given.six { 0x86dd } else { 0x0800 };
    let (number, shim): (IpNumber, Vec<u8>) = match tunnel {
        Tunnel::IpIp => (protocol, vec![]),
        Tunnel::Gue { .. } => (ip_number::UDP, vec![0, protocol.0, 0, 0]),
        Tunnel::Gre { checksum: false } => {
            (ip_number::GRE, [[0, 0], ethertype.to_be_bytes()].concat())
        }
        Tunnel::Gre { checksum: true } => {
            let mut shim = [[0x80, 0], ethertype.to_be_bytes(), [0, 0], [0, 0]].concat();
            let mut sum: u32 = 0;
            for pair in [shim.clone(), inner.clone()].concat().chunks(2) {
                sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            }
            while sum > 0xffff {
                sum = (sum >> 16) + (sum & 0xffff);
            }
            shim[4..6].copy_from_slice(&(!sum as u16).to_be_bytes());
            (ip_number::GRE, shim)
        }
    };
    let mut payload = [shim, inner].concat();
    let four = {
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (ip(OWN_4), ip(SERVER_4)) else { panic!() };
        let mut header =
            Ipv4Header::new(0, given.ttl - 1, number, src.octets(), dst.octets()).unwrap();
        header.dscp = (given.dscp_ecn >> 2).try_into().unwrap();
        header.ecn = (given.dscp_ecn & 3).try_into().unwrap();
        header.dont_fragment = given.dont_fragment && !given.six;
        // The first outer packet of worker 0 that may be fragmented.
        header.identification = if header.dont_fragment { 0 } else { 1 };
        header
    };
    let six = {
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (ip(OWN_6), ip(SERVER_6)) else { panic!() };
        Ipv6Header {
            traffic_class: given.dscp_ecn,
            flow_label: label.try_into().unwrap(),
            next_header: number,
            hop_limit: given.ttl - 1,
            source: src.octets(),
            destination: dst.octets(),
            ..Ipv6Header::default()
        }
    };
    if let Tunnel::Gue { port: to, checksum } = tunnel {
        let len = payload.len();
        let mut udp = etherparse::UdpHeader::without_ipv4_checksum(port, to, len).unwrap();
        let on = match checksum {
            UdpChecksum::On => true,
            UdpChecksum::Off => false,
            UdpChecksum::ByFamily => outer_six,
        };
        if on {
            udp.checksum = if outer_six {
                udp.calc_checksum_ipv6(&six, &payload).unwrap()
            } else {
                udp.calc_checksum_ipv4(&four, &payload).unwrap()
            };
        }
        payload = [udp.to_bytes().to_vec(), payload].concat();
    }
    let mut frame = [ROUTER, FRONT].concat();
    if outer_six {
        frame.extend(0x86dd_u16.to_be_bytes());
        let mut six = six;
        six.payload_length = payload.len() as u16;
        six.write(&mut frame).unwrap();
    } else {
        frame.extend(0x0800_u16.to_be_bytes());
        let mut four = four;
        four.set_payload_len(payload.len()).unwrap();
        four.header_checksum = four.calc_header_checksum();
        four.write(&mut frame).unwrap();
    }
    frame.extend(payload);
    frame
}

fn sent(outcome: Outcome) -> Vec<u8> {
    match outcome {
        Outcome::Sent(_, frame) => frame,
        other => panic!("{other:?}"),
    }
}

/// Source port of GUE, and the flow label over IPv6, as they are in a frame.
fn entropy(frame: &[u8]) -> (u16, u32) {
    let six = frame[12..14] == [0x86, 0xdd];
    let l4 = ETHERNET + if six { 40 } else { 20 };
    let port = u16::from_be_bytes([frame[l4], frame[l4 + 1]]);
    let label = u32::from_be_bytes([0, frame[15] & 0xf, frame[16], frame[17]]);
    (port, if six { label } else { 0 })
}

#[test]
fn every_tunnel_carries_either_family_over_either() {
    for tunnel in TUNNELS {
        for outer_six in [false, true] {
            for inner_six in [false, true] {
                for (dscp_ecn, dont_fragment) in [(0, true), (0b1011_1011, false), (0b01, true)] {
                    for tcp in [false, true] {
                        let server = if outer_six { SERVER_6 } else { SERVER_4 };
                        let mut lab = lab(Forwarding::Tunnel(tunnel), inner_six, server, 1500);
                        let given = Given { six: inner_six, tcp, dscp_ecn, dont_fragment, ..PLAIN };
                        let found = sent(lab.handle(0, &given.frame()));
                        let (port, label) = entropy(&found);
                        let what =
                            format!("{tunnel:?}, outer IPv6 {outer_six}, {inner_six}, {tcp}");
                        assert_eq!(
                            found,
                            expected(tunnel, outer_six, given, port, label),
                            "{what}"
                        );
                        if matches!(tunnel, Tunnel::Gue { .. }) {
                            assert!(port >= 0xc000, "{what}: no dynamic port");
                        }
                        assert_eq!(lab.worker.counters().sent(Sent::Forwarded), 1);
                        let config = lab.shared.config.load();
                        let id = if tcp { 10 } else { 20 };
                        let totals = config.server(id.into()).unwrap().0.totals();
                        assert_eq!((totals.in_pkts, totals.in_bytes), (1, 100), "inner octets");
                    }
                }
            }
        }
    }
}

#[test]
fn states_over_a_tunnel_are_those_of_one_direction() {
    let mut lab = lab(Forwarding::Tunnel(Tunnel::IpIp), false, SERVER_4, 1500);
    for flags in [SYN, ACK, FIN_ACK] {
        sent(lab.handle(0, &from_client(4000, 80, flags)));
    }
    let connection = lab.find(Protocol::Tcp, "198.18.0.2:4000", "198.18.0.100:80").unwrap();
    assert_eq!(connection.state(), State::FinWait, "replies do not pass: INPUT_ONLY");
}

#[test]
fn a_flow_stays_on_its_way_and_flows_spread() {
    let gue = Tunnel::Gue { port: 6080, checksum: UdpChecksum::ByFamily };
    for six in [false, true] {
        let (mut ports, mut labels) = (vec![0_u32; 16], vec![0_u32; 16]);
        let mut lab_6 = lab(Forwarding::Tunnel(gue), six, SERVER_6, 1500);
        let mut other = lab(Forwarding::Tunnel(gue), six, SERVER_6, 1500);
        for client_port in 1000..1800 {
            let given = Given { six, client_port, ..PLAIN };
            let (port, label) = entropy(&sent(lab_6.handle(0, &given.frame())));
            let again = Given { len: 500, dscp_ecn: 2, ..given };
            assert_eq!(entropy(&sent(lab_6.handle(0, &again.frame()))), (port, label));
            assert_eq!(entropy(&sent(other.handle(0, &given.frame()))), (port, label), "any node");
            ports[usize::from(port & 0xf)] += 1;
            labels[(label & 0xf) as usize] += 1;
            assert!(label != 0 || port == 0xc000);
        }
        // 800 flows in 16 places: 50 each, with a standard deviation of 7.
        for (place, count) in ports.iter().chain(&labels).enumerate() {
            assert!((15..=85).contains(count), "{count} flows in place {place}");
        }
    }
}

#[test]
fn without_an_address_of_its_own_a_node_sends_nothing_through_a_tunnel() {
    for (addrs, server, expected) in [
        (vec![], SERVER_4, true),
        (vec![ip(OWN_6)], SERVER_4, true),
        (vec![ip(OWN_4), ip("fe80::1")], SERVER_6, true),
        (vec![ip(OWN_4)], SERVER_4, false),
    ] {
        let mut lab = lab(Forwarding::Tunnel(Tunnel::IpIp), false, server, 1500);
        lab.shared.set_next_hops(NextHops::new(hops(1500, addrs)));
        let outcome = lab.handle(0, &PLAIN.frame());
        assert_eq!(outcome == dropped(Reason::NoSource), expected, "{server}: {outcome:?}");
    }
}

/// The MTU that a frame tells the client, from the VIP.
fn told(frame: &[u8], six: bool, original: &[u8]) -> u16 {
    let read = PacketHeaders::from_ethernet_slice(frame).unwrap();
    assert_eq!((&frame[..6], &frame[6..12]), (&CLIENT[..], &FRONT[..]));
    let l4 = ETHERNET + if six { 40 } else { 20 };
    match (ip(client(six)), ip(vip(six))) {
        (IpAddr::V4(client), IpAddr::V4(vip)) => {
            assert_eq!(frame[26..34], [vip.octets(), client.octets()].concat());
            assert_eq!(frame[l4..l4 + 2], [3, 4], "fragmentation needed");
            assert!(matches!(read.transport, Some(TransportHeader::Icmpv4(_))));
        }
        (IpAddr::V6(client), IpAddr::V6(vip)) => {
            assert_eq!(frame[22..54], [vip.octets(), client.octets()].concat());
            assert_eq!(frame[l4..l4 + 2], [2, 0], "packet too big");
            assert!(matches!(read.transport, Some(TransportHeader::Icmpv6(_))));
        }
        _ => unreachable!("two families"),
    }
    let quote = &frame[l4 + 8..];
    let ttl = if six { 7 } else { 8 };
    assert_eq!(quote[..ttl], original[ETHERNET..ETHERNET + ttl], "it quotes the packet");
    assert!(quote.len() >= 28);
    u16::from_be_bytes([frame[l4 + 6], frame[l4 + 7]])
}

#[test]
fn what_is_too_big_for_its_way_is_told_to_the_client() {
    let gue = Tunnel::Gue { port: 6080, checksum: UdpChecksum::ByFamily };
    let gre = |checksum| Forwarding::Tunnel(Tunnel::Gre { checksum });
    let (ipip, gue) = (Forwarding::Tunnel(Tunnel::IpIp), Forwarding::Tunnel(gue));
    // Forwarding, inner IPv6, server, MTU of the interface, the largest packet that fits.
    let table = [
        (ipip, false, SERVER_4, 1500, 1480),
        (ipip, true, SERVER_4, 1500, 1480),
        (ipip, false, SERVER_6, 1500, 1460),
        (ipip, true, SERVER_6, 1500, 1460),
        (gue, false, SERVER_4, 1500, 1468),
        (gue, true, SERVER_4, 1500, 1468),
        (gue, false, SERVER_6, 1500, 1448),
        (gue, true, SERVER_6, 1500, 1448),
        (gre(false), false, SERVER_4, 1500, 1476),
        (gre(true), false, SERVER_4, 1500, 1472),
        (gre(false), true, SERVER_6, 1500, 1456),
        (gre(true), true, SERVER_6, 1500, 1452),
        (Forwarding::Dr, false, SERVER_4, 1400, 1400),
        (Forwarding::Dr, true, SERVER_6, 1400, 1400),
        (Forwarding::Nat, false, SERVER_4, 1400, 1400),
        (Forwarding::Nat, true, SERVER_6, 1400, 1400),
        // As little as a link may have.
        (ipip, false, SERVER_4, 88, 68),
        (ipip, true, SERVER_4, 1300, 1280),
    ];
    for (forwarding, six, server, mtu, most) in table {
        let what = format!("{forwarding:?}, inner IPv6 {six}, to {server}, MTU {mtu}");
        let mut lab = lab(forwarding, six, server, mtu);
        let fits = Given { six, len: most, ..PLAIN };
        let frame = sent(lab.handle(0, &fits.frame()));
        assert_eq!(frame[..6], ROUTER, "{what}: it fits");
        assert_eq!(lab.worker.counters().too_big(), 0, "{what}");
        let too_big = Given { len: most + 1, ..fits }.frame();
        let answer = sent(lab.handle(0, &too_big));
        assert_eq!(usize::from(told(&answer, six, &too_big)), most, "{what}");
        let counters = lab.worker.counters();
        assert_eq!((counters.too_big(), counters.sent(Sent::Answered)), (1, 1), "{what}");
        assert_eq!(counters.sent(Sent::Forwarded), 1, "{what}: not forwarded");
    }
}

#[test]
fn what_is_too_big_and_cannot_be_told_is_dropped_and_counted() {
    let ipip = Forwarding::Tunnel(Tunnel::IpIp);
    let table = [
        ("below the least MTU of IPv4", false, SERVER_4, 87, 68, true),
        ("below the least MTU of IPv6", true, SERVER_4, 1299, 1280, true),
        ("no room for the tunnel at all", false, SERVER_6, 30, 68, true),
        ("nor to fragment it", false, SERVER_6, 107, 68, false),
    ];
    for (what, six, server, mtu, len, dont_fragment) in table {
        let mut lab = lab(ipip, six, server, mtu);
        let given = Given { six, len, dont_fragment, ..PLAIN };
        assert_eq!(lab.handle(0, &given.frame()), dropped(Reason::TooBig), "{what}");
        assert_eq!(lab.worker.counters().dropped(Reason::TooBig), 1, "{what}");
    }
    let mut lab = lab(ipip, false, SERVER_4, 1500);
    let may = Given { dont_fragment: false, len: 1480, ..PLAIN };
    sent(lab.handle(0, &may.frame()));
}

#[test]
fn telling_is_limited_apart_from_other_answers() {
    let mut lab = lab(Forwarding::Tunnel(Tunnel::IpIp), false, SERVER_4, 1500);
    // Resets use up their own allowance only.
    while lab.handle(0, &from_client(4000, 99, SYN)) != dropped(Reason::RateLimited) {}
    let too_big = Given { len: 1481, ..PLAIN }.frame();
    let mut answered = 0;
    while lab.handle(0, &too_big) != dropped(Reason::RateLimited) {
        answered += 1;
        assert!(answered <= 100, "no limit");
    }
    assert_eq!(answered, 100);
    lab.now += SECOND / 1000;
    sent(lab.handle(0, &too_big));
    assert_eq!(lab.worker.counters().too_big(), 101);
}

#[test]
fn replies_that_are_too_big_for_the_client_are_told_to_the_server() {
    let mut lab = lab(Forwarding::Nat, false, "198.18.0.21", 1500);
    let mut hops = hops(1500, vec![ip(OWN_4)]);
    hops.neighbours.push((0, ip("198.18.0.21"), DR_1));
    hops.routes.push(Route {
        prefix: ip(CLIENT_4),
        prefix_len: 32,
        port: Some(0),
        gateway: None,
        src: None,
        mtu: Some(1400),
    });
    lab.shared.set_next_hops(NextHops::new(hops));
    sent(lab.handle(0, &PLAIN.frame()));
    let mut reply = Vec::new();
    PacketBuilder::ethernet2(DR_1, FRONT)
        .ipv4([198, 18, 0, 21], [198, 18, 0, 2], 64)
        .udp(80, 4000)
        .write(&mut reply, &[1; 1373])
        .unwrap();
    let answer = sent(lab.handle(0, &reply));
    assert_eq!(answer[..6], DR_1);
    assert_eq!(answer[26..34], [198, 18, 0, 100, 198, 18, 0, 21], "from the VIP to the server");
    assert_eq!(answer[34..42][..2], [3, 4]);
    assert_eq!(answer[40..42], 1400_u16.to_be_bytes());
}

/// A handshake packet that announces 1460, and what it announces when it leaves.
fn announced(lab: &mut Lab, from: (&str, u16), to: (&str, u16), ack: bool) -> Option<u16> {
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(CLIENT, FRONT);
    let builder = match (ip(from.0), ip(to.0)) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => unreachable!("two families"),
    };
    let builder = builder
        .tcp(from.1, to.1, 7, 512)
        .options(&[TcpOptionElement::MaximumSegmentSize(1460)])
        .unwrap()
        .syn();
    let builder = if ack { builder.ack(9) } else { builder };
    builder.write(&mut frame, b"").unwrap();
    let sent = sent(lab.handle(0, &frame));
    let read = PacketHeaders::from_ethernet_slice(&sent).unwrap();
    let Some(TransportHeader::Tcp(tcp)) = &read.transport else { return None };
    let right = match read.net.as_ref().unwrap() {
        etherparse::NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(ip, read.payload.slice()),
        etherparse::NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(ip, read.payload.slice()),
        etherparse::NetHeaders::Arp(_) => panic!("ARP"),
    };
    assert_eq!(tcp.checksum, right.unwrap());
    tcp.options_iterator().find_map(|option| match option.unwrap() {
        TcpOptionElement::MaximumSegmentSize(mss) => Some(mss),
        _ => None,
    })
}

#[test]
fn handshakes_announce_what_the_service_says() {
    // Clamp, IPv6, MTU, what both directions announce of 1460.
    let table = [
        (MssClamp::Off, false, 1400, 1460),
        (MssClamp::At(1300), false, 1500, 1300),
        (MssClamp::At(1460), false, 1500, 1460),
        (MssClamp::At(9000), false, 1500, 1460),
        (MssClamp::Auto, false, 1500, 1460),
        (MssClamp::Auto, false, 1400, 1360),
        (MssClamp::Auto, true, 1500, 1440),
        (MssClamp::Auto, true, 1400, 1340),
        (MssClamp::Auto, false, 0, 1460),
    ];
    for (clamp, six, mtu, expected) in table {
        let server = if six { SERVER_6 } else { SERVER_4 };
        let mut lab = lab_with(Forwarding::Nat, six, server, mtu, clamp);
        let (client, vip) = ((client(six), 4000), (vip(six), 80));
        let what = format!("{clamp:?}, IPv6 {six}, MTU {mtu}");
        assert_eq!(announced(&mut lab, client, vip, false), Some(expected), "{what}: SYN");
        let back = announced(&mut lab, (server, 80), client, true);
        assert_eq!(back, Some(expected), "{what}: SYN-ACK");
    }
}

#[test]
fn auto_counts_the_way_back_too() {
    let mut lab = lab_with(Forwarding::Nat, false, "198.18.1.21", 1500, MssClamp::Auto);
    let mut hops = hops(1400, vec![ip(OWN_4)]);
    hops.ports.push(PortSpec { mac: BACK, mtu: 1500, ..PortSpec::default() });
    hops.routes.push(Route {
        prefix: ip("198.18.1.0"),
        prefix_len: 24,
        port: Some(1),
        gateway: None,
        src: None,
        mtu: None,
    });
    hops.neighbours.push((1, ip("198.18.1.21"), NAT_1));
    lab.shared.set_next_hops(NextHops::new(hops));
    let syn = announced(&mut lab, (CLIENT_4, 4000), (VIP_4, 80), false);
    assert_eq!(syn, Some(1360), "the client's side takes 1400 octets");
}
