//! A virtual network: integer time, latency, and faults by hand.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_ownership::*;

pub const G: GroupId = GroupId(1);
pub const SEG: SegmentId = SegmentId(1);
pub const MS: u64 = 1_000;
/// Until it is known whether somebody answers a probe.
pub const PROBE_TIME: u64 = 200 * MS;

/// Everything a node asked for, by time.
#[derive(Clone, Debug)]
pub struct Event {
    pub at: Time,
    pub node: NodeId,
    pub action: Action,
}

pub struct Node {
    pub core: Ownership,
    pub alive: bool,
    pub paused: bool,
    pub boots: u64,
    /// What its workers were last told of each group: it stands while the loop is paused.
    pub published: BTreeMap<GroupId, Time>,
}

/// Nodes 1..=n on one segment and with a control connection each, and a Raft log in short: grants
/// proposed by the leader are committed if the compare-and-set fits, and applied everywhere.
pub struct Net {
    pub now: Time,
    pub nodes: BTreeMap<NodeId, Node>,
    pub committed: Committed,
    pub latency: u64,
    pub commit_latency: u64,
    pub leader: Option<NodeId>,
    /// Applies every commit 20 ms later than the others.
    pub lagging: Option<NodeId>,
    pub settings: Settings,
    /// One-way: frames from the first to the second on this path are lost.
    pub cuts: BTreeSet<(NodeId, NodeId, Path)>,
    pub complete: BTreeSet<(NodeId, NodeId)>,
    /// Whoever announces answers a probe, although frames between the two are cut.
    pub probes_cross_cuts: bool,
    /// No probe is ever reported on.
    pub probes_are_lost: bool,
    /// Candidates are those of [`rank`], as in a daemon; what is proposed at one instant is committed
    /// together, for thousands of groups.
    pub ranked: bool,
    probes: BTreeMap<(Time, u64), (NodeId, GroupId)>,
    pub events: Vec<Event>,
    pub log_frames: bool,
    pub frames: Vec<(Time, Frame)>,
    in_flight: BTreeMap<(Time, u64), (NodeId, Path, Frame)>,
    commits: BTreeMap<(Time, u64), (NodeId, Committed)>,
    serial: u64,
    repeat_at: Time,
}

pub fn node(n: u32) -> NodeId {
    NodeId(n)
}

pub fn group(id: GroupId, candidates: &[u32]) -> CommittedGroup {
    CommittedGroup {
        id,
        segments: vec![SEG],
        candidates: candidates.iter().copied().map(NodeId).collect(),
        grant: None,
        policy: Policy::Available,
        alone: Alone::Claim,
        sync_group: None,
    }
}

impl Net {
    pub fn new(nodes: u32, settings: Settings) -> Self {
        let ids: Vec<u32> = (1..=nodes).collect();
        let committed = Committed {
            generation: 1,
            applied_index: 1,
            voters: ids.iter().copied().map(NodeId).collect(),
            members: ids
                .iter()
                .map(|n| Member {
                    node: NodeId(*n),
                    cordoned: false,
                    held_down: false,
                    known_dead: false,
                    witness: false,
                })
                .collect(),
            groups: vec![group(G, &ids)],
        };
        Self::with(committed, settings)
    }

    pub fn with(committed: Committed, settings: Settings) -> Self {
        let mut net = Self {
            now: Time(1_000_000),
            nodes: BTreeMap::new(),
            committed,
            latency: 200,
            commit_latency: 2 * MS,
            leader: None,
            lagging: None,
            settings,
            cuts: BTreeSet::new(),
            complete: BTreeSet::new(),
            probes_cross_cuts: false,
            probes_are_lost: false,
            ranked: false,
            probes: BTreeMap::new(),
            events: Vec::new(),
            log_frames: false,
            frames: Vec::new(),
            in_flight: BTreeMap::new(),
            commits: BTreeMap::new(),
            serial: 0,
            repeat_at: Time(0),
        };
        let ids: Vec<_> = net.committed.members.iter().map(|member| member.node).collect();
        for a in &ids {
            for b in &ids {
                net.complete.insert((*a, *b));
            }
        }
        for id in ids {
            net.boot(id, 1);
        }
        net
    }

    /// A cluster of three whose node 1 leads and holds these strict groups.
    pub fn strict(groups: u32) -> Self {
        let mut net = Self::new(3, Settings::default());
        net.committed.groups = (1..=groups).map(|g| group(GroupId(g), &[1, 2, 3])).collect();
        for group in &mut net.committed.groups {
            group.policy = Policy::Strict;
        }
        for n in [1, 2, 3] {
            net.boot(NodeId(n), 1);
        }
        net.run(500 * MS);
        for group in 1..=groups {
            net.grant(GroupId(group), 1);
        }
        net.lead(2);
        net.run(1_000 * MS);
        for group in 1..=groups {
            assert_eq!(net.answering(GroupId(group)), vec![NodeId(1)]);
        }
        net
    }

    /// A cluster whose node 1 leads and whose group 1 is held by node 1.
    pub fn running(nodes: u32) -> Self {
        let mut net = Self::new(nodes, Settings::default());
        net.lead(1);
        net.run(500 * MS);
        assert_eq!(net.holders(G), vec![NodeId(1)], "the first candidate gets the first grant");
        net
    }

    pub fn boot(&mut self, id: NodeId, boots: u64) {
        let boot = BootId((u64::from(id.0) << 32) + boots);
        let mut core = Ownership::new(id, boot, self.settings.clone(), self.now).unwrap();
        core.handle_committed(self.now, self.committed.clone());
        core.handle_link(self.now, SEG, true);
        self.nodes.insert(
            id,
            Node { core, alive: true, paused: false, boots, published: BTreeMap::new() },
        );
    }

    pub fn kill(&mut self, n: u32) {
        self.nodes.get_mut(&NodeId(n)).unwrap().alive = false;
        if self.leader == Some(NodeId(n)) {
            self.leader = None;
        }
    }

    pub fn restart(&mut self, n: u32) {
        let boots = self.nodes[&NodeId(n)].boots + 1;
        self.boot(NodeId(n), boots);
    }

    pub fn pause(&mut self, n: u32, paused: bool) {
        self.nodes.get_mut(&NodeId(n)).unwrap().paused = paused;
    }

    pub fn lead(&mut self, n: u32) {
        let now = self.now;
        self.leader = Some(NodeId(n));
        for (id, node) in &mut self.nodes {
            if node.alive {
                node.core.handle_leader(now, *id == NodeId(n));
            }
        }
    }

    pub fn cut(&mut self, from: u32, to: u32, path: Path) {
        self.cuts.insert((NodeId(from), NodeId(to), path));
    }

    /// One direction, all paths.
    pub fn deafen(&mut self, from: u32, to: u32) {
        for path in [Path::Peer, Path::Segment(SEG)] {
            self.cut(from, to, path);
        }
    }

    /// Both directions, all paths.
    pub fn isolate(&mut self, n: u32) {
        let ids: Vec<_> = self.nodes.keys().map(|id| id.0).collect();
        for other in ids {
            for path in [Path::Peer, Path::Segment(SEG)] {
                self.cut(n, other, path);
                self.cut(other, n, path);
            }
        }
    }

    pub fn core(&mut self, n: u32) -> &mut Ownership {
        &mut self.nodes.get_mut(&NodeId(n)).unwrap().core
    }

    pub fn state(&self, n: u32, group: GroupId) -> GroupState {
        let status = self.nodes[&NodeId(n)].core.status(self.now);
        status.groups.iter().find(|g| g.group == group).unwrap().state
    }

    pub fn epoch(&self, n: u32, group: GroupId) -> Epoch {
        let status = self.nodes[&NodeId(n)].core.status(self.now);
        status.groups.iter().find(|g| g.group == group).unwrap().epoch
    }

    /// Live nodes whose workers would answer ARP now.
    pub fn holders(&self, group: GroupId) -> Vec<NodeId> {
        let announces = |node: &Node| {
            node.alive && !node.paused && node.core.announce_valid_until(group, self.now).is_some()
        };
        self.nodes.iter().filter(|(_, node)| announces(node)).map(|(id, _)| *id).collect()
    }

    /// Nodes whose workers may answer ARP now by what they were last told, also while their loop is
    /// paused.
    pub fn answering(&self, group: GroupId) -> Vec<NodeId> {
        let answers = |node: &Node| {
            node.alive && node.published.get(&group).is_some_and(|until| *until > self.now)
        };
        self.nodes.iter().filter(|(_, node)| answers(node)).map(|(id, _)| *id).collect()
    }

    pub fn actions_of(&self, n: u32, since: Time) -> Vec<(Time, Action)> {
        self.events
            .iter()
            .filter(|event| event.node == NodeId(n) && event.at >= since)
            .map(|event| (event.at, event.action.clone()))
            .collect()
    }

    /// Commits a grant as if an operator had asked, and applies it everywhere after the latency.
    pub fn grant(&mut self, group: GroupId, to: u32) -> Epoch {
        let boot = self.nodes[&NodeId(to)].boots;
        let boot = BootId((u64::from(to) << 32) + boot);
        self.commit(group, NodeId(to), boot)
    }

    pub fn commit(&mut self, group: GroupId, holder: NodeId, boot: BootId) -> Epoch {
        let epoch = self.record(group, holder, boot);
        self.apply_everywhere();
        epoch
    }

    /// Writes a grant into the log.
    fn record(&mut self, group: GroupId, holder: NodeId, boot: BootId) -> Epoch {
        self.committed.applied_index += 1;
        let epoch = Epoch {
            generation: self.committed.generation,
            grant_index: self.committed.applied_index,
            claim: 0,
            node: holder,
        };
        let spec = self.committed.groups.iter_mut().find(|g| g.id == group).unwrap();
        spec.grant = Some(Grant { epoch, holder, boot });
        epoch
    }

    /// Ranks the candidates of all groups.
    pub fn rank(&mut self) {
        let groups = &self.committed.groups;
        let groups: Vec<_> = groups.iter().map(|g| (g.id, g.grant.map(|g| g.holder))).collect();
        let members = &self.committed.members;
        let nodes: Vec<_> =
            members.iter().map(|m| (m.node, !m.cordoned && !m.held_down && !m.witness)).collect();
        let mut ranks = rank(&groups, &nodes);
        for group in &mut self.committed.groups {
            group.candidates = ranks.remove(&group.id).unwrap();
        }
    }

    pub fn apply_everywhere(&mut self) {
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        for id in ids {
            self.serial += 1;
            let lag = if self.lagging == Some(id) { 20 * MS } else { 0 };
            let at = self.now + self.commit_latency + lag;
            self.commits.insert((at, self.serial), (id, self.committed.clone()));
        }
    }

    /// Runs until `span` has passed.
    pub fn run(&mut self, span: u64) {
        let end = self.now + span;
        while self.step(end) {}
        self.now = end;
    }

    /// Runs until `done` or for `span` at most; returns whether it was done.
    pub fn run_until(&mut self, span: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + span;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                self.now = end;
                return done(self);
            }
        }
    }

    /// One instant in which something happens, if there is one before `end`.
    fn step(&mut self, end: Time) -> bool {
        let awake = |node: &&Node| node.alive && !node.paused;
        let deadlines = self.nodes.values().filter(awake).map(|n| n.core.next_deadline());
        let frames = self.in_flight.keys().map(|(at, _)| *at);
        let commits = self.commits.keys().map(|(at, _)| *at);
        let probes = self.probes.keys().map(|(at, _)| *at);
        let next = deadlines
            .chain(probes)
            .chain(frames)
            .chain(commits)
            .chain([self.repeat_at])
            .min()
            .unwrap();
        let next = next.max(self.now);
        if next > end {
            return false;
        }
        self.now = next;
        if self.now >= self.repeat_at {
            self.repeat_facts();
            self.repeat_at = self.now + 50 * MS;
        }
        self.report_probes();
        self.deliver();
        let ids: Vec<_> = self.nodes.keys().copied().collect();
        for id in ids {
            self.tick(id);
        }
        true
    }

    fn repeat_facts(&mut self) {
        let boots: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, node)| node.alive)
            .map(|(id, node)| (*id, BootId((u64::from(id.0) << 32) + node.boots)))
            .collect();
        for (id, node) in self.nodes.iter_mut().filter(|(_, n)| n.alive && !n.paused) {
            node.core.handle_worker_progress(self.now, true);
            for (holder, boot) in &boots {
                if self.complete.contains(&(*id, *holder)) && holder != id {
                    let copy = Completeness::Complete;
                    node.core.handle_completeness(self.now, *holder, *boot, copy);
                }
            }
        }
    }

    fn report_probes(&mut self) {
        while let Some(entry) = self.probes.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (asker, group) = entry.remove();
            let path = Path::Segment(SEG);
            let answered = self.answering(group).into_iter().any(|other| {
                let cut = self.cuts.contains(&(asker, other, path))
                    || self.cuts.contains(&(other, asker, path));
                other != asker && (self.probes_cross_cuts || !cut)
            });
            let node = self.nodes.get_mut(&asker).unwrap();
            if node.alive && !node.paused {
                node.core.handle_probed(self.now, group, answered);
            }
        }
    }

    fn deliver(&mut self) {
        // A paused node's frames wait in its socket: they are due again when it runs.
        let due: Vec<_> = self
            .in_flight
            .range(..=(self.now, u64::MAX))
            .map(|(key, (to, path, frame))| (*key, *to, *path, frame.clone()))
            .collect();
        for (key, to, path, frame) in due {
            self.in_flight.remove(&key);
            let node = self.nodes.get_mut(&to).unwrap();
            if node.paused {
                self.in_flight.insert((self.now + MS, key.1), (to, path, frame));
            } else if node.alive {
                node.core.handle_message(self.now, path, frame);
            }
        }
        let due: Vec<_> = self.commits.range(..=(self.now, u64::MAX)).map(|(k, _)| *k).collect();
        for key in due {
            let (to, committed) = self.commits.remove(&key).unwrap();
            let node = self.nodes.get_mut(&to).unwrap();
            if node.paused {
                self.commits.insert((self.now + MS, key.1), (to, committed));
            } else if node.alive {
                node.core.handle_committed(self.now, committed);
            }
        }
    }

    fn tick(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        if !node.alive || node.paused {
            return;
        }
        node.core.handle_tick(self.now);
        let mut recorded = false;
        while let Some(action) = self.nodes.get_mut(&id).unwrap().core.poll_action() {
            match action {
                Action::SendSegment { segment, frame } => {
                    let others: Vec<_> = self.nodes.keys().copied().filter(|n| *n != id).collect();
                    for to in others {
                        self.send(id, to, Path::Segment(segment), frame.clone());
                    }
                }
                Action::SendPeer { node, frame } => self.send(id, node, Path::Peer, frame),
                Action::ProposeGrant { group, expected, holder, boot, ref candidates, .. } => {
                    let spec = self.committed.groups.iter_mut().find(|g| g.id == group).unwrap();
                    let fits = spec.grant.map(|g| g.epoch) == expected;
                    if self.leader == Some(id) && fits && self.ranked {
                        self.record(group, holder, boot);
                        recorded = true;
                    } else if self.leader == Some(id) && fits {
                        spec.candidates.clone_from(candidates);
                        self.commit(group, holder, boot);
                    }
                    self.events.push(Event { at: self.now, node: id, action });
                }
                Action::ProbeAddresses { group } => {
                    if !self.probes_are_lost {
                        self.serial += 1;
                        self.probes.insert((self.now + PROBE_TIME, self.serial), (id, group));
                    }
                    self.events.push(Event { at: self.now, node: id, action });
                }
                action => self.events.push(Event { at: self.now, node: id, action }),
            }
        }
        if recorded {
            self.rank();
            self.apply_everywhere();
        }
        let node = self.nodes.get_mut(&id).unwrap();
        node.published = self
            .committed
            .groups
            .iter()
            .filter_map(|group| {
                Some((group.id, node.core.announce_valid_until(group.id, self.now)?))
            })
            .collect();
    }

    fn send(&mut self, from: NodeId, to: NodeId, path: Path, frame: Frame) {
        if self.log_frames {
            self.frames.push((self.now, frame.clone()));
        }
        if self.cuts.contains(&(from, to, path)) || !self.nodes.contains_key(&to) {
            return;
        }
        self.serial += 1;
        self.in_flight.insert((self.now + self.latency, self.serial), (to, path, frame));
    }
}
