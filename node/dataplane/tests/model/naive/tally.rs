//! How often what was met, beside cells and verdicts.

use std::collections::BTreeMap;

use super::{Above, Across, Excess, Kept, Mode, Place, Port, Room, Toa, Tunnel, Width, icmp, once};

#[derive(Default)]
pub(crate) struct Tally {
    /// Local ports that were given; how often none was found, in IPv4 and IPv6, and how often a
    /// connection that had finished gave way.
    pub(crate) chosen: u64,
    pub(crate) exhausted: [u64; 2],
    pub(crate) gave_way: [u64; 2],
    /// Handshakes with another segment size, and packets inside others: tunnel, whether the inner
    /// and the outer one are IPv6.
    pub(crate) clamped: u64,
    pub(crate) tunnels: BTreeMap<(Tunnel, bool, bool), u64>,
    /// Packets of connections, by where they came in and went out, and those with a priority alone.
    pub(crate) arms: BTreeMap<(bool, Port, Port), u64>,
    pub(crate) marked: u64,
    /// Those with options of IPv4, or headers of IPv6.
    pub(crate) between: BTreeMap<bool, u64>,
    /// Packets that were cut, by mode and way.
    pub(crate) cut: BTreeMap<(Mode, bool), u64>,
    /// What was decided by a template.
    pub(crate) kept: BTreeMap<Kept, u64>,
    /// How often a template led a connection to the server of one to elsewhere, IPv4 and IPv6.
    pub(crate) across: BTreeMap<(bool, Across), u64>,
    /// What became of packets above limits, IPv4 and IPv6, and how many connections came into the
    /// table that went by the hash before.
    pub(crate) above: BTreeMap<(bool, Excess, Above), u64>,
    pub(crate) adopted: u64,
    /// What became of the option that tells servers their clients.
    pub(crate) toa: BTreeMap<(bool, Toa), u64>,
    /// What became of a full table.
    pub(crate) rooms: BTreeMap<Room, u64>,
    /// How often one service got a packet before another one of more ports.
    pub(crate) narrowed: BTreeMap<(bool, Width, Width), u64>,
    /// How often a server became full or no longer was, and how often a scheduler passed one over.
    pub(crate) filled: u64,
    pub(crate) freed: u64,
    pub(crate) passed_over: u64,
    /// How often one with less than its share could be chosen.
    pub(crate) warmed: u64,
    /// Turns of wrr that a server let pass while it warmed up.
    pub(crate) turns_passed: u64,
    /// What became of destinations, at lblc and at lblcr.
    pub(crate) places: BTreeMap<(bool, Place), u64>,
    /// Errors that were passed on.
    pub(crate) errors: BTreeMap<icmp::Passed, u64>,
    /// Datagrams that went on without a connection.
    pub(crate) once: BTreeMap<once::Once, u64>,
}
