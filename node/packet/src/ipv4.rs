//! Reading an IPv4 header (RFC 791).
//!
//! Options that only record or pad are stepped over and stay; a source route is refused, and so is a
//! list that cannot be told apart.

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

/// Options (RFC 791 section 3.1): the end of the list, one octet of padding.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
/// Loose and strict source route.
const LSRR: u8 = 131;
const SSRR: u8 = 137;

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
    check_options(&header[size_of::<Ipv4>()..])?;
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

/// Walks the options of a header.
//= RFC 7126 sections 4.3.5 and 4.4.5: packets with a source route are dropped by default, as the
//= kernel does without `accept_source_route`; what hides one behind a wrong length goes with them
fn check_options(mut rest: &[u8]) -> Result<(), ParseError> {
    loop {
        rest = match *rest {
            [] | [END, ..] => return Ok(()),
            [NO_OPERATION, ..] => &rest[1..],
            [LSRR | SSRR, ..] => return Err(ParseError::Options),
            //= RFC 791 section 3.1: the length counts the octets of type and length too
            [_, len, ..] if len >= 2 => rest.get(usize::from(len)..).ok_or(ParseError::Options)?,
            _ => return Err(ParseError::Options),
        };
    }
}
