//! The ordered log that stands for Raft: elections, a majority for each commit, disks.
//!
//! Terms, votes and logs as in the Raft paper; snapshots, changes of membership and pipelining are
//! left out, since what is tested is what happens around the log. A write is acknowledged once the
//! driver says that it is on the disk.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{Command, NodeId};

use crate::{
    clock::{MS, Ns},
    rng::Rng,
};

/// Between two messages of a leader.
pub(crate) const HEARTBEAT: Ns = 50 * MS;
/// How long followers take a leader for alive.
pub(crate) const LEASE: Ns = 300 * MS;
/// They campaign so much later, at least and at most.
const CAMPAIGN: (Ns, Ns) = (150 * MS, 300 * MS);
/// Entries in one message.
const ENTRIES_MAX: usize = 64;

/// An entry of the log.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The term it was proposed in.
    pub term: u64,
    /// Told apart from all others of the run.
    pub serial: u64,
    /// What it does; the first of a term does nothing.
    pub command: Option<Command>,
}

/// What is on the disk, or on its way there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Durable {
    /// The highest term known.
    pub term: u64,
    /// Who got the vote of that term.
    pub voted: Option<NodeId>,
    /// The entries from index 1 on.
    pub log: Vec<Rc<Entry>>,
    /// How much of it is known to be committed.
    pub committed: u64,
}

impl Durable {
    fn last_term(&self) -> u64 {
        self.log.last().map_or(0, |entry| entry.term)
    }

    fn last_index(&self) -> u64 {
        self.log.len() as u64
    }

    /// The entry at an index.
    #[must_use]
    pub(crate) fn entry(&self, index: u64) -> Option<&Rc<Entry>> {
        self.log.get(usize::try_from(index.checked_sub(1)?).ok()?)
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == 0 { Some(0) } else { self.entry(index).map(|entry| entry.term) }
    }
}

/// What nodes say to each other about the log.
#[derive(Clone, Debug)]
pub(crate) enum RaftMessage {
    /// Vote for me.
    Ask {
        /// Candidate's term.
        term: u64,
        /// Of its last entry.
        last: (u64, u64),
    },
    /// Whether it does.
    Vote {
        /// Voter's term.
        term: u64,
        /// Yes.
        granted: bool,
    },
    /// I lead; append these.
    Append {
        /// Leader's term.
        term: u64,
        /// Index and term before the first entry.
        previous: (u64, u64),
        /// Entries.
        entries: Vec<Rc<Entry>>,
        /// Committed so far.
        committed: u64,
    },
    /// Appended, or where to go on.
    Appended {
        /// Follower's term.
        term: u64,
        /// It fits.
        fits: bool,
        /// The last index that is the leader's, or a hint where to look.
        index: u64,
    },
}

/// What a node is to the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RaftRole {
    /// Follows, or learns.
    Follower,
    /// Campaigns.
    Candidate,
    /// Leads.
    Leader,
}

/// What the driver is to do.
#[derive(Clone, Debug)]
pub(crate) enum RaftOutput {
    /// Send now.
    Send(NodeId, RaftMessage),
    /// Write what is in memory to the disk, then send these.
    Persist(Vec<(NodeId, RaftMessage)>),
}

/// One node's part in the log.
#[derive(Debug)]
pub(crate) struct Raft {
    node: NodeId,
    voters: Vec<NodeId>,
    others: Vec<NodeId>,
    role: RaftRole,
    memory: Durable,
    leader: Option<NodeId>,
    votes: BTreeSet<NodeId>,
    next: BTreeMap<NodeId, u64>,
    matched: BTreeMap<NodeId, u64>,
    lease_until: Ns,
    act_at: Ns,
    /// Writes that are under way.
    unsynced: usize,
    out: Vec<RaftOutput>,
}

impl Raft {
    /// A node that reads this from its disk at its local time `now`.
    #[must_use]
    pub(crate) fn new(
        node: NodeId,
        voters: Vec<NodeId>,
        members: &[NodeId],
        disk: Durable,
        now: Ns,
        rng: &mut Rng,
    ) -> Self {
        let others = members.iter().copied().filter(|n| *n != node).collect();
        let mut raft = Self {
            node,
            voters,
            others,
            role: RaftRole::Follower,
            memory: disk,
            leader: None,
            votes: BTreeSet::new(),
            next: BTreeMap::new(),
            matched: BTreeMap::new(),
            lease_until: now,
            act_at: 0,
            unsynced: 0,
            out: Vec::new(),
        };
        raft.follow(now, rng);
        raft
    }

    /// The role.
    #[must_use]
    pub(crate) fn role(&self) -> RaftRole {
        self.role
    }

    /// Whom this node takes for the leader.
    #[must_use]
    pub(crate) fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// What it has in memory.
    #[must_use]
    pub(crate) fn memory(&self) -> &Durable {
        &self.memory
    }

    /// What is to be done, in order.
    pub(crate) fn take_outputs(&mut self) -> Vec<RaftOutput> {
        std::mem::take(&mut self.out)
    }

    /// When [`Self::handle_timer`] is due.
    #[must_use]
    pub(crate) fn deadline(&self) -> Ns {
        self.act_at
    }

    fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    fn is_voter(&self) -> bool {
        self.voters.contains(&self.node)
    }

    fn follow(&mut self, now: Ns, rng: &mut Rng) {
        self.role = RaftRole::Follower;
        self.lease_until = now + LEASE;
        self.act_at = self.lease_until + rng.between(CAMPAIGN.0, CAMPAIGN.1);
    }

    /// Gives up what it leads, as one whose Raft role has stopped for a moment does.
    pub(crate) fn step_down(&mut self, now: Ns, rng: &mut Rng) {
        if self.role == RaftRole::Leader {
            self.leader = None;
            self.follow(now, rng);
            self.act_at += 2 * LEASE;
        }
    }

    /// Timers.
    pub(crate) fn handle_timer(&mut self, now: Ns, rng: &mut Rng) {
        if now < self.act_at {
            return;
        }
        if self.role == RaftRole::Leader {
            self.act_at = now + HEARTBEAT;
            self.append_to_all();
            return;
        }
        if !self.is_voter() {
            self.act_at = now + LEASE;
            return;
        }
        self.role = RaftRole::Candidate;
        self.leader = None;
        self.memory.term += 1;
        self.memory.voted = Some(self.node);
        self.votes = BTreeSet::from([self.node]);
        self.act_at = now + LEASE + rng.between(CAMPAIGN.0, CAMPAIGN.1);
        let ask = RaftMessage::Ask {
            term: self.memory.term,
            last: (self.memory.last_term(), self.memory.last_index()),
        };
        let voters = self.voters.iter().copied().filter(|v| *v != self.node);
        let asks = voters.map(|voter| (voter, ask.clone())).collect();
        self.persist(asks);
        self.count_votes(now, 0);
    }

    fn count_votes(&mut self, now: Ns, serial: u64) {
        if self.role != RaftRole::Candidate || self.votes.len() < self.majority() {
            return;
        }
        self.role = RaftRole::Leader;
        self.leader = Some(self.node);
        let last = self.memory.last_index();
        self.next = self.others.iter().map(|n| (*n, last + 1)).collect();
        self.matched.clear();
        self.push(Entry { term: self.memory.term, serial, command: None });
        self.act_at = now + HEARTBEAT;
        self.append_to_all();
    }

    /// Appends a command; `None` where this node does not lead. `serial` tells the entry apart.
    pub(crate) fn propose(&mut self, serial: u64, command: Command) -> Option<u64> {
        if self.role != RaftRole::Leader {
            return None;
        }
        self.push(Entry { term: self.memory.term, serial, command: Some(command) });
        self.append_to_all();
        Some(self.memory.last_index())
    }

    fn push(&mut self, entry: Entry) {
        self.memory.log.push(Rc::new(entry));
        self.persist(Vec::new());
    }

    fn append_to_all(&mut self) {
        for other in self.others.clone() {
            self.append_to(other);
        }
    }

    fn append_to(&mut self, other: NodeId) {
        let next = self.next.get(&other).copied().unwrap_or(1).max(1);
        let previous = (next - 1, self.memory.term_at(next - 1).unwrap_or(0));
        let from = usize::try_from(next - 1).unwrap_or(0).min(self.memory.log.len());
        let entries: Vec<_> =
            self.memory.log[from..].iter().take(ENTRIES_MAX).map(Rc::clone).collect();
        let (term, committed) = (self.memory.term, self.memory.committed);
        let message = RaftMessage::Append { term, previous, entries, committed };
        self.out.push(RaftOutput::Send(other, message));
    }

    fn persist(&mut self, then: Vec<(NodeId, RaftMessage)>) {
        self.unsynced += 1;
        self.out.push(RaftOutput::Persist(then));
    }

    /// A write is on the disk: what was in memory when there were `length` entries, in that term.
    pub(crate) fn handle_synced(&mut self, length: u64, term: u64) {
        self.unsynced = self.unsynced.saturating_sub(1);
        if self.role == RaftRole::Leader && term == self.memory.term {
            let known = self.matched.entry(self.node).or_default();
            *known = (*known).max(length);
            self.commit();
        }
    }

    fn commit(&mut self) {
        let mut indices: Vec<u64> =
            self.voters.iter().map(|v| self.matched.get(v).copied().unwrap_or(0)).collect();
        indices.sort_unstable_by(|a, b| b.cmp(a));
        let enough = if is_on(Bug::CommittedAlone) { 1 } else { self.majority() };
        let Some(index) = indices.get(enough - 1).copied() else { return };
        // An entry of an earlier term is committed with the first one of this term (section 5.4.2).
        if index > self.memory.committed && self.memory.term_at(index) == Some(self.memory.term) {
            self.memory.committed = index;
        }
    }

    /// A message of a peer; `serial` is for an entry that a won election makes.
    pub(crate) fn handle_message(
        &mut self,
        now: Ns,
        from: NodeId,
        message: &RaftMessage,
        serial: u64,
        rng: &mut Rng,
    ) {
        let (RaftMessage::Ask { term, .. }
        | RaftMessage::Vote { term, .. }
        | RaftMessage::Append { term, .. }
        | RaftMessage::Appended { term, .. }) = message;
        // A voter that hears a leader does not let others disturb it.
        let leased = now < self.lease_until && self.leader.is_some_and(|leader| leader != from);
        if matches!(message, RaftMessage::Ask { .. }) && (leased || self.role == RaftRole::Leader) {
            return;
        }
        if *term > self.memory.term {
            self.memory.term = *term;
            self.memory.voted = None;
            self.leader = None;
            if self.role != RaftRole::Follower {
                self.follow(now, rng);
            }
        }
        match message {
            RaftMessage::Ask { term, last } => {
                let free = self.memory.voted.is_none_or(|voted| voted == from);
                let own = (self.memory.last_term(), self.memory.last_index());
                let knows = *last >= own || is_on(Bug::VoteForWhoKnowsLess);
                let granted = *term == self.memory.term && free && knows;
                if granted {
                    self.memory.voted = Some(from);
                    self.follow(now, rng);
                }
                let vote = RaftMessage::Vote { term: self.memory.term, granted };
                self.persist(vec![(from, vote)]);
            }
            RaftMessage::Vote { term, granted } => {
                if *granted && *term == self.memory.term && self.voters.contains(&from) {
                    self.votes.insert(from);
                    self.count_votes(now, serial);
                }
            }
            RaftMessage::Append { term, previous, entries, committed } => {
                self.take_entries(now, (from, *term), *previous, entries, *committed, rng);
            }
            RaftMessage::Appended { term, fits, index } => {
                self.take_answer(from, *term, *fits, *index);
            }
        }
    }

    fn take_entries(
        &mut self,
        now: Ns,
        (from, term): (NodeId, u64),
        previous: (u64, u64),
        entries: &[Rc<Entry>],
        committed: u64,
        rng: &mut Rng,
    ) {
        let own = self.memory.term;
        if term < own && !is_on(Bug::DeposedLeaderFollowed) {
            let refusal = RaftMessage::Appended { term: own, fits: false, index: 0 };
            self.out.push(RaftOutput::Send(from, refusal));
            return;
        }
        self.leader = Some(from);
        self.follow(now, rng);
        if self.memory.term_at(previous.0) != Some(previous.1) {
            let index = self.memory.last_index().min(previous.0.saturating_sub(1));
            let index = index.max(self.memory.committed);
            let refusal = RaftMessage::Appended { term, fits: false, index };
            self.out.push(RaftOutput::Send(from, refusal));
            return;
        }
        let mut changed = false;
        for (index, entry) in (previous.0 + 1..).zip(entries) {
            match self.memory.term_at(index) {
                Some(known) if known == entry.term => continue,
                Some(_) if is_on(Bug::ConflictStays) => continue,
                Some(_) => self.memory.log.truncate(index as usize - 1),
                None => {}
            }
            self.memory.log.push(Rc::clone(entry));
            changed = true;
        }
        let last = previous.0 + entries.len() as u64;
        self.memory.committed = self.memory.committed.max(committed.min(last));
        let answer = RaftMessage::Appended { term, fits: true, index: last };
        // What was appended before may still be on its way to the disk.
        if changed || self.unsynced > 0 {
            self.persist(vec![(from, answer)]);
        } else {
            self.out.push(RaftOutput::Send(from, answer));
        }
    }

    fn take_answer(&mut self, from: NodeId, term: u64, fits: bool, index: u64) {
        if self.role != RaftRole::Leader || term != self.memory.term {
            return;
        }
        self.next.insert(from, index + 1);
        if !fits {
            self.append_to(from);
            return;
        }
        let known = self.matched.entry(from).or_default();
        *known = (*known).max(index);
        self.commit();
        if self.memory.last_index() > index {
            self.append_to(from);
        }
    }
}
