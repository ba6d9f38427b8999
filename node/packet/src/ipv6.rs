//! Reading an IPv6 header and its extension headers (RFC 8200).
//!
//! Hop-by-hop and destination options and a routing header whose segments are all used up are
//! stepped over; what asks for more is refused, never guessed at.

use std::net::Ipv6Addr;

use crate::{
    Content, Fragment, Ipv6, Packet, ParseError, Solicitation, Transport,
    checksum::{internet_checksum, pseudo_sum},
    header::{FragmentHeader, Neighbour, ip_protocol, view},
    transport::parse_transport,
};

/// Extension headers that are followed in one packet. RFC 8200 section 4.1 names seven places.
const EXTENSIONS_MAX: usize = 8;

const SOLICITATION: u8 = 135;
/// A packet of the neighbour protocol crossed no router (RFC 4861 section 7.1.1).
const HOP_LIMIT_ON_LINK: u8 = 255;

pub(crate) fn parse_ipv6(frame: &[u8], l3: usize) -> Result<Content, ParseError> {
    let packet = parse_packet(frame, l3)?;
    if packet.transport == Transport::Other(ip_protocol::ICMPV6)
        && frame.get(packet.l4) == Some(&SOLICITATION)
    {
        return parse_solicitation(frame, &packet).map(Content::Solicitation);
    }
    Ok(Content::Ip(packet))
}

fn parse_packet(frame: &[u8], l3: usize) -> Result<Packet, ParseError> {
    let ip = view::<Ipv6>(frame, l3).ok_or(ParseError::Truncated("IPv6"))?;
    let word = ip.version_class_flow.get();
    if word >> 28 != 6 {
        return Err(ParseError::Version);
    }
    let first = l3 + size_of::<Ipv6>();
    let end = first + usize::from(ip.payload_len.get());
    let frame = frame.get(..end).ok_or(ParseError::Length("IPv6"))?;
    let Upper { protocol, l4, fragment } = step_over(frame, first, ip.next_header)?;
    let fragment = fragment.map(Fragment::check).transpose()?;
    let payload = frame.get(l4..).ok_or(ParseError::Length("IPv6"))?;
    let transport = match fragment {
        Some(Fragment { offset: 1.., .. }) => Transport::Fragment,
        _ => parse_transport(protocol, ip_protocol::ICMPV6, payload, fragment.is_some())?,
    };
    Ok(Packet {
        l3,
        l4,
        end,
        src: Ipv6Addr::from(ip.src).into(),
        dst: Ipv6Addr::from(ip.dst).into(),
        ttl: ip.hop_limit,
        tos: (word >> 20) as u8,
        fragment,
        transport,
    })
}

/// What comes after the extension headers.
pub(crate) struct Upper {
    pub(crate) protocol: u8,
    pub(crate) l4: usize,
    pub(crate) fragment: Option<Fragment>,
}

/// Steps over the extension headers that start at `first`; the packet ends where `frame` does.
pub(crate) fn step_over(frame: &[u8], first: usize, next_header: u8) -> Result<Upper, ParseError> {
    let (mut at, mut protocol, mut fragment) = (first, next_header, None);
    for place in 0..EXTENSIONS_MAX {
        match protocol {
            //= RFC 8200 section 4.1: hop-by-hop options stand first or not at all
            ip_protocol::HOP_BY_HOP if place > 0 => return Err(ParseError::Extension),
            ip_protocol::HOP_BY_HOP | ip_protocol::DESTINATION_OPTIONS | ip_protocol::ROUTING => {
                let head = view::<[u8; 4]>(frame, at).ok_or(ParseError::Truncated("extension"))?;
                let [next, len, _kind, segments_left] = *head;
                //= RFC 8200 section 4.4: only the node it is addressed to looks at the route; with
                //= segments left the VIP is not the last one, and a load balancer is no router
                if protocol == ip_protocol::ROUTING && segments_left != 0 {
                    return Err(ParseError::Extension);
                }
                protocol = next;
                at += (usize::from(len) + 1) * 8;
            }
            ip_protocol::FRAGMENT => {
                if fragment.is_some() {
                    return Err(ParseError::Extension);
                }
                let head =
                    view::<FragmentHeader>(frame, at).ok_or(ParseError::Truncated("fragment"))?;
                let offset_more = head.offset_more.get();
                let (offset, more) = (u32::from(offset_more & !7), offset_more & 1 != 0);
                protocol = head.next_header;
                at += size_of::<FragmentHeader>();
                //= RFC 8200 section 4.5: offset 0 and no more is a whole packet (RFC 6946)
                if offset != 0 || more {
                    let (id, len) = (head.id.get(), frame.len().saturating_sub(at) as u32);
                    fragment = Some(Fragment { id, protocol, offset, len, more });
                }
                if offset != 0 {
                    return Ok(Upper { protocol, l4: at, fragment });
                }
            }
            _ => return Ok(Upper { protocol, l4: at, fragment }),
        }
        if at > frame.len() {
            return Err(ParseError::Truncated("extension"));
        }
    }
    Err(ParseError::Extension)
}

//= RFC 4861 section 7.1.1, Validation of Neighbor Solicitations
fn parse_solicitation(frame: &[u8], packet: &Packet) -> Result<Solicitation, ParseError> {
    let invalid = ParseError::Solicitation;
    let (std::net::IpAddr::V6(sender), std::net::IpAddr::V6(dst)) = (packet.src, packet.dst) else {
        return Err(invalid);
    };
    let message = frame.get(packet.l4..packet.end).ok_or(invalid)?;
    let neighbour = view::<Neighbour>(message, 0).ok_or(invalid)?;
    let target = Ipv6Addr::from(neighbour.target);
    let len = u32::try_from(message.len()).map_err(|_| invalid)?;
    let sum = pseudo_sum(packet.src, packet.dst, ip_protocol::ICMPV6, len);
    let is_valid = packet.ttl == HOP_LIMIT_ON_LINK
        && packet.fragment.is_none()
        && neighbour.icmp.code == 0
        && !target.is_multicast()
        && internet_checksum(sum, message) == 0
        && options(message).is_some_and(|has_link_layer| {
            !sender.is_unspecified() || (!has_link_layer && is_solicited_node(dst))
        });
    if is_valid { Ok(Solicitation { l3: packet.l3, sender, target }) } else { Err(invalid) }
}

/// Walks the options; none when one is malformed, otherwise whether there is a source link-layer
/// address.
fn options(message: &[u8]) -> Option<bool> {
    const SOURCE_LINK_LAYER: u8 = 1;
    let mut rest = message.get(size_of::<Neighbour>()..)?;
    let mut has_link_layer = false;
    while let [kind, units, ..] = *rest {
        if units == 0 {
            return None;
        }
        has_link_layer |= kind == SOURCE_LINK_LAYER;
        rest = rest.get(usize::from(units) * 8..)?;
    }
    rest.is_empty().then_some(has_link_layer)
}

/// ff02::1:ffXX:XXXX (RFC 4291 section 2.7.1).
fn is_solicited_node(addr: Ipv6Addr) -> bool {
    matches!(addr.segments(), [0xff02, 0, 0, 0, 0, 1, 0xff00..=0xffff, _])
}
