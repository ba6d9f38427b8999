//! ICMP errors, built by hand and by etherparse.

use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, ip_number};
use steadfast_dataplane::Protocol;
use steadfast_packet::{internet_checksum, pseudo_sum};

use super::{framed, ip, packet};
use crate::lab::Mac;

/// An error from `src` to `dst` that quotes the first `quoted` octets after the IP header.
#[derive(Clone, Debug)]
pub struct Error {
    pub src: IpAddr,
    pub dst: IpAddr,
    pub ttl: u8,
    pub kind: [u8; 2],
    /// The quoted packet: its protocol, and its addresses.
    pub about: (Protocol, SocketAddr, SocketAddr),
    pub quoted: usize,
}

impl Error {
    /// The frame, all checksums right, also the quoted ones.
    pub fn frame(&self, macs: (Mac, Mac)) -> Vec<u8> {
        self.telling(1280, macs)
    }

    /// The frame, with this MTU where the error is about that.
    pub fn telling(&self, mtu: u16, macs: (Mac, Mac)) -> Vec<u8> {
        let (protocol, src, dst) = self.about;
        let packet = packet(protocol, (src, dst), 1, b"some data of the packet");
        let header = if src.is_ipv4() { 20 } else { 40 };
        let quoted = &packet[..packet.len().min(header + self.quoted)];
        let [high, low] = mtu.to_be_bytes();
        let mut message = vec![self.kind[0], self.kind[1], 0, 0, 0, 0, high, low];
        message.extend(quoted);
        let protocol = if src.is_ipv4() { ip_number::ICMP } else { ip_number::IPV6_ICMP };
        let sum = match src.is_ipv4() {
            true => 0,
            false => pseudo_sum(self.src, self.dst, protocol.0, message.len() as u32),
        };
        let checksum = internet_checksum(sum, &message).to_be_bytes();
        message[2..4].copy_from_slice(&checksum);
        let mut bytes = Vec::new();
        let headers = ip(self.src, self.dst, self.ttl, Protocol::Udp);
        PacketBuilder::ip(headers).write(&mut bytes, protocol, &message).unwrap();
        framed(macs, &bytes)
    }
}
