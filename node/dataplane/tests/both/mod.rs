//! Services over IPv4 and IPv6, by DR and by NAT, and packets of either family.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod cut;
pub mod ends;
pub mod error;

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, TcpHeader};
use steadfast_dataplane::{
    ConfigSpec, Forwarding, GroupSpec, Listen, NextHops, NextHopsSpec, PortSpec, Protocol, Route,
    ServiceSpec,
};
use steadfast_packet::crc32c;

use crate::lab::{BACK, CLIENT, DR_1, FRONT, GROUP, Lab, Mac, NAT_1, PEER, SYN, server, service};

/// The addresses of one family.
#[derive(Clone, Copy, Debug)]
pub struct Net {
    pub name: &'static str,
    pub client: &'static str,
    pub vip: &'static str,
    /// Where the servers of NAT route through.
    pub gateway: &'static str,
    pub dr: &'static str,
    pub nat: &'static str,
    /// A router somewhere, neither client nor server.
    pub router: &'static str,
    front: (&'static str, u8),
    back: (&'static str, u8),
}

pub const NETS: [Net; 2] = [
    Net {
        name: "IPv4",
        client: "198.18.0.2",
        vip: "198.18.0.100",
        gateway: "198.18.1.1",
        dr: "198.18.0.21",
        nat: "198.18.1.21",
        router: "203.0.113.1",
        front: ("198.18.0.0", 24),
        back: ("198.18.1.0", 24),
    },
    Net {
        name: "IPv6",
        client: "2001:db8::2",
        vip: "2001:db8::100",
        gateway: "2001:db8:1::1",
        dr: "2001:db8::21",
        nat: "2001:db8:1::21",
        router: "2001:db8:ffff::1",
        front: ("2001:db8::", 64),
        back: ("2001:db8:1::", 64),
    },
];

/// Ports: of the client, of the service by DR, of that by NAT and of its server.
pub const CLIENT_PORT: u16 = 4000;
pub const DR_PORT: u16 = 80;
pub const NAT_PORT: u16 = 8080;
pub const REAL_PORT: u16 = 8081;

/// An address with a port.
pub fn at(addr: &str, port: u16) -> SocketAddr {
    SocketAddr::new(addr.parse().unwrap(), port)
}

/// DR on 80 and NAT on 8080, TCP and UDP, in both families.
pub fn spec(generation: u64) -> ConfigSpec {
    let mut group = GroupSpec { id: GROUP, ..GroupSpec::default() };
    let mut services = Vec::new();
    let mut id = 0;
    for net in NETS {
        let vip: IpAddr = net.vip.parse().unwrap();
        group.vips.push(vip);
        group.gateways.push(net.gateway.parse().unwrap());
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let dr = server(id + 100, net.dr, DR_PORT);
            let nat = server(id + 101, net.nat, REAL_PORT);
            let of = |id, port, server| ServiceSpec {
                listen: vec![Listen::new(protocol, vip, port)],
                ..service(id, protocol, port, vec![server])
            };
            let dr = of(id + 100, DR_PORT, dr);
            services.push(ServiceSpec { forwarding: Forwarding::Dr, ..dr });
            services.push(of(id + 101, NAT_PORT, nat));
            id += 2;
        }
    }
    ConfigSpec {
        generation,
        groups: vec![group],
        services,
        workers: 2,
        now_ns: 0,
        port_slot: None,
        servers_given: Default::default(),
    }
}

pub fn next_hops() -> NextHopsSpec {
    let mut spec = NextHopsSpec {
        generation: 2,
        ports: vec![
            PortSpec { mac: FRONT, cluster_macs: vec![PEER], ..PortSpec::default() },
            PortSpec { mac: BACK, cluster_macs: vec![PEER], ..PortSpec::default() },
        ],
        ..NextHopsSpec::default()
    };
    for net in NETS {
        for ((prefix, prefix_len), port) in [(net.front, 0), (net.back, 1)] {
            let prefix = prefix.parse().unwrap();
            spec.routes.push(Route {
                prefix,
                prefix_len,
                port: Some(port),
                gateway: None,
                src: None,
                mtu: None,
            });
        }
        for (port, addr, mac) in [(0, net.client, CLIENT), (0, net.dr, DR_1), (1, net.nat, NAT_1)] {
            spec.neighbours.push((port, addr.parse().unwrap(), mac));
        }
    }
    spec
}

/// A node that holds the group, with these services.
pub fn lab() -> Lab {
    let lab = Lab::with(spec(1), 1000);
    lab.shared.set_next_hops(NextHops::new(next_hops()));
    lab
}

/// The IP header of a packet between two addresses of one family.
pub fn ip(src: IpAddr, dst: IpAddr, ttl: u8, protocol: Protocol) -> IpHeaders {
    let protocol = IpNumber(protocol as u8);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let ip = Ipv4Header::new(0, ttl, protocol, src.octets(), dst.octets()).unwrap();
            IpHeaders::Ipv4(ip, Default::default())
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let ip = Ipv6Header {
                hop_limit: ttl,
                next_header: protocol,
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv6Header::default()
            };
            IpHeaders::Ipv6(ip, Default::default())
        }
        _ => panic!("two families"),
    }
}

/// A SYN, an INIT or a datagram with this payload, as an IP packet.
pub fn packet(
    protocol: Protocol,
    (src, dst): (SocketAddr, SocketAddr),
    ttl: u8,
    payload: &[u8],
) -> Vec<u8> {
    let builder = PacketBuilder::ip(ip(src.ip(), dst.ip(), ttl, protocol));
    let mut packet = Vec::new();
    match protocol {
        Protocol::Tcp => {
            let mut header = TcpHeader::new(src.port(), dst.port(), 1000, 512);
            header.syn = SYN != 0;
            builder.tcp_header(header).write(&mut packet, payload).unwrap();
        }
        Protocol::Udp => {
            builder.udp(src.port(), dst.port()).write(&mut packet, payload).unwrap();
        }
        Protocol::Sctp => {
            let mut sctp = [src.port().to_be_bytes(), dst.port().to_be_bytes()].concat();
            sctp.extend_from_slice(&[0; 8]);
            sctp.extend_from_slice(&[1, 0, 0, 4 + payload.len() as u8]);
            sctp.extend_from_slice(payload);
            let crc = crc32c(&sctp).to_le_bytes();
            sctp[8..12].copy_from_slice(&crc);
            builder.write(&mut packet, IpNumber(protocol as u8), &sctp).unwrap();
        }
    }
    packet
}

/// An IP packet as a frame.
pub fn framed(macs: (Mac, Mac), packet: &[u8]) -> Vec<u8> {
    let ether_type: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&macs.1[..], &macs.0[..], &ether_type[..], packet].concat()
}
