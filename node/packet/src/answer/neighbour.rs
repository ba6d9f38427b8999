//! Who has this address: ARP (RFC 826) and neighbour discovery (RFC 4861).

use std::net::{Ipv4Addr, Ipv6Addr};

use zerocopy::IntoBytes;

use super::{FRAME_LEN_MIN, NoSpace, VERSION_6, pad};
use crate::{
    Arp, ArpRequest, Ethernet, Icmp, Ipv6, Mac, Solicitation,
    checksum::{internet_checksum, pseudo_sum},
    ether_type,
    header::{Neighbour, ip_protocol, view_mut},
};

/// Length of an untagged ARP frame, unpadded.
pub const ARP_FRAME_LEN: usize = L3 + size_of::<Arp>();

/// Length of an untagged neighbour advertisement with its option.
pub const ADVERTISEMENT_LEN: usize = L3 + size_of::<Ipv6>() + MESSAGE_LEN;

const L3: usize = size_of::<Ethernet>();
const BROADCAST: Mac = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
//= RFC 2464 section 7: 33:33 and the last four octets of the address
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];

const ADVERTISEMENT: u8 = 136;
/// Flags of an advertisement (RFC 4861 section 4.4).
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;
const HOP_LIMIT: u8 = 255;
/// The option that carries the target's link-layer address, and its length in eight octets.
const TARGET_LINK_LAYER: [u8; 2] = [2, 1];
const MESSAGE_LEN: usize = size_of::<Neighbour>() + 8;

/// Turns an ARP request into the reply that its target is at `mac`. Returns the frame's length.
//= RFC 826, Packet Reception
pub fn arp_reply(buffer: &mut [u8], mac: Mac, request: ArpRequest) -> Result<usize, NoSpace> {
    let arp = view_mut::<Arp>(buffer, request.l3).ok_or(NoSpace)?;
    let asker = arp.sender_mac;
    arp.operation.set(2);
    arp.target_mac = asker;
    arp.target = arp.sender;
    arp.sender_mac = mac;
    arp.sender = request.target.octets();
    let ethernet = view_mut::<Ethernet>(buffer, 0).ok_or(NoSpace)?;
    ethernet.dst = ethernet.src;
    ethernet.src = mac;
    Ok(pad(buffer, request.l3 + size_of::<Arp>()))
}

/// An announcement that `addr` is at `mac`, in the request form.
//= RFC 5227 section 2.3: sender and target address both set to the announced address
#[must_use]
pub fn gratuitous_arp(mac: Mac, addr: Ipv4Addr) -> [u8; FRAME_LEN_MIN] {
    let ethernet = Ethernet { dst: BROADCAST, src: mac, ether_type: ether_type::ARP.into() };
    let arp = Arp {
        hardware: 1.into(),
        protocol: ether_type::IPV4.into(),
        hardware_len: 6,
        protocol_len: 4,
        operation: 1.into(),
        sender_mac: mac,
        sender: addr.octets(),
        target_mac: [0; 6],
        target: addr.octets(),
    };
    let mut frame = [0; FRAME_LEN_MIN];
    frame[..L3].copy_from_slice(ethernet.as_bytes());
    frame[L3..ARP_FRAME_LEN].copy_from_slice(arp.as_bytes());
    frame
}

/// Turns a solicitation into the advertisement that its target is at `mac`. Returns the frame's
/// length. Who is not sure of its own address yet is answered for all to hear.
//= RFC 4861 section 7.2.4, Sending Solicited Neighbor Advertisements
pub fn advertisement(
    buffer: &mut [u8],
    mac: Mac,
    solicitation: Solicitation,
    is_router: bool,
) -> Result<usize, NoSpace> {
    let Solicitation { l3, sender, target } = solicitation;
    let ethernet = view_mut::<Ethernet>(buffer, 0).ok_or(NoSpace)?;
    let (dst, dst_mac, flags) = if sender.is_unspecified() {
        (ALL_NODES, ALL_NODES_MAC, OVERRIDE)
    } else {
        (sender, ethernet.src, OVERRIDE | SOLICITED)
    };
    ethernet.dst = dst_mac;
    ethernet.src = mac;
    let flags = if is_router { flags | ROUTER } else { flags };
    let end = l3 + size_of::<Ipv6>() + MESSAGE_LEN;
    let packet = buffer.get_mut(l3..end).ok_or(NoSpace)?;
    packet.copy_from_slice(&packet_of(mac, target, dst, flags));
    Ok(end)
}

/// An announcement that `addr` is at `mac`, to all nodes.
//= RFC 4861 section 7.2.6, Sending Unsolicited Neighbor Advertisements
#[must_use]
pub fn unsolicited_advertisement(
    mac: Mac,
    addr: Ipv6Addr,
    is_router: bool,
) -> [u8; ADVERTISEMENT_LEN] {
    let ethernet = Ethernet { dst: ALL_NODES_MAC, src: mac, ether_type: ether_type::IPV6.into() };
    let flags = if is_router { OVERRIDE | ROUTER } else { OVERRIDE };
    let mut frame = [0; ADVERTISEMENT_LEN];
    frame[..L3].copy_from_slice(ethernet.as_bytes());
    frame[L3..].copy_from_slice(&packet_of(mac, addr, ALL_NODES, flags));
    frame
}

/// The advertisement as an IPv6 packet from the address it is about.
fn packet_of(
    mac: Mac,
    target: Ipv6Addr,
    dst: Ipv6Addr,
    flags: u8,
) -> [u8; size_of::<Ipv6>() + MESSAGE_LEN] {
    let ip = Ipv6 {
        version_class_flow: VERSION_6.into(),
        payload_len: (MESSAGE_LEN as u16).into(),
        next_header: ip_protocol::ICMPV6,
        hop_limit: HOP_LIMIT,
        src: target.octets(),
        dst: dst.octets(),
    };
    let icmp = Icmp { kind: ADVERTISEMENT, code: 0, checksum: 0.into(), rest: [flags, 0, 0, 0] };
    let mut neighbour = Neighbour { icmp, target: target.octets() };
    let mut message = [0; MESSAGE_LEN];
    const OPTION: usize = size_of::<Neighbour>();
    message[..OPTION].copy_from_slice(neighbour.as_bytes());
    message[OPTION..OPTION + 2].copy_from_slice(&TARGET_LINK_LAYER);
    message[OPTION + 2..].copy_from_slice(&mac);
    let sum = pseudo_sum(target.into(), dst.into(), ip_protocol::ICMPV6, MESSAGE_LEN as u32);
    neighbour.icmp.checksum.set(internet_checksum(sum, &message));
    message[..OPTION].copy_from_slice(neighbour.as_bytes());
    let mut packet = [0; size_of::<Ipv6>() + MESSAGE_LEN];
    packet[..size_of::<Ipv6>()].copy_from_slice(ip.as_bytes());
    packet[size_of::<Ipv6>()..].copy_from_slice(&message);
    packet
}
