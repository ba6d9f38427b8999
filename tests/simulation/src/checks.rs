//! What must hold: at every step, at named times, and when everything is well again.
//!
//! The numbers I1 to I10 are those of the design's list of invariants.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_dataplane::{Class, Cursor, FlowKey, Protocol, Role as PlaneRole, State};
use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_ownership::{GroupEvent, GroupState};

use crate::{
    clock::{MS, Ns, SECOND},
    cluster::{LISTENERS, Membership, vip},
    ether::{Segment, TCP, client_ip},
    knowledge::Knowledge,
    machine::Machine,
    overlap::Overlaps,
    raft::RaftRole,
    traffic::Session,
    world::World,
};

/// How often invariants are checked that look at tables.
pub(crate) const EVERY: Ns = 200 * MS;
/// After a clock leapt, copies look held up for two windows of 30 s: that is by design.
const STALE_AFTER_LEAP: Ns = 60 * SECOND;
/// After so long all sessions have been opened.
const WARM: Ns = 12 * SECOND;
/// Keys that may wait in the dirty set of a node: more than all connections there are.
const WAITING_MAX: u64 = 20_000;

/// What the checks remember.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Who announced first under an epoch.
    announced: BTreeMap<(GroupId, Epoch), (NodeId, BootId)>,
    /// The highest epoch of each run.
    epochs: BTreeMap<(NodeId, BootId, GroupId), Epoch>,
    /// Entries of the log by index.
    chain: Vec<u64>,
    /// The highest index each node ever applied.
    applied: BTreeMap<NodeId, u64>,
    /// What was created: key, server, incarnation.
    created: BTreeSet<(FlowKey, u32, u64)>,
    /// Connections of which not one holder alone carried packets: their states may differ.
    carried: BTreeSet<FlowKey>,
    /// Until when something is wrong that is not of the log alone.
    pub(crate) troubled_until: Ns,
    /// Until when something is wrong with the log.
    pub(crate) log_troubled_until: Ns,
    /// When a clock last leapt.
    pub(crate) leapt_at: Ns,
    /// Since when nothing is wrong.
    calm_since: Option<Ns>,
    /// Two announcers at once.
    pub(crate) overlaps: Overlaps,
    /// Who knows which session.
    pub(crate) knowledge: Knowledge,
    /// Transitions of the ownership table that were taken.
    pub transitions: BTreeMap<(GroupState, GroupEvent), u64>,
    /// Take-overs so far, and when the last was.
    pub(crate) taken: BTreeMap<GroupId, Ns>,
}

impl Checks {
    /// A packet of a connection was carried by a node that does not hold its group.
    pub(crate) fn carried_by_another(&mut self, segment: &Segment) {
        let protocol = if segment.protocol == TCP { Protocol::Tcp } else { Protocol::Udp };
        self.carried.insert(FlowKey {
            protocol,
            client: segment.src.0.into(),
            client_port: segment.src.1,
            vip: segment.dst.0.into(),
            vip_port: segment.dst.1,
        });
    }

    /// A connection was created at a holder.
    pub(crate) fn created(&mut self, key: FlowKey, server: u32, incarnation: u64) {
        self.carried.remove(&key);
        self.created.insert((key, server, incarnation));
    }

    /// An entry that all nodes begin with.
    pub(crate) fn founded(&mut self, serial: u64) {
        self.chain.push(serial);
    }
}

/// The key of a session's connection.
pub(crate) fn key_of(session: &Session) -> FlowKey {
    let at = &LISTENERS[session.listener];
    FlowKey {
        protocol: if at.protocol == TCP { Protocol::Tcp } else { Protocol::Udp },
        client: client_ip(session.client).into(),
        client_port: session.port,
        vip: vip(at.group).into(),
        vip_port: at.port,
    }
}

/// Conversations of a group in a node's table: server, incarnation and state by key.
type Contents = BTreeMap<FlowKey, (u32, u64, State)>;

impl World {
    /// Something that must not happen has happened.
    pub(crate) fn violated(&mut self, invariant: &'static str, what: &str) {
        self.fail(invariant, what);
    }

    /// A node begins to announce (I1, I10).
    pub(crate) fn check_announcer(&mut self, node: NodeId, group: GroupId, epoch: Epoch) {
        let Some(run) = self.machine(node).run.as_ref() else { return };
        let boot = run.boot;
        let grant = run.state.groups.get(&group).and_then(|g| g.grant.clone());
        if epoch.node != node {
            self.fail("I1", &format!("node {node} announces group {group} under {epoch}"));
        }
        if epoch.claim == 0 {
            let bound =
                grant.is_some_and(|g| g.epoch > epoch || (g.epoch, g.boot) == (epoch, boot));
            if !bound {
                self.fail(
                    "I10",
                    &format!("node {node} announces group {group} under {epoch}, not of its boot"),
                );
            }
        }
        let first = *self.checks.announced.entry((group, epoch)).or_insert((node, boot));
        if first != (node, boot) {
            self.fail(
                "I10",
                &format!("node {node} announces group {group} under {epoch} of an earlier run"),
            );
        }
        self.checks.taken.insert(group, self.now);
        self.figures.announcements += 1;
    }

    /// The epoch of a group at a node has changed (I4).
    pub(crate) fn check_epoch(&mut self, node: NodeId, group: GroupId, epoch: Epoch) {
        let Some(run) = self.machine(node).run.as_ref() else { return };
        let key = (node, run.boot, group);
        let known = self.checks.epochs.insert(key, epoch);
        if known.is_some_and(|known| known > epoch) {
            self.fail("I4", &format!("node {node}: group {group} goes back to {epoch}"));
        }
    }

    /// A node has applied an entry (I7, and that all apply the same).
    pub(crate) fn check_applied(&mut self, node: NodeId, index: u64, serial: u64) {
        let place = usize::try_from(index).unwrap_or(0) - 1;
        match self.checks.chain.get(place).copied() {
            None => self.checks.chain.push(serial),
            Some(known) if known != serial => {
                self.fail("log", &format!("node {node} applied another entry at {index}"));
            }
            Some(_) => {}
        }
        let highest = self.checks.applied.entry(node).or_default();
        *highest = (*highest).max(index);
    }

    /// A node has read its disk (I7).
    pub(crate) fn check_started(&mut self, node: NodeId, applied: u64) {
        let before = self.checks.applied.get(&node).copied().unwrap_or(0);
        if applied < before {
            self.fail("I7", &format!("node {node} went back from {before} to {applied}"));
        }
    }

    /// A node has become a holder.
    pub(crate) fn note_take_over(&mut self, node: NodeId, group: GroupId) {
        self.figures.take_overs += 1;
        self.trace.mix(self.now, u64::from(node.0), u64::from(group.0));
    }

    /// Since when nothing is wrong, if nothing is.
    pub(crate) fn calm_since(&self) -> Option<Ns> {
        self.checks.calm_since
    }

    /// Looks at everything.
    pub(crate) fn check(&mut self) {
        let now = self.now;
        self.judge_calm();
        self.judge_knowledge();
        for group in self.present_groups() {
            self.check_alone(group);
        }
        if now > WARM {
            let open = self.open_sessions().len() as u64;
            let fewest = self.figures.open_min.map_or(open, |least| least.min(open));
            self.figures.open_min = Some(fewest);
        }
        if now % (5 * SECOND) < EVERY {
            self.check_invented();
            self.check_memory();
        }
        if let Some(calm) = self.checks.calm_since
            && now >= calm.max(self.checks.leapt_at + STALE_AFTER_LEAP) + 30 * SECOND
            && now % (5 * SECOND) < EVERY
        {
            self.check_ready();
        }
    }

    fn judge_calm(&mut self) {
        let now = self.now;
        let troubled = now < self.checks.troubled_until || now < self.checks.log_troubled_until;
        let all_up = self.machines.iter().all(|m| m.is_well() && m.disturbed_until <= now);
        if troubled || !all_up {
            self.checks.calm_since = None;
        } else {
            self.checks.calm_since.get_or_insert(now);
        }
    }

    /// Says who knows a session, for a reader of a failure.
    pub(crate) fn describe_session(&mut self, session: &Session) {
        let key = key_of(session);
        let mut lines = Vec::new();
        for machine in &self.machines {
            let group = GroupId(LISTENERS[session.listener].group as u32 + 1);
            let Some(run) = machine.run.as_ref() else { continue };
            let role = run.roles.get(&group).map(|now| (now.role, now.epoch));
            let found = run.shared.table.find(&key).map(|c| {
                (c.server(), c.incarnation(), c.state(), c.provenance(), c.origin(), c.is_dead())
            });
            lines.push(format!("  node {}: {role:?} {found:?}", machine.id));
        }
        for line in lines {
            self.note(format_args!("{line}"));
        }
        self.note(format_args!(
            "  server {:?}, open since {} ms, safe since {:?} ms",
            session.server,
            session.open_at / MS,
            session.safe.map(|at| at / MS)
        ));
    }

    /// No state is invented (I5).
    fn check_invented(&mut self) {
        let mut invented = None;
        for machine in &self.machines {
            let Some(run) = machine.run.as_ref() else { continue };
            let mut cursor = Some(Cursor::default());
            while let Some(at) = cursor {
                let (found, next) = run.shared.table.walk(at, 1024);
                cursor = next;
                for connection in found {
                    let entry = (connection.key(), connection.server().0, connection.incarnation());
                    if !self.checks.created.contains(&entry) {
                        invented = Some((machine.id, entry));
                    }
                }
            }
        }
        if let Some((node, entry)) = invented {
            self.fail("I5", &format!("node {node} has {entry:?}, which nobody ever created"));
        }
    }

    fn check_memory(&mut self) {
        for index in 0..self.machines.len() {
            let Some(run) = self.machines[index].run.as_ref() else { continue };
            let waiting = run.dirty.metrics().waiting;
            self.figures.waiting_max = self.figures.waiting_max.max(waiting);
            if waiting > WAITING_MAX {
                self.fail("memory", &format!("{waiting} keys wait to be copied"));
            }
        }
    }

    /// The groups of the document, as the leader has it.
    pub(crate) fn present_groups(&mut self) -> Vec<GroupId> {
        let Some(leader) = self.present_leader() else { return self.groups.clone() };
        let run = self.machine(leader).run.as_ref();
        run.map(|run| run.state.groups.keys().copied().collect()).unwrap_or_default()
    }

    /// All is well for long: one leader, each group with one announcer, all copies complete (I9).
    fn check_ready(&mut self) {
        if let Some(what) = self.not_ready() {
            self.fail("I9", &what);
        }
    }

    /// What is not as it should be when nothing is wrong.
    pub(crate) fn not_ready(&mut self) -> Option<String> {
        let now = self.now;
        let leaders: Vec<NodeId> = self
            .machines
            .iter()
            .filter(|m| m.run.as_ref().is_some_and(|r| r.raft.role() == RaftRole::Leader))
            .map(|m| m.id)
            .collect();
        if leaders.len() != 1 {
            return Some(format!("leaders: {leaders:?}"));
        }
        for group in self.present_groups() {
            let announcers = self.announcers(group);
            let [holder] = announcers.as_slice() else {
                return Some(format!("group {group} is announced by {announcers:?}"));
            };
            let boot = self.machine(*holder).run.as_ref().map(|run| run.boot)?;
            for machine in &self.machines {
                let local = machine.local(now);
                let Some(run) = machine.run.as_ref() else {
                    return Some(format!("node {} is down", machine.id));
                };
                if machine.id == *holder {
                    continue;
                }
                let copy = run.copies.completeness(group, *holder, boot, local);
                if !copy.is_complete() {
                    return Some(format!("node {}: group {group} is {copy:?}", machine.id));
                }
            }
        }
        let applied: BTreeSet<u64> =
            self.machines.iter().filter_map(|m| m.run.as_ref()).map(|r| r.applied).collect();
        if applied.len() > 1 {
            return Some(format!("applied: {applied:?}"));
        }
        let mut states = self.machines.iter().filter_map(|m| Some((m.id, &m.run.as_ref()?.state)));
        let (first, state) = states.next()?;
        let other = states.find(|(_, other)| *other != state)?.0;
        Some(format!("nodes {first} and {other} have applied the same and differ"))
    }

    fn contents(&self, machine: &Machine, group: GroupId) -> Contents {
        let mut contents = Contents::new();
        let Some(run) = machine.run.as_ref() else { return contents };
        let mut cursor = Some(Cursor::default());
        while let Some(at) = cursor {
            let (found, next) = run.shared.table.walk(at, 1024);
            cursor = next;
            for connection in found {
                let record = connection.record();
                let state = connection.state();
                let apt = state.class() != Class::HalfOpen && !connection.is_unproven();
                if record.group.0 == group.0 && apt {
                    // Replies end connections too, and are not copied, as in IPVS: what has begun
                    // to end is alike.
                    let ends = state.class() == Class::Closing;
                    let alike = ends || self.checks.carried.contains(&record.key);
                    let state = if alike { State::None } else { state };
                    contents.insert(record.key, (record.server.0, record.incarnation, state));
                }
            }
        }
        contents
    }

    /// At rest all tables are equal (I6).
    pub(crate) fn check_equal(&mut self) {
        for group in self.groups.clone().into_iter().take(crate::cluster::GROUPS) {
            let holder = self.machines.iter().position(|m| {
                m.run.as_ref().is_some_and(|run| {
                    let id = steadfast_dataplane::GroupId(group.0);
                    matches!(&*run.shared.groups.role(id), PlaneRole::Holder { .. })
                })
            });
            let Some(holder) = holder else { continue };
            let want = self.contents(&self.machines[holder], group);
            self.figures.compared += want.len() as u64;
            for index in 0..self.machines.len() {
                let got = self.contents(&self.machines[index], group);
                let missing: Vec<_> = want.iter().filter(|(k, v)| got.get(k) != Some(v)).collect();
                let extra: Vec<_> = got.iter().filter(|(k, _)| !want.contains_key(k)).collect();
                if missing.is_empty() && extra.is_empty() {
                    continue;
                }
                let what = format!(
                    "group {group}: node {} differs from holder {}: {} of {} missing or other \
                     {:?} here {:?}, {} too many {:?}",
                    self.machines[index].id,
                    self.machines[holder].id,
                    missing.len(),
                    want.len(),
                    missing.first(),
                    missing.first().and_then(|(k, _)| got.get(k)),
                    extra.len(),
                    extra.first(),
                );
                self.fail("I6", &what);
            }
        }
    }

    /// Whether the document has a server for a service, with weight.
    pub(crate) fn is_in(&self, listener: usize, server: u16) -> bool {
        self.pools[listener].get(usize::from(server)) == Some(&Membership::In)
    }

    /// Whether a service has had a server since then. One that comes back is another one.
    pub(crate) fn is_there(&self, listener: usize, server: u16, open_at: Ns) -> bool {
        self.pools[listener].get(usize::from(server)) != Some(&Membership::Out)
            && self.gone.get(&(listener, server)).is_none_or(|at| open_at > *at)
    }

    /// Adds up which steps of the ownership table a run has taken.
    pub(crate) fn count_transitions(&mut self, node: NodeId) {
        let Some(run) = self.machine(node).run.as_ref() else { return };
        let taken = run.core.counters().transitions.clone();
        for (step, count) in taken {
            *self.checks.transitions.entry(step).or_default() += count;
        }
    }
}
