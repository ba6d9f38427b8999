//! Three nodes, the ways between them, and a log in short.
//!
//! Time is in ticks; a beacon goes out every tick and a node is silent after four. A frame takes
//! one tick. Raft is an abstract log: one grant at a time, compare-and-set on the committed epoch,
//! only while a majority runs, applied by every node at its next tick unless it lags. A leader that
//! stops is followed by the first node that runs.

use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_ownership::*;

use super::{
    fault::{Fault, Which},
    watch::Broken,
};

pub(crate) const NODES: usize = 3;
/// Ticks without faults before the search begins: grants, beacons and copies settle.
pub(crate) const WARM_UP: u64 = 20;

pub(crate) fn settings() -> Settings {
    Settings {
        beacon: 1,
        silent_after: 4,
        complete_within: 1_000,
        stale_delay: 2,
        empty_delay: 3,
        rank_step: 1,
        gap_beacons: 1,
        mute_gap_beacons: 3,
        mute_beacons: 2,
        announce_beacons: 3,
        strict_margin: 0,
        arp_offsets: Vec::new(),
        arp_refresh: 0,
        arp_pace: 1,
        stale_sender_after: 1_000,
        shutdown_bound: 8,
        alone_after: 5,
        held_down_delay: 8,
        propose_again: 4,
        regrant_after: 5,
    }
}

/// A frame under way, and what its sender knew when it sent it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Mail {
    pub(crate) frame: Frame,
    /// The highest epoch of each group, and its sender's standing under it.
    pub(crate) known: Vec<(Epoch, u8)>,
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Host {
    pub(crate) core: Option<Ownership>,
    pub(crate) boots: u64,
    pub(crate) paused: bool,
    pub(crate) lags: bool,
    /// Cut off from all others, whichever run is there.
    pub(crate) isolated: bool,
    pub(crate) ran: u64,
    /// Index of the last grant applied.
    pub(crate) applied: u64,
    pub(crate) inbox: Vec<Mail>,
    late: Vec<Mail>,
    /// Probes that this node sent in its last round: group, and whether somebody answers.
    probes: Vec<(usize, bool)>,
    /// Until when workers may answer, group by group, as they were last told.
    pub(crate) published: Vec<u64>,
    /// Whether it announced alone at its last round, group by group.
    pub(crate) shadowed: Vec<bool>,
    /// Highest epoch this run has shown, group by group.
    pub(crate) epochs: Vec<Epoch>,
    /// Claims that this run has asked for: group and epoch.
    pub(crate) claimed: Vec<(usize, Epoch)>,
    /// What runs of this node have announced: group, epoch, run.
    pub(crate) announced: Vec<(usize, Epoch, u64)>,
}

impl Host {
    pub(crate) fn runs(&self) -> bool {
        self.core.is_some() && !self.paused
    }
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) hosts: Vec<Host>,
    pub(crate) committed: Committed,
    /// Every grant there was: group, epoch, run.
    pub(crate) grants: Vec<(usize, Epoch, BootId)>,
    pub(crate) leader: usize,
    /// Cut: from, to, way; sorted.
    pub(crate) cuts: Vec<(usize, usize, Which)>,
    /// Faults that this history may still have.
    pub(crate) left: u8,
    /// Faults of one tick are injected in one order only: they commute.
    pub(crate) injected: u16,
    /// A group has changed hands.
    pub(crate) taken_over: bool,
    /// A node has announced alone.
    pub(crate) shadowed: bool,
    pub(crate) broken: Broken,
}

pub(crate) fn id(host: usize) -> NodeId {
    NodeId(host as u32 + 1)
}

pub(crate) fn group_id(group: usize) -> GroupId {
    GroupId(group as u32 + 1)
}

pub(crate) fn segment_id(segment: usize) -> SegmentId {
    SegmentId(segment as u16 + 1)
}

pub(crate) fn boot_id(host: usize, boots: u64) -> BootId {
    BootId(host as u64 * 1_000 + boots)
}

fn is_on(path: Path, which: Which) -> bool {
    match which {
        Which::All => true,
        Which::Peer => path == Path::Peer,
        Which::Segment(segment) => path == Path::Segment(segment_id(segment)),
    }
}

/// What a node knows of a group, in the order in which announcers yield: the epoch; under one epoch
/// the holder is above shadows, and of those the better rank.
pub(crate) fn standing(core: &Ownership, index: usize, group: usize) -> (Epoch, u8) {
    let epoch = core.epoch(group_id(group)).unwrap_or_default();
    let standing = match core.state(group_id(group)) {
        Some(state) if state.holds() && epoch.node == id(index) => HOLDS,
        Some(GroupState::Shadow) => HOLDS - 1 - index as u8,
        _ => 0,
    };
    (epoch, standing)
}

/// Standing of a holder.
pub(crate) const HOLDS: u8 = 10;

impl World {
    /// A cluster at rest: node 0 holds every group. Group `n` is on segment `n`.
    pub(crate) fn start(policies: &[Policy], leader: usize, left: u8) -> Self {
        let candidates: Vec<_> = (0..NODES).map(id).collect();
        let members = candidates
            .iter()
            .map(|node| Member {
                node: *node,
                cordoned: false,
                held_down: false,
                known_dead: false,
                witness: false,
            })
            .collect();
        let group = |(group, policy): (usize, &Policy)| CommittedGroup {
            id: group_id(group),
            segments: vec![segment_id(group)],
            candidates: candidates.clone(),
            grant: None,
            policy: *policy,
            alone: match policy {
                Policy::Available => Alone::Claim,
                Policy::Strict => Alone::Never,
            },
            sync_group: None,
        };
        let committed = Committed {
            generation: 1,
            applied_index: 1,
            voters: candidates.clone(),
            members,
            groups: policies.iter().enumerate().map(group).collect(),
        };
        let mut world = Self {
            now: 0,
            hosts: Vec::new(),
            committed,
            grants: Vec::new(),
            leader,
            cuts: Vec::new(),
            left,
            injected: 0,
            taken_over: false,
            shadowed: false,
            broken: Broken::default(),
        };
        world.hosts = (0..NODES).map(|host| world.new_host(host, 1)).collect();
        for group in 0..policies.len() {
            world.now += 1;
            world.commit(group, id(0), boot_id(0, 1));
        }
        for _ in 0..WARM_UP {
            world.tick();
        }
        world.taken_over = false;
        world
    }

    pub(crate) fn groups(&self) -> usize {
        self.committed.groups.len()
    }

    /// A run that knows nothing but the committed state.
    fn new_host(&self, host: usize, boots: u64) -> Host {
        let now = Time(self.now);
        let mut core = Ownership::new(id(host), boot_id(host, boots), settings(), now).unwrap();
        core.handle_committed(now, self.committed.clone());
        for segment in 0..self.groups() {
            core.handle_link(now, segment_id(segment), true);
        }
        Host {
            core: Some(core),
            boots,
            paused: false,
            lags: false,
            isolated: self.hosts.get(host).is_some_and(|host| host.isolated),
            ran: self.now,
            applied: self.committed.applied_index,
            inbox: Vec::new(),
            late: Vec::new(),
            probes: Vec::new(),
            published: vec![0; self.groups()],
            shadowed: vec![false; self.groups()],
            epochs: vec![Epoch::default(); self.groups()],
            claimed: Vec::new(),
            announced: Vec::new(),
        }
    }

    pub(crate) fn inject(&mut self, fault: Fault) {
        if fault.counts() {
            self.left -= 1;
        }
        match fault {
            Fault::Crash(h) => {
                let host = &mut self.hosts[h];
                (host.core, host.paused, host.lags) = (None, false, false);
                host.inbox.clear();
                host.late.clear();
                host.probes.clear();
                host.published.fill(0);
                host.shadowed.fill(false);
            }
            Fault::Restart(h) => {
                let announced = std::mem::take(&mut self.hosts[h].announced);
                self.hosts[h] = self.new_host(h, self.hosts[h].boots + 1);
                self.hosts[h].announced = announced;
            }
            Fault::Pause(h) => self.hosts[h].paused = true,
            Fault::Resume(h) => self.hosts[h].paused = false,
            Fault::Cut(from, to, which) => {
                self.cuts.push((from, to, which));
                self.cuts.sort_unstable();
            }
            Fault::Heal(from, to, which) => self.cuts.retain(|cut| *cut != (from, to, which)),
            Fault::Isolate(h) => self.hosts[h].isolated = true,
            Fault::Rejoin(h) => self.hosts[h].isolated = false,
            Fault::Lose(from, to) => {
                self.hosts[to].inbox.retain(|mail| mail.frame.from != id(from));
            }
            Fault::Delay(from, to, which) => {
                let host = &mut self.hosts[to];
                let delayed =
                    |mail: &Mail| mail.frame.from == id(from) && is_on(mail.frame.path, which);
                (host.late, host.inbox) = host.inbox.drain(..).partition(delayed);
            }
            Fault::Lag(h) => self.hosts[h].lags = true,
            Fault::Move(group, target) => {
                let now = Time(self.hosts[self.leader].ran);
                if let Some(core) = &mut self.hosts[self.leader].core {
                    // A move that is refused changes nothing.
                    let _ = core.handle_move(now, group_id(group), Some(id(target)));
                }
            }
        }
        if !self.hosts[self.leader].runs() {
            let next = (0..NODES).find(|host| self.hosts[*host].runs());
            self.leader = next.unwrap_or(self.leader);
        }
    }

    /// Ends every fault.
    pub(crate) fn heal(&mut self) {
        self.cuts.clear();
        for host in 0..NODES {
            self.hosts[host].isolated = false;
            if self.hosts[host].core.is_none() {
                self.inject(Fault::Restart(host));
            } else if self.hosts[host].paused {
                self.inject(Fault::Resume(host));
            }
        }
    }

    pub(crate) fn tick(&mut self) {
        self.now += 1;
        self.injected = 0;
        let before: Vec<_> = self.hosts.iter().map(|host| host.published.clone()).collect();
        let mut sent = Vec::new();
        for host in 0..NODES {
            self.run(host, &before, &mut sent);
        }
        for host in &mut self.hosts {
            host.inbox.append(&mut host.late);
        }
        for (from, to, mail) in sent {
            let path = mail.frame.path;
            let lost =
                |cut: &(usize, usize, Which)| (cut.0, cut.1) == (from, to) && is_on(path, cut.2);
            let isolated = self.hosts[from].isolated || self.hosts[to].isolated;
            if self.hosts[to].core.is_some() && !isolated && !self.cuts.iter().any(lost) {
                self.hosts[to].inbox.push(mail);
            }
        }
    }

    /// What the driver does in one round: drain, tick, act, publish.
    fn run(&mut self, index: usize, before: &[Vec<u64>], sent: &mut Vec<(usize, usize, Mail)>) {
        let now = Time(self.now);
        let groups = self.groups();
        let boots: Vec<_> = self.hosts.iter().map(|host| host.boots).collect();
        let host = &mut self.hosts[index];
        if !host.runs() {
            return;
        }
        let lags = std::mem::take(&mut host.lags);
        let Some(core) = &mut host.core else { return };
        host.ran = self.now;
        // What each group's announcer cannot overlook: somebody's word of a higher epoch.
        let mut told = vec![<(Epoch, u8)>::default(); groups];
        for Mail { frame, known } in host.inbox.drain(..) {
            let refused = |core: &Ownership| core.counters().rejected.values().sum::<u64>();
            let count = refused(core);
            core.handle_message(now, frame.path, frame);
            if refused(core) == count {
                for (told, known) in told.iter_mut().zip(known) {
                    *told = known.max(*told);
                }
            }
        }
        core.handle_leader(now, index == self.leader);
        if !lags && host.applied < self.committed.applied_index {
            host.applied = self.committed.applied_index;
            core.handle_committed(now, self.committed.clone());
        }
        for other in (0..NODES).filter(|other| *other != index) {
            for boots in [boots[other] - 1, boots[other]] {
                let boot = boot_id(other, boots);
                core.handle_completeness(now, id(other), boot, Completeness::Complete);
            }
        }
        for (group, answered) in std::mem::take(&mut host.probes) {
            core.handle_probed(now, group_id(group), answered);
        }
        core.handle_tick(now);
        let mut proposals = Vec::new();
        let mut probes = Vec::new();
        let mut mail = Vec::new();
        while let Some(action) = core.poll_action() {
            match action {
                Action::SendPeer { node, frame } => mail.push((node.0 as usize - 1, frame)),
                Action::SendSegment { frame, .. } => {
                    let others = (0..NODES).filter(|other| *other != index);
                    mail.extend(others.map(|other| (other, frame.clone())));
                }
                Action::ProposeGrant { group, expected, holder, boot, why, .. } => {
                    proposals.push((group.0 as usize - 1, expected, holder, boot, why));
                }
                Action::ProbeAddresses { group } => probes.push(group.0 as usize - 1),
                _ => {}
            }
        }
        let known: Vec<_> = (0..groups).map(|group| standing(core, index, group)).collect();
        for (to, frame) in mail {
            if let Message::ClaimRequest(request) = &frame.body {
                let claims = request.claims.iter().map(|(g, epoch)| (g.0 as usize - 1, *epoch));
                host.claimed.extend(claims);
                host.claimed.sort_unstable();
                host.claimed.dedup();
            }
            sent.push((index, to, Mail { frame, known: known.clone() }));
        }
        for group in 0..groups {
            let until = core.announce_valid_until(group_id(group), now);
            host.published[group] = until.map_or(0, |until| until.0);
        }
        for group in probes {
            let answered = self.answers(index, group);
            self.hosts[index].probes.push((group, answered));
        }
        self.watch(index, before, &told);
        for (group, expected, holder, boot, why) in proposals {
            let majority = self.hosts.iter().filter(|host| host.runs()).count() * 2 > NODES;
            let current = self.committed.groups[group].grant.map(|grant| grant.epoch);
            if index == self.leader && majority && current == expected {
                self.watch_grant(group, holder, why);
                self.commit(group, holder, boot);
            }
        }
    }

    /// Whether another node answers on the group's segment what `asker` asks there.
    fn answers(&self, asker: usize, group: usize) -> bool {
        let cut = |from: usize, to: usize| {
            let path = Path::Segment(segment_id(group));
            self.hosts[from].isolated
                || self.hosts[to].isolated
                || self.cuts.iter().any(|cut| (cut.0, cut.1) == (from, to) && is_on(path, cut.2))
        };
        (0..NODES).filter(|other| *other != asker).any(|other| {
            self.hosts[other].published[group] > self.now
                && !cut(asker, other)
                && !cut(other, asker)
        })
    }

    fn commit(&mut self, group: usize, holder: NodeId, boot: BootId) {
        self.committed.applied_index += 1;
        let grant_index = self.committed.applied_index;
        let epoch = Epoch { generation: 1, grant_index, claim: 0, node: holder };
        self.committed.groups[group].grant = Some(Grant { epoch, holder, boot });
        self.grants.push((group, epoch, boot));
    }
}
