//! Local ports of full-NAT: from which address and port a connection goes to its server.
//!
//! Towards a server a full-NAT connection is known by local address and port alone, so no two may
//! share a pair while both live, on whichever nodes they were opened. No node asks another: the ports
//! of a local address are cut into [`SLOTS`] equal ranges, the committed configuration gives each node
//! a slot that it keeps, and a node opens connections in the range of its slot only. A successor keeps
//! what it took over, in the ranges of others, and opens in its own.
//!
//! Guarantees: ports of different slots differ, whatever the nodes know of each other; a pair that
//! lives is not given, and one whose connection has finished only when no free one was found; at most
//! [`PROBES_MAX`] are looked at, so a range that is all but full may be refused as exhausted, and no
//! other is. While there is room the next pair is not the last one that was given back: the place to
//! look goes round the range. Not here: who remembers what is taken (the table of connections), and
//! addresses and slots (the configuration).

use std::{
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
};

/// Nodes that can open connections on one local address. Never to be changed while connections live:
/// the ranges of all nodes would move.
pub const SLOTS: u16 = 64;
/// Ports below stay free for what runs on the nodes and is bound by hand.
pub const PORT_MIN: u16 = 1_024;
/// Ports of one slot on one local address.
pub const PORTS_PER_SLOT: u16 = ((u16::MAX as u32 + 1 - PORT_MIN as u32) / SLOTS as u32) as u16;
/// Pairs looked at for one connection.
pub const PROBES_MAX: u32 = 128;
/// Of these so many in order; the others anywhere, or connections that lie side by side and last would
/// hide what is free behind them.
const IN_ORDER: u32 = 32;

/// A node's place among those that open connections, below [`SLOTS`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortSlot(u16);

/// An address of the group, and the port on it, from which a full-NAT connection goes to its server.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Local {
    /// Local address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
}

/// The pairs that one node has for one service.
#[derive(Debug)]
pub struct LocalPorts {
    slot: PortSlot,
    addrs: Box<[IpAddr]>,
    /// Where to look next; grows without end.
    next: AtomicU32,
}

/// Who has a pair towards the server in question.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Holding {
    /// Nobody.
    Free,
    /// A connection that has finished and would give way.
    Finished,
    /// A connection.
    Live,
}

/// No pair of the slot was free, as far as [`PROBES_MAX`] shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no local port is free towards this server: add a local address to the group")]
pub struct Exhausted;

// The last range ends where the ports do.
const _: () =
    assert!(PORT_MIN as u32 + SLOTS as u32 * PORTS_PER_SLOT as u32 <= u16::MAX as u32 + 1);
const _: () = assert!(IN_ORDER < PROBES_MAX && PROBES_MAX <= PORTS_PER_SLOT as u32);

impl PortSlot {
    /// The slot of this number; none from [`SLOTS`] on.
    #[must_use]
    pub fn new(number: u16) -> Option<Self> {
        (number < SLOTS).then_some(Self(number))
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }

    /// Its first port; [`PORTS_PER_SLOT`] are its own.
    #[must_use]
    pub fn first_port(self) -> u16 {
        PORT_MIN + self.0 * PORTS_PER_SLOT
    }

    /// The slot whose range has this port, if one has.
    #[must_use]
    pub fn of_port(port: u16) -> Option<Self> {
        Self::new(port.checked_sub(PORT_MIN)? / PORTS_PER_SLOT)
    }
}

impl LocalPorts {
    /// The ports of `slot` on each of `addrs`. `seed` says where to begin: a node that starts again
    /// should not give first what it gave first before, which the server may still remember.
    #[must_use]
    pub fn new(slot: PortSlot, addrs: Box<[IpAddr]>, seed: u32) -> Self {
        Self { slot, addrs, next: AtomicU32::new(seed) }
    }

    /// They are those of `slot` on `addrs`, in this order.
    #[must_use]
    pub fn are_of(&self, slot: PortSlot, addrs: &[IpAddr]) -> bool {
        self.slot == slot && *self.addrs == *addrs
    }

    /// The same, for who only tries.
    pub(crate) fn copy(&self) -> Self {
        let next = AtomicU32::new(self.next.load(Ordering::Relaxed));
        Self { slot: self.slot, addrs: self.addrs.clone(), next }
    }

    /// A pair of this slot that `holding` calls free, or else one that it calls finished. It is not
    /// remembered: two workers may get the same, and only one of them can put its connection into the
    /// table. The other asks again.
    pub fn pick(&self, mut holding: impl FnMut(Local) -> Holding) -> Result<Local, Exhausted> {
        let count = self.addrs.len() as u32 * u32::from(PORTS_PER_SLOT);
        let mut finished = None;
        for probe in 0..PROBES_MAX {
            let next = if probe < IN_ORDER {
                self.next.fetch_add(1, Ordering::Relaxed)
            } else {
                scatter(self.next.load(Ordering::Relaxed), probe)
            };
            let local = self.at(next.checked_rem(count).ok_or(Exhausted)?);
            match holding(local) {
                Holding::Free => return Ok(local),
                Holding::Finished => finished = finished.or(Some(local)),
                Holding::Live => {}
            }
        }
        finished.ok_or(Exhausted)
    }

    /// The pair of this number: one port of each address, then the next port.
    fn at(&self, number: u32) -> Local {
        let addrs = self.addrs.len() as u32;
        let (addr, port) = (self.addrs[(number % addrs) as usize], number / addrs);
        Local { addr, port: self.slot.first_port() + port as u16 }
    }
}

/// Where the n-th look out of order falls: nothing needs to be secret about it.
fn scatter(from: u32, n: u32) -> u32 {
    let mixed = (u64::from(from) << 32 | u64::from(n)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed >> 32) as u32
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

    fn addr(last: u8) -> IpAddr {
        [198, 18, 1, last].into()
    }

    fn ports(slot: PortSlot, seed: u32) -> LocalPorts {
        LocalPorts::new(slot, [addr(200)].into(), seed)
    }

    fn live_if(taken: bool) -> Holding {
        if taken { Holding::Live } else { Holding::Free }
    }

    fn pick(ports: &LocalPorts, taken: &BTreeSet<u16>) -> Result<u16, Exhausted> {
        ports.pick(|local| live_if(taken.contains(&local.port))).map(|local| local.port)
    }

    #[test]
    fn every_port_belongs_to_one_slot_at_most() {
        let mut owners = BTreeMap::new();
        for number in 0..SLOTS {
            let slot = PortSlot::new(number).unwrap();
            assert_eq!(slot.number(), number);
            for offset in 0..PORTS_PER_SLOT {
                let port = slot.first_port() + offset;
                assert!(port >= PORT_MIN);
                assert_eq!(owners.insert(port, slot), None, "{port} has two owners");
            }
        }
        for port in 0..=u16::MAX {
            assert_eq!(PortSlot::of_port(port), owners.get(&port).copied(), "{port}");
        }
        assert_eq!(PortSlot::new(SLOTS), None);
        assert_eq!((PORTS_PER_SLOT, owners.len()), (1_008, 64_512));
    }

    #[test]
    fn a_full_range_is_refused_and_one_free_port_is_found_in_time() {
        let slot = PortSlot::new(3).unwrap();
        let ports = ports(slot, u32::MAX - 5);
        let mut taken = BTreeSet::new();
        for _ in 0..PORTS_PER_SLOT {
            let port = pick(&ports, &taken).unwrap();
            assert_eq!(PortSlot::of_port(port), Some(slot));
            taken.insert(port);
        }
        let mut looks = 0;
        let refused = ports.pick(|local| {
            looks += 1;
            live_if(taken.contains(&local.port))
        });
        assert_eq!((refused, looks), (Err(Exhausted), PROBES_MAX));
        // Tries go on where the last one ended, so a port that is free is met within a round.
        let free = slot.first_port() + 700;
        taken.remove(&free);
        let tries = u32::from(PORTS_PER_SLOT).div_ceil(IN_ORDER);
        assert_eq!((0..tries).find_map(|_| pick(&ports, &taken).ok()), Some(free));
    }

    #[test]
    fn connections_that_lie_side_by_side_hide_nothing() {
        let slot = PortSlot::new(9).unwrap();
        let ports = ports(slot, 0);
        // The first half lasts, the next place to look is its beginning.
        let half = slot.first_port()..slot.first_port() + PORTS_PER_SLOT / 2;
        let taken: BTreeSet<u16> = half.collect();
        for round in 0..100 {
            assert!(pick(&ports, &taken).is_ok(), "{round}");
        }
    }

    #[test]
    fn what_has_finished_gives_way_only_when_nothing_is_free() {
        let slot = PortSlot::new(0).unwrap();
        let (ports, first) = (ports(slot, 0), slot.first_port());
        let finished = |local: Local, rest| match local.port == first + 3 {
            true => Holding::Finished,
            false => rest,
        };
        for _ in 0..2 * PORTS_PER_SLOT {
            let free = ports.pick(|local| finished(local, Holding::Free)).unwrap();
            assert_ne!(free.port, first + 3);
        }
        let given = ports.pick(|local| finished(local, Holding::Live));
        assert_eq!(given, Ok(Local { addr: addr(200), port: first + 3 }));
    }

    #[test]
    fn each_address_has_all_ports_of_the_slot() {
        let slot = PortSlot::new(1).unwrap();
        let addrs = [addr(200), addr(201), addr(202)];
        let ports = LocalPorts::new(slot, addrs.into(), 77);
        let mut taken = BTreeSet::new();
        for _ in 0..3 * PORTS_PER_SLOT {
            let local = ports.pick(|local| live_if(taken.contains(&local))).unwrap();
            assert!(addrs.contains(&local.addr) && PortSlot::of_port(local.port) == Some(slot));
            assert!(taken.insert(local));
        }
        assert!(ports.pick(|local| live_if(taken.contains(&local))).is_err());
        let none = LocalPorts::new(slot, [].into(), 0);
        assert_eq!(none.pick(|_| Holding::Free), Err(Exhausted), "no address, no port");
    }

    #[test]
    fn a_port_given_back_is_not_the_next_one() {
        let ports = ports(PortSlot::new(0).unwrap(), 7);
        let mut last: VecDeque<u16> = VecDeque::new();
        for _ in 0..10 * PORTS_PER_SLOT {
            let port = pick(&ports, &BTreeSet::new()).unwrap();
            assert!(!last.contains(&port), "{port} again, too soon");
            last.push_back(port);
            if last.len() == usize::from(PORTS_PER_SLOT) {
                last.pop_front();
            }
        }
    }

    /// What happens to the nodes of a cluster, for a property test.
    #[derive(Clone, Copy, Debug)]
    enum Event {
        /// A node opens so many connections.
        Open(usize, u16),
        /// So many of those that a node holds, the oldest first, end.
        Close(usize, u16),
        /// A node hears what ended at the others.
        Hear(usize),
        /// A node dies: another holds its connections from now on.
        TakeOver { from: usize, to: usize },
        /// A dead node starts again and gets a complete copy before it opens anything.
        Restart(usize, u32),
    }

    const NODES: usize = 3;

    fn event() -> impl Strategy<Value = Event> {
        let node = || 0..NODES;
        prop_oneof![
            4 => (node(), 1_u16..400).prop_map(|(node, count)| Event::Open(node, count)),
            3 => (node(), 1_u16..300).prop_map(|(node, count)| Event::Close(node, count)),
            1 => node().prop_map(Event::Hear),
            1 => (node(), node()).prop_map(|(from, to)| Event::TakeOver { from, to }),
            2 => (node(), any::<u32>()).prop_map(|(node, seed)| Event::Restart(node, seed)),
        ]
    }

    struct Cluster {
        slots: [PortSlot; NODES],
        ports: [LocalPorts; NODES],
        up: [bool; NODES],
        /// What each node believes to live: its copy, and what it opened itself.
        taken: [BTreeSet<u16>; NODES],
        /// What really lives, at the node that holds it.
        held: [VecDeque<u16>; NODES],
        opened: usize,
        refused: usize,
    }

    impl Cluster {
        fn new() -> Self {
            let slots = [5, 6, 63].map(|number| PortSlot::new(number).unwrap());
            Self {
                slots,
                ports: slots.map(|slot| ports(slot, 0)),
                up: [true; NODES],
                taken: Default::default(),
                held: Default::default(),
                opened: 0,
                refused: 0,
            }
        }

        fn live(&self) -> BTreeSet<u16> {
            self.held.iter().flatten().copied().collect()
        }

        fn open(&mut self, node: usize) {
            match pick(&self.ports[node], &self.taken[node]) {
                Ok(port) => {
                    assert_eq!(PortSlot::of_port(port), Some(self.slots[node]));
                    assert!(!self.held.iter().flatten().any(|p| *p == port), "{port} lives");
                    self.taken[node].insert(port);
                    self.held[node].push_back(port);
                    self.opened += 1;
                }
                Err(Exhausted) => {
                    let first = self.slots[node].first_port();
                    let own = self.taken[node].range(first..=first + (PORTS_PER_SLOT - 1)).count();
                    assert!(own >= IN_ORDER as usize, "refused with {own} taken");
                    self.refused += 1;
                }
            }
        }

        fn handle(&mut self, event: Event) {
            match event {
                Event::Open(node, count) if self.up[node] => {
                    (0..count).for_each(|_| self.open(node));
                }
                Event::Close(node, count) => {
                    let count = usize::from(count).min(self.held[node].len());
                    for port in self.held[node].drain(..count) {
                        self.taken[node].remove(&port);
                    }
                }
                Event::Hear(node) if self.up[node] => self.taken[node] = self.live(),
                Event::TakeOver { from, to } if from != to && self.up[from] && self.up[to] => {
                    self.up[from] = false;
                    let all = std::mem::take(&mut self.held[from]);
                    self.taken[to].extend(&all);
                    self.held[to].extend(all);
                }
                Event::Restart(node, seed) if !self.up[node] => {
                    self.up[node] = true;
                    self.ports[node] = ports(self.slots[node], seed);
                    self.taken[node] = self.live();
                }
                _ => {}
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Nodes that never ask each other, connections that come, end and change hands. A failure
        /// prints the events; set PROPTEST_RNG_SEED to replay a run.
        #[test]
        fn no_port_is_opened_twice_while_it_lives(events in prop::collection::vec(event(), 1..60)) {
            let mut cluster = Cluster::new();
            for event in events {
                cluster.handle(event);
            }
        }
    }

    #[test]
    fn a_cluster_under_churn_opens_and_refuses() {
        let mut cluster = Cluster::new();
        for round in 0..40 {
            let node = round % 2;
            cluster.handle(Event::Open(node, 900));
            cluster.handle(Event::Close(node, 300));
            cluster.handle(Event::TakeOver { from: node, to: 1 - node });
            cluster.handle(Event::Restart(node, round as u32));
        }
        assert!(
            cluster.opened > 5_000 && cluster.refused > 1_000,
            "{} {}",
            cluster.opened,
            cluster.refused
        );
    }
}
