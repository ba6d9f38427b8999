//! A node that fails again and again gets no groups until it has been stable.

use std::collections::{BTreeMap, BTreeSet};

use steadfast_model::{GroupId, NodeId, document::HoldDownSpec};

use crate::common::*;
use steadfast_ownership::*;

const RULE: HoldDownSpec = HoldDownSpec { failures: 3, within_s: 300, stable_s: 60 };
const SECOND: u64 = 1_000 * MS;

/// A network whose nodes watch each other as daemons do, and whose leader commits what it sees.
struct Watched {
    net: Net,
    watches: BTreeMap<NodeId, HoldDown>,
}

impl Watched {
    /// Node 1 leads; the groups are held by node 3.
    fn new(groups: u32) -> Self {
        let mut net = Net::new(3, Settings::default());
        net.committed.groups = (1..=groups).map(|g| group(GroupId(g), &[3, 2, 1])).collect();
        for n in [1, 2, 3] {
            net.boot(NodeId(n), 1);
        }
        net.run(500 * MS);
        for g in 1..=groups {
            net.grant(GroupId(g), 3);
        }
        net.lead(1);
        let mut watched = Self { net, watches: BTreeMap::new() };
        watched.run(SECOND);
        assert!(watched.holders().iter().all(|holder| *holder == NodeId(3)));
        watched
    }

    /// Runs, with a look every quarter of a second.
    fn run(&mut self, span: u64) {
        let end = self.net.now + span;
        while self.net.now < end {
            self.net.run((250 * MS).min(end.since(self.net.now)));
            self.look();
        }
    }

    fn look(&mut self) {
        let now = self.net.now;
        let members = &self.net.committed.members;
        let held: BTreeSet<_> = members.iter().filter(|m| m.held_down).map(|m| m.node).collect();
        let mut verdicts = Vec::new();
        for (id, node) in self.net.nodes.iter().filter(|(_, node)| node.alive) {
            let watch = self.watches.entry(*id).or_default();
            watch.handle_status(now, &node.core.status(now), &held);
            if self.net.leader == Some(*id) {
                verdicts = watch.verdicts(now, &RULE);
            }
        }
        for verdict in verdicts {
            match verdict {
                Verdict::Hold(node) => self.commit(node, true),
                Verdict::LetGo(node) => self.commit(node, false),
            }
        }
    }

    fn commit(&mut self, node: NodeId, held: bool) {
        let mut members = self.net.committed.members.iter_mut();
        members.find(|member| member.node == node).unwrap().held_down = held;
        self.net.committed.applied_index += 1;
        self.net.apply_everywhere();
    }

    fn holders(&self) -> Vec<NodeId> {
        let groups = &self.net.committed.groups;
        groups.iter().flat_map(|group| self.net.holders(group.id)).collect()
    }

    fn held_down(&self, n: u32) -> bool {
        self.net.committed.held_down(NodeId(n))
    }

    fn kill(&mut self, n: u32) {
        self.net.kill(n);
        self.watches.remove(&NodeId(n));
    }

    /// Killed, away for half a second, and back until 5 s have passed.
    fn flap(&mut self, n: u32) {
        self.kill(n);
        self.run(500 * MS);
        self.net.restart(n);
        self.run(5 * SECOND - 500 * MS);
    }

    fn changes_of_hands(&self, since: Time) -> usize {
        let starts = |event: &&Event| {
            event.at >= since && matches!(event.action, Action::StartAnnouncing { .. })
        };
        self.net.events.iter().filter(starts).count()
    }
}

#[test]
fn a_node_that_is_killed_every_five_seconds_costs_one_fail_over() {
    let mut watched = Watched::new(2);
    let begun = watched.net.now;
    for round in 0..60 {
        watched.flap(3);
        assert_eq!(watched.held_down(3), round >= 2, "after {} kills", round + 1);
        assert_eq!(watched.holders().len(), 2, "after {} kills", round + 1);
        assert!(!watched.holders().contains(&NodeId(3)), "it got a group back");
    }
    assert_eq!(watched.changes_of_hands(begun), 2, "one fail-over for each group");

    // Nobody may give it a group, and it is told why.
    let now = watched.net.now;
    let refused = watched.net.core(1).handle_move(now, GroupId(1), Some(NodeId(3)));
    assert_eq!(refused, Err(MoveError::HeldDown(NodeId(3))));
    let input = watched.net.core(1).rebalance_input(now);
    assert_eq!(input.nodes[&NodeId(3)], Some(Exclusion::HeldDown));

    // Its time runs from when it was last back: 4.5 s ago.
    let left = watched.watches[&NodeId(1)].left(now, &RULE, NodeId(3)).unwrap();
    assert!((55 * SECOND..56 * SECOND).contains(&left), "{left} us are left");
    watched.run(left - SECOND);
    assert!(watched.held_down(3), "too early");
    watched.run(2 * SECOND);
    assert!(!watched.held_down(3), "it has been stable");
    let now = watched.net.now;
    let moved = watched.net.core(1).handle_move(now, GroupId(1), Some(NodeId(3)));
    assert_eq!(moved, Ok(NodeId(3)));
}

#[test]
fn who_is_held_down_claims_after_all_others_but_it_does() {
    let mut watched = Watched::new(1);
    watched.commit(NodeId(2), true);
    watched.run(SECOND);
    // Node 1 has nothing, node 2 all: still node 1 is to go first.
    watched.net.complete.remove(&(NodeId(1), NodeId(3)));
    watched.run(SECOND);
    watched.kill(3);
    watched.run(2 * SECOND);
    assert_eq!(watched.holders(), [NodeId(1)]);

    let mut watched = Watched::new(1);
    watched.commit(NodeId(2), true);
    watched.net.committed.groups[0].candidates = vec![NodeId(3), NodeId(2)];
    watched.net.apply_everywhere();
    watched.run(SECOND);
    watched.kill(3);
    watched.run(SECOND);
    assert_eq!(watched.holders(), []);
    watched.run(3 * SECOND);
    assert_eq!(watched.holders(), [NodeId(2)], "better that one than nobody");
}

#[test]
fn the_first_grant_goes_past_who_is_held_down() {
    let mut watched = Watched::new(1);
    watched.commit(NodeId(2), true);
    watched.net.committed.groups.push(group(GroupId(7), &[2, 1, 3]));
    watched.net.apply_everywhere();
    watched.run(SECOND);
    assert_eq!(watched.net.holders(GroupId(7)), [NodeId(1)]);
}

#[test]
fn planned_stops_and_other_peoples_cuts_count_for_nothing() {
    let mut watched = Watched::new(1);
    for _ in 0..5 {
        let now = watched.net.now;
        watched.net.core(3).handle_shutdown(now);
        watched.run(SECOND);
        watched.flap(3);
    }
    assert!(!watched.held_down(3), "it was stopped as planned");
    for _ in 0..5 {
        watched.net.isolate(1);
        watched.run(SECOND);
        watched.net.cuts.clear();
        watched.run(SECOND);
    }
    let now = watched.net.now;
    for peer in [2, 3] {
        let failures = watched.watches[&NodeId(1)].failures(now, &RULE, NodeId(peer));
        assert_eq!(failures, 0, "node 1 was alone, not node {peer}");
    }
    let failures = watched.watches[&NodeId(2)].failures(now, &RULE, NodeId(1));
    assert_eq!(failures, 5, "the others saw it go");
}

#[test]
fn who_is_let_go_by_an_operator_begins_anew() {
    let mut watched = Watched::new(1);
    (0..3).for_each(|_| watched.flap(3));
    assert!(watched.held_down(3));
    watched.commit(NodeId(3), false);
    watched.run(5 * SECOND);
    assert!(!watched.held_down(3), "what it failed before counts no more");
    (0..3).for_each(|_| watched.flap(3));
    assert!(watched.held_down(3));
}

#[test]
fn a_rule_of_no_failures_holds_nobody_and_lets_all_go() {
    let mut watched = Watched::new(1);
    (0..3).for_each(|_| watched.flap(3));
    let off = HoldDownSpec { failures: 0, ..RULE };
    let watch = &watched.watches[&NodeId(1)];
    assert_eq!(watch.verdicts(watched.net.now, &off), [Verdict::LetGo(NodeId(3))]);
    watched.commit(NodeId(3), false);
    watched.run(250 * MS);
    assert_eq!(watched.watches[&NodeId(1)].verdicts(watched.net.now, &off), []);
}
