//! IPv6 frames in, verdicts and frames out: the packet path as a table of cases. What is expected
//! is built by etherparse, checksums too.

use std::net::{IpAddr, Ipv6Addr, SocketAddrV6};

use crate::lab::*;
use etherparse::{PacketBuilder, TcpHeader};
use steadfast_dataplane::{
    ConfigSpec, FlowKey, Forwarding, NextHops, NextHopsSpec, Protocol, Reason, Role, Route, State,
};

const VIP: &str = "2001:db8::100";
const GATEWAY: &str = "2001:db8:0:1::1";
const CLIENT_ADDR: &str = "2001:db8::2";
const NAT_ADDR: &str = "2001:db8:0:1::21";
/// Where the transport header of a packet without extension headers starts.
const L4: usize = 14 + 40;

/// The lab in IPv6: DR on 80, NAT on 8080 (TCP) and 53 (UDP), nobody up on 81. Beside it, in the
/// same group, all of IPv4.
fn dual_stack() -> Lab {
    let mut spec: ConfigSpec = config_spec(2);
    let translated = |addr: IpAddr| -> IpAddr {
        match addr.to_string().as_str() {
            "198.18.0.100" => VIP,
            "198.18.0.21" => "2001:db8::21",
            "198.18.0.22" => "2001:db8::22",
            "198.18.1.21" => NAT_ADDR,
            other => panic!("{other}"),
        }
        .parse()
        .unwrap()
    };
    for mut service in spec.services.clone() {
        service.id.0 += 10;
        for listen in &mut service.listen {
            listen.vip = translated(listen.vip);
        }
        for server in &mut service.servers {
            server.id.0 += 100;
            server.addr = translated(server.addr);
        }
        spec.services.push(service);
    }
    spec.groups[0].vips.push(VIP.parse().unwrap());
    spec.groups[0].gateways.push(GATEWAY.parse().unwrap());
    let lab = Lab::with(spec, 1000);
    let mut hops: NextHopsSpec = next_hops(2);
    let link = |prefix: &str, port| Route {
        prefix: prefix.parse().unwrap(),
        prefix_len: 64,
        port: Some(port),
        gateway: None,
        src: None,
        mtu: None,
    };
    hops.routes.extend([link("2001:db8::", 0), link("2001:db8:0:1::", 1), link("fe80::", 0)]);
    let known = [
        (0, CLIENT_ADDR, CLIENT),
        (0, "2001:db8::21", DR_1),
        (0, "2001:db8::22", DR_2),
        (1, NAT_ADDR, NAT_1),
        (0, "fe80::2", CLIENT),
    ];
    hops.neighbours.extend(known.map(|(port, addr, mac)| (port, addr.parse().unwrap(), mac)));
    lab.shared.set_next_hops(NextHops::new(hops));
    lab
}

fn ends(src: &str, dst: &str) -> (SocketAddrV6, SocketAddrV6) {
    (src.parse().unwrap(), dst.parse().unwrap())
}

fn tcp6(macs: ([u8; 6], [u8; 6]), src: &str, dst: &str, hops: u8, flags: u8) -> Vec<u8> {
    let (src, dst) = ends(src, dst);
    let mut header = TcpHeader::new(src.port(), dst.port(), 1000, 512);
    header.acknowledgment_number = if flags & ACK != 0 { 2000 } else { 0 };
    (header.fin, header.syn) = (flags & 1 != 0, flags & 2 != 0);
    (header.rst, header.ack) = (flags & 4 != 0, flags & 0x10 != 0);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(src.ip().octets(), dst.ip().octets(), hops)
        .tcp_header(header)
        .write(&mut frame, b"payload")
        .unwrap();
    frame
}

fn udp6(macs: ([u8; 6], [u8; 6]), src: &str, dst: &str, hops: u8) -> Vec<u8> {
    let (src, dst) = ends(src, dst);
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(src.ip().octets(), dst.ip().octets(), hops)
        .udp(src.port(), dst.port())
        .write(&mut frame, b"datagram")
        .unwrap();
    frame
}

/// Any ICMPv6 message: type, code, the four octets after the checksum, the rest.
fn icmp6(
    macs: ([u8; 6], [u8; 6]),
    (src, dst): (Ipv6Addr, Ipv6Addr),
    hops: u8,
    (kind, code, head): (u8, u8, [u8; 4]),
    rest: &[u8],
) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv6(src.octets(), dst.octets(), hops)
        .icmpv6_raw(kind, code, head)
        .write(&mut frame, rest)
        .unwrap();
    frame
}

fn addr(text: &str) -> Ipv6Addr {
    text.parse().unwrap()
}

fn at(addr: &str, port: u16) -> String {
    format!("[{addr}]:{port}")
}

fn from_client6(port: u16, vip_port: u16, flags: u8) -> Vec<u8> {
    tcp6((CLIENT, FRONT), &at(CLIENT_ADDR, port), &at(VIP, vip_port), 64, flags)
}

fn key6(protocol: Protocol, client_port: u16, vip_port: u16) -> FlowKey {
    let (client, vip) = (CLIENT_ADDR.parse().unwrap(), VIP.parse().unwrap());
    FlowKey { protocol, client, client_port, vip, vip_port }
}

#[test]
fn dr_rewrites_macs_and_hop_limit_only() {
    let mut lab = dual_stack();
    let (a, b, vip) = (at(CLIENT_ADDR, 4000), at(CLIENT_ADDR, 4001), at(VIP, 80));
    let to =
        |mac, client: &str, flags| Outcome::Sent(0, tcp6((FRONT, mac), client, &vip, 63, flags));
    run(
        &mut lab,
        &[
            ("SYN to the first server", 0, from_client6(4000, 80, SYN), to(DR_1, &a, SYN)),
            ("ACK follows it", 0, from_client6(4000, 80, ACK), to(DR_1, &a, ACK)),
            ("SYN to the second", 0, from_client6(4001, 80, SYN), to(DR_2, &b, SYN)),
            ("FIN to the first", 0, from_client6(4000, 80, FIN_ACK), to(DR_1, &a, FIN_ACK)),
        ],
    );
    let connection = lab.shared.table.find(&key6(Protocol::Tcp, 4000, 80)).unwrap();
    assert_eq!(connection.state(), State::FinWait);
    assert_eq!(connection.record().target.unwrap().forwarding, Forwarding::Dr);
}

#[test]
fn nat_rewrites_both_directions() {
    let mut lab = dual_stack();
    let (client, vip, real) = (at(CLIENT_ADDR, 4000), at(VIP, 8080), at(NAT_ADDR, 80));
    let there = |flags| Outcome::Sent(1, tcp6((BACK, NAT_1), &client, &real, 63, flags));
    let reply = |flags| tcp6((NAT_1, BACK), &real, &client, 64, flags);
    let back = |flags| Outcome::Sent(0, tcp6((FRONT, CLIENT), &vip, &client, 63, flags));
    let (vip_53, real_53) = (at(VIP, 53), at(NAT_ADDR, 5353));
    run(
        &mut lab,
        &[
            ("SYN", 0, from_client6(4000, 8080, SYN), there(SYN)),
            ("SYN-ACK", 1, reply(SYN_ACK), back(SYN_ACK)),
            ("ACK", 0, from_client6(4000, 8080, ACK), there(ACK)),
            ("FIN of the server", 1, reply(FIN_ACK), back(FIN_ACK)),
            ("FIN of the client", 0, from_client6(4000, 8080, FIN_ACK), there(FIN_ACK)),
            (
                "datagram",
                0,
                udp6((CLIENT, FRONT), &client, &vip_53, 64),
                Outcome::Sent(1, udp6((BACK, NAT_1), &client, &real_53, 63)),
            ),
            (
                "its answer",
                1,
                udp6((NAT_1, BACK), &real_53, &client, 64),
                Outcome::Sent(0, udp6((FRONT, CLIENT), &vip_53, &client, 63)),
            ),
        ],
    );
    let connection = lab.shared.table.find(&key6(Protocol::Tcp, 4000, 8080)).unwrap();
    assert_eq!(connection.state(), State::TimeWait);
    assert!(lab.shared.table.find(&key6(Protocol::Udp, 4000, 53)).is_some());
}

/// The two families of a group know nothing of each other.
#[test]
fn families_are_served_side_by_side() {
    let mut lab = dual_stack();
    let six =
        Outcome::Sent(1, tcp6((BACK, NAT_1), &at(CLIENT_ADDR, 4000), &at(NAT_ADDR, 80), 63, SYN));
    let four = Outcome::Sent(1, tcp((BACK, NAT_1), "198.18.0.2:4000", "198.18.1.21:80", 63, SYN));
    assert_eq!(lab.handle(0, &from_client6(4000, 8080, SYN)), six);
    assert_eq!(lab.handle(0, &from_client(4000, 8080, SYN)), four);
    assert_eq!(lab.shared.table.len(), 2);
}

#[test]
fn echo_is_answered_by_the_holder() {
    let echo = |macs, (src, dst), kind| {
        icmp6(macs, (addr(src), addr(dst)), 64, (kind, 0, [0, 1, 0, 2]), b"echo, echo")
    };
    let request = echo((CLIENT, FRONT), (CLIENT_ADDR, VIP), 128);
    let answer = |from| Outcome::Sent(0, echo((FRONT, CLIENT), (from, CLIENT_ADDR), 129));
    let on_link = echo((CLIENT, FRONT), ("fe80::2", VIP), 128);
    let on_link_answer = Outcome::Sent(0, echo((FRONT, CLIENT), (VIP, "fe80::2"), 129));
    let gateway = echo((CLIENT, FRONT), (CLIENT_ADDR, GATEWAY), 128);
    let mut lab = dual_stack();
    run(
        &mut lab,
        &[
            ("VIP", 0, request.clone(), answer(VIP)),
            ("gateway address", 0, gateway, answer(GATEWAY)),
            ("from a link-local address: back where it came from", 0, on_link, on_link_answer),
            (
                "a reply is nobody's",
                0,
                echo((CLIENT, FRONT), (CLIENT_ADDR, VIP), 129),
                dropped(Reason::Protocol),
            ),
        ],
    );
    lab.set_role(Role::NoHolder { since_ns: 0 });
    assert_eq!(lab.handle(0, &request), dropped(Reason::NoHolder));
    lab.set_role(Role::Other { relay: vec![Some(PEER)] });
    let relayed = echo((FRONT, PEER), (CLIENT_ADDR, VIP), 128);
    assert_eq!(lab.handle(0, &request), Outcome::Sent(0, relayed));
}

/// A solicitation as RFC 4861 section 4.3 has it, from `src` and with an option that says `mac`.
fn solicitation(dst_mac: [u8; 6], src: &str, target: &str, hops: u8) -> Vec<u8> {
    let target = addr(target);
    let [.., a, b, c] = target.octets();
    let group = Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]);
    let dst = if dst_mac[0] == 0x33 { group } else { target };
    let mut rest = target.octets().to_vec();
    if src != "::" {
        rest.extend([1, 1]);
        rest.extend(CLIENT);
    }
    icmp6((CLIENT, dst_mac), (addr(src), dst), hops, (135, 0, [0; 4]), &rest)
}

/// The advertisement of RFC 4861 section 4.4 that answers it.
fn advertised(own: [u8; 6], (dst_mac, dst): ([u8; 6], &str), target: &str, flags: u8) -> Outcome {
    let mut rest = addr(target).octets().to_vec();
    rest.extend([2, 1]);
    rest.extend(own);
    let ends = (addr(target), addr(dst));
    let frame = icmp6((own, dst_mac), ends, 255, (136, 0, [flags, 0, 0, 0]), &rest);
    Outcome::Sent(if own == FRONT { 0 } else { 1 }, frame)
}

#[test]
fn solicitations_are_answered_by_the_holder_in_time() {
    const GROUP_OF_VIP: [u8; 6] = [0x33, 0x33, 0xff, 0, 1, 0];
    const GROUP_OF_GATEWAY: [u8; 6] = [0x33, 0x33, 0xff, 0, 0, 1];
    const ALL_NODES: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
    const ROUTER: u8 = 0x80;
    const SOLICITED: u8 = 0x40;
    const OVERRIDE: u8 = 0x20;
    let ignored = || dropped(Reason::ArpIgnored);
    let asked = solicitation(GROUP_OF_VIP, CLIENT_ADDR, VIP, 255);
    let to_client = (CLIENT, CLIENT_ADDR);
    let answer = || advertised(FRONT, to_client, VIP, SOLICITED | OVERRIDE);
    let mut lab = dual_stack();
    run(
        &mut lab,
        &[
            ("VIP", 0, asked.clone(), answer()),
            ("probe to us alone", 0, solicitation(FRONT, CLIENT_ADDR, VIP, 255), answer()),
            (
                "gateway address: a router",
                1,
                solicitation(GROUP_OF_GATEWAY, "2001:db8:0:1::21", GATEWAY, 255),
                advertised(
                    BACK,
                    (CLIENT, "2001:db8:0:1::21"),
                    GATEWAY,
                    ROUTER | SOLICITED | OVERRIDE,
                ),
            ),
            (
                "somebody about to use it: told to all",
                0,
                solicitation(GROUP_OF_VIP, "::", VIP, 255),
                advertised(FRONT, (ALL_NODES, "ff02::1"), VIP, OVERRIDE),
            ),
            ("to another MAC", 0, solicitation(PEER, CLIENT_ADDR, VIP, 255), ignored()),
            (
                "to the group of another address",
                0,
                solicitation([0x33, 0x33, 0xff, 0, 1, 1], CLIENT_ADDR, VIP, 255),
                ignored(),
            ),
            (
                "for an address of nobody's",
                0,
                solicitation([0x33, 0x33, 0xff, 0, 1, 7], CLIENT_ADDR, "2001:db8::107", 255),
                ignored(),
            ),
            (
                "through a router",
                0,
                solicitation(GROUP_OF_VIP, CLIENT_ADDR, VIP, 254),
                dropped(Reason::Malformed),
            ),
        ],
    );
    lab.worker.discard_questions_until(lab.now + 10);
    assert_eq!(lab.handle(0, &asked), dropped(Reason::ArpStale), "waited during a pause");
    lab.now += 10;
    assert_eq!(lab.handle(0, &asked), answer(), "the pause is over");
    lab.now = START + SECOND;
    assert_eq!(lab.handle(0, &asked), ignored(), "announce_until has passed");
    lab.now = START + 10;
    for role in [Role::NoHolder { since_ns: 0 }, Role::Other { relay: vec![Some(PEER)] }] {
        lab.set_role(role);
        assert_eq!(lab.handle(0, &asked), ignored(), "we do not hold");
    }
}

#[test]
fn ports_without_service_or_server_are_refused() {
    let mut lab = dual_stack();
    for (description, vip_port) in [("no service", 9), ("no server up", 81)] {
        let (client, vip) = (at(CLIENT_ADDR, 4000), at(VIP, vip_port));
        // RFC 9293 section 3.10.7.1: SEQ 0, ACK of 7 octets and the SYN.
        let mut header = TcpHeader::new(vip_port, 4000, 0, 0);
        (header.rst, header.ack, header.acknowledgment_number) = (true, true, 1008);
        let mut reset = Vec::new();
        PacketBuilder::ethernet2(FRONT, CLIENT)
            .ipv6(addr(VIP).octets(), addr(CLIENT_ADDR).octets(), 64)
            .tcp_header(header)
            .write(&mut reset, b"")
            .unwrap();
        let datagram = udp6((CLIENT, FRONT), &client, &vip, 64);
        // RFC 4443 section 3.1: type 1, code 4, four unused octets, the datagram.
        let ends = (addr(VIP), addr(CLIENT_ADDR));
        let unreachable = icmp6((FRONT, CLIENT), ends, 64, (1, 4, [0; 4]), &datagram[14..]);
        let syn = from_client6(4000, vip_port, SYN);
        assert_eq!(lab.handle(0, &syn), Outcome::Sent(0, reset), "{description}, TCP");
        assert_eq!(lab.handle(0, &datagram), Outcome::Sent(0, unreachable), "{description}, UDP");
    }
    assert!(lab.shared.table.is_empty());
}

#[test]
fn only_the_holder_opens_connections_and_holds_back_what_it_does_not_know() {
    let mut lab = dual_stack();
    let (client, vip) = (at(CLIENT_ADDR, 4000), at(VIP, 80));
    lab.set_role(Role::Other { relay: vec![Some(PEER), Some(PEER)] });
    let relayed = |flags| Outcome::Sent(0, tcp6((FRONT, PEER), &client, &vip, 64, flags));
    let from_peer = tcp6((PEER, FRONT), &client, &vip, 64, SYN);
    let reply = tcp6((NAT_1, BACK), &at(NAT_ADDR, 80), &client, 64, ACK);
    let reply_on = tcp6((BACK, PEER), &at(NAT_ADDR, 80), &client, 64, ACK);
    run(
        &mut lab,
        &[
            ("SYN, unchanged", 0, from_client6(4000, 80, SYN), relayed(SYN)),
            ("ACK of nothing known", 0, from_client6(4000, 80, ACK), relayed(ACK)),
            ("from a node of the cluster", 0, from_peer, dropped(Reason::RelayLoop)),
            ("of a server, through the old gateway", 1, reply.clone(), Outcome::Sent(1, reply_on)),
        ],
    );
    let since = |since_ns| Role::Holder { epoch: epoch(1), since_ns, copy_complete: true };
    lab.set_role(since(START - 3 * SECOND + 1));
    let ack = from_client6(4000, 80, ACK);
    assert_eq!(lab.handle(0, &ack), dropped(Reason::HeldBack), "less than 3 s");
    assert_eq!(lab.handle(1, &reply), dropped(Reason::HeldBack));
    lab.now += 1;
    let Outcome::Sent(0, answer) = lab.handle(0, &ack) else { panic!("no reset") };
    assert_eq!(answer[L4 + 13], RST);
    assert_eq!(lab.handle(1, &reply), dropped(Reason::UnknownReturn));
    assert!(lab.shared.table.is_empty());
}

/// A TCP segment behind hop-by-hop and destination options, with the checksum of the same segment
/// without them: RFC 8200 section 8.1 leaves them out of the pseudo header.
fn extended(macs: ([u8; 6], [u8; 6]), src: &str, dst: &str, hops: u8, flags: u8) -> Vec<u8> {
    let mut frame = tcp6(macs, src, dst, hops, flags);
    let padding = [1, 4, 0, 0, 0, 0];
    let mut options = vec![60, 0];
    options.extend(padding);
    options.extend([6, 0]);
    options.extend(padding);
    let payload_len = u16::from_be_bytes([frame[18], frame[19]]) + options.len() as u16;
    frame[18..20].copy_from_slice(&payload_len.to_be_bytes());
    frame[20] = 0;
    frame.splice(L4..L4, options);
    frame
}

#[test]
fn extension_headers_go_along() {
    let (client, vip, real) = (at(CLIENT_ADDR, 4000), at(VIP, 8080), at(NAT_ADDR, 80));
    let dr = at(VIP, 80);
    run(
        &mut dual_stack(),
        &[
            (
                "NAT, there",
                0,
                extended((CLIENT, FRONT), &client, &vip, 64, SYN),
                Outcome::Sent(1, extended((BACK, NAT_1), &client, &real, 63, SYN)),
            ),
            (
                "NAT, back",
                1,
                extended((NAT_1, BACK), &real, &client, 64, SYN_ACK),
                Outcome::Sent(0, extended((FRONT, CLIENT), &vip, &client, 63, SYN_ACK)),
            ),
            (
                "DR",
                0,
                extended((CLIENT, FRONT), &client, &dr, 64, SYN),
                Outcome::Sent(0, extended((FRONT, DR_1), &client, &dr, 63, SYN)),
            ),
        ],
    );
}

#[test]
fn what_is_not_forwarded_is_dropped_for_its_reason() {
    let vip = at(VIP, 80);
    let from = |src: &str| tcp6((CLIENT, FRONT), &at(src, 4000), &vip, 64, SYN);
    let client = at(CLIENT_ADDR, 4000);
    let mut late = extended((CLIENT, FRONT), &client, &vip, 64, SYN);
    late[L4] = 0;
    let cut = from_client6(4000, 80, SYN)[..L4 + 10].to_vec();
    let mut lab = dual_stack();
    let macs = (CLIENT, FRONT);
    run(
        &mut lab,
        &[
            ("multicast client", 0, from("ff02::2"), dropped(Reason::Malformed)),
            ("loopback client", 0, from("::1"), dropped(Reason::Malformed)),
            ("no client", 0, from("::"), dropped(Reason::Malformed)),
            ("IPv4-mapped client", 0, from("::ffff:198.18.0.2"), dropped(Reason::Malformed)),
            ("link-local client", 0, from("fe80::2"), dropped(Reason::Malformed)),
            ("hop-by-hop options that do not come first", 0, late, dropped(Reason::Extension)),
            ("cut", 0, cut, dropped(Reason::Malformed)),
            (
                "another address",
                0,
                tcp6(macs, &client, "[2001:db8::7]:80", 64, SYN),
                dropped(Reason::NotOurs),
            ),
            (
                "TCP to the gateway address",
                0,
                tcp6(macs, &client, &at(GATEWAY, 80), 64, SYN),
                dropped(Reason::NotOurs),
            ),
        ],
    );
    assert_eq!(lab.shared.table.len(), 0);
}
