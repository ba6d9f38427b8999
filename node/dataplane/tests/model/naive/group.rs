//! VIP groups: what this node is in each, and what packets get that no service listens for.

use std::net::IpAddr;

use super::{Mode, Naive, SECOND, Service};
use crate::packet::{Pkt, Proto};

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Holder { since: u64, complete: bool },
    Other,
    Nobody,
}

/// The second one says nothing to who asks in vain.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Group {
    First,
    Quiet,
}

/// All of them.
pub(crate) const GROUPS: usize = 2;

impl Role {
    /// It holds the group, and knows what there was to know.
    pub(super) fn is_settled(self, now: u64) -> bool {
        match self {
            Self::Holder { since, complete } => complete && now >= since + 3 * SECOND,
            _ => false,
        }
    }

    pub(super) fn is_holder(self) -> bool {
        matches!(self, Self::Holder { .. })
    }
}

impl Naive {
    pub(crate) fn group(&self, vip: IpAddr) -> Group {
        if self.quiet.contains(&vip) { Group::Quiet } else { Group::First }
    }

    pub(super) fn role(&self, group: Group) -> Role {
        self.roles[group as usize]
    }

    pub(crate) fn group_of(&self, service: &Service) -> Group {
        self.group(service.listens[0].vip)
    }

    /// The group whose connections answers may be of: that of a local address, or that of the server's
    /// service.
    pub(super) fn group_of_answer(
        &self,
        proto: Proto,
        to: IpAddr,
        (addr, port): (IpAddr, u16),
    ) -> Option<Group> {
        if self.locals.contains(&to) {
            return Some(Group::First);
        }
        let mut services = self.services.iter();
        services.find(|service| service.answers(proto, addr, port)).map(|of| self.group_of(of))
    }

    /// The group of a server, of which no port is known.
    pub(super) fn group_of_server(&self, pkt: &Pkt) -> Option<Group> {
        let mut nat = self.services.iter().filter(|service| service.mode == Mode::Nat);
        let of = nat.find(|service| service.servers.iter().any(|server| server.addr == pkt.src));
        of.map(|service| self.group_of(service))
    }
}
