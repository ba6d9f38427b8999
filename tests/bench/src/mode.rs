//! Ways of forwarding that are measured.

use anyhow::Context;
use steadfast_dataplane::{Forwarding, Tunnel, UdpChecksum};

use crate::world::Way;

/// A forwarding method and a family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mode {
    Dr,
    Nat,
    FullNat,
    IpIp,
    Gre,
    Gue,
    Dr6,
    Nat6,
}

impl Mode {
    pub(crate) const ALL: [Self; 8] = [
        Self::Dr,
        Self::Nat,
        Self::FullNat,
        Self::IpIp,
        Self::Gre,
        Self::Gue,
        Self::Dr6,
        Self::Nat6,
    ];

    /// As on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::FullNat => "full-nat",
            Self::IpIp => "ipip",
            Self::Gre => "gre",
            Self::Gue => "gue",
            Self::Dr6 => "dr6",
            Self::Nat6 => "nat6",
        }
    }

    pub(crate) fn of(name: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|mode| mode.name() == name);
        found.with_context(|| format!("unknown mode {name}"))
    }

    /// As in a table, for packets that go this way.
    pub(crate) fn title(self, way: Way) -> &'static str {
        match (self, way) {
            (Self::Dr, _) => "DR",
            (Self::Nat, Way::In) => "NAT in",
            (Self::Nat, Way::Out) => "NAT out",
            (Self::FullNat, Way::In) => "full-NAT in",
            (Self::FullNat, Way::Out) => "full-NAT out",
            (Self::IpIp, _) => "IPIP",
            (Self::Gre, _) => "GRE",
            (Self::Gue, _) => "GUE",
            (Self::Dr6, _) => "DR, IPv6",
            (Self::Nat6, Way::In) => "NAT in, IPv6",
            (Self::Nat6, Way::Out) => "NAT out, IPv6",
        }
    }

    pub(crate) fn forwarding(self) -> Forwarding {
        match self {
            Self::Dr | Self::Dr6 => Forwarding::Dr,
            Self::Nat | Self::Nat6 => Forwarding::Nat,
            Self::FullNat => Forwarding::FullNat,
            Self::IpIp => Forwarding::Tunnel(Tunnel::IpIp),
            Self::Gre => Forwarding::Tunnel(Tunnel::Gre { checksum: false }),
            Self::Gue => {
                Forwarding::Tunnel(Tunnel::Gue { port: 6080, checksum: UdpChecksum::ByFamily })
            }
        }
    }

    pub(crate) fn is_v6(self) -> bool {
        matches!(self, Self::Dr6 | Self::Nat6)
    }

    /// The ways that packets go through the node.
    pub(crate) fn ways(self) -> &'static [Way] {
        match self.forwarding() {
            Forwarding::Nat | Forwarding::FullNat => &[Way::In, Way::Out],
            Forwarding::Dr | Forwarding::Tunnel(_) => &[Way::In],
        }
    }
}
