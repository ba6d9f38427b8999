//! The node that the lines are about: its services, servers, interfaces and neighbours.

use std::net::IpAddr;

use steadfast_dataplane::{
    ClientAddress, ConfigSpec, Forwarding, GroupSpec, Listen, NextHopsSpec, PortSlot, PortSpec,
    Protocol, Route, ServerSpec, ServiceSpec, Tagged,
};
use steadfast_packet::{Tunnel, UdpChecksum};

use crate::{
    both::NETS,
    lab::{BACK, CLIENT, DR_1, FRONT, GROUP, Mac, NAT_1, PEER, server, service},
};

pub(super) const ROUTER: Mac = [2, 0, 0, 0, 1, 1];
/// A NAT server in the clients' segment.
pub(super) const ARM: Mac = [2, 0, 0, 0, 1, 31];
/// A server behind a link of a smaller MTU.
pub(super) const NARROW: Mac = [2, 0, 0, 0, 1, 41];
/// A server on a VLAN of the front.
pub(super) const TAGGED: Mac = [2, 0, 0, 0, 3, 31];
const VLAN: u16 = 7;
const NARROW_MTU: u32 = 1300;
pub(super) const GUE_PORT: u16 = 6080;

/// Ports of the services, in both families and by TCP, UDP and SCTP.
const SERVICES: [(u16, Way); 17] = [
    (80, Way::Dr("dr")),
    (81, Way::Dr("narrow")),
    (8080, Way::Nat("nat")),
    (8082, Way::Nat("tagged")),
    (8084, Way::Nat("arm")),
    (8086, Way::Once(["nat", "arm"])),
    (8088, Way::Told(Forwarding::Nat, ClientAddress::ProxyV2)),
    (9090, Way::FullNat),
    (9092, Way::Told(Forwarding::FullNat, ClientAddress::Toa)),
    (90, Way::Tun(Tunnel::IpIp, SAME)),
    (91, Way::Tun(Tunnel::Gue { port: GUE_PORT, checksum: UdpChecksum::ByFamily }, SAME)),
    (92, Way::Tun(Tunnel::Gre { checksum: true }, SAME)),
    (93, Way::Tun(Tunnel::Gre { checksum: false }, SAME)),
    (95, Way::Tun(Tunnel::IpIp, OTHER)),
    (96, Way::Tun(Tunnel::Gue { port: GUE_PORT, checksum: UdpChecksum::ByFamily }, OTHER)),
    (97, Way::Tun(Tunnel::Gre { checksum: true }, OTHER)),
    (82, Way::Down),
];

const SAME: &str = "tun";
const OTHER: &str = "tun-other";

/// How a service's packets get to its server.
#[derive(Clone, Copy)]
enum Way {
    Dr(&'static str),
    Nat(&'static str),
    FullNat,
    Tun(Tunnel, &'static str),
    /// Each datagram to another server.
    Once([&'static str; 2]),
    /// The server hears who the client is.
    Told(Forwarding, ClientAddress),
    Down,
}

pub(super) fn addresses(six: bool) -> [(&'static str, IpAddr); 10] {
    let of = |text: &str| text.parse().unwrap();
    let (v4, v6) = (of("203.0.113.31"), of("2001:db8:9::31"));
    let (node4, node6) = (of("198.18.0.11"), of("2001:db8::11"));
    let (back4, back6) = (of("198.18.1.200"), of("2001:db8:1::200"));
    let pick = |six: bool, a: IpAddr, b: IpAddr| if six { b } else { a };
    let at = |v4: &str, v6: &str| of(if six { v6 } else { v4 });
    [
        ("node", pick(six, node4, node6)),
        ("node-other", pick(!six, node4, node6)),
        ("local", pick(six, back4, back6)),
        ("gateway", at("198.18.1.1", "2001:db8:1::1")),
        ("arm", at("198.18.0.31", "2001:db8::31")),
        ("narrow", at("198.18.0.41", "2001:db8::41")),
        ("tagged", at("198.18.2.31", "2001:db8:2::31")),
        ("far", at("203.0.113.9", "2001:db8:9::9")),
        (SAME, pick(six, v4, v6)),
        (OTHER, pick(!six, v4, v6)),
    ]
}

pub(super) fn spec() -> ConfigSpec {
    let mut group = GroupSpec { id: GROUP, ..GroupSpec::default() };
    let mut services = Vec::new();
    for net in NETS {
        let named = addresses(net.name == "IPv6");
        let of = |name: &str| match name {
            "dr" => net.dr.parse().unwrap(),
            "nat" => net.nat.parse().unwrap(),
            name => named.iter().find(|(known, _)| *known == name).unwrap().1,
        };
        let vip: IpAddr = net.vip.parse().unwrap();
        group.vips.push(vip);
        group.gateways.push(of("gateway"));
        group.locals.push(of("local"));
        for (port, way) in SERVICES {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let id = services.len() as u32 + 1;
                let (forwarding, names, to) = match way {
                    Way::Dr(name) => (Forwarding::Dr, [name; 2], port),
                    Way::Nat(name) => (Forwarding::Nat, [name; 2], port + 1),
                    Way::Down => (Forwarding::Nat, ["nat"; 2], port + 1),
                    Way::FullNat => (Forwarding::FullNat, ["nat"; 2], port + 1),
                    Way::Tun(tunnel, name) => (Forwarding::Tunnel(tunnel), [name; 2], port),
                    Way::Once(names) => (Forwarding::Nat, names, port + 1),
                    Way::Told(forwarding, _) => (forwarding, ["nat"; 2], port + 1),
                };
                let up = !matches!(way, Way::Down);
                let count = if names[0] == names[1] { 1 } else { 2 };
                let servers = names.iter().zip([id, id + 1000]).take(count);
                let servers = servers.map(|(name, id)| {
                    let server = server(id, &of(name).to_string(), to);
                    ServerSpec { up, ..server }
                });
                let listen = vec![Listen::new(protocol, vip, port)];
                let service = service(id, protocol, port, servers.collect());
                let one_packet = matches!(way, Way::Once(_)) && protocol == Protocol::Udp;
                let client_address = match way {
                    Way::Told(_, told) if protocol == Protocol::Tcp => told,
                    _ => ClientAddress::None,
                };
                services.push(ServiceSpec {
                    listen,
                    forwarding,
                    one_packet,
                    client_address,
                    ..service
                });
            }
        }
    }
    let port_slot = PortSlot::new(2);
    ConfigSpec {
        generation: 1,
        groups: vec![group],
        services,
        workers: 2,
        now_ns: 0,
        port_slot,
        servers_given: Default::default(),
    }
}

pub(super) fn next_hops() -> NextHopsSpec {
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
    let mut narrow = Vec::new();
    for six in [false, true] {
        let named = addresses(six);
        let at = |name: &str| named.iter().find(|(known, _)| *known == name).unwrap().1;
        let known = [(0, at("arm"), ARM), (0, at("narrow"), NARROW), (2, at("tagged"), TAGGED)];
        neighbours.extend(known);
        narrow.push(Route {
            mtu: Some(NARROW_MTU),
            ..route(&at("narrow").to_string(), if six { 128 } else { 32 }, 0, None)
        });
    }
    let tagged = Some(Tagged { trunk: 0, vlan: VLAN });
    let on_vlan = PortSpec { tagged, ..port(FRONT, Vec::new()) };
    NextHopsSpec {
        generation: 2,
        ports: vec![port(FRONT, own.to_vec()), port(BACK, Vec::new()), on_vlan],
        routes: [
            route("198.18.0.0", 24, 0, None),
            route("198.18.1.0", 24, 1, None),
            route("198.18.2.0", 24, 2, None),
            route("0.0.0.0", 0, 0, Some("198.18.0.1")),
            route("2001:db8::", 64, 0, None),
            route("2001:db8:1::", 64, 1, None),
            route("2001:db8:2::", 64, 2, None),
            route("::", 0, 0, Some("2001:db8::1")),
        ]
        .into_iter()
        .chain(narrow)
        .collect(),
        neighbours,
    }
}
