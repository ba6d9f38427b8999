//! Local ports of full-NAT: which source port a connection gets on a local address.
//!
//! Towards a server a full-NAT connection is known by local address and port alone, so no two may
//! share a pair while both live, on whichever nodes they were opened. No node asks another: the ports
//! of a local address are cut into [`SLOTS`] equal ranges, the committed configuration gives each node
//! a slot that it keeps, and a node opens connections in the range of its slot only. A successor keeps
//! what it took over, in the ranges of others, and opens in its own.
//!
//! Guarantees: ports of different slots differ, whatever the nodes know of each other; a port that
//! `is_taken` names is not given; at most [`PROBES_MAX`] are looked at, so a range that is all but full
//! may be refused as exhausted, and no other is. The next port is not the last one that was given
//! back: the place to look goes round the range. Not here: who remembers what is taken (the table of
//! connections), and addresses and slots (the configuration).

use std::sync::atomic::{AtomicU32, Ordering};

/// Nodes that can open connections on one local address. Never to be changed while connections live:
/// the ranges of all nodes would move.
pub const SLOTS: u16 = 64;
/// Ports below stay free for what runs on the nodes and is bound by hand.
pub const PORT_MIN: u16 = 1_024;
/// Ports of one slot on one local address.
pub const PORTS_PER_SLOT: u16 = ((u16::MAX as u32 + 1 - PORT_MIN as u32) / SLOTS as u32) as u16;
/// Ports looked at for one connection.
pub const PROBES_MAX: u16 = 128;

/// A node's place among those that open connections, below [`SLOTS`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PortSlot(u16);

/// The ports that one slot has on a local address, towards one server.
#[derive(Debug)]
pub struct LocalPorts {
    slot: PortSlot,
    /// Where to look next, counted from the start of the range; grows without end.
    next: AtomicU32,
}

/// No port of the slot was free, as far as [`PROBES_MAX`] shows.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no local port is free towards this server: add a local address to the group")]
pub struct Exhausted;

// The last range ends where the ports do.
const _: () =
    assert!(PORT_MIN as u32 + SLOTS as u32 * PORTS_PER_SLOT as u32 <= u16::MAX as u32 + 1);
const _: () = assert!(PROBES_MAX <= PORTS_PER_SLOT);

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
    /// The ports of `slot`. `seed` says where to begin: a node that starts again should not give
    /// first what it gave first before, which the server may still remember.
    #[must_use]
    pub fn new(slot: PortSlot, seed: u32) -> Self {
        Self { slot, next: AtomicU32::new(seed) }
    }

    /// A port of this slot that `is_taken` does not name. It is not remembered: two workers may get
    /// the same, and only one of them can put its connection into the table. The other asks again.
    pub fn pick(&self, mut is_taken: impl FnMut(u16) -> bool) -> Result<u16, Exhausted> {
        for _ in 0..PROBES_MAX {
            let at = self.next.fetch_add(1, Ordering::Relaxed) % u32::from(PORTS_PER_SLOT);
            let port = self.slot.first_port() + at as u16;
            if !is_taken(port) {
                return Ok(port);
            }
        }
        Err(Exhausted)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    use proptest::prelude::*;

    use super::*;

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
        let ports = LocalPorts::new(slot, u32::MAX - 5);
        let mut taken = BTreeSet::new();
        for _ in 0..PORTS_PER_SLOT {
            let port = ports.pick(|port| taken.contains(&port)).unwrap();
            assert_eq!(PortSlot::of_port(port), Some(slot));
            taken.insert(port);
        }
        let mut looks = 0;
        let refused = ports.pick(|port| {
            looks += 1;
            taken.contains(&port)
        });
        assert_eq!((refused, looks), (Err(Exhausted), PROBES_MAX));
        // Tries go on where the last one ended, so a port that is free is met within a round.
        let free = slot.first_port() + 700;
        taken.remove(&free);
        let tries = PORTS_PER_SLOT.div_ceil(PROBES_MAX);
        let found = (0..tries).find_map(|_| ports.pick(|port| taken.contains(&port)).ok());
        assert_eq!(found, Some(free));
    }

    #[test]
    fn a_port_given_back_is_not_the_next_one() {
        let ports = LocalPorts::new(PortSlot::new(0).unwrap(), 7);
        let mut last: VecDeque<u16> = VecDeque::new();
        for _ in 0..10 * PORTS_PER_SLOT {
            let port = ports.pick(|_| false).unwrap();
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
                ports: slots.map(|slot| LocalPorts::new(slot, 0)),
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
            match self.ports[node].pick(|port| self.taken[node].contains(&port)) {
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
                    assert!(own >= usize::from(PROBES_MAX), "refused with {own} taken");
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
                    self.ports[node] = LocalPorts::new(self.slots[node], seed);
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
