//! Reading an IPv4 header (RFC 791).

use crate::{
    Fragment, Ipv4, Packet, ParseError, Transport,
    checksum::is_right,
    header::{ip_protocol, view},
    transport::parse_transport,
};

/// More fragments follow.
pub(crate) const MORE: u16 = 0x2000;
/// The offset, in units of eight octets.
pub(crate) const OFFSET: u16 = 0x1fff;

pub(crate) fn parse_ipv4(frame: &[u8], l3: usize) -> Result<Packet, ParseError> {
    let ip = view::<Ipv4>(frame, l3).ok_or(ParseError::Truncated("IPv4"))?;
    if ip.version_ihl >> 4 != 4 {
        return Err(ParseError::Version);
    }
    let header_len = usize::from(ip.version_ihl & 0x0f) * 4;
    let total_len = usize::from(ip.total_len.get());
    if header_len < size_of::<Ipv4>() || total_len < header_len {
        return Err(ParseError::Length("IPv4"));
    }
    let (l4, end) = (l3 + header_len, l3 + total_len);
    let header = frame.get(l3..l4).ok_or(ParseError::Truncated("IPv4"))?;
    let payload = frame.get(l4..end).ok_or(ParseError::Length("IPv4"))?;
    if !is_right(header) {
        return Err(ParseError::HeaderChecksum);
    }
    let field = ip.fragment.get();
    let fragment = (field & (MORE | OFFSET) != 0).then(|| Fragment {
        id: u32::from(ip.id.get()),
        protocol: ip.protocol,
        offset: u32::from(field & OFFSET) * 8,
        len: payload.len() as u32,
        more: field & MORE != 0,
    });
    let fragment = fragment.map(Fragment::check).transpose()?;
    let transport = match fragment {
        Some(Fragment { offset: 1.., .. }) => Transport::Fragment,
        _ => parse_transport(ip.protocol, ip_protocol::ICMP, payload, fragment.is_some())?,
    };
    Ok(Packet {
        l3,
        l4,
        end,
        src: std::net::Ipv4Addr::from(ip.src).into(),
        dst: std::net::Ipv4Addr::from(ip.dst).into(),
        ttl: ip.ttl,
        tos: ip.tos,
        fragment,
        transport,
    })
}
