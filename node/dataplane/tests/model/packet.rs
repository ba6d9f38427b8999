//! Packets as plain values, and their frames written from scratch: every checksum in full.

pub(crate) mod between;
pub(crate) mod checksum;
mod part;
mod sctp;

use std::net::IpAddr;

pub(crate) use between::{Between, Flaw};
use checksum::ones_complement;
pub(crate) use part::Part;
pub(crate) use sctp::{Chunk, Sctp};

pub(crate) type Mac = [u8; 6];

#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Proto {
    Tcp,
    Udp,
    Sctp,
}

impl Proto {
    /// All rows that a packet can be.
    pub(crate) fn rows(self) -> &'static [Row] {
        match self {
            Self::Tcp => &[Row::Syn, Row::Fin, Row::Ack, Row::Rst, Row::Nothing],
            Self::Udp => &[Row::Nothing],
            Self::Sctp => &sctp::ROWS,
        }
    }

    /// The row of what opens a connection.
    pub(crate) fn opening(self) -> Row {
        match self {
            Self::Tcp => Row::Syn,
            Self::Udp => Row::Nothing,
            Self::Sctp => Row::Init,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Which row of the state tables a packet is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Row {
    Syn,
    Fin,
    Ack,
    Rst,
    Nothing,
    Data,
    Init,
    InitAck,
    CookieEcho,
    CookieAck,
    Shutdown,
    ShutdownAck,
    ShutdownComplete,
    Error,
    Abort,
}

/// A packet, in fields.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Pkt {
    /// Interface it comes in on, or goes out from.
    pub(crate) port: u16,
    /// Tags on the wire, the outermost first: priority and number.
    pub(crate) tags: Vec<u16>,
    pub(crate) src_mac: Mac,
    pub(crate) dst_mac: Mac,
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// IPv4: not to be fragmented, and the identification; IPv6: that of a part.
    pub(crate) df: bool,
    pub(crate) id: u16,
    /// Only this part of the packet.
    pub(crate) part: Option<Part>,
    /// Flow label of IPv6.
    pub(crate) label: u32,
    pub(crate) between: Between,
    /// What is wrong with its frame.
    pub(crate) flaw: Option<Flaw>,
    pub(crate) body: Body,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Body {
    Tcp {
        sport: u16,
        dport: u16,
        seq: u32,
        ack: u32,
        flags: u8,
        window: u16,
        /// A multiple of four octets.
        options: Vec<u8>,
        data: Vec<u8>,
    },
    Udp {
        sport: u16,
        dport: u16,
        data: Vec<u8>,
    },
    Sctp(Sctp),
    /// Type, code, and all that follows the checksum.
    Icmp {
        kind: u8,
        code: u8,
        rest: Vec<u8>,
    },
    /// An ICMP error: type, code, the word behind them, and how much of which packet it quotes.
    Error {
        kind: u8,
        code: u8,
        word: [u8; 4],
        quoted: Box<Pkt>,
        cut: usize,
        /// The last octet, if it is not what that packet has there.
        last: Option<u8>,
    },
    /// Another packet, and what is before it.
    Inside {
        protocol: u8,
        bytes: Vec<u8>,
    },
}

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

impl Pkt {
    pub(crate) fn proto(&self) -> Option<Proto> {
        match self.body {
            Body::Tcp { .. } => Some(Proto::Tcp),
            Body::Udp { .. } => Some(Proto::Udp),
            Body::Sctp(_) => Some(Proto::Sctp),
            Body::Icmp { .. } | Body::Error { .. } | Body::Inside { .. } => None,
        }
    }

    pub(crate) fn ports(&self) -> (u16, u16) {
        match self.body {
            Body::Tcp { sport, dport, .. } | Body::Udp { sport, dport, .. } => (sport, dport),
            Body::Sctp(Sctp { sport, dport, .. }) => (sport, dport),
            Body::Icmp { .. } | Body::Error { .. } | Body::Inside { .. } => (0, 0),
        }
    }

    pub(crate) fn row(&self) -> Row {
        match &self.body {
            Body::Sctp(sctp) => sctp.row(self.fragment().map_or(usize::MAX, |part| part.len)),
            Body::Tcp { flags, .. } if flags & RST != 0 => Row::Rst,
            Body::Tcp { flags, .. } if flags & SYN != 0 => Row::Syn,
            Body::Tcp { flags, .. } if flags & FIN != 0 => Row::Fin,
            Body::Tcp { flags, .. } if flags & ACK != 0 => Row::Ack,
            _ => Row::Nothing,
        }
    }

    /// It asks for a new connection.
    pub(crate) fn opens(&self) -> bool {
        self.proto().is_some_and(|proto| self.row() == proto.opening())
    }

    /// It ends a connection at once, and is never answered.
    pub(crate) fn resets(&self) -> bool {
        matches!(self.row(), Row::Rst | Row::Abort)
    }

    pub(crate) fn set_ports(&mut self, source: u16, destination: u16) {
        if let Body::Tcp { sport, dport, .. }
        | Body::Udp { sport, dport, .. }
        | Body::Sctp(Sctp { sport, dport, .. }) = &mut self.body
        {
            (*sport, *dport) = (source, destination);
        }
    }

    /// The frame, not padded.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let kind = if self.src.is_ipv6() { [0x86, 0xdd] } else { [0x08, 0x00] };
        let tags = self.tags.iter().map(|tag| [0x81, 0, (tag >> 8) as u8, *tag as u8]);
        let tags: Vec<u8> = tags.flatten().collect();
        let mut frame =
            [&self.dst_mac[..], &self.src_mac[..], &tags, &kind, &self.packet()].concat();
        self.spoil(&mut frame);
        frame
    }

    /// Length of the IP packet.
    pub(crate) fn len(&self) -> usize {
        let header = match (self.src.is_ipv6(), self.part) {
            (true, Some(part)) => return 40 + part::HEADER + part.len,
            (false, Some(part)) => return 20 + self.between.len() + part.len,
            (true, None) => 40,
            (false, None) => 20,
        };
        header
            + self.between.len()
            + match &self.body {
                Body::Tcp { options, data, .. } => 20 + options.len() + data.len(),
                Body::Udp { data, .. } => 8 + data.len(),
                _ => return self.packet().len(),
            }
    }

    /// The IP packet.
    pub(crate) fn packet(&self) -> Vec<u8> {
        let (protocol, mut l4, at) = match &self.body {
            Body::Tcp { sport, dport, seq, ack, flags, window, options, data } => {
                let mut bytes = Vec::with_capacity(20 + options.len() + data.len());
                bytes.extend([sport.to_be_bytes(), dport.to_be_bytes()].concat());
                bytes.extend(seq.to_be_bytes());
                bytes.extend(ack.to_be_bytes());
                bytes.extend([0x50 + ((options.len() as u8 / 4) << 4), *flags]);
                bytes.extend(window.to_be_bytes());
                bytes.extend([0, 0, 0, 0]);
                bytes.extend_from_slice(options);
                bytes.extend_from_slice(data);
                (6, bytes, 16)
            }
            Body::Udp { sport, dport, data } => {
                let mut bytes = [sport.to_be_bytes(), dport.to_be_bytes()].concat();
                bytes.extend((data.len() as u16 + 8).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(data);
                (17, bytes, 6)
            }
            Body::Sctp(sctp) => (132, sctp.bytes(), 0),
            Body::Error { kind, code, word, quoted, cut, last } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(word);
                bytes.extend(quoted.packet().into_iter().take(*cut));
                let end = bytes.len() - 1;
                bytes[end] = last.unwrap_or(bytes[end]);
                (if self.src.is_ipv6() { 58 } else { 1 }, bytes, 2)
            }
            Body::Inside { protocol, bytes } => (*protocol, bytes.clone(), 0),
            Body::Icmp { kind, code, rest } => {
                let mut bytes = vec![*kind, *code, 0, 0];
                bytes.extend(rest);
                (if self.src.is_ipv6() { 58 } else { 1 }, bytes, 2)
            }
        };
        let pseudo = match protocol {
            1 => Vec::new(),
            _ => pseudo_header(self.src, self.dst, protocol, l4.len()),
        };
        // The checksum of SCTP is another one.
        if !matches!(self.body, Body::Sctp(_) | Body::Inside { .. }) {
            let sum = match ones_complement(&[&pseudo[..], &l4[..]]) {
                0 if protocol == 17 => 0xffff,
                sum => sum,
            };
            l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        if let Some(part) = self.part {
            l4 = part.of(l4);
        }
        let mut packet = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut ip = Vec::with_capacity(60 + l4.len());
                let options = self.between.options();
                let header = 20 + options.len();
                ip.extend([0x40 | (header / 4) as u8, self.tos]);
                ip.extend(((l4.len() + header) as u16).to_be_bytes());
                ip.extend(self.id.to_be_bytes());
                let more = self.part.is_some_and(|part| part.more);
                let flags = u16::from(self.df) << 14 | u16::from(more) << 13;
                ip.extend((flags | self.part.map_or(0, Part::offset_field)).to_be_bytes());
                ip.extend([self.ttl, protocol, 0, 0]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(options);
                let sum = ones_complement(&[&ip]);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                ip
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let label = self.label.to_be_bytes();
                let mut ip = Vec::with_capacity(40 + l4.len());
                ip.extend([0x60 | self.tos >> 4, self.tos << 4 | label[1], label[2], label[3]]);
                let (first, chain) = self.between.chain(protocol);
                let (first, len) = match self.part {
                    Some(_) => (44, l4.len() + part::HEADER),
                    None => (first, l4.len() + chain.len()),
                };
                ip.extend((len as u16).to_be_bytes());
                ip.extend([first, self.ttl]);
                ip.extend(src.octets());
                ip.extend(dst.octets());
                ip.extend(chain);
                if let Some(part) = self.part {
                    ip.extend([protocol, 0]);
                    ip.extend((part.offset_field() << 3 | u16::from(part.more)).to_be_bytes());
                    ip.extend(self.wide_id().to_be_bytes());
                }
                ip
            }
            _ => panic!("two families"),
        };
        packet.extend_from_slice(&l4);
        packet
    }
}

/// What is under the checksum beside the transport header (RFC 9293 section 3.1, RFC 8200 section
/// 8.1).
pub(crate) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut pseudo = Vec::new();
    for addr in [src, dst] {
        match addr {
            IpAddr::V4(addr) => pseudo.extend(addr.octets()),
            IpAddr::V6(addr) => pseudo.extend(addr.octets()),
        }
    }
    pseudo.extend([0, protocol]);
    pseudo.extend((len as u16).to_be_bytes());
    pseudo
}
