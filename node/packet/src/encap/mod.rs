//! A packet inside another: IPIP, GUE and GRE, each over IPv4 and IPv6.
//!
//! Guarantees: the inner packet is not touched; all checksums of the outer headers are computed in
//! full; outer headers are written in front of the inner packet, so nothing is moved. Not here:
//! whether the result fits the way ([`Tunnel::overhead`] says what it adds), decapsulation.

mod ecn;
mod header;

use std::net::IpAddr;

use zerocopy::IntoBytes;

use self::{
    ecn::outer_traffic_class,
    header::{Gre, GreChecksum, Gue},
};
use crate::{
    Ethernet, Ipv4, Ipv6, Packet, Udp,
    answer::NoSpace,
    checksum::{internet_checksum, pseudo_sum},
    ether_type,
    header::{DONT_FRAGMENT, ip_protocol, view},
};

/// How packets are carried to another host. The names are those of `ipvsadm --tun-type`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Tunnel {
    /// The packet right behind an IP header: 4in4 (RFC 2003), 4in6 and 6in6 (RFC 2473), 6in4
    /// (RFC 4213).
    IpIp,
    /// Generic UDP encapsulation, variant 0 without optional fields (draft-ietf-intarea-gue).
    Gue {
        /// The UDP port the real servers listen on.
        port: u16,
        /// The UDP checksum.
        checksum: UdpChecksum,
    },
    /// Generic routing encapsulation without a key (RFC 2784).
    Gre {
        /// The checksum field is present, over header and packet.
        checksum: bool,
    },
}

/// When the UDP header of a tunnel has a checksum.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum UdpChecksum {
    /// Over IPv6 only, where a packet without one is dropped unless the receiver was told
    /// (RFC 8200 section 8.1, RFC 6935 section 5).
    #[default]
    ByFamily,
    /// Always.
    On,
    /// Never; over IPv6 the servers must be set to take it (RFC 6936 section 4).
    Off,
}

/// The outer packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Outer {
    /// How the packet is carried.
    pub tunnel: Tunnel,
    /// Who sends it: an address of this node.
    pub src: IpAddr,
    /// The real server, of the same family.
    pub dst: IpAddr,
    /// The same for all packets of a flow: it spreads flows over queues (RSS) and ways (ECMP), as
    /// GUE's source port and as flow label of IPv6.
    pub flow_hash: u32,
    /// Identification of an outer IPv4 packet that may be fragmented on its way (RFC 6864).
    pub id: u16,
}

/// Where an encapsulated packet lies in its buffer, with an Ethernet header whose addresses are
/// not set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Encapsulated {
    /// Where the frame starts.
    pub start: usize,
    /// Length of the frame.
    pub len: usize,
}

/// The most that [`encapsulate`] needs in front of the inner packet: Ethernet, IPv6, UDP and GUE.
pub const OUTER_LEN_MAX: usize =
    size_of::<Ethernet>() + size_of::<Ipv6>() + size_of::<Udp>() + size_of::<Gue>();

/// Source ports of GUE: the dynamic ones (RFC 6335 section 6), 14 bits of entropy.
//= draft-ietf-intarea-gue section 5.11: the source port should be in 49152 to 65535
const SOURCE_PORT_BASE: u16 = 0xc000;

const FLOW_LABEL: u32 = 0x000f_ffff;
const VERSION_6: u32 = 6 << 28;

impl Tunnel {
    /// Bytes that the tunnel adds to a packet, over an outer IPv4 or IPv6.
    #[must_use]
    pub fn overhead(self, outer_is_ipv6: bool) -> usize {
        let ip = if outer_is_ipv6 { size_of::<Ipv6>() } else { size_of::<Ipv4>() };
        ip + self.shim_len()
    }

    /// An outer packet of this protocol may be one of it.
    #[must_use]
    pub fn may_have_sent(self, protocol: u8) -> bool {
        [false, true].map(|inner_is_ipv6| self.protocol(inner_is_ipv6)).contains(&protocol)
    }

    /// Bytes between the outer IP header and the inner packet.
    fn shim_len(self) -> usize {
        match self {
            Self::IpIp => 0,
            Self::Gue { .. } => size_of::<Udp>() + size_of::<Gue>(),
            Self::Gre { checksum: false } => size_of::<Gre>(),
            Self::Gre { checksum: true } => size_of::<Gre>() + size_of::<GreChecksum>(),
        }
    }

    /// The protocol number in the outer IP header.
    fn protocol(self, inner_is_ipv6: bool) -> u8 {
        match self {
            Self::IpIp => inner_protocol(inner_is_ipv6),
            Self::Gue { .. } => ip_protocol::UDP,
            Self::Gre { .. } => ip_protocol::GRE,
        }
    }
}

impl UdpChecksum {
    fn is_on(self, outer_is_ipv6: bool) -> bool {
        match self {
            Self::ByFamily => outer_is_ipv6,
            Self::On => true,
            Self::Off => false,
        }
    }
}

/// Writes outer headers in front of `packet`, whose frame starts at `start` of `buffer`. Call it
/// after the inner TTL was decremented: the outer one is a copy.
pub fn encapsulate(
    buffer: &mut [u8],
    start: usize,
    packet: &Packet,
    outer: &Outer,
) -> Result<Encapsulated, NoSpace> {
    let outer_is_ipv6 = outer.dst.is_ipv6();
    let inner = start.checked_add(packet.l3).ok_or(NoSpace)?;
    let end = start.checked_add(packet.end).ok_or(NoSpace)?;
    let shim = inner.checked_sub(outer.tunnel.shim_len()).ok_or(NoSpace)?;
    let l3 = inner.checked_sub(outer.tunnel.overhead(outer_is_ipv6)).ok_or(NoSpace)?;
    let frame = l3.checked_sub(size_of::<Ethernet>()).ok_or(NoSpace)?;
    let length = end.checked_sub(l3).and_then(|len| u16::try_from(len).ok()).ok_or(NoSpace)?;
    if end > buffer.len() {
        return Err(NoSpace);
    }
    let inherited = Inherited::of(buffer, inner, packet).ok_or(NoSpace)?;
    put_shim(&mut buffer[shim..end], packet.is_ipv6(), outer);
    let protocol = outer.tunnel.protocol(packet.is_ipv6());
    let header = &mut buffer[l3..shim];
    match (outer.src, outer.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let mut ip = Ipv4 {
                version_ihl: 0x45,
                tos: inherited.traffic_class,
                total_len: length.into(),
                //= RFC 6864 section 4.1: an atomic datagram's identification means nothing
                id: if inherited.dont_fragment { 0 } else { outer.id }.into(),
                fragment: if inherited.dont_fragment { DONT_FRAGMENT } else { 0 }.into(),
                ttl: inherited.ttl,
                protocol,
                checksum: 0.into(),
                src: src.octets(),
                dst: dst.octets(),
            };
            ip.checksum.set(internet_checksum(0, ip.as_bytes()));
            header.copy_from_slice(ip.as_bytes());
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            //= RFC 6438 section 3: the flow label is a hash of the inner flow
            let label = outer.flow_hash & FLOW_LABEL;
            let class = u32::from(inherited.traffic_class) << 20;
            let ip = Ipv6 {
                version_class_flow: (VERSION_6 | class | label).into(),
                payload_len: (length - size_of::<Ipv6>() as u16).into(),
                next_header: protocol,
                hop_limit: inherited.ttl,
                src: src.octets(),
                dst: dst.octets(),
            };
            header.copy_from_slice(ip.as_bytes());
        }
        _ => return Err(NoSpace),
    }
    let kind = if outer_is_ipv6 { ether_type::IPV6 } else { ether_type::IPV4 };
    let ethernet = Ethernet { dst: [0; 6], src: [0; 6], ether_type: kind.into() };
    buffer[frame..l3].copy_from_slice(ethernet.as_bytes());
    Ok(Encapsulated { start: frame, len: end - frame })
}

/// What the outer header has from the inner one.
struct Inherited {
    ttl: u8,
    traffic_class: u8,
    dont_fragment: bool,
}

impl Inherited {
    //= Linux ip_vs_xmit.c, ip_vs_prepare_tunneled_skb() with pmtu_disc=1: the outer TTL is the inner
    //= one after the decrement, the outer DF is the inner DF
    fn of(buffer: &[u8], inner: usize, packet: &Packet) -> Option<Self> {
        let traffic_class = outer_traffic_class(packet.tos);
        if packet.is_ipv6() {
            //= RFC 4213 section 3.2.1: with a fixed tunnel MTU, DF is not set in the outer header
            let ttl = view::<Ipv6>(buffer, inner)?.hop_limit;
            return Some(Self { ttl, traffic_class, dont_fragment: false });
        }
        let ip = view::<Ipv4>(buffer, inner)?;
        let dont_fragment = ip.fragment.get() & DONT_FRAGMENT != 0;
        Some(Self { ttl: ip.ttl, traffic_class, dont_fragment })
    }
}

/// Writes what stands between the outer IP header and the inner packet; `bytes` is both.
fn put_shim(bytes: &mut [u8], inner_is_ipv6: bool, outer: &Outer) {
    match outer.tunnel {
        Tunnel::IpIp => {}
        Tunnel::Gue { port, checksum } => {
            let src_port = SOURCE_PORT_BASE | (outer.flow_hash & 0x3fff) as u16;
            let len = bytes.len() as u16;
            let mut udp = Udp {
                src_port: src_port.into(),
                dst_port: port.into(),
                len: len.into(),
                checksum: 0.into(),
            };
            let gue = Gue {
                variant_control_hlen: 0,
                protocol: inner_protocol(inner_is_ipv6),
                flags: 0.into(),
            };
            const GUE: usize = size_of::<Udp>();
            bytes[..GUE].copy_from_slice(udp.as_bytes());
            bytes[GUE..GUE + size_of::<Gue>()].copy_from_slice(gue.as_bytes());
            if checksum.is_on(outer.dst.is_ipv6()) {
                let sum = pseudo_sum(outer.src, outer.dst, ip_protocol::UDP, u32::from(len));
                //= RFC 768: a computed 0 is sent as all ones
                let checksum = match internet_checksum(sum, bytes) {
                    0 => 0xffff,
                    checksum => checksum,
                };
                udp.checksum.set(checksum);
                bytes[..GUE].copy_from_slice(udp.as_bytes());
            }
        }
        Tunnel::Gre { checksum } => {
            let protocol = if inner_is_ipv6 { ether_type::IPV6 } else { ether_type::IPV4 };
            let flags = if checksum { header::GRE_CHECKSUM } else { 0 };
            let gre = Gre { flags: flags.into(), protocol: protocol.into() };
            const FIELD: usize = size_of::<Gre>();
            bytes[..FIELD].copy_from_slice(gre.as_bytes());
            if checksum {
                const END: usize = FIELD + size_of::<GreChecksum>();
                let mut field = GreChecksum { checksum: 0.into(), reserved: 0.into() };
                bytes[FIELD..END].copy_from_slice(field.as_bytes());
                //= RFC 2784 section 2.2: over the GRE header and the payload
                field.checksum.set(internet_checksum(0, bytes));
                bytes[FIELD..END].copy_from_slice(field.as_bytes());
            }
        }
    }
}

fn inner_protocol(is_ipv6: bool) -> u8 {
    if is_ipv6 { ip_protocol::IPV6 } else { ip_protocol::IPIP }
}
