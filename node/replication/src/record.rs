//! What is said about one connection.
//!
//! Guarantees: [`shard_of`] gives the same answer on every node and in every release, since it
//! decides which stream a key travels on and which part of a copy a sweep may clear.

use std::{
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
};

use steadfast_dataplane::Deltas;
use steadfast_model::{GroupId, ServerId, ServiceId};

/// Streams per peer. Every node must use the same number: it is part of the protocol version.
pub const SHARDS: u8 = 4;

/// No protocol but a persistence template: its key has the client's network, and the id of the
/// service in the place of the VIP.
//= Linux ip_vs_core.c, ip_vs_sched_persist(): IPPROTO_IP, and the mark in the place of the VIP
pub const PROTOCOL_TEMPLATE: u8 = 0;
/// TCP, as the IP header spells it (RFC 9293).
pub const PROTOCOL_TCP: u8 = 6;
/// UDP (RFC 768).
pub const PROTOCOL_UDP: u8 = 17;
/// SCTP (RFC 9260).
pub const PROTOCOL_SCTP: u8 = 132;

/// Which connection: protocol, client and VIP with their ports.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Key {
    /// Protocol number of the IP header.
    pub protocol: u8,
    /// The client's address.
    pub client: IpAddr,
    /// The client's port.
    pub client_port: u16,
    /// The virtual address.
    pub vip: IpAddr,
    /// The virtual port.
    pub vip_port: u16,
}

/// Whole words, few of them: it is hashed on the packet path, for each peer that follows.
impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let ports = u64::from(self.client_port) << 16 | u64::from(self.vip_port);
        let ports = u64::from(self.protocol) << 32 | ports;
        match (self.client, self.vip) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                state.write_u64(u64::from(client.to_bits()) << 32 | u64::from(vip.to_bits()));
            }
            (client, vip) => {
                for addr in [client, vip] {
                    let bits = match addr {
                        IpAddr::V4(addr) => addr.to_ipv6_mapped().to_bits(),
                        IpAddr::V6(addr) => addr.to_bits(),
                    };
                    state.write_u128(bits);
                }
            }
        }
        state.write_u64(ports);
    }
}

impl Key {
    /// A key from the two ends.
    #[must_use]
    pub fn new(protocol: u8, client: SocketAddr, vip: SocketAddr) -> Self {
        Self {
            protocol,
            client: client.ip(),
            client_port: client.port(),
            vip: vip.ip(),
            vip_port: vip.port(),
        }
    }
}

/// The current state of one connection, as it is copied.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record {
    /// Which connection.
    pub key: Key,
    /// The VIP group its VIP belongs to.
    pub group: GroupId,
    /// Its service.
    pub service: ServiceId,
    /// Its real server. A record with an id that is not known yet is kept unbound.
    pub server: ServerId,
    /// Counts the lives of a key: a higher one replaces, a delete names the one it kills.
    pub incarnation: u64,
    /// State by the number that IPVS gives it in its protocol, 11 for UDP; below [`STATE_MAX`].
    pub state: u8,
    /// Bits of [`FLAG_UNASSURED`]; those that are not known travel untouched. Below [`FLAGS_MAX`].
    pub flags: u8,
    /// From where packets go to the server, under full-NAT; of the family of the VIP.
    pub local: Option<SocketAddr>,
    /// How the numbers of its two sides differ, if they do; TCP alone.
    pub deltas: Option<Deltas>,
}

/// A record's state is below this: it shares a byte with the flags on the wire.
pub const STATE_MAX: u8 = 16;
/// One datagram was seen, and nothing that shows a conversation: the copy gives way first when a
/// table is full, as the original does.
pub const FLAG_UNASSURED: u8 = 1;
/// A record's flags are below this.
pub const FLAGS_MAX: u8 = 16;

/// Which of the [`SHARDS`] a key belongs to.
#[must_use]
pub fn shard_of(key: &Key) -> u8 {
    // FNV-1a over the canonical bytes, then one multiplication to spread the low bits. A client
    // that aims at one shard gains nothing: a shard is an order of delivery, not a bucket.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut eat = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    eat(&[key.protocol]);
    for (address, port) in [(key.client, key.client_port), (key.vip, key.vip_port)] {
        match address {
            IpAddr::V4(v4) => eat(&v4.octets()),
            IpAddr::V6(v6) => eat(&v6.octets()),
        }
        eat(&port.to_be_bytes());
    }
    let spread = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    u8::try_from(spread % u64::from(SHARDS)).unwrap_or(0)
}
