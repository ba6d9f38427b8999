//! Which groups to move so that every node that takes groups holds as many as the others.
//!
//! Guarantees: equal inputs give equal plans; each move goes to a node that could take the group
//! when the input was made, and lessens the difference between the two nodes; no group moves twice;
//! where every group can go everywhere the loads differ by one at most afterwards, by the fewest
//! moves there are. A plan has at most [`REBALANCE_MOVES_MAX`] moves and says how many are left.
//!
//! Does not: move anything, or put a group where it would break sessions. Where copies or segments
//! are missing it stops at what single moves can do.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_model::{BootId, GroupId, NodeId};

use crate::group::Group;
use crate::ownership::Ownership;
use crate::{SegmentId, Time};

/// Moves of one plan: at some 100 ms each a run takes half a minute, and the next one goes on.
pub const REBALANCE_MOVES_MAX: usize = 256;

/// What a plan is made of.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct RebalanceInput {
    /// Every member, with why it gets no groups now.
    pub nodes: BTreeMap<NodeId, Option<Exclusion>>,
    /// Every group that is held.
    pub groups: Vec<Placed>,
}

/// A group and where it could go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Placed {
    /// Which group.
    pub group: GroupId,
    /// Who holds it.
    pub holder: NodeId,
    /// It changes hands now: it counts for its holder and stays.
    pub busy: bool,
    /// Who could take it now, best first: heard, with every segment and a complete copy.
    pub takers: Vec<NodeId>,
}

/// Why a node gets no groups.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Exclusion {
    /// It never holds any.
    Witness,
    /// An operator cordoned it.
    Cordoned,
    /// It failed again and again.
    HeldDown,
    /// It is not heard.
    Silent,
    /// It is stopping, or cannot serve.
    Leaving,
}

/// Moves in the order in which to make them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Plan {
    /// At most as many as asked for.
    pub moves: Vec<PlannedMove>,
    /// Moves that would follow these.
    pub more: usize,
    /// How many groups each node holds, before and after `moves`.
    pub loads: BTreeMap<NodeId, (usize, usize)>,
    /// What stays uneven after all moves: the first node holds at least two more than the second,
    /// but none of its groups can go there now.
    pub stuck: Option<(NodeId, NodeId)>,
    /// Groups of nodes that should hold none, but that nobody can take now.
    pub stranded: usize,
}

/// One move.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlannedMove {
    /// Which group.
    pub group: GroupId,
    /// Who holds it.
    pub from: NodeId,
    /// Who gets it.
    pub to: NodeId,
    /// What for.
    pub why: Why,
}

/// What a move is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Why {
    /// The holder gets no groups any more.
    Excluded(Exclusion),
    /// The holder has more than the target, counted when its turn comes.
    Uneven {
        /// Groups of the holder.
        from_holds: usize,
        /// Groups of the target.
        to_holds: usize,
    },
}

/// Plans at most `moves_max` moves.
pub fn plan(input: &RebalanceInput, moves_max: usize) -> Plan {
    let mut work = Work::new(input);
    work.clear_excluded();
    while work.even_out() {}
    let moves: Vec<_> = work.moves.iter().copied().take(moves_max).collect();
    let more = work.moves.len() - moves.len();
    let mut loads: BTreeMap<NodeId, (usize, usize)> =
        work.held_first.iter().map(|(node, held)| (*node, (*held, *held))).collect();
    for PlannedMove { from, to, .. } in &moves {
        if let Some((_, after)) = loads.get_mut(from) {
            *after -= 1;
        }
        loads.entry(*to).or_default().1 += 1;
    }
    Plan { moves, more, loads, stuck: work.stuck(), stranded: work.stranded }
}

struct Work<'a> {
    input: &'a RebalanceInput,
    held_first: BTreeMap<NodeId, usize>,
    /// Of every node that a group can count for.
    held: BTreeMap<NodeId, usize>,
    /// Groups that have not moved and may, by holder and id.
    pools: BTreeMap<NodeId, BTreeMap<GroupId, &'a Placed>>,
    moves: Vec<PlannedMove>,
    stranded: usize,
}

impl<'a> Work<'a> {
    fn new(input: &'a RebalanceInput) -> Self {
        let mut held: BTreeMap<NodeId, usize> = input.nodes.keys().map(|node| (*node, 0)).collect();
        let mut pools: BTreeMap<NodeId, BTreeMap<GroupId, &Placed>> = BTreeMap::new();
        for placed in &input.groups {
            *held.entry(placed.holder).or_default() += 1;
            if !placed.busy {
                pools.entry(placed.holder).or_default().insert(placed.group, placed);
            }
        }
        let held_first = held.clone();
        Self { input, held_first, held, pools, moves: Vec::new(), stranded: 0 }
    }

    fn eligible(&self, node: NodeId) -> bool {
        self.input.nodes.get(&node).is_some_and(Option::is_none)
    }

    fn holds(&self, node: NodeId) -> usize {
        self.held.get(&node).copied().unwrap_or(0)
    }

    /// Groups of nodes that get none go to whoever holds least.
    fn clear_excluded(&mut self) {
        for (from, why) in &self.input.nodes {
            let Some(why) = why else { continue };
            let pool = self.pools.remove(from).unwrap_or_default();
            for placed in pool.into_values() {
                let takers = placed.takers.iter().copied().filter(|node| self.eligible(*node));
                let Some(to) = takers.min_by_key(|node| self.holds(*node)) else {
                    self.stranded += 1;
                    continue;
                };
                self.go(placed.group, *from, to, Why::Excluded(*why));
            }
        }
    }

    /// One move from who holds most to who holds least, as far as there is a group for it; false
    /// when nothing is left to do.
    fn even_out(&mut self) -> bool {
        for (from, to) in self.uneven_pairs() {
            let pool = self.pools.get(&from).into_iter().flatten();
            let place = |placed: &Placed| placed.takers.iter().position(|node| *node == to);
            // Who would get it anyway if its holder died.
            let best = pool.filter_map(|(id, placed)| Some((place(placed)?, *id))).min();
            let Some((_, group)) = best else { continue };
            let (from_holds, to_holds) = (self.holds(from), self.holds(to));
            if let Some(pool) = self.pools.get_mut(&from) {
                pool.remove(&group);
            }
            self.go(group, from, to, Why::Uneven { from_holds, to_holds });
            return true;
        }
        false
    }

    /// Pairs of nodes that differ by two groups or more, most first.
    fn uneven_pairs(&self) -> Vec<(NodeId, NodeId)> {
        let nodes: Vec<(usize, NodeId)> =
            self.held.iter().filter(|(n, _)| self.eligible(**n)).map(|(n, h)| (*h, *n)).collect();
        let mut pairs = Vec::new();
        for (most, from) in &nodes {
            for (least, to) in nodes.iter().filter(|(least, _)| least + 2 <= *most) {
                pairs.push((std::cmp::Reverse(*most), *least, *from, *to));
            }
        }
        pairs.sort_unstable();
        pairs.into_iter().map(|(_, _, from, to)| (from, to)).collect()
    }

    fn stuck(&self) -> Option<(NodeId, NodeId)> {
        self.uneven_pairs().first().copied()
    }

    fn go(&mut self, group: GroupId, from: NodeId, to: NodeId, why: Why) {
        if let Some(held) = self.held.get_mut(&from) {
            *held -= 1;
        }
        *self.held.entry(to).or_default() += 1;
        self.moves.push(PlannedMove { group, from, to, why });
    }
}

impl Ownership {
    /// What a plan of moves is made of, as this node sees it now.
    pub fn rebalance_input(&self, now: Time) -> RebalanceInput {
        let members = self.committed.members.iter().map(|member| member.node);
        let nodes = members.map(|node| (node, self.excluded(now, node))).collect();
        // Thousands of groups share few holders and sets of segments.
        type Copies = ((NodeId, Option<BootId>), Option<BTreeSet<NodeId>>);
        type Key = (NodeId, Copies, Vec<SegmentId>);
        let mut known: BTreeMap<Key, BTreeSet<NodeId>> = BTreeMap::new();
        let owned = self.groups.iter().filter(|(_, group)| group.owned());
        let groups = owned.map(|(id, group)| {
            let holder = group.epoch.node;
            let copies = (Self::source_of(group), group.spec.sync_group.clone());
            let key = (holder, copies, group.spec.segments.clone());
            let able = known.entry(key).or_insert_with(|| self.able(now, group));
            let can = |node: &NodeId| *node != holder && able.contains(node);
            Placed {
                group: *id,
                holder,
                busy: !self.settled(group)
                    || self.proposal_pending(now, group)
                    || self.holder_gone(now, group).is_some(),
                takers: group.spec.candidates.iter().copied().filter(can).collect(),
            }
        });
        let groups = groups.collect();
        RebalanceInput { nodes, groups }
    }

    /// Nodes that a planned move of the group could go to.
    fn able(&self, now: Time, group: &Group) -> BTreeSet<NodeId> {
        let members = self.committed.members.iter().map(|member| member.node);
        members.filter(|node| self.check_target(now, group, *node).is_ok()).collect()
    }

    fn excluded(&self, now: Time, node: NodeId) -> Option<Exclusion> {
        let here = node == self.node;
        let peer = self.peers.get(&node);
        let heard = peer.is_some_and(|peer| peer.heard_within(now, self.settings.silence()));
        let view = peer.and_then(|peer| peer.view.as_ref());
        let leaving = here && self.shutdown.is_some() || view.is_some_and(|view| view.leaving);
        if self.committed.witness(node) {
            Some(Exclusion::Witness)
        } else if self.cordoned(node) {
            Some(Exclusion::Cordoned)
        } else if self.committed.held_down(node) {
            Some(Exclusion::HeldDown)
        } else if !here && !heard {
            Some(Exclusion::Silent)
        } else {
            leaving.then_some(Exclusion::Leaving)
        }
    }
}
