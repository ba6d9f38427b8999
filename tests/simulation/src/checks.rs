//! What must hold: at every step, at named times, and when everything is well again.
//!
//! The numbers I1 to I10 are those of the design's list of invariants.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_dataplane::{Class, Connection, Cursor, FlowKey, Protocol, Role as PlaneRole, State};
use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_ownership::{GroupEvent, GroupState};

use crate::{
    clock::{MS, Ns, SECOND},
    cluster::{LISTENERS, Membership, vip},
    ether::{Segment, TCP, client_ip},
    machine::{Machine, Part},
    raft::RaftRole,
    traffic::{PATIENCE, Phase, Session},
    world::World,
};

/// Two announcers at once are explained by a fault that ended at most so long ago.
const HEARS_AGAIN: Ns = 300 * MS;
/// A session that is open for so long with nothing wrong is known to two nodes.
const EXPOSURE: Ns = SECOND;
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
    /// Who announces each group, and until when that was published.
    announcers: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// Since when two announce a group at once.
    dual_since: BTreeMap<GroupId, Ns>,
    /// When that was last seen.
    dual_until: BTreeMap<GroupId, Ns>,
    /// Transitions of the ownership table that were taken.
    pub transitions: BTreeMap<(GroupState, GroupEvent), u64>,
    /// Take-overs so far, and when the last was.
    pub(crate) taken: BTreeMap<GroupId, Ns>,
    /// Sessions that are known to two nodes.
    safe_templates: BTreeMap<u16, Ns>,
}

impl Checks {
    /// Two announce the group.
    pub(crate) fn is_dual(&self, group: GroupId) -> bool {
        self.dual_since.contains_key(&group)
    }

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

    /// The persistent session before was known to two nodes.
    pub(crate) fn templates_safe(&self, client: u16) -> bool {
        self.safe_templates.contains_key(&client)
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

    /// A node has published until when it announces a group (I1, I3).
    pub(crate) fn check_announcing(
        &mut self,
        node: NodeId,
        group: GroupId,
        announces: bool,
        heard: Option<Epoch>,
    ) {
        let announcers = self.checks.announcers.entry(group).or_default();
        let changed = if announces { announcers.insert(node) } else { announcers.remove(&node) };
        if !announces {
            return;
        }
        // The lower of two obeys with the first message of the higher.
        let own = self.machine(node).run.as_ref().and_then(|r| r.roles.get(&group).copied());
        if let (Some(own), Some(heard)) = (own, heard)
            && heard > own.epoch
            && heard.node != node
        {
            self.fail(
                "I3",
                &format!(
                    "node {node} announces group {group} under {} and heard {heard}",
                    own.epoch
                ),
            );
        }
        if changed || self.checks.announcers[&group].len() > 1 {
            self.check_alone(group);
        }
    }

    /// Who can answer ARP for the group this very moment.
    fn announcers(&self, group: GroupId) -> Vec<NodeId> {
        let now = self.now;
        let answers = |machine: &&Machine| {
            let local = machine.local(now);
            !machine.is_stopped(Part::Plane)
                && machine.run.as_ref().is_some_and(|run| {
                    let state = run.shared.groups.get(steadfast_dataplane::GroupId(group.0));
                    run.stuck_since.is_none() && state.is_some_and(|s| s.may_announce(local))
                })
        };
        self.machines.iter().filter(answers).map(|machine| machine.id).collect()
    }

    fn check_alone(&mut self, group: GroupId) {
        let now = self.now;
        let announcers = self.announcers(group);
        if announcers.len() < 2 {
            self.checks.dual_since.remove(&group);
            return;
        }
        // Never two that each hear a majority.
        let sure: Vec<NodeId> = announcers
            .iter()
            .copied()
            .filter(|node| {
                let machine = self.machine(*node);
                let time = machine.time(now);
                let stopped = machine.is_stopped(Part::Owner);
                machine.run.as_ref().is_some_and(|run| !stopped && run.core.hears_majority(time))
            })
            .collect();
        if sure.len() > 1 {
            self.fail("I1", &format!("nodes {sure:?} announce group {group} at once"));
        }
        self.checks.dual_until.insert(group, now);
        if self.checks.dual_since.insert(group, now).is_none() {
            self.figures.duals += 1;
            self.note(format_args!("nodes {announcers:?} announce group {group} at once"));
        }
        let explained = announcers.iter().any(|node| {
            let machine = self.machine(*node);
            machine.disturbed_until + HEARS_AGAIN > now + crate::clock::SECOND * 3
                || machine.disturbed_until > now
        });
        if !explained {
            self.fail("I3", &format!("nodes {announcers:?} announce group {group}, all are well"));
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
        self.judge_safety();
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

    /// Whether a node's table has a session's connection as it is at its server.
    pub(crate) fn knows(&self, machine: &Machine, session: &Session) -> bool {
        let Some(run) = machine.run.as_ref() else { return false };
        run.shared.table.find(&key_of(session)).is_some_and(|connection| {
            connection.class() != Class::HalfOpen && self.server_of(&connection) == session.server
        })
    }

    fn server_of(&self, connection: &Connection) -> Option<u16> {
        let target = connection.target()?;
        let std::net::IpAddr::V4(addr) = target.addr else { return None };
        u16::from(addr.octets()[3]).checked_sub(50)
    }

    /// Which sessions two nodes know; those that should be and are not.
    fn judge_safety(&mut self) {
        let now = self.now;
        for index in self.open_sessions() {
            let session = &self.traffic.sessions[index];
            if session.safe.is_some() {
                continue;
            }
            let count = self.machines.iter().filter(|m| self.knows(m, session)).count();
            let (open_at, troubled, kind) = (session.open_at, session.troubled, session.kind);
            if count >= 2 {
                let session = &mut self.traffic.sessions[index];
                session.safe = Some(now);
                if kind == crate::traffic::Kind::Persistent {
                    let client = session.client;
                    self.checks.safe_templates.insert(client, now);
                }
                self.figures.safe += 1;
                continue;
            }
            let calm = self.checks.calm_since.is_some_and(|calm| calm <= open_at);
            // Of UDP an answer is not known to have passed the node.
            let tcp = LISTENERS[session.listener].protocol == TCP;
            if calm && tcp && !troubled && now > open_at + EXPOSURE + 5 * SECOND {
                let session = self.traffic.sessions[index].clone();
                self.describe_session(&session);
                let id = session.id;
                self.fail("exposure", &format!("session {id} is known to {count} nodes alone"));
            }
        }
    }

    /// Why a broken session does not count, if it does not.
    pub(crate) fn excuse(&self, session: &Session) -> Option<&'static str> {
        if let Some(server) = session.server
            && !self.is_there(session.listener, server, session.open_at)
        {
            return Some("its server was removed");
        }
        if matches!(session.phase, Phase::Opening | Phase::Closing) {
            return Some("not open");
        }
        let group = GroupId(LISTENERS[session.listener].group as u32 + 1);
        let split = self.checks.dual_until.get(&group).is_some_and(|until| {
            // Who believed the wrong one of two goes on doing so for a while.
            self.now < *until + PATIENCE
        });
        if split {
            return Some("two sides announced while the network was split");
        }
        (session.safe.is_none()).then_some("known to one node alone")
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
    fn is_there(&self, listener: usize, server: u16, open_at: Ns) -> bool {
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
