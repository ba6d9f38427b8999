//! In-place rewriting of what [`parse`](crate::parse) found.
//!
//! Guarantees: checksums that were right stay right and wrong ones stay wrong; a UDP checksum of 0
//! ("none") stays 0. A packet that is not in `frame` changes nothing.

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;

use crate::{
    Ethernet, Ipv4, Ipv4Packet, Mac, Tcp, Transport, Udp,
    checksum::{update16, update32},
    header::view_mut,
};

/// Sets both Ethernet addresses.
pub fn set_macs(frame: &mut [u8], src: Mac, dst: Mac) {
    if let Some(ethernet) = view_mut::<Ethernet>(frame, 0) {
        ethernet.src = src;
        ethernet.dst = dst;
    }
}

/// Takes one from the time to live; false, and nothing changed, when the packet may go no further.
#[must_use]
pub fn decrement_ttl(frame: &mut [u8], packet: &Ipv4Packet) -> bool {
    let Some(ip) = view_mut::<Ipv4>(frame, packet.l3) else { return false };
    if ip.ttl <= 1 {
        return false;
    }
    let word = |ttl: u8, protocol: u8| u16::from_be_bytes([ttl, protocol]);
    let (old, new) = (word(ip.ttl, ip.protocol), word(ip.ttl - 1, ip.protocol));
    ip.ttl -= 1;
    ip.checksum.set(update16(ip.checksum.get(), old, new));
    true
}

/// Sets destination address and port.
pub fn rewrite_destination(frame: &mut [u8], packet: &Ipv4Packet, addr: Ipv4Addr, port: u16) {
    let Some(ip) = view_mut::<Ipv4>(frame, packet.l3) else { return };
    let (old, new) = (u32::from_be_bytes(ip.dst), addr.to_bits());
    ip.dst = addr.octets();
    ip.checksum.set(update32(ip.checksum.get(), old, new));
    rewrite_transport(frame, packet, (old, new), Side::Destination, port);
}

/// Sets source address and port.
pub fn rewrite_source(frame: &mut [u8], packet: &Ipv4Packet, addr: Ipv4Addr, port: u16) {
    let Some(ip) = view_mut::<Ipv4>(frame, packet.l3) else { return };
    let (old, new) = (u32::from_be_bytes(ip.src), addr.to_bits());
    ip.src = addr.octets();
    ip.checksum.set(update32(ip.checksum.get(), old, new));
    rewrite_transport(frame, packet, (old, new), Side::Source, port);
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Sets a port and brings the transport checksum up to date, which also covers the address.
fn rewrite_transport(
    frame: &mut [u8],
    packet: &Ipv4Packet,
    (old_addr, new_addr): (u32, u32),
    side: Side,
    port: u16,
) {
    let update = |checksum: u16, field: &mut U16| {
        let checksum = update16(checksum, field.get(), port);
        field.set(port);
        update32(checksum, old_addr, new_addr)
    };
    match packet.transport {
        Transport::Tcp { .. } => {
            let Some(tcp) = view_mut::<Tcp>(frame, packet.l4) else { return };
            let field = match side {
                Side::Source => &mut tcp.src_port,
                Side::Destination => &mut tcp.dst_port,
            };
            tcp.checksum.set(update(tcp.checksum.get(), field));
        }
        Transport::Udp { .. } => {
            let Some(udp) = view_mut::<Udp>(frame, packet.l4) else { return };
            let field = match side {
                Side::Source => &mut udp.src_port,
                Side::Destination => &mut udp.dst_port,
            };
            let checksum = update(udp.checksum.get(), field);
            //= RFC 768: 0 means none; a computed 0 is sent as all ones
            if udp.checksum.get() != 0 {
                udp.checksum.set(if checksum == 0 { 0xffff } else { checksum });
            }
        }
        Transport::EchoRequest | Transport::Fragment | Transport::Other(_) => {}
    }
}
