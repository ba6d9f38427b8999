//! Who still sends frames for a group to this node although another one holds it.
//!
//! Such a sender missed the gratuitous ARP. Its packets are forwarded or relayed all the same, but
//! the holder should tell it. Guarantees: looking costs one comparison per packet; what is kept is
//! bounded. Not here: how long a sender must be stale before somebody tells it.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use steadfast_packet::Mac;

use crate::GroupId;

/// A worker looks at one frame in this time, nanoseconds: who keeps sending is seen soon.
const LOOK_EVERY_NS: u64 = 1_000_000;

/// Senders kept until they are taken; others are seen again later.
pub const STALE_SENDERS_MAX: usize = 64;

/// Somebody whose neighbour entry for an address of the group is out of date.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct StaleSender {
    /// Whose address it is.
    pub group: GroupId,
    /// The interface that its frames come in on.
    pub port: u16,
    /// Who sends.
    pub mac: Mac,
    /// The VIP or local address it sends to; `None`: it sends through the group's gateway address.
    pub vip: Option<IpAddr>,
}

/// Senders seen since they were last taken; shared by all workers.
#[derive(Debug, Default)]
pub struct StaleSenders(Mutex<BTreeSet<StaleSender>>);

impl StaleSenders {
    /// Takes what was seen.
    pub fn take(&self) -> BTreeSet<StaleSender> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, sender: StaleSender) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() < STALE_SENDERS_MAX {
            seen.insert(sender);
        }
    }
}

/// When a worker looks next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lookout {
    next_ns: u64,
}

impl Lookout {
    /// Whether to look at the frame at hand.
    pub(crate) fn is_due(self, now_ns: u64) -> bool {
        now_ns >= self.next_ns
    }

    /// Notes a sender that was looked at; `seen` if it is stale.
    pub(crate) fn looked(
        &mut self,
        now_ns: u64,
        seen: Option<StaleSender>,
        senders: &StaleSenders,
    ) {
        self.next_ns = now_ns.saturating_add(LOOK_EVERY_NS);
        // A group address is nobody's.
        if let Some(sender) = seen.filter(|sender| sender.mac[0] & 1 == 0) {
            senders.add(sender);
        }
    }
}
