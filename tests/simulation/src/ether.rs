//! Frames of the segment: who has which address, and how frames are written and read.
//!
//! Guarantees: what [`read`] gives had good checksums.

use std::net::Ipv4Addr;

use steadfast_packet::{Mac, internet_checksum};

use crate::queue::Device;

/// To all.
pub(crate) const BROADCAST: Mac = [0xff; 6];
/// Finish.
pub(crate) const FIN: u8 = 0x01;
/// Open.
pub(crate) const SYN: u8 = 0x02;
/// Reset.
pub(crate) const RST: u8 = 0x04;
/// Push.
pub(crate) const PSH: u8 = 0x08;
/// Acknowledge.
pub(crate) const ACK: u8 = 0x10;

/// Number of TCP.
pub(crate) const TCP: u8 = 6;
/// Number of UDP.
pub(crate) const UDP: u8 = 17;

const ETHER: usize = 14;
const IP: usize = 20;
const ARP_LEN: usize = 42;

/// A node's address on one of its ports.
#[must_use]
pub(crate) fn node_ip(node: u32, port: u16) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, port as u8, 200 + node as u8)
}

/// A client's address.
#[must_use]
pub(crate) fn client_ip(client: u16) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, 0, 10 + client as u8)
}

/// A server's address: that of port 0 in front, of port 1 at the back.
#[must_use]
pub(crate) fn server_ip(server: u16, port: u16) -> Ipv4Addr {
    Ipv4Addr::new(198, 18, port as u8, 50 + server as u8)
}

/// The MAC address of a device.
#[must_use]
pub(crate) fn mac(device: Device) -> Mac {
    let (kind, port, number) = match device {
        Device::Node(node, port) => (0, port, node.0 as u8),
        Device::Client(client) => (1, 0, client as u8),
        Device::Server(server) => (2, 0, server as u8),
    };
    [2, 0, 0, kind, port as u8, number]
}

/// Whose MAC address it is.
#[must_use]
pub(crate) fn device(mac: Mac) -> Option<Device> {
    let [2, 0, 0, kind, port, number] = mac else { return None };
    Some(match kind {
        0 => Device::Node(steadfast_model::NodeId(u32::from(number)), u16::from(port)),
        1 => Device::Client(u16::from(number)),
        2 => Device::Server(u16::from(number)),
        _ => return None,
    })
}

/// An IPv4 packet of TCP or UDP.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Segment {
    /// From which host.
    pub src_mac: Mac,
    /// To which host.
    pub dst_mac: Mac,
    /// [`TCP`] or [`UDP`].
    pub protocol: u8,
    /// From.
    pub src: (Ipv4Addr, u16),
    /// To.
    pub dst: (Ipv4Addr, u16),
    /// Of TCP.
    pub flags: u8,
    /// Of TCP.
    pub seq: u32,
    /// Of TCP.
    pub ack: u32,
    /// What it carries: at most one of the fixed size.
    pub data: Option<Data>,
}

/// What clients and servers tell each other.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Data {
    /// The session; never used twice.
    pub session: u64,
    /// Counts questions of the session.
    pub number: u32,
    /// Who answers; 0 in a question.
    pub server: u16,
}

const DATA: usize = 14;

/// What was read from a frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Read {
    /// TCP or UDP.
    Segment(Segment),
    /// Somebody asks for `target`, or says where `sender` is.
    Arp {
        /// A question.
        request: bool,
        /// Whose.
        sender: (Mac, Ipv4Addr),
        /// About whom.
        target: Ipv4Addr,
    },
    /// Something else, or damaged.
    Other,
}

/// Writes a packet.
#[must_use]
pub(crate) fn write(segment: &Segment) -> Vec<u8> {
    let l4 = if segment.protocol == TCP { 20 } else { 8 };
    let data = if segment.data.is_some() { DATA } else { 0 };
    let total = IP + l4 + data;
    let mut frame = Vec::with_capacity(ETHER + total);
    frame.extend_from_slice(&segment.dst_mac);
    frame.extend_from_slice(&segment.src_mac);
    frame.extend_from_slice(&[0x08, 0x00]);
    frame.extend_from_slice(&[0x45, 0]);
    frame.extend_from_slice(&(total as u16).to_be_bytes());
    frame.extend_from_slice(&[0, 0, 0x40, 0, 64, segment.protocol, 0, 0]);
    frame.extend_from_slice(&segment.src.0.octets());
    frame.extend_from_slice(&segment.dst.0.octets());
    let sum = internet_checksum(0, &frame[ETHER..]);
    frame[ETHER + 10..ETHER + 12].copy_from_slice(&sum.to_be_bytes());
    let start = frame.len();
    frame.extend_from_slice(&segment.src.1.to_be_bytes());
    frame.extend_from_slice(&segment.dst.1.to_be_bytes());
    if segment.protocol == TCP {
        frame.extend_from_slice(&segment.seq.to_be_bytes());
        frame.extend_from_slice(&segment.ack.to_be_bytes());
        frame.extend_from_slice(&[0x50, segment.flags, 0x20, 0, 0, 0, 0, 0]);
    } else {
        frame.extend_from_slice(&((l4 + data) as u16).to_be_bytes());
        frame.extend_from_slice(&[0, 0]);
    }
    if let Some(data) = segment.data {
        frame.extend_from_slice(&data.session.to_be_bytes());
        frame.extend_from_slice(&data.number.to_be_bytes());
        frame.extend_from_slice(&data.server.to_be_bytes());
    }
    let at = start + if segment.protocol == TCP { 16 } else { 6 };
    let sum = l4_checksum(&frame, start, segment.protocol);
    // RFC 768: zero would say that there is none.
    let sum = if segment.protocol == UDP && sum == 0 { u16::MAX } else { sum };
    frame[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Over the pseudo header too; zero for what is right.
fn l4_checksum(frame: &[u8], start: usize, protocol: u8) -> u16 {
    let l4 = &frame[start..];
    let mut pseudo = [0; 12];
    pseudo[..8].copy_from_slice(&frame[ETHER + 12..ETHER + 20]);
    pseudo[9] = protocol;
    pseudo[10..].copy_from_slice(&(l4.len() as u16).to_be_bytes());
    let words = pseudo.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    internet_checksum(words.sum(), l4)
}

/// Reads a frame as a host does.
#[must_use]
pub(crate) fn read(frame: &[u8]) -> Read {
    let kind = frame.get(12..14);
    match kind {
        Some([0x08, 0x06]) if frame.len() >= ARP_LEN => read_arp(frame),
        Some([0x08, 0x00]) if frame.len() >= ETHER + IP + 8 => {
            read_ip(frame).unwrap_or(Read::Other)
        }
        _ => Read::Other,
    }
}

fn read_arp(frame: &[u8]) -> Read {
    let addr = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
    let mut mac = [0; 6];
    mac.copy_from_slice(&frame[22..28]);
    Read::Arp { request: frame[21] == 1, sender: (mac, addr(28)), target: addr(38) }
}

fn read_ip(frame: &[u8]) -> Option<Read> {
    let at16 = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let at32 = |at: usize| Some(u32::from(at16(at)?) << 16 | u32::from(at16(at + 2)?));
    if frame[ETHER] != 0x45 || internet_checksum(0, &frame[ETHER..ETHER + IP]) != 0 {
        return None;
    }
    let total = usize::from(at16(ETHER + 2)?);
    let frame = frame.get(..ETHER + total)?;
    let protocol = frame[ETHER + 9];
    let l4 = ETHER + IP;
    if !matches!(protocol, TCP | UDP) || l4_checksum(frame, l4, protocol) != 0 {
        return None;
    }
    let header = if protocol == TCP { usize::from(*frame.get(l4 + 12)? >> 4) * 4 } else { 8 };
    let payload = l4 + header;
    let data = (frame.len() >= payload + DATA).then(|| {
        Some(Data {
            session: u64::from(at32(payload)?) << 32 | u64::from(at32(payload + 4)?),
            number: at32(payload + 8)?,
            server: at16(payload + 12)?,
        })
    });
    let (mut src_mac, mut dst_mac) = ([0; 6], [0; 6]);
    dst_mac.copy_from_slice(&frame[..6]);
    src_mac.copy_from_slice(&frame[6..12]);
    Some(Read::Segment(Segment {
        src_mac,
        dst_mac,
        protocol,
        src: (at32(ETHER + 12)?.into(), at16(l4)?),
        dst: (at32(ETHER + 16)?.into(), at16(l4 + 2)?),
        flags: if protocol == TCP { *frame.get(l4 + 13)? } else { 0 },
        seq: if protocol == TCP { at32(l4 + 4)? } else { 0 },
        ack: if protocol == TCP { at32(l4 + 8)? } else { 0 },
        data: data.flatten(),
    }))
}

/// The question who has an address.
#[must_use]
pub(crate) fn arp_request(from: Mac, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(ARP_LEN);
    frame.extend_from_slice(&BROADCAST);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&[0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend_from_slice(&from);
    frame.extend_from_slice(&sender.octets());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&target.octets());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_what_is_damaged_is_not() {
        for (protocol, data) in [(TCP, true), (TCP, false), (UDP, true), (UDP, false)] {
            let segment = Segment {
                src_mac: mac(Device::Client(1)),
                dst_mac: mac(Device::Server(2)),
                protocol,
                src: (client_ip(1), 1234),
                dst: (server_ip(2, 1), 80),
                flags: if protocol == TCP { PSH | ACK } else { 0 },
                seq: if protocol == TCP { 7 } else { 0 },
                ack: if protocol == TCP { 9 } else { 0 },
                data: data.then_some(Data { session: 1 << 40, number: 3, server: 2 }),
            };
            let frame = write(&segment);
            assert_eq!(read(&frame), Read::Segment(segment));
            for at in ETHER..frame.len() {
                let mut damaged = frame.clone();
                damaged[at] ^= 0x10;
                assert_eq!(read(&damaged), Read::Other, "octet {at}");
            }
        }
        let question = arp_request(mac(Device::Client(1)), client_ip(1), server_ip(1, 0));
        let sender = (mac(Device::Client(1)), client_ip(1));
        assert_eq!(read(&question), Read::Arp { request: true, sender, target: server_ip(1, 0) });
    }
}
