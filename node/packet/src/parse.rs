//! One checked pass over a frame.
//!
//! Guarantees: every offset in a [`Packet`] is inside the frame, and the header it points at is
//! complete; lengths that contradict each other are refused. Not checked: TCP, UDP, SCTP and
//! ICMP checksums (who they are for checks them).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    Arp, Chunk, Ethernet, Ipv4, Mac, Protocol, TcpFlags, ether_type,
    header::{DONT_FRAGMENT, VlanTag, view},
    ipv4::parse_ipv4,
    ipv6::parse_ipv6,
    vlan::VLAN_ID,
};

/// A frame, understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parsed {
    /// Destination address.
    pub dst_mac: Mac,
    /// Source address.
    pub src_mac: Mac,
    /// The VLAN id of a tagged frame.
    pub vlan: Option<u16>,
    /// What is in it.
    pub content: Content,
}

/// What is in a frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Content {
    /// An ARP request for IPv4 over Ethernet.
    ArpRequest(ArpRequest),
    /// Any other ARP.
    ArpOther,
    /// A neighbour solicitation: ARP's counterpart of IPv6.
    Solicitation(Solicitation),
    /// IPv4 or IPv6.
    Ip(Packet),
    /// Another EtherType.
    Other(u16),
}

/// An ARP request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ArpRequest {
    /// Where the ARP header starts.
    pub l3: usize,
    /// Who asks.
    pub sender: Ipv4Addr,
    /// For whom.
    pub target: Ipv4Addr,
}

/// A neighbour solicitation that is valid by RFC 4861 section 7.1.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Solicitation {
    /// Where the IPv6 header starts.
    pub l3: usize,
    /// Who asks; unspecified when it is not sure of its own address yet (RFC 4862 section 5.4).
    pub sender: Ipv6Addr,
    /// For whom.
    pub target: Ipv6Addr,
}

/// An IPv4 or IPv6 packet; offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Packet {
    /// Where the IP header starts.
    pub l3: usize,
    /// Where the transport header starts, after options and extension headers.
    pub l4: usize,
    /// Where the packet ends; padding may follow.
    pub end: usize,
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same family.
    pub dst: IpAddr,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// DSCP and ECN: the TOS octet, or the traffic class.
    pub tos: u8,
    /// Which part of a larger packet this is, if it is one.
    pub fragment: Option<Fragment>,
    /// The transport header.
    pub transport: Transport,
}

/// A part of a packet (RFC 791 section 3.2, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fragment {
    /// Which packet it is of: with addresses and protocol, the same in all its fragments.
    pub id: u32,
    /// The protocol of the packet it is of.
    pub protocol: u8,
    /// Where in that packet, in octets; 0: the first, which carries the transport header.
    pub offset: u32,
    /// Octets of that packet's payload in this part.
    pub len: u32,
    /// More follow.
    pub more: bool,
}

/// The longest payload that fragments may add up to (RFC 791 section 3.1).
const PAYLOAD_MAX: u32 = 65_535;
/// A TCP header without options.
const TCP_LEN: u32 = size_of::<crate::Tcp>() as u32;

/// A transport header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Transport {
    /// TCP.
    Tcp {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
        /// Flags.
        flags: TcpFlags,
    },
    /// UDP.
    Udp {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
    },
    /// SCTP.
    Sctp {
        /// Source port.
        src_port: u16,
        /// Destination port.
        dst_port: u16,
        /// The chunk that says what the packet means for the association.
        chunk: Chunk,
    },
    /// An ICMP or ICMPv6 echo request.
    EchoRequest,
    /// A fragment that is not the first: there is no transport header in it.
    Fragment,
    /// Another protocol, or another ICMP message.
    Other(u8),
}

/// Why a frame was refused.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum ParseError {
    /// It ends before its header does.
    #[error("the frame ends inside its {0} header")]
    Truncated(&'static str),
    /// A length field contradicts the frame.
    #[error("the {0} header has an impossible length")]
    Length(&'static str),
    /// Another version than the EtherType says.
    #[error("the IP version is not the one that the EtherType says")]
    Version,
    /// The header checksum is wrong.
    #[error("the IPv4 header checksum is wrong")]
    HeaderChecksum,
    /// A source route, or options that cannot be told apart.
    #[error("the IPv4 options are not acceptable")]
    Options,
    /// Extension headers that are not to be followed: too many, out of place, or a source route.
    #[error("the IPv6 extension headers are not acceptable")]
    Extension,
    /// A fragment that no honest sender makes.
    #[error("the fragment is empty, not whole, too far out, or hides a TCP header")]
    Fragment,
    /// An ICMP error whose quoted packet does not show whom it is about.
    #[error("the packet that the ICMP error quotes cannot be read")]
    Quote,
    /// A neighbour solicitation that RFC 4861 wants discarded.
    #[error("the neighbour solicitation is not valid")]
    Solicitation,
}

const ARP_REQUEST: u16 = 1;
const ETHERNET: u16 = 1;

/// Checks a frame and finds its headers.
pub fn parse(frame: &[u8]) -> Result<Parsed, ParseError> {
    let ethernet = view::<Ethernet>(frame, 0).ok_or(ParseError::Truncated("Ethernet"))?;
    let mut l3 = size_of::<Ethernet>();
    let mut ether_type = ethernet.ether_type.get();
    let mut vlan = None;
    if ether_type == ether_type::VLAN {
        let tag = view::<VlanTag>(frame, l3).ok_or(ParseError::Truncated("VLAN"))?;
        vlan = Some(tag.control.get() & VLAN_ID);
        ether_type = tag.ether_type.get();
        l3 += size_of::<VlanTag>();
    }
    let content = match ether_type {
        ether_type::IPV4 => Content::Ip(parse_ipv4(frame, l3)?),
        ether_type::ARP => parse_arp(frame, l3)?,
        ether_type::IPV6 => parse_ipv6(frame, l3)?,
        other => Content::Other(other),
    };
    Ok(Parsed { dst_mac: ethernet.dst, src_mac: ethernet.src, vlan, content })
}

impl Fragment {
    /// Refuses what is only made to get past a filter or to break who puts it together again.
    //= RFC 8200 section 4.5: all but the last are multiples of 8 octets long, and the whole is no
    //= longer than a packet can be; RFC 791 section 3.2 says the same
    //= RFC 1858 section 3.2.2, RFC 3128 section 3: no fragment of TCP starts inside its header
    pub(crate) fn check(self) -> Result<Self, ParseError> {
        const TCP: u8 = Protocol::Tcp as u8;
        let whole = self.len > 0 && (!self.more || self.len.is_multiple_of(8));
        let in_header = self.protocol == TCP && (1..TCP_LEN).contains(&self.offset);
        let is_good = whole && !in_header && self.offset + self.len <= PAYLOAD_MAX;
        if is_good { Ok(self) } else { Err(ParseError::Fragment) }
    }
}

impl Packet {
    /// The 5-tuple as it stands in the packet, if it has one.
    #[must_use]
    pub fn tuple(&self) -> Option<(Protocol, u16, u16)> {
        match self.transport {
            Transport::Tcp { src_port, dst_port, .. } => Some((Protocol::Tcp, src_port, dst_port)),
            Transport::Udp { src_port, dst_port } => Some((Protocol::Udp, src_port, dst_port)),
            Transport::Sctp { src_port, dst_port, .. } => {
                Some((Protocol::Sctp, src_port, dst_port))
            }
            _ => None,
        }
    }

    /// Length of the IP packet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.end.saturating_sub(self.l3)
    }

    /// Never: a packet has a header.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Routers may fragment it: IPv4 without DF. `frame` is what it was read from.
    #[must_use]
    pub fn may_be_fragmented(&self, frame: &[u8]) -> bool {
        let dont_fragment = |ip: &Ipv4| ip.fragment.get() & DONT_FRAGMENT != 0;
        !self.is_ipv6() && !view::<Ipv4>(frame, self.l3).is_some_and(dont_fragment)
    }

    /// IPv6.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        self.src.is_ipv6()
    }
}

fn parse_arp(frame: &[u8], l3: usize) -> Result<Content, ParseError> {
    let arp = view::<Arp>(frame, l3).ok_or(ParseError::Truncated("ARP"))?;
    let is_request = arp.hardware == ETHERNET
        && arp.protocol == ether_type::IPV4
        && (arp.hardware_len, arp.protocol_len) == (6, 4)
        && arp.operation == ARP_REQUEST;
    if !is_request {
        return Ok(Content::ArpOther);
    }
    let (sender, target) = (arp.sender.into(), arp.target.into());
    Ok(Content::ArpRequest(ArpRequest { l3, sender, target }))
}
