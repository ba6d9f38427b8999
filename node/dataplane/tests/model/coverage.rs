//! How often what was met.

mod facts;
mod reasons;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use facts::facts;
pub(crate) use facts::{lacking_excess, lacks_days};
use reasons::{OF_ONE_FAMILY, VERDICTS};

use crate::{
    naive::{Cell, Fate, Mode, Naive, reopens, step},
    packet::{Body, Pkt, Proto},
    world::steer::steps,
};

/// Fewer packets in a cell that can be reached, or of a reason that can occur, and the run shows
/// too little.
pub(crate) const HITS_MIN: u64 = 100;

/// Cells met less often are steered to, and packets of such a fate made more likely.
pub(crate) const HITS_AIMED_AT: u64 = 4 * HITS_MIN;

/// So many choices among servers that warm up are steered to: few of them depend on it.
pub(crate) const WARMED_AIMED_AT: u64 = 10 * HITS_AIMED_AT;

/// Ways of datagrams without a connection.
pub(crate) const ONCE_MET: usize = 8;

/// Packets from one look at what was met least to the next.
const LOOK_EVERY: u64 = 1024;

/// Packets of live connections among all, in percent.
const LIVE_MIN: u64 = 60;

/// How often what was met.
#[derive(Default)]
pub(crate) struct Coverage {
    cells: HashMap<Cell, u64>,
    verdicts: BTreeMap<(bool, &'static str), u64>,
    reachable: Vec<Cell>,
    /// Cells that were met too seldom so far, the rarest first.
    pub(crate) wanted: Vec<Cell>,
    /// Verdicts that were met too seldom so far.
    lacking: Vec<&'static str>,
    packets: u64,
    live: u64,
    pub(crate) rehearsed: u64,
}

impl Coverage {
    pub(crate) fn new() -> Self {
        Self { reachable: reachable(), lacking: VERDICTS.to_vec(), ..Self::default() }
    }

    /// Too few packets had this fate so far, in one family or the other.
    pub(crate) fn lacks(&self, verdict: &'static str) -> bool {
        self.lacking.contains(&verdict)
    }

    fn hits(&self, ipv6: bool, verdict: &'static str) -> u64 {
        self.verdicts.get(&(ipv6, verdict)).copied().unwrap_or(0)
    }

    fn met(&self, cell: &Cell) -> u64 {
        self.cells.get(cell).copied().unwrap_or(0)
    }

    pub(crate) fn note(&mut self, naive: &Naive, pkt: &Pkt, fate: &Fate) {
        if self.packets.is_multiple_of(LOOK_EVERY) {
            let mut met: Vec<(u64, Cell)> =
                self.reachable.iter().map(|cell| (self.met(cell), *cell)).collect();
            met.retain(|(hits, _)| *hits < HITS_AIMED_AT);
            met.sort();
            self.wanted = met.into_iter().map(|(_, cell)| cell).collect();
            let mut lacking = VERDICTS.to_vec();
            lacking.retain(|verdict| {
                [false, true].iter().any(|ipv6| self.hits(*ipv6, verdict) < HITS_AIMED_AT)
            });
            self.lacking = lacking;
        }
        self.packets += 1;
        if let Some(cell) = naive.met {
            *self.cells.entry(cell).or_default() += 1;
            self.live += 1;
        }
        self.live += u64::from(naive.passed || naive.is_following);
        let verdict = match fate {
            Fate::Dropped(reason) => *reason,
            Fate::Sent(_) if naive.passed => "error_passed",
            Fate::Sent(_) if naive.passed_once => "sent_once",
            Fate::Sent(_) if naive.is_following => "followed",
            Fate::Sent(_) if naive.met.is_some() => "forwarded",
            Fate::Sent(Pkt { body: Body::Icmp { kind: 3, code: 4, .. }, .. }) => "told_too_big",
            Fate::Sent(Pkt { body: Body::Icmp { kind: 2, .. }, .. }) => "told_too_big",
            Fate::Sent(sent) if sent.ttl == pkt.ttl && sent.dst == pkt.dst => "relayed",
            Fate::Sent(sent) if sent.ttl + 1 == pkt.ttl => "by_hash",
            Fate::Sent(_) => "answered",
        };
        *self.verdicts.entry((pkt.src.is_ipv6(), verdict)).or_default() += 1;
    }

    pub(crate) fn print(&self, naive: &Naive, full: &Naive) {
        let packets = self.packets;
        println!("{} of {packets} packets of live connections", self.live);
        println!("{} packets rehearsed first: what was told is what happened", self.rehearsed);
        for ((ipv6, verdict), hits) in &self.verdicts {
            println!("{hits:>8}  {} {verdict}", family(*ipv6));
        }
        println!("drop reason: hits in IPv4 and IPv6");
        for (reason, hits) in reasons::table(|v6, reason| self.hits(v6, reason)) {
            if let Some([v4, v6]) = hits {
                println!("{v4:>8} {v6:>8}  {reason}");
            }
        }
        println!("not modelled: {}", reasons::not_modelled());
        for (what, hits) in facts(naive, full) {
            println!("{hits:>8}  {what}");
        }
        println!("{} flows through tunnels", naive.spread.len());
        for ((tunnel, v6, outer), hits) in &naive.tally.tunnels {
            println!("{hits:>8}  {} in {} {tunnel:?}", family(*v6), family(*outer));
        }
        let cells: BTreeMap<&Cell, &u64> = self.cells.iter().collect();
        for (cell, hits) in cells {
            let Cell { ipv6, mode, proto, inbound, state, row } = cell;
            let (family, way) = (family(*ipv6), if *inbound { "in" } else { "out" });
            println!("{hits:>8}  {family} {mode:?} {proto:?} {way:<3} {state} {row:?}");
        }
    }

    pub(crate) fn check(&self, naive: &Naive, full: &Naive) {
        assert!(self.live * 100 >= self.packets * LIVE_MIN, "too few packets of live connections");
        reasons::check();
        assert_eq!(naive.tally.tunnels.len(), TUNNELS_MET, "tunnels by family");
        for (tunnel, hits) in &naive.tally.tunnels {
            assert!(*hits >= HITS_MIN, "{hits} packets through {tunnel:?}: too few");
        }
        let spread: BTreeSet<u32> = naive.spread.values().copied().collect();
        assert!(spread.len() * 2 >= naive.spread.len(), "flows are not spread");
        for (what, hits) in facts(naive, full) {
            assert!(hits >= HITS_MIN, "{hits} {what}: too few");
        }
        for cell in &self.reachable {
            let hits = self.met(cell);
            assert!(hits >= HITS_MIN, "{hits} packets in {cell:?}: too few to say anything");
        }
        let both = [false, true].iter().flat_map(|v6| VERDICTS.map(|v| (*v6, v)));
        for (ipv6, verdict) in both.chain(OF_ONE_FAMILY) {
            let hits = self.hits(ipv6, verdict);
            assert!(hits >= HITS_MIN, "{hits} packets {} {verdict}: too few", family(ipv6));
        }
    }
}

/// A way of connections: whether of IPv6, mode, protocol, whether to the server.
pub(crate) type Way = (bool, Mode, Proto, bool);

/// All of them.
pub(crate) fn ways() -> impl Iterator<Item = Way> {
    let all = [(false, true), (true, true), (false, false), (true, false)];
    let kinds = KINDS.into_iter().flat_map(move |kind| all.map(|way| (kind, way)));
    let ways = kinds.map(|((mode, proto), (v6, inbound))| (v6, mode, proto, inbound));
    ways.filter(|(_, mode, _, inbound)| *inbound || mode.returns())
}

/// Those that packets in parts can go: the checksum of SCTP is over what no part has.
pub(crate) fn ways_of_parts() -> impl Iterator<Item = Way> {
    ways().filter(|(_, mode, proto, _)| *proto != Proto::Sctp || !mode.returns())
}

fn family(ipv6: bool) -> &'static str {
    if ipv6 { "IPv6" } else { "IPv4" }
}

/// Tunnels of the world, each over one outer family for each inner one.
const TUNNELS_MET: usize = 18;

/// What connections there are, each cell of which is asked for.
const KINDS: [(Mode, Proto); 12] = [
    (Mode::Dr, Proto::Tcp),
    (Mode::Nat, Proto::Tcp),
    (Mode::Dr, Proto::Udp),
    (Mode::Nat, Proto::Udp),
    (Mode::Dr, Proto::Sctp),
    (Mode::Nat, Proto::Sctp),
    (Mode::FullNat, Proto::Tcp),
    (Mode::FullNat, Proto::Udp),
    (Mode::FullNat, Proto::Sctp),
    (Mode::Tunnel, Proto::Tcp),
    (Mode::Tunnel, Proto::Udp),
    (Mode::Tunnel, Proto::Sctp),
];

/// All cells that packets can lead to from a new connection.
fn reachable() -> Vec<Cell> {
    let mut cells = Vec::new();
    for ipv6 in [false, true] {
        for (mode, proto) in KINDS {
            let mut states = vec![if proto == Proto::Udp { "UDP" } else { "NONE" }];
            let mut at = 0;
            while let Some(state) = states.get(at).copied() {
                for (inbound, row) in steps(proto, mode) {
                    // What opens a new connection instead does not meet this one.
                    // And before a first packet reached it no server knows of a local address.
                    let is_unheard = mode == Mode::FullNat && !inbound && state == "NONE";
                    if !reopens(state, inbound, row) && !is_unheard {
                        cells.push(Cell { ipv6, mode, proto, inbound, state, row });
                    }
                    let next = step(proto, state, mode, inbound, row);
                    if !states.contains(&next) {
                        states.push(next);
                    }
                }
                at += 1;
            }
        }
    }
    cells
}
