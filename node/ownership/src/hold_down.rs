//! When a node has failed too often to be trusted with groups, and when it is again.
//!
//! Guarantees: only failures count, not planned stops, and each once: falling silent, or running anew
//! without having been silent. What this node cannot judge, because it hears no majority itself,
//! counts for nobody. A node that is held is let go after it has been heard without a break, in one
//! run, for the time of the rule. Memory is bounded: [`FAILURES_MAX`] for each member.
//!
//! Does not: decide alone. Every node watches; the leader commits what it sees, so that all agree who
//! is held. A leader that has not watched for long holds nobody sooner, and lets nobody go sooner.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use steadfast_model::{BootId, NodeId, document::HoldDownSpec};

use crate::{Status, Time};

/// Failures of one node that are remembered; a rule asks for no more.
pub const FAILURES_MAX: usize = 20;

/// Microseconds of a second.
const SECOND: u64 = 1_000_000;

/// What this node has seen of the others.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct HoldDown {
    nodes: BTreeMap<NodeId, Seen>,
}

/// A change for the leader to commit.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// It failed too often.
    Hold(NodeId),
    /// It has been stable for long enough.
    LetGo(NodeId),
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Seen {
    boot: Option<BootId>,
    /// It said that it stops, in the run last seen.
    leaving: bool,
    /// Since when it has been heard without a break; `None`: it is not heard.
    well_from: Option<Time>,
    /// Latest last.
    failures: VecDeque<Time>,
    held: bool,
}

impl HoldDown {
    /// What is seen now; call it some times a second. `held` are those that the cluster has
    /// committed to hold: whoever is let go, by the leader or an operator, begins anew.
    pub fn handle_status(&mut self, now: Time, status: &Status, held: &BTreeSet<NodeId>) {
        let known: BTreeSet<NodeId> = status.peers.iter().map(|peer| peer.node).collect();
        self.nodes.retain(|node, _| known.contains(node));
        for peer in &status.peers {
            let seen = self.nodes.entry(peer.node).or_default();
            let heard = !peer.silent && peer.boot.is_some();
            let anew = seen.boot.is_some() && peer.boot != seen.boot;
            let fell_silent = seen.well_from.is_some() && !heard;
            let restarted = anew && seen.well_from.is_some();
            if (fell_silent || restarted) && !seen.leaving && status.majority_heard {
                if seen.failures.len() == FAILURES_MAX {
                    seen.failures.pop_front();
                }
                seen.failures.push_back(now);
            }
            if heard {
                seen.leaving = peer.leaving;
            }
            seen.well_from = match seen.well_from {
                _ if !heard => None,
                Some(from) if !anew => Some(from),
                _ => Some(now),
            };
            seen.boot = peer.boot;
            let is_held = held.contains(&peer.node);
            if seen.held && !is_held {
                seen.failures.clear();
            }
            seen.held = is_held;
        }
    }

    /// What the leader has to commit by now.
    pub fn verdicts(&self, now: Time, rule: &HoldDownSpec) -> Vec<Verdict> {
        let verdict = |(node, seen): (&NodeId, &Seen)| match seen.held {
            false => self.failed_too_often(now, rule, *node).then_some(Verdict::Hold(*node)),
            true => (self.left(now, rule, *node) == Some(0)).then_some(Verdict::LetGo(*node)),
        };
        self.nodes.iter().filter_map(verdict).collect()
    }

    /// How long a node that is held has to stay well, in microseconds; `None`: it is not heard, so
    /// its time does not run.
    pub fn left(&self, now: Time, rule: &HoldDownSpec, node: NodeId) -> Option<u64> {
        if rule.failures == 0 {
            return Some(0);
        }
        let from = self.nodes.get(&node)?.well_from?;
        let stable = u64::from(rule.stable_s) * SECOND;
        Some(stable.saturating_sub(now.since(from)))
    }

    /// Failures that count against a node now.
    pub fn failures(&self, now: Time, rule: &HoldDownSpec, node: NodeId) -> usize {
        let window = u64::from(rule.within_s) * SECOND;
        let recent = |at: &&Time| now.since(**at) <= window;
        self.nodes.get(&node).map_or(0, |seen| seen.failures.iter().filter(recent).count())
    }

    fn failed_too_often(&self, now: Time, rule: &HoldDownSpec, node: NodeId) -> bool {
        let most = rule.failures as usize;
        most > 0 && self.failures(now, rule, node) >= most
    }
}
