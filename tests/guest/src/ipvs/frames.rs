//! The packets of a scenario, and its addresses.

use std::net::Ipv4Addr;

use etherparse::{PacketBuilder, TcpHeader};
use steadfast_packet::Mac;

use super::{Flow, Scenario};

/// The virtual address.
pub const VIP: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 100);

/// The service's port.
pub const VIP_PORT: u16 = 80;

/// The port of servers behind NAT.
const NAT_PORT: u16 = 8080;

/// The director's ends of its two links, and who is at the other ends.
pub(super) const FRONT_MAC: Mac = [2, 0, 0, 0, 1, 1];
pub(super) const BACK_MAC: Mac = [2, 0, 0, 0, 2, 1];
pub(super) const CLIENT_MAC: Mac = [2, 0, 0, 0, 1, 2];

/// The way to all clients, and a host behind the director that is no server.
pub(super) const CLIENT_GATEWAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
pub(super) const BYSTANDER: u8 = 250;

/// Address of a server.
#[must_use]
pub fn server_addr(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 1, number)
}

/// Port of the servers.
#[must_use]
pub fn server_port(dr: bool) -> u16 {
    if dr { VIP_PORT } else { NAT_PORT }
}

pub(super) fn server_mac(number: u8) -> Mac {
    [2, 0, 0, 0, 3, number]
}

/// A packet from a flow's client to the service.
#[must_use]
pub fn to_vip(scenario: &Scenario, flow: Flow, flags: u8, macs: (Mac, Mac)) -> Vec<u8> {
    packet(scenario.udp, macs, (flow.addr, flow.port), (VIP, VIP_PORT), flags)
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
    let src = (server_addr(server), server_port(scenario.dr));
    packet(scenario.udp, macs, src, (flow.addr, flow.port), flags)
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
    udp: bool,
    macs: (Mac, Mac),
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    flags: u8,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(src.0.octets(), dst.0.octets(), 64);
    let mut frame = Vec::new();
    // As above.
    if udp {
        let _ = builder.udp(src.1, dst.1).write(&mut frame, b"datagram");
        return frame;
    }
    let mut header = TcpHeader::new(src.1, dst.1, 1000, 512);
    (header.fin, header.syn) = (flags & 1 != 0, flags & 2 != 0);
    (header.rst, header.ack) = (flags & 4 != 0, flags & 0x10 != 0);
    header.acknowledgment_number = if header.ack { 2000 } else { 0 };
    let _ = builder.tcp_header(header).write(&mut frame, b"segment");
    frame
}
