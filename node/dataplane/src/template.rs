//! Persistence: which server a client's network keeps.

use std::net::IpAddr;

use crate::{GroupId, Origin, Provenance, ServerId, ServiceId};

/// Persistence of a service.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Persistence {
    /// A template lasts this long after the last new connection, nanoseconds.
    pub timeout_ns: u64,
    /// Leading bits of an IPv4 client that count.
    pub prefix_v4: u8,
    /// Leading bits of an IPv6 client that count.
    pub prefix_v6: u8,
    /// A server with weight 0 loses its clients (`expire_quiescent_template`); without it, they
    /// stay with it.
    pub expire_quiescent_template: bool,
}

/// Whose server: a network of clients and a service. All addresses, protocols and ports of a
/// service share one template, as those of a firewall mark do in IPVS.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TemplateKey {
    /// The service.
    pub service: ServiceId,
    /// The lowest address of the network.
    pub client: IpAddr,
}

/// The part of a template that peers are told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TemplateRecord {
    /// Whose server.
    pub key: TemplateKey,
    /// The server.
    pub server: ServerId,
    /// The VIP group of the service.
    pub group: GroupId,
    /// Tells successive templates of one key apart; a higher one replaces.
    pub incarnation: u64,
    /// The epoch under which it was made or sent.
    pub origin: Origin,
    /// A connection of it was a conversation. Others give way when the table is full.
    pub assured: bool,
}

/// A template as the table has it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Template {
    /// What peers are told.
    pub record: TemplateRecord,
    /// When it ends, unless it controls connections then.
    pub until_ns: u64,
    /// Connections in the table that it led to this server.
    pub controls: u32,
    /// Where it came from.
    pub provenance: Provenance,
    /// Peers that were ever sent it, a bit each.
    pub sent_to: u32,
    /// Snapshot generation that last confirmed this copy.
    pub(crate) snapshot: u64,
}

/// A template as a peer describes it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TemplateReplica {
    /// The record.
    pub record: TemplateRecord,
    /// A deposed holder gives it, rather than the holder sending it.
    pub donated: bool,
    /// Snapshot generation it belongs to.
    pub snapshot: u64,
}

impl Template {
    /// The snapshot generation that last confirmed it, if the holder sent it.
    #[must_use]
    pub fn confirmed_by(&self) -> Option<u64> {
        (self.provenance == Provenance::Replica).then_some(self.snapshot)
    }
}

impl Persistence {
    /// The network of a client, by its lowest address.
    #[must_use]
    pub fn network(&self, client: IpAddr) -> IpAddr {
        match client {
            IpAddr::V4(client) => {
                let zeros = 32 - u32::from(self.prefix_v4.min(32));
                let mask = u32::MAX.checked_shl(zeros).unwrap_or(0);
                IpAddr::V4((client.to_bits() & mask).into())
            }
            IpAddr::V6(client) => {
                let zeros = 128 - u32::from(self.prefix_v6.min(128));
                let mask = u128::MAX.checked_shl(zeros).unwrap_or(0);
                IpAddr::V6((client.to_bits() & mask).into())
            }
        }
    }
}
