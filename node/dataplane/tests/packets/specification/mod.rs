//! What becomes of packets, line by line: every way of forwarding, each protocol, both families.
//!
//! The lines of a table are of one node, one after the other: it has the group, and nothing has
//! happened before the first. `notation.rs` says how to read them.

mod notation;

use std::net::IpAddr;

use notation::Notation;
use steadfast_dataplane::{
    ConfigSpec, Forwarding, GroupSpec, Listen, NextHops, NextHopsSpec, PortSlot, PortSpec,
    Protocol, Role, Route, ServerSpec, ServiceSpec,
};
use steadfast_packet::{Tunnel, UdpChecksum};

use crate::{
    both::{NETS, Net},
    lab::{BACK, CLIENT, DR_1, FRONT, GROUP, Lab, Mac, NAT_1, PEER, server, service},
};

const ROUTER: Mac = [2, 0, 0, 0, 1, 1];
const GUE_PORT: u16 = 6080;

/// What is said of a packet, the packet, and what leaves.
type Line = (&'static str, &'static str, &'static str);

/// Ports of the services, in both families and by TCP, UDP and SCTP.
const SERVICES: [(u16, Way); 8] = [
    (80, Way::Dr),
    (8080, Way::Nat),
    (9090, Way::FullNat),
    (90, Way::Tun(Tunnel::IpIp, SAME)),
    (91, Way::Tun(Tunnel::Gue { port: GUE_PORT, checksum: UdpChecksum::ByFamily }, SAME)),
    (92, Way::Tun(Tunnel::Gre { checksum: true }, SAME)),
    (95, Way::Tun(Tunnel::IpIp, OTHER)),
    (82, Way::Down),
];

const SAME: &str = "tun";
const OTHER: &str = "tun-other";

/// How a service's packets get to its server.
#[derive(Clone, Copy)]
enum Way {
    Dr,
    Nat,
    FullNat,
    Tun(Tunnel, &'static str),
    Down,
}

fn addresses(six: bool) -> [(&'static str, IpAddr); 6] {
    let of = |text: &str| text.parse().unwrap();
    let (v4, v6) = (of("203.0.113.31"), of("2001:db8:9::31"));
    let (node4, node6) = (of("198.18.0.11"), of("2001:db8::11"));
    let (back4, back6) = (of("198.18.1.200"), of("2001:db8:1::200"));
    let pick = |six: bool, a: IpAddr, b: IpAddr| if six { b } else { a };
    [
        ("node", pick(six, node4, node6)),
        ("node-other", pick(!six, node4, node6)),
        ("local", pick(six, back4, back6)),
        ("gateway", of(if six { "2001:db8:1::1" } else { "198.18.1.1" })),
        (SAME, pick(six, v4, v6)),
        (OTHER, pick(!six, v4, v6)),
    ]
}

fn spec() -> ConfigSpec {
    let mut group = GroupSpec { id: GROUP, ..GroupSpec::default() };
    let mut services = Vec::new();
    for net in NETS {
        let named = addresses(net.name == "IPv6");
        let of = |name: &str| named.iter().find(|(known, _)| *known == name).unwrap().1;
        let vip: IpAddr = net.vip.parse().unwrap();
        group.vips.push(vip);
        group.gateways.push(of("gateway"));
        group.locals.push(of("local"));
        for (port, way) in SERVICES {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let id = services.len() as u32 + 1;
                let tun = |name| of(name).to_string();
                let (forwarding, addr, to) = match way {
                    Way::Dr => (Forwarding::Dr, net.dr.to_owned(), port),
                    Way::Nat | Way::Down => (Forwarding::Nat, net.nat.to_owned(), port + 1),
                    Way::FullNat => (Forwarding::FullNat, net.nat.to_owned(), port + 1),
                    Way::Tun(tunnel, name) => (Forwarding::Tunnel(tunnel), tun(name), port),
                };
                let up = !matches!(way, Way::Down);
                let servers = vec![ServerSpec { up, ..server(id, &addr, to) }];
                let listen = vec![Listen::new(protocol, vip, port)];
                let service = service(id, protocol, port, servers);
                services.push(ServiceSpec { listen, forwarding, ..service });
            }
        }
    }
    let port_slot = PortSlot::new(2);
    ConfigSpec { generation: 1, groups: vec![group], services, workers: 2, now_ns: 0, port_slot }
}

fn next_hops() -> NextHopsSpec {
    let of = |text: &str| -> IpAddr { text.parse().unwrap() };
    let route = |prefix: &str, prefix_len, port, gateway: Option<&str>| Route {
        prefix: of(prefix),
        prefix_len,
        port: Some(port),
        gateway: gateway.map(of),
        src: None,
        mtu: None,
    };
    let own = [false, true].map(|six| addresses(six)[0].1);
    let port = |mac, addrs| PortSpec {
        mac,
        addrs,
        cluster_macs: vec![PEER],
        mtu: 1500,
        ..PortSpec::default()
    };
    let mut neighbours = vec![(0, of("198.18.0.1"), ROUTER), (0, of("2001:db8::1"), ROUTER)];
    for net in NETS {
        let known = [(0, net.client, CLIENT), (0, net.dr, DR_1), (1, net.nat, NAT_1)];
        neighbours.extend(known.map(|(port, addr, mac)| (port, of(addr), mac)));
    }
    NextHopsSpec {
        generation: 2,
        ports: vec![port(FRONT, own.to_vec()), port(BACK, Vec::new())],
        routes: vec![
            route("198.18.0.0", 24, 0, None),
            route("198.18.1.0", 24, 1, None),
            route("0.0.0.0", 0, 0, Some("198.18.0.1")),
            route("2001:db8::", 64, 0, None),
            route("2001:db8:1::", 64, 1, None),
            route("::", 0, 0, Some("2001:db8::1")),
        ],
        neighbours,
    }
}

/// Runs the lines on a node of their own for each family.
fn holds(role: Option<Role>, lines: &[Line]) {
    for net in NETS {
        let mut lab = Lab::with(spec(), 1000);
        lab.shared.set_next_hops(NextHops::new(next_hops()));
        if let Some(role) = &role {
            lab.set_role(role.clone());
        }
        each(&mut lab, net, lines);
    }
}

fn each(lab: &mut Lab, net: Net, lines: &[Line]) {
    let mut notation = Notation::new(net, &addresses(net.name == "IPv6"));
    let mut wrong = Vec::new();
    for (description, received, expected) in lines {
        let (port, frame) = notation.frame(received);
        let told = notation.told(&lab.handle(port, &frame));
        if told != *expected {
            wrong.push(format!(
                "{description}\n  in        {received}\n  expected  {expected}\n  was       {told}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", net.name, wrong.join("\n"));
}

#[test]
fn by_direct_routing() {
    holds(
        None,
        &[
            (
                "a SYN goes to the server as it is, one hop further",
                "front tcp client:4000 > vip:80 S",
                "front>dr tcp client:4000 > vip:80 S ttl=63",
            ),
            (
                "what follows goes there too",
                "front tcp client:4000 > vip:80 A",
                "front>dr tcp client:4000 > vip:80 A ttl=63",
            ),
            (
                "and the end",
                "front tcp client:4000 > vip:80 FA",
                "front>dr tcp client:4000 > vip:80 FA ttl=63",
            ),
            (
                "a datagram",
                "front udp client:4000 > vip:80",
                "front>dr udp client:4000 > vip:80 ttl=63",
            ),
            (
                "an INIT",
                "front sctp client:4000 > vip:80",
                "front>dr sctp client:4000 > vip:80 ttl=63",
            ),
            (
                "what belongs to no connection is refused",
                "front tcp client:4001 > vip:80 A",
                "front>client tcp vip:80 > client:4001 R ttl=64",
            ),
            (
                "a RST of no connection is not answered",
                "front tcp client:4001 > vip:80 R",
                "dropped: unknown_reset",
            ),
            (
                "on its last hop a packet ends here, and its sender hears of it",
                "front tcp client:4000 > vip:80 A ttl=1",
                "front>client time-exceeded node > client of tcp client:4000 > vip:80 ttl=64",
            ),
            (
                "an error about an answer is for the server",
                "front<router port-unreachable router > vip of udp vip:80 > client:4000",
                "front>dr port-unreachable router > vip of udp vip:80 > client:4000 ttl=63",
            ),
            (
                "one about no connection is nobody's",
                "front<router port-unreachable router > vip of udp vip:80 > client:4009",
                "dropped: icmp_unknown",
            ),
        ],
    );
}

#[test]
fn by_nat() {
    holds(
        None,
        &[
            (
                "a SYN goes to the server's address and port",
                "front tcp client:4000 > vip:8080 S",
                "back>nat tcp client:4000 > nat:8081 S ttl=63",
            ),
            (
                "its answer comes from the VIP",
                "back tcp nat:8081 > client:4000 SA",
                "front>client tcp vip:8080 > client:4000 SA ttl=63",
            ),
            (
                "data in",
                "front tcp client:4000 > vip:8080 PA",
                "back>nat tcp client:4000 > nat:8081 PA ttl=63",
            ),
            (
                "data out",
                "back tcp nat:8081 > client:4000 PA",
                "front>client tcp vip:8080 > client:4000 PA ttl=63",
            ),
            (
                "a datagram in",
                "front udp client:4000 > vip:8080",
                "back>nat udp client:4000 > nat:8081 ttl=63",
            ),
            (
                "and out",
                "back udp nat:8081 > client:4000",
                "front>client udp vip:8080 > client:4000 ttl=63",
            ),
            (
                "an INIT",
                "front sctp client:4000 > vip:8080",
                "back>nat sctp client:4000 > nat:8081 ttl=63",
            ),
            (
                "and back",
                "back sctp nat:8081 > client:4000",
                "front>client sctp vip:8080 > client:4000 ttl=63",
            ),
            (
                "what a server sends to whom it has no connection with is none of ours",
                "back tcp nat:8081 > client:4005 PA",
                "dropped: unknown_return",
            ),
            (
                "an error about an answer goes to the server, in its terms",
                "front<router port-unreachable router > vip of udp vip:8080 > client:4000",
                "back>nat port-unreachable router > nat of udp nat:8081 > client:4000 ttl=63",
            ),
            (
                "a server's error goes to the client, in its terms",
                "back port-unreachable nat > client of udp client:4000 > nat:8081",
                "front>client port-unreachable vip > client of udp client:4000 > vip:8080 ttl=63",
            ),
            (
                "packet too big",
                "front<router too-big router > vip of tcp vip:8080 > client:4000",
                "back>nat too-big router > nat of tcp nat:8081 > client:4000 ttl=63",
            ),
            (
                "on its last hop an answer ends here; without an own address there, the VIP says so",
                "back tcp nat:8081 > client:4000 PA ttl=1",
                "back>nat time-exceeded vip > nat of tcp nat:8081 > client:4000 ttl=64",
            ),
        ],
    );
}

#[test]
fn by_full_nat() {
    holds(
        None,
        &[
            (
                "a SYN comes from a local address",
                "front tcp client:4000 > vip:9090 S",
                "back>nat tcp local:* > nat:9091 S ttl=63",
            ),
            (
                "its answer goes to the client, from the VIP",
                "back tcp nat:9091 > local:* SA",
                "front>client tcp vip:9090 > client:4000 SA ttl=63",
            ),
            (
                "data in",
                "front tcp client:4000 > vip:9090 PA",
                "back>nat tcp local:* > nat:9091 PA ttl=63",
            ),
            (
                "data out",
                "back tcp nat:9091 > local:* PA",
                "front>client tcp vip:9090 > client:4000 PA ttl=63",
            ),
            (
                "a datagram in",
                "front udp client:4000 > vip:9090",
                "back>nat udp local:* > nat:9091 ttl=63",
            ),
            (
                "and out",
                "back udp nat:9091 > local:*",
                "front>client udp vip:9090 > client:4000 ttl=63",
            ),
            (
                "a server's error, in the client's terms",
                "back port-unreachable nat > local of udp local:* > nat:9091",
                "front>client port-unreachable vip > client of udp client:4000 > vip:9090 ttl=63",
            ),
            (
                "an error about an answer, in the server's terms",
                "front<router port-unreachable router > vip of udp vip:9090 > client:4000",
                "back>nat port-unreachable local > nat of udp nat:9091 > local:* ttl=63",
            ),
            (
                "an INIT",
                "front sctp client:4000 > vip:9090",
                "back>nat sctp local:* > nat:9091 ttl=63",
            ),
            (
                "and back",
                "back sctp nat:9091 > local:*",
                "front>client sctp vip:9090 > client:4000 ttl=63",
            ),
        ],
    );
}

#[test]
fn by_tunnels() {
    holds(
        None,
        &[
            (
                "IPIP",
                "front tcp client:4000 > vip:90 S",
                "front>router ipip node > tun ttl=63 | tcp client:4000 > vip:90 S ttl=63",
            ),
            (
                "what follows takes the same way",
                "front tcp client:4000 > vip:90 A",
                "front>router ipip node > tun ttl=63 | tcp client:4000 > vip:90 A ttl=63",
            ),
            (
                "GUE",
                "front tcp client:4000 > vip:91 S",
                "front>router gue node > tun:6080 ttl=63 | tcp client:4000 > vip:91 S ttl=63",
            ),
            (
                "GRE",
                "front tcp client:4000 > vip:92 S",
                "front>router gre+sum node > tun ttl=63 | tcp client:4000 > vip:92 S ttl=63",
            ),
            (
                "IPIP of the other family",
                "front tcp client:4000 > vip:95 S",
                "front>router ipip node-other > tun-other ttl=63 | tcp client:4000 > vip:95 S ttl=63",
            ),
            (
                "datagrams",
                "front udp client:4000 > vip:90",
                "front>router ipip node > tun ttl=63 | udp client:4000 > vip:90 ttl=63",
            ),
            (
                "by GUE",
                "front udp client:4000 > vip:91",
                "front>router gue node > tun:6080 ttl=63 | udp client:4000 > vip:91 ttl=63",
            ),
            (
                "by GRE",
                "front udp client:4000 > vip:92",
                "front>router gre+sum node > tun ttl=63 | udp client:4000 > vip:92 ttl=63",
            ),
            (
                "associations",
                "front sctp client:4000 > vip:90",
                "front>router ipip node > tun ttl=63 | sctp client:4000 > vip:90 ttl=63",
            ),
            (
                "an error about an answer goes through the tunnel",
                "front<router port-unreachable router > vip of udp vip:90 > client:4000",
                "front>router ipip node > tun ttl=63 | port-unreachable router > vip of udp vip:90 > client:4000 ttl=63",
            ),
            (
                "on its last hop a packet ends here, and its sender hears of it",
                "front udp client:4000 > vip:90 ttl=1",
                "front>client time-exceeded node > client of udp client:4000 > vip:90 ttl=64",
            ),
        ],
    );
}

#[test]
fn without_a_server_or_a_service() {
    holds(
        None,
        &[
            (
                "nobody serves: refused",
                "front tcp client:4000 > vip:82 S",
                "front>client tcp vip:82 > client:4000 RA ttl=64",
            ),
            (
                "a datagram too",
                "front udp client:4000 > vip:82",
                "front>client port-unreachable vip > client of udp client:4000 > vip:82 ttl=64",
            ),
            (
                "an INIT too",
                "front sctp client:4000 > vip:82",
                "front>client sctp vip:82 > client:4000 ABORT ttl=64",
            ),
            (
                "a port that nobody has",
                "front tcp client:4000 > vip:83 S",
                "front>client tcp vip:83 > client:4000 RA ttl=64",
            ),
            (
                "by UDP",
                "front udp client:4000 > vip:83",
                "front>client port-unreachable vip > client of udp client:4000 > vip:83 ttl=64",
            ),
            (
                "by SCTP",
                "front sctp client:4000 > vip:83",
                "front>client sctp vip:83 > client:4000 ABORT ttl=64",
            ),
            (
                "the VIP answers echo",
                "front echo client > vip",
                "front>client echo-reply vip > client ttl=64",
            ),
            (
                "who asks for another is none of ours",
                "front tcp client:4000 > dr:80 S",
                "dropped: not_ours",
            ),
        ],
    );
}

#[test]
fn by_who_does_not_hold_the_group() {
    let relay = vec![Some(PEER), Some(PEER)];
    holds(
        Some(Role::Other { relay }),
        &[
            (
                "what is for the VIP goes to the holder as it came",
                "front tcp client:4000 > vip:8080 S",
                "front>peer tcp client:4000 > vip:8080 S ttl=64",
            ),
            (
                "what the holder sent on does not go back",
                "front<peer tcp client:4000 > vip:8080 S",
                "dropped: relay_loop",
            ),
            (
                "so does an answer that came here",
                "back tcp nat:8081 > client:4000 SA",
                "back>peer tcp nat:8081 > client:4000 SA ttl=64",
            ),
        ],
    );
    holds(
        Some(Role::NoHolder { since_ns: 0 }),
        &[(
            "while nobody holds it nothing is opened",
            "front tcp client:4000 > vip:8080 S",
            "dropped: no_holder",
        )],
    );
}
