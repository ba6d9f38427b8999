//! The packets of a scenario, and its addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{IpNumber, PacketBuilder, PacketBuilderStep, TcpHeader};
use steadfast_packet::{Mac, crc32c};

use super::{Flow, Method, Protocol, Scenario};

/// The service's port.
pub const VIP_PORT: u16 = 80;

/// All ports of a service by mark.
pub const VIP_PORTS: [u16; 2] = [VIP_PORT, 443];

/// The mark.
pub const MARK: u32 = 7;

/// The port of servers behind NAT.
const NAT_PORT: u16 = 8080;

/// The director's ends of its two links, and who is at the other ends.
pub(super) const FRONT_MAC: Mac = [2, 0, 0, 0, 1, 1];
pub(super) const BACK_MAC: Mac = [2, 0, 0, 0, 2, 1];
pub(super) const CLIENT_MAC: Mac = [2, 0, 0, 0, 1, 2];

/// The way to all clients, and a host behind the director that is no server.
pub(super) const CLIENT_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
pub(super) const CLIENT_GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x12, 0, 0, 0, 0, 2);
pub(super) const BYSTANDER: u8 = 250;
pub(super) const BYSTANDER_ADDR: Ipv4Addr = Ipv4Addr::new(198, 18, 1, BYSTANDER);

/// Under SCTP, in what a packet is: a chunk ABORT comes after the first one.
pub const THEN_ABORT: u8 = 0x80;

/// The virtual address.
#[must_use]
pub fn vip(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0x12, 0, 0, 0, 0, 0x100).into()
    } else {
        Ipv4Addr::new(198, 18, 0, 100).into()
    }
}

/// Address of a server.
#[must_use]
pub fn server_addr(v6: bool, number: u8) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0x13, 0, 0, 0, 0, number.into()).into()
    } else {
        Ipv4Addr::new(198, 18, 1, number).into()
    }
}

/// Port of the servers for packets to a port of the VIP.
#[must_use]
pub fn server_port(scenario: &Scenario, vip_port: u16) -> u16 {
    match scenario.method {
        Method::Nat if !scenario.marked => NAT_PORT,
        Method::Nat | Method::Dr | Method::IpIp => vip_port,
    }
}

pub(super) fn server_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 3, number]
}

/// A packet from a flow's client to the service.
#[must_use]
pub fn to_vip(scenario: &Scenario, flow: Flow, flags: u8, macs: (Mac, Mac)) -> Vec<u8> {
    let dst = (vip(scenario.v6), flow.vip_port);
    packet(scenario.protocol, macs, (flow.addr, flow.port), dst, flags)
}

/// A packet from a server to a flow's client.
#[must_use]
pub fn to_client(
    scenario: &Scenario,
    flow: Flow,
    server: u8,
    flags: u8,
    macs: (Mac, Mac),
) -> Vec<u8> {
    let port = server_port(scenario, flow.vip_port);
    let src = (server_addr(scenario.v6, server), port);
    packet(scenario.protocol, macs, src, (flow.addr, flow.port), flags)
}

/// The frame with what an IPIP packet to `dst` carries in the place of that packet.
#[must_use]
pub fn carried(frame: &[u8], dst: IpAddr) -> Option<Vec<u8>> {
    // Ethernet, and a header without options; the next protocol is its own.
    let (start, next_at, dst_at, own) = match dst {
        IpAddr::V4(_) => (14 + 20, 14 + 9, 14 + 16, 4),
        IpAddr::V6(_) => (14 + 40, 14 + 6, 14 + 24, 41),
    };
    let inner = frame.get(start..).filter(|inner| !inner.is_empty())?;
    let is_dst = match dst {
        IpAddr::V4(dst) => frame[dst_at..start] == dst.octets(),
        IpAddr::V6(dst) => frame[dst_at..start] == dst.octets(),
    };
    (is_dst && frame[next_at] == own).then(|| [&frame[..14], inner].concat())
}

/// A datagram that the director merely routes.
pub(super) fn marker(macs: (Mac, Mac), src: Ipv4Addr, dst: Ipv4Addr, number: u64) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(src.octets(), dst.octets(), 64);
    let mut frame = Vec::new();
    // Writing to a vector cannot fail, and the payload is short.
    let _ = builder.udp(9, 9).write(&mut frame, &number.to_be_bytes());
    frame
}

fn packet(
    protocol: Protocol,
    macs: (Mac, Mac),
    src: (IpAddr, u16),
    dst: (IpAddr, u16),
    flags: u8,
) -> Vec<u8> {
    let Some(builder) = ip(macs, src.0, dst.0) else { return Vec::new() };
    let mut frame = Vec::new();
    // As above.
    let _ = match protocol {
        Protocol::Udp => builder.udp(src.1, dst.1).write(&mut frame, b"datagram"),
        Protocol::Tcp => {
            let mut header = TcpHeader::new(src.1, dst.1, 1000, 512);
            (header.fin, header.syn) = (flags & 1 != 0, flags & 2 != 0);
            (header.rst, header.ack) = (flags & 4 != 0, flags & 0x10 != 0);
            header.acknowledgment_number = if header.ack { 2000 } else { 0 };
            builder.tcp_header(header).write(&mut frame, b"segment")
        }
        Protocol::Sctp => {
            let sctp = sctp(src.1, dst.1, flags);
            builder.write(&mut frame, IpNumber::SCTP, &sctp)
        }
    };
    frame
}

/// None for two families.
fn ip(
    macs: (Mac, Mac),
    src: IpAddr,
    dst: IpAddr,
) -> Option<PacketBuilderStep<etherparse::IpHeaders>> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1);
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Some(builder.ipv4(src.octets(), dst.octets(), 64)),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Some(builder.ipv6(src.octets(), dst.octets(), 64)),
        _ => None,
    }
}

/// An SCTP packet with a chunk of the type `what` (RFC 9260 section 3), and its checksum.
fn sctp(src_port: u16, dst_port: u16, what: u8) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(src_port.to_be_bytes());
    packet.extend(dst_port.to_be_bytes());
    // The verification tag, which that of an INIT is not; and the checksum, later.
    packet.extend([0, 0, 0, 7, 0, 0, 0, 0]);
    // What INIT and INIT ACK say at least; nobody looks at more of the others.
    packet.extend([what & !THEN_ABORT, 0, 0, 20]);
    packet.extend([0, 0, 0, 9, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    if what & THEN_ABORT != 0 {
        packet.extend([6, 0, 0, 4]);
    }
    let checksum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&checksum);
    packet
}
