//! The tables of the steering program, seen from user space: keys, values, limits, counter names.
//!
//! The other side is bpf/steer.h; a test compares the two through the object file.

use std::net::{IpAddr, Ipv6Addr};

/// Addresses that are VIPs or gateway addresses, per interface.
pub const VIPS_MAX: u32 = 16384;
/// Servers of NAT pools (address, protocol, port), per interface.
pub const NAT_SOURCES_MAX: u32 = 65536;
/// Addresses of the node itself.
pub const LOCAL_ADDRESSES_MAX: u32 = 1024;
/// Receive queues of an interface that can have a socket.
pub const QUEUES_MAX: u32 = 64;

/// VLANs of an interface that segments are on.
pub const VLANS_MAX: u32 = 64;

/// Answers of NAT pools whose fragments are under way, per interface.
pub const NAT_FRAGMENTS_MAX: u32 = 8192;

/// A 16-byte address, IPv4 as IPv4-mapped IPv6.
pub(crate) type AddressKey = [u8; 16];
/// `struct nat_source`: address, port in network order, protocol, zero.
pub(crate) type SourceKey = [u8; 20];
/// `struct settings`: own MAC, virtual MAC, whether there is one.
pub(crate) type SettingsValue = [u8; 16];

/// What an address is to the steering program.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u32)]
pub enum AddressRole {
    /// A VIP: every packet is ours.
    Vip = 1,
    /// A gateway address of a NAT pool: ARP and ICMP are ours, the rest is the kernel's.
    Gateway = 2,
}

/// A server of a NAT pool: packets from here that are not for the node itself are ours.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct NatSource {
    /// The server's address.
    pub address: IpAddr,
    /// The IP protocol number: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// The server's ports, from the first to the last.
    pub ports: (u16, u16),
}

impl NatSource {
    pub(crate) fn key(&self) -> SourceKey {
        let mut key = SourceKey::default();
        key[..16].copy_from_slice(&address_key(self.address));
        let (first, last) = self.ports;
        let port = if first == last { first } else { 0 };
        key[16..18].copy_from_slice(&port.to_be_bytes());
        key[18] = self.protocol;
        key
    }

    /// The least range that has the ports of both: a server has one entry for its ranges.
    pub(crate) fn hull(&self, other: u32) -> u32 {
        let (first, last) = self.ports;
        let (other_first, other_last) = (other >> 16, other & 0xffff);
        u32::from(first).min(other_first) << 16 | u32::from(last).max(other_last)
    }

    pub(crate) fn value(&self) -> u32 {
        u32::from(self.ports.0) << 16 | u32::from(self.ports.1)
    }
}

/// The key of an address.
pub(crate) fn address_key(address: IpAddr) -> AddressKey {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
    }
}

/// The value of the one entry of `settings`.
pub(crate) fn settings_value(own: [u8; 6], virtual_mac: Option<[u8; 6]>) -> SettingsValue {
    let mut value = SettingsValue::default();
    value[..6].copy_from_slice(&own);
    if let Some(mac) = virtual_mac {
        value[6..12].copy_from_slice(&mac);
        value[12..].copy_from_slice(&1u32.to_ne_bytes());
    }
    value
}

/// What a table must look like to be reused.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Shape {
    /// `enum bpf_map_type`.
    pub(crate) kind: u32,
    pub(crate) key_size: u32,
    pub(crate) value_size: u32,
    pub(crate) max_entries: u32,
}

/// The tables by name.
pub(crate) const SHAPES: [(&str, Shape); 9] = [
    (VIPS, Shape { kind: 1, key_size: 16, value_size: 4, max_entries: VIPS_MAX }),
    (NAT_SOURCES, Shape { kind: 1, key_size: 20, value_size: 4, max_entries: NAT_SOURCES_MAX }),
    (NAT_FRAGMENTS, Shape { kind: 9, key_size: 40, value_size: 8, max_entries: NAT_FRAGMENTS_MAX }),
    (LOCAL, Shape { kind: 1, key_size: 16, value_size: 4, max_entries: LOCAL_ADDRESSES_MAX }),
    (VLANS, Shape { kind: 1, key_size: 4, value_size: 4, max_entries: VLANS_MAX }),
    (SETTINGS, Shape { kind: 2, key_size: 4, value_size: 16, max_entries: 1 }),
    (ANNOUNCE, Shape { kind: 2, key_size: 4, value_size: 8, max_entries: 1 }),
    (COUNTERS, Shape { kind: 6, key_size: 4, value_size: 8, max_entries: Counters::LEN as u32 }),
    (XSKS, Shape { kind: 17, key_size: 4, value_size: 4, max_entries: QUEUES_MAX }),
];

pub(crate) const VIPS: &str = "vips";
pub(crate) const NAT_SOURCES: &str = "nat_sources";
/// Written by the program alone.
pub(crate) const NAT_FRAGMENTS: &str = "nat_fragments";
pub(crate) const LOCAL: &str = "local_addresses";
pub(crate) const VLANS: &str = "vlans";
pub(crate) const SETTINGS: &str = "settings";
pub(crate) const ANNOUNCE: &str = "announce";
pub(crate) const COUNTERS: &str = "counters";
pub(crate) const XSKS: &str = "xsks";

/// What the steering program decided how often, since the tables were made.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Not ours, to the kernel.
    pub pass: u64,
    /// For another MAC, to the kernel.
    pub other_mac: u64,
    /// No whole header, to the kernel.
    pub malformed: u64,
    /// For a VIP, to a socket.
    pub vip: u64,
    /// ICMP for a gateway address, to a socket.
    pub gateway_icmp: u64,
    /// Return traffic of a NAT pool, to a socket.
    pub nat_return: u64,
    /// ICMP errors about packets to a NAT pool, to a socket.
    pub nat_icmp: u64,
    /// ARP for a VIP or gateway address, to a socket.
    pub arp: u64,
    /// ARP for a VIP or gateway address, dropped: not announcing.
    pub arp_mute: u64,
    /// Neighbour solicitations for a VIP or gateway address, to a socket.
    pub nd: u64,
    /// Neighbour solicitations for a VIP or gateway address, dropped: not announcing.
    pub nd_mute: u64,
    /// Ours, dropped: no socket on the queue.
    pub no_socket: u64,
    /// Tagged for a VLAN that no segment is on, to the kernel.
    pub other_vlan: u64,
}

impl Counters {
    /// How many counters there are.
    pub const LEN: usize = 13;

    /// Name and value of each, in the order of bpf/steer.h.
    pub fn entries(&self) -> [(&'static str, u64); Self::LEN] {
        [
            ("pass", self.pass),
            ("other_mac", self.other_mac),
            ("malformed", self.malformed),
            ("vip", self.vip),
            ("gateway_icmp", self.gateway_icmp),
            ("nat_return", self.nat_return),
            ("nat_icmp", self.nat_icmp),
            ("arp", self.arp),
            ("arp_mute", self.arp_mute),
            ("nd", self.nd),
            ("nd_mute", self.nd_mute),
            ("no_socket", self.no_socket),
            ("other_vlan", self.other_vlan),
        ]
    }

    pub(crate) fn from_values(values: [u64; Self::LEN]) -> Self {
        let [pass, other_mac, malformed, vip, gateway_icmp, nat_return, nat_icmp, rest @ ..] =
            values;
        let [arp, arp_mute, nd, nd_mute, no_socket, other_vlan] = rest;
        Self {
            pass,
            other_mac,
            malformed,
            vip,
            gateway_icmp,
            nat_return,
            nat_icmp,
            arp,
            arp_mute,
            nd,
            nd_mute,
            no_socket,
            other_vlan,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_laid_out_as_the_program_reads_them() {
        let source = NatSource {
            address: "198.18.0.1".parse().unwrap(),
            protocol: 17,
            ports: (0x1234, 0x1234),
        };
        let mut expected = [0u8; 20];
        expected[10..16].copy_from_slice(&[0xff, 0xff, 198, 18, 0, 1]);
        expected[16..19].copy_from_slice(&[0x12, 0x34, 17]);
        assert_eq!(source.key(), expected);
        let v6 = address_key("2001:db8::1".parse().unwrap());
        assert_eq!(v6, [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(settings_value([1; 6], None)[6..], [0; 10]);
        assert_eq!(settings_value([1; 6], Some([2; 6]))[6..13], [2, 2, 2, 2, 2, 2, 1]);
    }

    #[test]
    fn counters_keep_their_order() {
        let values: [u64; Counters::LEN] = std::array::from_fn(|index| index as u64);
        let entries = Counters::from_values(values).entries();
        assert!(entries.iter().enumerate().all(|(index, (_, value))| *value == index as u64));
    }
}
