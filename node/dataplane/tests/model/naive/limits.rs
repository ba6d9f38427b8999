//! How many connections a service may get (README, `limits`), and what becomes of those above.

use std::net::IpAddr;

use super::{Conn, Fate, Naive, forward::take};
use crate::packet::Pkt;

/// The limits of a service; 0 is none.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Limits {
    pub(crate) new_per_s: u64,
    pub(crate) per_source: usize,
    /// What is above them is told so, and does not go by the hash.
    pub(crate) refuses: bool,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Excess {
    NewPerS,
    PerSource,
}

/// What became of a packet above a limit.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Above {
    ByHash,
    /// The hash is not enough.
    Dropped,
    Refused,
    /// It came no further on its way, or the answers are used up.
    Lost,
}

/// An address of IPv4, or the first half of one of IPv6.
fn source(client: IpAddr) -> u64 {
    match client {
        IpAddr::V4(addr) => u64::from(u32::from(addr)),
        IpAddr::V6(addr) => (u128::from(addr) >> 64) as u64,
    }
}

impl Naive {
    /// The limit that one more connection would be above; one that is not counts for the rate.
    pub(super) fn excess(&mut self, service: usize, pkt: &Pkt) -> Option<Excess> {
        let now = self.now;
        let of = &mut self.services[service];
        let Limits { new_per_s, per_source, .. } = of.limits;
        let is_same =
            |conn: &&Conn| conn.service == of.id && source(conn.client) == source(pkt.src);
        let mut held = self.conns.iter().filter(|conn| conn.is_counted).filter(is_same);
        if per_source > 0 && held.nth(per_source - 1).is_some() {
            return Some(Excess::PerSource);
        }
        let is_in = new_per_s == 0 || take(&mut of.new_paid, now, new_per_s, new_per_s);
        (!is_in).then_some(Excess::NewPerS)
    }

    /// A packet that would open a connection above a limit.
    pub(super) fn above(&mut self, pkt: &Pkt, service: usize, excess: Excess) -> Fate {
        let refuses = self.services[service].limits.refuses;
        let fate = if refuses { self.reject(pkt) } else { self.by_hash(pkt, service) };
        let above = match &fate {
            Fate::Sent(_) if refuses => Above::Refused,
            // Not what tells the sender that there is no way on.
            Fate::Sent(sent) if sent.ttl + 1 == pkt.ttl => Above::ByHash,
            Fate::Dropped("over_limit") => Above::Dropped,
            _ => Above::Lost,
        };
        *self.tally.above.entry((pkt.src.is_ipv6(), excess, above)).or_default() += 1;
        fate
    }
}
