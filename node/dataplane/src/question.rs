//! The packet that somebody asks about, as a frame.

use std::net::{IpAddr, SocketAddr};

use steadfast_packet::{Mac, Protocol, crc32c, ether_type, internet_checksum, pseudo_sum};

/// TTL or hop limit of the packet: what most systems send.
const TTL: u8 = 64;

/// What a packet asked about does to its connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Step {
    /// SYN, or INIT.
    Open,
    /// ACK, or DATA.
    Data,
    /// FIN and ACK, or SHUTDOWN.
    Close,
    /// RST, or ABORT.
    Reset,
}

/// A packet that somebody asks about.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Question {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who sends it.
    pub src: SocketAddr,
    /// To whom; of the same family.
    pub dst: SocketAddr,
    /// What it is for; means nothing for UDP.
    pub step: Step,
}

impl Question {
    /// A frame with this packet, with valid checksums; none when the addresses are of two families.
    #[must_use]
    pub fn frame(&self, src_mac: Mac, dst_mac: Mac) -> Option<Vec<u8>> {
        let mut transport = self.transport();
        let (number, len) = (self.protocol as u8, transport.len() as u16);
        let (src, dst) = (self.src.ip(), self.dst.ip());
        let at = match self.protocol {
            Protocol::Tcp => Some(16),
            Protocol::Udp => Some(6),
            Protocol::Sctp => None,
        };
        if let Some(at) = at {
            let sum = internet_checksum(pseudo_sum(src, dst, number, u32::from(len)), &transport);
            // Zero says that there is none (RFC 768).
            let sum = if sum == 0 { 0xffff } else { sum };
            transport[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        let (header, kind) = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = [0; 20];
                header[0] = 0x45;
                header[2..4].copy_from_slice(&(20 + len).to_be_bytes());
                header[6] = 0x40; // May not be fragmented, as TCP sends it.
                header[8..10].copy_from_slice(&[TTL, number]);
                header[12..16].copy_from_slice(&src.octets());
                header[16..20].copy_from_slice(&dst.octets());
                let sum = internet_checksum(0, &header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                (header.to_vec(), ether_type::IPV4)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let mut header = [0; 40];
                header[0] = 0x60;
                header[4..6].copy_from_slice(&len.to_be_bytes());
                header[6..8].copy_from_slice(&[number, TTL]);
                header[8..24].copy_from_slice(&src.octets());
                header[24..40].copy_from_slice(&dst.octets());
                (header.to_vec(), ether_type::IPV6)
            }
            _ => return None,
        };
        Some([&dst_mac[..], &src_mac, &kind.to_be_bytes(), &header, &transport].concat())
    }

    fn transport(&self) -> Vec<u8> {
        let ports = [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat();
        match self.protocol {
            Protocol::Tcp => {
                let flags = match self.step {
                    Step::Open => 0x02,
                    Step::Data => 0x10,
                    Step::Close => 0x11,
                    Step::Reset => 0x04,
                };
                let rest = [0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0];
                [&ports[..], &rest].concat()
            }
            Protocol::Udp => [&ports[..], &[0, 8, 0, 0]].concat(),
            Protocol::Sctp => {
                //= RFC 9260 section 3.2: types of chunks; section 3.3.2: an INIT comes under tag 0
                let (kind, len, tag): (u8, u16, u32) = match self.step {
                    Step::Open => (1, 20, 0),
                    Step::Data => (0, 20, 1),
                    Step::Close => (7, 8, 1),
                    Step::Reset => (6, 4, 1),
                };
                let mut chunk = vec![0; usize::from(len)];
                chunk[0] = kind;
                chunk[2..4].copy_from_slice(&len.to_be_bytes());
                if self.step == Step::Open {
                    // Tag, window, streams out and in, first number: none of them may be 0, and who
                    // gets an INIT without a tag does not even refuse it (section 3.3.2).
                    chunk[4..8].copy_from_slice(&1_u32.to_be_bytes());
                    chunk[8..12].copy_from_slice(&0x1_0000_u32.to_be_bytes());
                    chunk[12..16].copy_from_slice(&[0, 1, 0, 1]);
                    chunk[16..20].copy_from_slice(&1_u32.to_be_bytes());
                }
                let mut packet = [&ports[..], &tag.to_be_bytes(), &[0; 4], &chunk].concat();
                let sum = crc32c(&packet);
                packet[8..12].copy_from_slice(&sum.to_le_bytes());
                packet
            }
        }
    }
}
