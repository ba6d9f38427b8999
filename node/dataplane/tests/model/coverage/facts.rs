//! What has to be met beside cells and verdicts, and how often it was.

use std::{collections::BTreeMap, fmt::Debug};

use super::{HITS_MIN, ways, ways_of_parts};
use crate::naive::{
    Above, Across, Excess, Kept, Mode, Naive, PORTS, Parted, Place, Port, Room, Tally, Toa, Width,
};

/// Each with its hits; `full` is a model with a full table.
pub(super) fn facts(naive: &Naive, full: &Naive) -> Vec<(String, u64)> {
    let Tally { chosen, exhausted, gave_way, clamped, filled, freed, .. } = naive.tally;
    let Tally { marked, passed_over, warmed, turns_passed, adopted, .. } = naive.tally;
    let single = [
        ("local ports chosen, each of this node and free", chosen),
        ("no local port, IPv4", exhausted[0]),
        ("no local port, IPv6", exhausted[1]),
        ("a finished connection gave its local port, IPv4", gave_way[0]),
        ("a finished connection gave its local port, IPv6", gave_way[1]),
        ("packets with a priority tag alone", marked),
        ("handshakes with another segment size", clamped),
        ("servers full", filled),
        ("servers free again", freed),
        ("choices passed one over", passed_over),
        ("choices with a server that warms up", warmed),
        ("turns let pass while one warms up", turns_passed),
        ("connections by the hash, then in the table", adopted),
    ];
    let mut facts: Vec<_> = single.map(|(what, hits)| (what.to_owned(), hits)).into();
    let tally = &naive.tally;
    facts.extend(of("error (IPv6, mode, protocol, to the server):", &tally.errors, ways()));
    facts.extend(of(
        "later part (IPv6, mode, protocol, to the server):",
        &naive.fragments.followed,
        ways_of_parts(),
    ));
    facts.extend(of(
        "datagram alone (IPv6, mode, to the server):",
        &tally.once,
        both(&ONCE, |v6, of| (v6, of.0, of.1)),
    ));
    facts.extend(of("destination (lblcr, what became of it):", &tally.places, PLACES.into_iter()));
    facts.extend(of("forwarded (IPv6, from port, to port):", &tally.arms, arms()));
    facts.extend(of(
        "options or headers go along (IPv6):",
        &tally.between,
        [false, true].into_iter(),
    ));
    facts.extend(of("packets cut (mode, to the server):", &tally.cut, CUT.into_iter()));
    facts.extend(of(
        "one template (IPv6, across):",
        &tally.across,
        both(&ACROSS, |v6, of| (v6, of)),
    ));
    let widths = both(&WIDTHS, |v6, of| (v6, of.0, of.1));
    facts.extend(of("two services listen (IPv6, which, before which):", &tally.narrowed, widths));
    facts.extend(of("above a limit (IPv6, which, what became of it):", &tally.above, excesses()));
    facts.extend(of(
        "client's address by option (IPv6, what):",
        &tally.toa,
        both(&TOAS, |v6, of| (v6, of)),
    ));
    facts.extend(of("in a full table:", &full.tally.rooms, ROOMS.into_iter()));
    facts.extend(of("parts:", &naive.fragments.parted, PARTED.into_iter()));
    facts.extend(of("templates:", &tally.kept, KEPT.into_iter()));
    facts
}

fn of<K>(
    what: &str,
    met: &BTreeMap<K, u64>,
    wanted: impl Iterator<Item = K>,
) -> impl Iterator<Item = (String, u64)>
where
    K: Debug + Ord,
{
    wanted.map(move |key| (format!("{what} {key:?}"), met.get(&key).copied().unwrap_or(0)))
}

/// From each interface to each.
fn arms() -> impl Iterator<Item = (bool, Port, Port)> {
    let ports = 0..PORTS as Port;
    let pairs = ports.clone().flat_map(move |from| ports.clone().map(move |to| (from, to)));
    pairs.flat_map(|(from, to)| [(false, from, to), (true, from, to)])
}

fn both<T, K>(all: &[T], key: impl Fn(bool, T) -> K) -> impl Iterator<Item = K>
where
    T: Copy,
{
    all.iter().flat_map(move |of| [key(false, *of), key(true, *of)])
}

/// What becomes of the option that tells servers their clients.
const TOAS: [Toa; 6] =
    [Toa::Told, Toa::Untold, Toa::Read, Toa::Erased, Toa::Announced, Toa::Lowered];

/// What becomes of connections where there is no room.
const ROOMS: [Room; 4] = [Room::Refused, Room::GaveWay, Room::Exceeded, Room::Crammed];

/// Too few destinations were forgotten, or lost a server of their set, for which a day must pass.
pub(crate) fn lacks_days(naive: &Naive) -> bool {
    PLACES.iter().any(|place| naive.tally.places.get(place).is_none_or(|met| *met < 3 * HITS_MIN))
}

/// Of which kinds too few packets were above a limit.
pub(crate) fn lacking_excess(naive: &Naive) -> impl Iterator<Item = (bool, Excess, Above)> {
    let above = &naive.tally.above;
    excesses().filter(|way| above.get(way).is_none_or(|hits| *hits < 3 * HITS_MIN))
}

/// Datagrams that have no connection, and whether to the server.
const ONCE: [(Mode, bool); 4] =
    [(Mode::Dr, true), (Mode::Nat, true), (Mode::Nat, false), (Mode::Tunnel, true)];

/// What is cut: mode, and whether to the server.
const CUT: [(Mode, bool); 6] = [
    (Mode::Dr, true),
    (Mode::Nat, true),
    (Mode::Nat, false),
    (Mode::Tunnel, true),
    (Mode::FullNat, true),
    (Mode::FullNat, false),
];

/// What can become of a destination, at lblc and lblcr.
const PLACES: [(bool, Place); 7] = [
    (false, Place::Forgotten),
    (false, Place::Stayed),
    (false, Place::Moved),
    (true, Place::Forgotten),
    (true, Place::Stayed),
    (true, Place::Grew),
    (true, Place::Shrank),
];

/// What can become of a template.
const KEPT: [Kept; 6] =
    [Kept::New, Kept::Stayed, Kept::StayedQuiescent, Kept::Moved, Kept::Outlived, Kept::Ended];

/// What one template of a match group spans.
const ACROSS: [Across; 3] = [Across::Protocols, Across::Addresses, Across::Ports];

/// Which of two services gets a packet that both listen for.
const WIDTHS: [(Width, Width); 3] =
    [(Width::Port, Width::Range), (Width::Port, Width::Any), (Width::Range, Width::Any)];

/// Families, limits, and what can become of packets above them.
fn excesses() -> impl Iterator<Item = (bool, Excess, Above)> {
    let above = [Above::ByHash, Above::Dropped, Above::Refused];
    let ways = [Excess::NewPerS, Excess::PerSource];
    let ways = ways.into_iter().flat_map(move |excess| above.map(|above| (excess, above)));
    ways.flat_map(|(excess, above)| [false, true].map(|v6| (v6, excess, above)))
}

/// What can become of parts.
const PARTED: [Parted; 8] = [
    Parted::Whole,
    Parted::Late,
    Parted::Gaps,
    Parted::PushedOut,
    Parted::Released,
    Parted::Forgotten,
    Parted::EarlyPushedOut,
    Parted::NoRoom,
];
