//! Nodes with real connection tables, joined by ordered streams that delay and break.
//!
//! One step is one millisecond. Everything random comes from one seed, which a failing test
//! prints; `SEED=n cargo test -p steadfast-replication` replays it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use steadfast_dataplane::{FlowKey, Removal, State};
use steadfast_model::{Epoch, GroupId};
use steadfast_replication::{
    Completeness, DirtySet, GroupRole, Receiver, SHARDS, Sender, check_hello,
    wire::{Hello, VERSION},
};

use crate::node::{Node, key};

pub(crate) const MS: u64 = 1_000_000;
pub(crate) const CLUSTER: u64 = 0xc1;
const ROOM: usize = 6144;
/// Frames that a stream holds before it has no room.
const STREAM_FRAMES_MAX: usize = 16;
/// Frames written to a stream per step at most.
const FRAMES_PER_STEP: usize = 4;

/// SplitMix64.
#[derive(Debug)]
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Seeds of a random test: `SEED` alone, or `count` of them.
pub(crate) fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (1..=count).collect(),
    }
}

#[derive(Default)]
pub(crate) struct Link {
    pub(crate) up: bool,
    /// Frames are written but not delivered.
    pub(crate) stalled: bool,
    frames: VecDeque<Vec<u8>>,
    acks: VecDeque<Vec<u8>>,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    pub(crate) nodes: Vec<Node>,
    pub(crate) links: BTreeMap<(usize, usize, u8), Link>,
    pub(crate) holders: BTreeMap<GroupId, (usize, Epoch)>,
    /// The version that peers say they speak.
    pub(crate) version: u8,
    /// When a connection of a holder last changed.
    changed: BTreeMap<FlowKey, u64>,
}

impl World {
    pub(crate) fn new(seed: u64, nodes: u32) -> Self {
        Self::with_dirty(seed, nodes, DirtySet::new)
    }

    pub(crate) fn with_dirty(seed: u64, nodes: u32, dirty: impl Fn() -> DirtySet) -> Self {
        Self::of_size(seed, nodes, 4096, dirty)
    }

    pub(crate) fn of_size(
        seed: u64,
        nodes: u32,
        connections_max: usize,
        dirty: impl Fn() -> DirtySet,
    ) -> Self {
        let mut world = Self {
            now: 1_000 * MS,
            rng: Rng(seed),
            nodes: Vec::new(),
            links: BTreeMap::new(),
            holders: BTreeMap::new(),
            version: VERSION,
            changed: BTreeMap::new(),
        };
        for n in 0..nodes {
            world.add_node(Node::new(n + 1, u64::from(n) + 100, connections_max, dirty()));
        }
        world
    }

    fn add_node(&mut self, node: Node) {
        let new = self.nodes.len();
        self.nodes.push(node);
        for other in 0..new {
            self.make_senders(other, new);
            self.make_senders(new, other);
        }
    }

    /// The node comes back with another boot id, an empty table of this size and no roles.
    pub(crate) fn restart(&mut self, index: usize, connections_max: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.cut(index, other);
        }
        let (id, boot) = (self.nodes[index].id, self.nodes[index].boot.0 + 1);
        self.nodes[index] = Node::new(id.0, boot, connections_max, DirtySet::new());
        for other in (0..self.nodes.len()).filter(|other| *other != index) {
            self.make_senders(index, other);
        }
    }

    fn make_senders(&mut self, from: usize, to: usize) {
        let peer = self.nodes[to].id;
        let node = &mut self.nodes[from];
        let slot = node.dirty.slot(peer).expect("few peers");
        for shard in 0..SHARDS {
            let sender = Sender::new(node.local(), slot, shard, Arc::clone(&node.dirty));
            node.senders.insert((to, shard), sender.limited_by(Arc::clone(&node.budget)));
            self.links.entry((from, to, shard)).or_default();
        }
    }

    /// Streams between two nodes come up in both directions.
    pub(crate) fn join(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            for shard in 0..SHARDS {
                self.stream_up(from, to, shard);
            }
        }
    }

    pub(crate) fn join_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                self.join(a, b);
            }
        }
    }

    pub(crate) fn stream_up(&mut self, from: usize, to: usize, shard: u8) {
        let link = self.links.get_mut(&(from, to, shard)).expect("made");
        if link.up {
            return;
        }
        *link = Link { up: true, ..Link::default() };
        let hello = self.nodes[from].senders[&(to, shard)].hello();
        let peer = self.nodes[from].id;
        let node = &mut self.nodes[to];
        let (copies, dirty) = (Arc::clone(&node.copies), Arc::clone(&node.dirty));
        let receiver = Receiver::new(node.local(), peer, &hello, copies, dirty).expect("welcome");
        let answer = receiver.hello();
        node.receivers.insert((from, shard), receiver);
        let (now, answering) = (self.now, self.nodes[to].id);
        let node = &mut self.nodes[from];
        let hello = check_hello(node.local(), answering, &answer).expect("welcome");
        let sender = node.senders.get_mut(&(to, shard)).expect("made");
        sender.handle_stream_up(now, &Hello { version: self.version, ..hello });
    }

    /// The stream breaks; what was under way is lost.
    pub(crate) fn stream_down(&mut self, from: usize, to: usize, shard: u8) {
        let link = self.links.get_mut(&(from, to, shard)).expect("made");
        if !std::mem::take(&mut link.up) {
            return;
        }
        link.frames.clear();
        link.acks.clear();
        self.nodes[to].receivers.remove(&(from, shard));
        let sender = self.nodes[from].senders.get_mut(&(to, shard)).expect("made");
        sender.handle_stream_down(self.now);
    }

    pub(crate) fn cut(&mut self, a: usize, b: usize) {
        for (from, to) in [(a, b), (b, a)] {
            for shard in 0..SHARDS {
                self.stream_down(from, to, shard);
            }
        }
    }

    pub(crate) fn stall(&mut self, from: usize, to: usize, stalled: bool) {
        for shard in 0..SHARDS {
            self.links.get_mut(&(from, to, shard)).expect("made").stalled = stalled;
        }
    }

    /// A millisecond: each sender writes what it may, each stream carries a random part.
    pub(crate) fn step(&mut self) {
        self.now += MS;
        let ids: Vec<_> = self.links.keys().copied().collect();
        for (from, to, shard) in ids {
            let link = self.links.get_mut(&(from, to, shard)).expect("listed");
            if !link.up {
                continue;
            }
            let node = &mut self.nodes[from];
            let sender = node.senders.get_mut(&(to, shard)).expect("made");
            for _ in 0..FRAMES_PER_STEP {
                if link.frames.len() >= STREAM_FRAMES_MAX {
                    break;
                }
                let Some(frame) = sender.poll_transmit(self.now, &*node.shared, ROOM) else {
                    break;
                };
                link.frames.push_back(frame);
            }
            if link.stalled {
                continue;
            }
            let carried = self.rng.below(link.frames.len() as u64 + 1) as usize;
            for frame in link.frames.drain(..carried) {
                let node = &mut self.nodes[to];
                let receiver = node.receivers.get_mut(&(from, shard)).expect("up");
                let reply =
                    receiver.handle_frame(self.now, &*node.shared, &frame).expect("well-formed");
                if reply.ack.is_empty() {
                    continue;
                }
                let ended = reply.donations_ended.into_iter().map(|group| (from, group));
                node.donations_ended.extend(ended);
                link.acks.push_back(reply.ack);
            }
            let returned = self.rng.below(link.acks.len() as u64 + 1) as usize;
            let sender = self.nodes[from].senders.get_mut(&(to, shard)).expect("made");
            for ack in link.acks.drain(..returned) {
                sender.handle_ack(self.now, &ack).expect("well-formed");
            }
        }
    }

    pub(crate) fn run(&mut self, ms: u64) {
        (0..ms).for_each(|_| self.step());
    }

    /// Until nothing waits and nothing is unacknowledged but heartbeats.
    pub(crate) fn quiesce(&mut self) {
        for _ in 0..20_000 {
            self.step();
            let busy = self.nodes.iter().enumerate().any(|(from, node)| {
                node.senders.iter().any(|((to, shard), sender)| {
                    let m = sender.metrics();
                    self.links[&(from, *to, *shard)].up
                        && (m.waiting + m.unacked_records + m.snapshots_pending > 0)
                })
            });
            if !busy {
                return self.run(60);
            }
        }
        panic!("no rest within 20 s of the simulation's time");
    }

    pub(crate) fn epoch(&self, group: GroupId) -> Epoch {
        self.holders[&group].1
    }

    /// `holder` takes the group over; `informed` nodes hear of it.
    pub(crate) fn take_over(&mut self, group: GroupId, holder: usize, informed: &[usize]) {
        let old = self.holders.get(&group).copied();
        let claim = old.map_or(1, |(_, epoch)| epoch.claim + 1);
        let node = self.nodes[holder].id;
        let epoch = Epoch { generation: 1, grant_index: 5, claim, node };
        self.holders.insert(group, (holder, epoch));
        for index in informed {
            self.inform(group, *index, old);
        }
    }

    /// A node hears who holds the group, and whom it followed or was before.
    pub(crate) fn inform(&mut self, group: GroupId, index: usize, old: Option<(usize, Epoch)>) {
        let (holder, epoch) = self.holders[&group];
        let now = self.now;
        let node = &mut self.nodes[index];
        node.copies.handle_epoch(group, epoch);
        for ((to, _), sender) in &mut node.senders {
            let role = match old {
                _ if index == holder => GroupRole::Send { epoch },
                Some((before, epoch)) if *to == holder => {
                    GroupRole::Donate { epoch, everything: before != index }
                }
                _ => GroupRole::Idle,
            };
            sender.handle_role(now, group, role);
        }
    }

    pub(crate) fn connect(&mut self, group: GroupId, port: u16, server: u32) {
        let (holder, epoch) = self.holders[&group];
        let now = self.now;
        self.nodes[holder].connect(now, group, port, server, epoch);
    }

    pub(crate) fn completeness(&self, group: GroupId, index: usize) -> Completeness {
        let (holder, _) = self.holders[&group];
        let Node { id, boot, .. } = self.nodes[holder];
        self.nodes[index].copies.completeness(group, id, boot, self.now)
    }

    /// What one client does to a connection of the holder.
    pub(crate) fn random_change(&mut self, group: GroupId, ports: u64) {
        let (holder, epoch) = self.holders[&group];
        let port = 1 + self.rng.below(ports) as u16;
        let server = 1 + self.rng.below(3) as u32;
        let (now, dice) = (self.now, self.rng.below(10));
        self.changed.insert(key(group, port), now);
        let node = &mut self.nodes[holder];
        let Some(found) = node.find(group, port) else {
            if dice == 0 {
                node.open(now, group, port, server, epoch);
            } else {
                node.connect(now, group, port, server, epoch);
            }
            return;
        };
        match (dice, found.state()) {
            (0..=2, _) => drop(node.remove(now, group, port, Removal::Expired)),
            (3..=4, _) => {
                node.remove(now, group, port, Removal::Reused);
                node.connect(now, group, port, server, epoch);
            }
            (_, State::SynRecv) => node.packet(now, &found, State::Established),
            (_, State::Established) => node.packet(now, &found, State::FinWait),
            (_, State::FinWait) => node.packet(now, &found, State::TimeWait),
            (_, state) => node.packet(now, &found, state),
        }
    }

    pub(crate) fn random_break(&mut self) {
        let ids: Vec<_> = self.links.keys().copied().collect();
        let (from, to, shard) = ids[self.rng.below(ids.len() as u64) as usize];
        if self.links[&(from, to, shard)].up {
            self.stream_down(from, to, shard);
        } else {
            self.stream_up(from, to, shard);
        }
    }

    /// A copy that calls itself complete as of some time has everything as it was then. True when
    /// there was something to look at.
    pub(crate) fn assert_complete_is_true(&self, group: GroupId, index: usize, seed: u64) -> bool {
        let Completeness::Complete { last_applied_ns, .. } = self.completeness(group, index) else {
            return false;
        };
        // The receiver takes the quickest batch of a stream for one that took no time.
        let as_of = last_applied_ns.saturating_sub(50 * MS);
        let here = self.nodes[index].contents(group);
        let there = self.nodes[self.holders[&group].0].contents(group);
        let settled =
            there.iter().filter(|(key, _)| self.changed.get(key).is_none_or(|at| *at < as_of));
        for (key, value) in settled {
            assert_eq!(here.get(key), Some(value), "SEED={seed}: node {index}, {key:?}");
        }
        !there.is_empty()
    }

    pub(crate) fn assert_copies(&self, group: GroupId, copies: &[usize], seed: u64) {
        let (holder, _) = self.holders[&group];
        let want = self.nodes[holder].contents(group);
        for index in copies {
            let got = self.nodes[*index].contents(group);
            let missing: Vec<_> = want.iter().filter(|(k, v)| got.get(k) != Some(v)).collect();
            let extra: Vec<_> = got.iter().filter(|(k, _)| !want.contains_key(k)).collect();
            assert!(
                missing.is_empty() && extra.is_empty(),
                "SEED={seed}: group {group} on node {index}: {} of {} missing or wrong: {:?}, {} too many: {:?}",
                missing.len(),
                want.len(),
                &missing[..missing.len().min(3)],
                extra.len(),
                &extra[..extra.len().min(3)],
            );
        }
    }
}

impl World {
    /// As [`Self::quiesce`], whatever one node may have to say.
    pub(crate) fn quiesce_without(&mut self, mute: usize) {
        for _ in 0..2000 {
            self.step();
            let busy =
                self.nodes.iter().enumerate().filter(|(from, _)| *from != mute).any(|(_, n)| {
                    n.senders.values().any(|s| {
                        let m = s.metrics();
                        m.connected && m.waiting + m.unacked_records + m.snapshots_pending > 0
                    })
                });
            if !busy {
                return;
            }
        }
        panic!("no rest within 2 s of the simulation's time");
    }
}
