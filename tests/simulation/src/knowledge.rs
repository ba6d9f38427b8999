//! Who knows a session: which nodes have its connection as it is at its server.
//!
//! What must hold of it: two nodes know a session soon after it has opened in calm; a copy that calls
//! itself complete has what its holder has; what a run knows of an open session is not forgotten by
//! every node while that run goes on.

use steadfast_dataplane::{Class, Connection, Role as PlaneRole};
use steadfast_model::{GroupId, NodeId};
use steadfast_ownership::Role;

use crate::{
    checks::key_of,
    clock::{Ns, SECOND},
    cluster::LISTENERS,
    ether::TCP,
    machine::Machine,
    traffic::{Kind, Phase, Session},
    world::World,
};

/// A session that is open for so long with nothing wrong is known to two nodes.
const EXPOSURE: Ns = SECOND;
/// A complete copy lacks nothing for so long: its holder waits for no packet to tell it.
const LACK_MAX: Ns = 3 * SECOND;
/// How often all open sessions are looked at.
const LOOK_EVERY: Ns = SECOND;
/// Nodes at most.
const NODES_MAX: usize = 5;
/// Questions that were asked so long after two sides announced are no more of that time: every
/// client has been told by then who holds.
const SPLIT_LINGERS: Ns = 3 * SECOND;

/// Who knew a session when it was last looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The session; places are used again.
    id: u64,
    /// Runs that knew it, by node: their number, or none.
    runs: [u64; NODES_MAX],
    /// Since when a complete copy lacks it, by node; or never.
    lacks: [Ns; NODES_MAX],
}

/// What is remembered of who knows what.
#[derive(Debug, Default)]
pub(crate) struct Knowledge {
    known: Vec<Known>,
    /// Clients whose persistent session two nodes have known, at least once.
    templates: std::collections::BTreeSet<u16>,
}

impl Knowledge {
    /// A persistent session of this client was known to two nodes.
    pub(crate) fn templates_safe(&self, client: u16) -> bool {
        self.templates.contains(&client)
    }
}

/// The group of a session.
fn group_of(session: &Session) -> GroupId {
    GroupId(LISTENERS[session.listener].group as u32 + 1)
}

impl World {
    /// Whether a node's table has a session's connection as it is at its server.
    pub(crate) fn knows(&self, machine: &Machine, session: &Session) -> bool {
        let Some(run) = machine.run.as_ref() else { return false };
        run.shared.table.find(&key_of(session)).is_some_and(|connection| {
            connection.class() != Class::HalfOpen && server_of(&connection) == session.server
        })
    }

    /// Looks who knows which session.
    pub(crate) fn judge_knowledge(&mut self) {
        self.judge_safety();
        if self.now % LOOK_EVERY < crate::checks::EVERY {
            self.judge_memory();
        }
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
                if kind == Kind::Persistent {
                    self.checks.knowledge.templates.insert(session.client);
                }
                self.figures.safe += 1;
                continue;
            }
            let calm = self.calm_since().is_some_and(|calm| calm <= open_at);
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

    /// Copies that call themselves complete, by group and node, with their holder.
    fn complete_copies(&self) -> Vec<(GroupId, usize, [bool; NODES_MAX])> {
        let mut all = Vec::new();
        for group in self.groups.iter().copied() {
            let holds = |m: &&Machine| {
                let role = m.run.as_ref().and_then(|run| run.roles.get(&group));
                role.is_some_and(|now| now.role == Role::Holder)
            };
            let mut holders = self.machines.iter().filter(holds);
            let (Some(holder), None) = (holders.next(), holders.next()) else { continue };
            let Some(boot) = holder.run.as_ref().map(|run| run.boot) else { continue };
            let mut complete = [false; NODES_MAX];
            for (machine, complete) in self.machines.iter().zip(&mut complete) {
                let local = machine.local(self.now);
                let follows = Role::Other { node: holder.id };
                *complete = machine.run.as_ref().is_some_and(|run| {
                    run.roles.get(&group).is_some_and(|now| now.role == follows)
                        && run.copies.completeness(group, holder.id, boot, local).is_complete()
                });
            }
            all.push((group, holder.id.0 as usize - 1, complete));
        }
        all
    }

    /// What a run knows is not lost while it goes on, and complete copies are complete.
    fn judge_memory(&mut self) {
        let now = self.now;
        let copies = self.complete_copies();
        let runs: Vec<u64> =
            self.machines.iter().map(|m| if m.run.is_some() { m.boots } else { 0 }).collect();
        self.checks.knowledge.known.resize(self.traffic.sessions.len(), Known::default());
        for index in self.open_sessions() {
            let session = &self.traffic.sessions[index];
            // What is not answered yet is told to nobody, of UDP.
            if LISTENERS[session.listener].protocol != TCP {
                continue;
            }
            let mut new = Known { id: session.id, ..Known::default() };
            for (at, machine) in self.machines.iter().enumerate() {
                if self.knows(machine, session) {
                    new.runs[at] = runs[at];
                }
            }
            let old = self.checks.knowledge.known[index];
            let same = old.id == new.id;
            if let Some((_, holder, complete)) = copies.iter().find(|c| c.0 == group_of(session))
                && new.runs[*holder] > 0
            {
                for at in (0..runs.len()).filter(|at| complete[*at] && new.runs[*at] == 0) {
                    let since = if same { old.lacks[at] } else { 0 };
                    new.lacks[at] = if since == 0 { now } else { since };
                }
            }
            let lacking =
                (0..NODES_MAX).find(|at| new.lacks[*at] > 0 && now - new.lacks[*at] >= LACK_MAX);
            let forgets = |at: &usize| old.runs[*at] > 0 && old.runs[*at] == runs[*at];
            let forgot = (same && new.runs == [0; NODES_MAX])
                .then(|| (0..runs.len()).find(forgets))
                .flatten();
            let there = session
                .server
                .is_none_or(|server| self.is_there(session.listener, server, session.open_at));
            self.checks.knowledge.known[index] = new;
            let (invariant, at, what) = match (lacking, forgot) {
                (Some(at), _) => ("complete", at, "calls its copy complete and lacks"),
                (_, Some(at)) => ("forgotten", at, "knew, and nobody knows any more,"),
                _ => continue,
            };
            let session = &self.traffic.sessions[index];
            if there && !self.is_earlier_life(session) {
                let session = session.clone();
                self.describe_session(&session);
                let (id, node) = (session.id, NodeId(at as u32 + 1));
                self.fail(invariant, &format!("node {node} {what} session {id}"));
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
        let split = self.checks.overlaps.last(group_of(session)).is_some_and(|until| {
            // Who believed the wrong one of two goes on doing so for a while.
            session.asked_at < until + SPLIT_LINGERS
        });
        if split {
            return Some("two sides announced while the network was split");
        }
        if self.is_earlier_life(session) {
            return Some("its holder could know an earlier session of its port only");
        }
        (session.safe.is_none()).then_some("known to one node alone")
    }

    /// What the holder has under the session's key is not the session: its port was used before, and
    /// nobody could tell in time, for the holder took over with a copy that was not complete, or the
    /// session opened at another node while two announced.
    fn is_earlier_life(&self, session: &Session) -> bool {
        let id = steadfast_dataplane::GroupId(group_of(session).0);
        let split = self.checks.overlaps.last(group_of(session)) >= Some(session.open_at);
        session.reused
            && self.machines.iter().filter_map(|machine| machine.run.as_ref()).any(|run| {
                let role = run.shared.groups.role(id);
                let holds = matches!(*role, PlaneRole::Holder { .. });
                let behind = matches!(*role, PlaneRole::Holder { copy_complete: false, .. });
                let here = run.shared.table.find(&key_of(session));
                (behind || holds && split)
                    && here.is_some_and(|held| server_of(&held) != session.server)
            })
    }
}

/// The number of a connection's server.
fn server_of(connection: &Connection) -> Option<u16> {
    let target = connection.target()?;
    let std::net::IpAddr::V4(addr) = target.addr else { return None };
    u16::from(addr.octets()[3]).checked_sub(50)
}
