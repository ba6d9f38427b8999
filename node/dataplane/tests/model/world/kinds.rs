//! The services of the world, by what they are for.

use crate::{
    naive::{Clamp, Mode, Sched, Tunnel},
    packet::Proto,
};

pub(super) const SCHEDULERS: [Sched; 15] = [
    Sched::Rr,
    Sched::Wrr,
    Sched::Lc,
    Sched::Wlc,
    Sched::Sed,
    Sched::Nq,
    Sched::Fo,
    Sched::Ovf,
    Sched::Dh,
    Sched::Sh { port: true, fallback: true },
    Sched::Sh { port: false, fallback: false },
    Sched::Mh { port: true, fallback: true },
    Sched::Mh { port: false, fallback: true },
    Sched::Mh { port: true, fallback: false },
    Sched::Rr,
];

/// Services over tunnels: whether the outer family is the other one, and what handshakes announce.
pub(super) const TUNNELS: [(Tunnel, bool, Proto, Sched, Clamp); 10] = [
    (Tunnel::IpIp, false, Proto::Tcp, Sched::Rr, Clamp::Auto),
    (Tunnel::IpIp, true, Proto::Tcp, Sched::Wlc, Clamp::Off),
    (Tunnel::Gue(6080, None), false, Proto::Udp, Sched::Rr, Clamp::Off),
    (Tunnel::Gue(6081, Some(true)), true, Proto::Tcp, Sched::Sed, Clamp::At(1200)),
    (Tunnel::Gue(6082, Some(false)), false, Proto::Tcp, MAGLEV, Clamp::Auto),
    (Tunnel::Gre(false), true, Proto::Udp, MAGLEV, Clamp::Off),
    (Tunnel::Gre(true), false, Proto::Tcp, Sched::Lc, Clamp::Auto),
    (Tunnel::Gre(true), true, Proto::Sctp, Sched::Rr, Clamp::Off),
    (Tunnel::IpIp, false, Proto::Sctp, MAGLEV, Clamp::Off),
    (Tunnel::Gue(6083, None), true, Proto::Tcp, Sched::Nq, Clamp::Auto),
];

pub(super) const MAGLEV: Sched = Sched::Mh { port: true, fallback: true };

/// Services that schedule each datagram anew.
pub(super) const ONCE: [(Mode, Sched); 4] = [
    (Mode::Dr, Sched::Rr),
    (Mode::Nat, Sched::Wlc),
    (Mode::Nat, MAGLEV),
    (Mode::Tunnel, Sched::Wrr),
];

/// Services of full-NAT; to the fifth there is a rush, and servers of those behind it are told their
/// clients.
pub(super) const LOCALS: [(Proto, Sched); 7] = [
    (Proto::Tcp, Sched::Rr),
    (Proto::Tcp, MAGLEV),
    (Proto::Udp, Sched::Wlc),
    (Proto::Sctp, Sched::Sed),
    (Proto::Tcp, Sched::Rr),
    (Proto::Tcp, Sched::Rr),
    (Proto::Tcp, MAGLEV),
];
pub(super) const TOLD: u32 = 155;

/// Services with thresholds, or whose servers start slowly.
pub(super) const BOUNDED: [(Mode, Sched, bool); 12] = [
    (Mode::Dr, Sched::Lblc, false),
    (Mode::Nat, Sched::Lblc, false),
    (Mode::Dr, Sched::Lblcr, false),
    (Mode::Nat, Sched::Lblcr, false),
    (Mode::Dr, Sched::Wlc, true),
    (Mode::Nat, Sched::Sed, true),
    (Mode::Dr, Sched::Nq, true),
    (Mode::Nat, Sched::Rr, false),
    (Mode::Dr, Sched::Sh { port: true, fallback: true }, false),
    (Mode::Nat, MAGLEV, false),
    (Mode::Nat, Sched::Wrr, true),
    (Mode::Dr, Sched::Rr, true),
];

/// Thresholds, upper and lower.
pub(super) const THRESHOLDS: [(u32, u32); 6] = [(0, 0), (3, 0), (4, 2), (6, 6), (8, 0), (12, 3)];

/// Services with limits, and whether clients of the service keep their server.
pub(super) const LIMITED: [(Proto, Mode, Sched, bool); 10] = [
    (Proto::Tcp, Mode::Dr, MAGLEV, false),
    (Proto::Tcp, Mode::Nat, Sched::Rr, false),
    (Proto::Tcp, Mode::Dr, Sched::Wlc, false),
    (Proto::Tcp, Mode::Nat, MAGLEV, false),
    (Proto::Udp, Mode::Tunnel, Sched::Rr, false),
    (Proto::Udp, Mode::Nat, Sched::Sed, false),
    (Proto::Tcp, Mode::FullNat, Sched::Rr, false),
    (Proto::Tcp, Mode::Dr, Sched::Dh, false),
    (Proto::Sctp, Mode::Nat, Sched::Sh { port: true, fallback: true }, false),
    (Proto::Tcp, Mode::Dr, MAGLEV, true),
];

/// Limits of new connections in a second and of those of a source.
pub(super) const LIMITS: [(u64, usize); 5] = [(1, 0), (3, 0), (0, 1), (0, 4), (4, 3)];

/// Services of SCTP.
pub(super) const ASSOCIATIONS: [(Mode, Sched); 4] = [
    (Mode::Dr, Sched::Wlc),
    (Mode::Nat, Sched::Rr),
    (Mode::Dr, Sched::Mh { port: true, fallback: true }),
    (Mode::Nat, Sched::Sh { port: true, fallback: true }),
];

/// A service of several addresses, protocols and ports, or what is beside one.
pub(super) struct Group {
    pub(super) mode: Mode,
    pub(super) sched: Sched,
    /// Whether clients keep their server, and lose it when it has the weight 0.
    pub(super) persists: Option<bool>,
    pub(super) once: bool,
    /// Protocol, number of the VIP, first and last port.
    pub(super) listens: &'static [(Proto, u8, u16, u16)],
}

impl Group {
    const fn new(
        mode: Mode,
        sched: Sched,
        persists: Option<bool>,
        listens: &'static [(Proto, u8, u16, u16)],
    ) -> Self {
        Self { mode, sched, persists, once: false, listens }
    }
}

/// The VIPs of each family; the last one is of the quiet group.
pub(super) const VIPS: [u8; 3] = [100, 102, QUIET];
pub(super) const QUIET: u8 = 103;

/// The service with servers to which no tunnel of this node can start, by its number.
pub(super) const SOURCELESS: u32 = 132;

use Proto::{Sctp, Tcp, Udp};

/// Match groups. The ports of the second are those of other NAT services' servers, and of some the
/// ports lie within those of another.
pub(super) const GROUPS: [Group; 12] = [
    Group::new(
        Mode::Dr,
        Sched::Rr,
        Some(false),
        &[(Tcp, 100, 443, 443), (Udp, 100, 443, 443), (Tcp, 102, 443, 443), (Udp, 102, 443, 443)],
    ),
    Group::new(
        Mode::Nat,
        Sched::Wlc,
        Some(false),
        &[(Tcp, 100, 8020, 8099), (Sctp, 100, 5000, 5000), (Udp, 102, 8020, 8099)],
    ),
    Group::new(
        Mode::FullNat,
        Sched::Rr,
        None,
        &[(Tcp, 102, 2000, 2009), (Udp, 102, 2000, 2009), (Sctp, 102, 2000, 2000)],
    ),
    Group::new(Mode::Tunnel, MAGLEV, None, &[(Udp, 102, 0, u16::MAX)]),
    Group::new(Mode::Nat, MAGLEV, None, &[(Tcp, 100, 3000, 3000), (Tcp, 102, 3000, 3000)]),
    Group::new(Mode::Dr, MAGLEV, None, &[(Tcp, 100, 3100, 3109), (Tcp, 102, 3100, 3109)]),
    Group::new(Mode::Dr, Sched::Wrr, None, &[(Tcp, 100, 3105, 3105)]),
    Group { once: true, ..Group::new(Mode::Nat, Sched::Rr, None, &[(Udp, 100, 3200, 3209)]) },
    Group::new(
        Mode::Dr,
        Sched::Sh { port: true, fallback: true },
        Some(true),
        &[(Tcp, 102, 0, u16::MAX), (Sctp, 102, 0, u16::MAX)],
    ),
    Group::new(Mode::Nat, Sched::Rr, None, &[(Tcp, QUIET, 80, 80)]),
    Group::new(Mode::Dr, MAGLEV, Some(false), &[(Udp, QUIET, 53, 54), (Tcp, QUIET, 53, 54)]),
    Group { once: true, ..Group::new(Mode::Nat, Sched::Rr, None, &[(Udp, QUIET, 80, 80)]) },
];
