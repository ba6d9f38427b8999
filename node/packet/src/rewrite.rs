//! In-place rewriting of what [`parse`](crate::parse) found.
//!
//! Guarantees: checksums that were right stay right and wrong ones stay wrong; a UDP checksum of 0
//! ("none") stays 0. A packet that is not in `frame`, and an address of another family than the
//! packet's, change nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::byteorder::network_endian::U16;

use crate::{
    Ethernet, Ipv4, Ipv6, Mac, Packet, Tcp, Transport, Udp,
    checksum::{update_bytes, update16, update32},
    header::view_mut,
};

/// Sets both Ethernet addresses.
pub fn set_macs(frame: &mut [u8], src: Mac, dst: Mac) {
    if let Some(ethernet) = view_mut::<Ethernet>(frame, 0) {
        ethernet.src = src;
        ethernet.dst = dst;
    }
}

/// Takes one from the time to live, or hop limit; false, and nothing changed, when the packet may
/// go no further.
#[must_use]
pub fn decrement_ttl(frame: &mut [u8], packet: &Packet) -> bool {
    if packet.is_ipv6() {
        let Some(ip) = view_mut::<Ipv6>(frame, packet.l3) else { return false };
        if ip.hop_limit <= 1 {
            return false;
        }
        ip.hop_limit -= 1;
        return true;
    }
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
pub fn rewrite_destination(frame: &mut [u8], packet: &Packet, addr: IpAddr, port: u16) {
    rewrite(frame, packet, Side::Destination, addr, port);
}

/// Sets source address and port.
pub fn rewrite_source(frame: &mut [u8], packet: &Packet, addr: IpAddr, port: u16) {
    rewrite(frame, packet, Side::Source, addr, port);
}

#[derive(Clone, Copy)]
pub(crate) enum Side {
    Source,
    Destination,
}

/// An address before and after: transport checksums cover both.
#[derive(Clone, Copy)]
pub(crate) enum Change {
    V4(u32, u32),
    V6([u8; 16], [u8; 16]),
}

impl Change {
    pub(crate) fn update(self, checksum: u16) -> u16 {
        match self {
            Self::V4(old, new) => update32(checksum, old, new),
            Self::V6(old, new) => update_bytes(checksum, &old, &new),
        }
    }
}

fn rewrite(frame: &mut [u8], packet: &Packet, side: Side, addr: IpAddr, port: u16) {
    if packet.dst.is_ipv4() == addr.is_ipv4()
        && let Some(change) = set_address(frame, packet.l3, side, addr)
    {
        rewrite_transport(frame, packet, change, side, port);
    }
}

/// Sets an address of the IP header at `l3`, which is of the family of `addr`.
pub(crate) fn set_address(frame: &mut [u8], l3: usize, side: Side, addr: IpAddr) -> Option<Change> {
    match addr {
        IpAddr::V4(addr) => set_v4(frame, l3, side, addr),
        IpAddr::V6(addr) => set_v6(frame, l3, side, addr),
    }
}

fn set_v4(frame: &mut [u8], l3: usize, side: Side, addr: Ipv4Addr) -> Option<Change> {
    let ip = view_mut::<Ipv4>(frame, l3)?;
    let field = match side {
        Side::Source => &mut ip.src,
        Side::Destination => &mut ip.dst,
    };
    let (old, new) = (u32::from_be_bytes(*field), addr.to_bits());
    *field = addr.octets();
    ip.checksum.set(update32(ip.checksum.get(), old, new));
    Some(Change::V4(old, new))
}

fn set_v6(frame: &mut [u8], l3: usize, side: Side, addr: Ipv6Addr) -> Option<Change> {
    let ip = view_mut::<Ipv6>(frame, l3)?;
    let field = match side {
        Side::Source => &mut ip.src,
        Side::Destination => &mut ip.dst,
    };
    let old = std::mem::replace(field, addr.octets());
    Some(Change::V6(old, addr.octets()))
}

/// Sets a port and brings the transport checksum up to date, which also covers the address.
fn rewrite_transport(frame: &mut [u8], packet: &Packet, change: Change, side: Side, port: u16) {
    let update = |checksum: u16, field: &mut U16| {
        let checksum = update16(checksum, field.get(), port);
        field.set(port);
        change.update(checksum)
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
