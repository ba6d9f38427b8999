//! Reading transport headers.

use crate::{
    Icmp, ParseError, Protocol, Tcp, TcpFlags, Transport, Udp,
    header::{ip_protocol, view},
};

const ECHO_REQUEST: u8 = 8;
const ECHO_REQUEST_V6: u8 = 128;

/// Reads the header at the start of `payload`; `icmp` is the number that ICMP has in this family. In a first fragment the length fields speak of the
/// whole packet, so they may say more than is there.
//= RFC 1858 section 4: a first fragment that ends inside its transport header is refused
pub(crate) fn parse_transport(
    protocol: u8,
    icmp: u8,
    payload: &[u8],
    is_fragment: bool,
) -> Result<Transport, ParseError> {
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
            if len < size_of::<Udp>() || (len > payload.len() && !is_fragment) {
                return Err(ParseError::Length("UDP"));
            }
            Ok(Transport::Udp { src_port: udp.src_port.get(), dst_port: udp.dst_port.get() })
        }
        _ if protocol == icmp => {
            let message = view::<Icmp>(payload, 0).ok_or(ParseError::Truncated("ICMP"))?;
            let echo = if icmp == ip_protocol::ICMP { ECHO_REQUEST } else { ECHO_REQUEST_V6 };
            let is_request = (message.kind, message.code) == (echo, 0) && !is_fragment;
            Ok(if is_request { Transport::EchoRequest } else { Transport::Other(protocol) })
        }
        other => Ok(Transport::Other(other)),
    }
}
