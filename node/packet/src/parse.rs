//! One checked pass over a frame.
//!
//! Guarantees: every offset in [`Ipv4Packet`] is inside the frame, and the header it points at is
//! complete; lengths that contradict each other are refused. Not checked: TCP, UDP and ICMP
//! checksums (who they are for checks them).

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::{
    Arp, Ethernet, Icmp, Ipv4, Mac, Protocol, Tcp, TcpFlags, Udp, checksum::internet_checksum,
    ether_type, header::view,
};

/// A frame, understood.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Parsed {
    /// Destination address.
    pub dst_mac: Mac,
    /// Source address.
    pub src_mac: Mac,
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
    /// IPv4.
    Ipv4(Ipv4Packet),
    /// IPv6.
    Ipv6 {
        /// Destination.
        dst: Ipv6Addr,
    },
    /// Another EtherType.
    Other(u16),
}

/// An ARP request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ArpRequest {
    /// Who asks.
    pub sender: Ipv4Addr,
    /// For whom.
    pub target: Ipv4Addr,
}

/// An IPv4 packet; offsets count from the start of the frame.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ipv4Packet {
    /// Where the IPv4 header starts.
    pub l3: usize,
    /// Where the transport header starts, after options.
    pub l4: usize,
    /// Where the packet ends; padding may follow.
    pub end: usize,
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Time to live.
    pub ttl: u8,
    /// The transport header.
    pub transport: Transport,
}

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
    /// An ICMP echo request.
    EchoRequest,
    /// A fragment: there may be no transport header in it.
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
    /// Not version 4.
    #[error("an IPv4 frame carries another version")]
    Version,
    /// The header checksum is wrong.
    #[error("the IPv4 header checksum is wrong")]
    HeaderChecksum,
}

const L3: usize = size_of::<Ethernet>();
const ICMP: u8 = 1;
const ECHO_REQUEST: u8 = 8;
const ARP_REQUEST: u16 = 1;
const ETHERNET: u16 = 1;
/// More fragments, or an offset.
const FRAGMENT_MASK: u16 = 0x3fff;

/// Checks a frame and finds its headers.
pub fn parse(frame: &[u8]) -> Result<Parsed, ParseError> {
    let ethernet = view::<Ethernet>(frame, 0).ok_or(ParseError::Truncated("Ethernet"))?;
    let content = match ethernet.ether_type.get() {
        ether_type::IPV4 => Content::Ipv4(parse_ipv4(frame)?),
        ether_type::ARP => parse_arp(frame)?,
        ether_type::IPV6 => parse_ipv6(frame)?,
        other => Content::Other(other),
    };
    Ok(Parsed { dst_mac: ethernet.dst, src_mac: ethernet.src, content })
}

impl Ipv4Packet {
    /// The 5-tuple as it stands in the packet, if it has one.
    #[must_use]
    pub fn tuple(&self) -> Option<(Protocol, u16, u16)> {
        match self.transport {
            Transport::Tcp { src_port, dst_port, .. } => Some((Protocol::Tcp, src_port, dst_port)),
            Transport::Udp { src_port, dst_port } => Some((Protocol::Udp, src_port, dst_port)),
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
}

fn parse_arp(frame: &[u8]) -> Result<Content, ParseError> {
    let arp = view::<Arp>(frame, L3).ok_or(ParseError::Truncated("ARP"))?;
    let is_request = arp.hardware == ETHERNET
        && arp.protocol == ether_type::IPV4
        && (arp.hardware_len, arp.protocol_len) == (6, 4)
        && arp.operation == ARP_REQUEST;
    if !is_request {
        return Ok(Content::ArpOther);
    }
    let (sender, target) = (arp.sender.into(), arp.target.into());
    Ok(Content::ArpRequest(ArpRequest { sender, target }))
}

fn parse_ipv6(frame: &[u8]) -> Result<Content, ParseError> {
    /// Where the destination lies in an IPv6 header (RFC 8200 section 3).
    const DST: usize = L3 + 24;
    let dst = view::<[u8; 16]>(frame, DST).ok_or(ParseError::Truncated("IPv6"))?;
    Ok(Content::Ipv6 { dst: (*dst).into() })
}

fn parse_ipv4(frame: &[u8]) -> Result<Ipv4Packet, ParseError> {
    let ip = view::<Ipv4>(frame, L3).ok_or(ParseError::Truncated("IPv4"))?;
    if ip.version_ihl >> 4 != 4 {
        return Err(ParseError::Version);
    }
    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    let total_len = usize::from(ip.total_len.get());
    if header_len < size_of::<Ipv4>() || total_len < header_len {
        return Err(ParseError::Length("IPv4"));
    }
    let (l4, end) = (L3 + header_len, L3 + total_len);
    let header = frame.get(L3..l4).ok_or(ParseError::Truncated("IPv4"))?;
    let payload = frame.get(l4..end).ok_or(ParseError::Length("IPv4"))?;
    if internet_checksum(0, header) != 0 {
        return Err(ParseError::HeaderChecksum);
    }
    let transport = if ip.fragment.get() & FRAGMENT_MASK != 0 {
        Transport::Fragment
    } else {
        parse_transport(ip.protocol, payload)?
    };
    let (src, dst) = (ip.src.into(), ip.dst.into());
    Ok(Ipv4Packet { l3: L3, l4, end, src, dst, ttl: ip.ttl, transport })
}

fn parse_transport(protocol: u8, payload: &[u8]) -> Result<Transport, ParseError> {
    const TCP: u8 = Protocol::Tcp as u8;
    const UDP: u8 = Protocol::Udp as u8;
    match protocol {
        TCP => {
            let tcp = view::<Tcp>(payload, 0).ok_or(ParseError::Truncated("TCP"))?;
            let header_len = usize::from(tcp.offset >> 4) * 4;
            if header_len < size_of::<Tcp>() || header_len > payload.len() {
                return Err(ParseError::Length("TCP"));
            }
            let (src_port, dst_port) = (tcp.src_port.get(), tcp.dst_port.get());
            Ok(Transport::Tcp { src_port, dst_port, flags: TcpFlags(tcp.flags) })
        }
        UDP => {
            let udp = view::<Udp>(payload, 0).ok_or(ParseError::Truncated("UDP"))?;
            let len = usize::from(udp.len.get());
            if len < size_of::<Udp>() || len > payload.len() {
                return Err(ParseError::Length("UDP"));
            }
            Ok(Transport::Udp { src_port: udp.src_port.get(), dst_port: udp.dst_port.get() })
        }
        ICMP => {
            let icmp = view::<Icmp>(payload, 0).ok_or(ParseError::Truncated("ICMP"))?;
            let is_request = (icmp.kind, icmp.code) == (ECHO_REQUEST, 0);
            Ok(if is_request { Transport::EchoRequest } else { Transport::Other(ICMP) })
        }
        other => Ok(Transport::Other(other)),
    }
}
