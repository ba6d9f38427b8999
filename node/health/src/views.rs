//! What the cluster thinks of each target: the majority of the nodes that can report.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use steadfast_model::{BootId, NodeId};

use crate::{Target, View};

/// A node sends its view at every change of opinion and at least this often.
pub const VIEW_INTERVAL: Duration = Duration::from_secs(1);

/// A view that was not repeated for this long no longer counts: three repetitions lost.
pub const VIEW_FRESH: Duration = Duration::from_secs(4);

/// How the nodes that can report see a target.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct VoteCount {
    /// Nodes that see it up.
    pub up: usize,
    /// Nodes that see it down.
    pub down: usize,
}

impl VoteCount {
    /// Down needs more than half of those who report; nobody reporting is no verdict.
    fn verdict(self) -> Option<bool> {
        (self.up + self.down > 0).then(|| self.down * 2 <= self.up + self.down)
    }
}

/// The views of all members, this node's own included, and the verdict on each target.
///
/// A target is down when more than half of the fresh views that mention it say so. So with two
/// or more nodes reporting, one that sees everything down ejects nobody; a node that is alone
/// decides alone. A target nobody has reported on yet is up. When nobody can report any more, the
/// last verdict stands: not knowing is no reason to send clients to a server that was dead.
///
/// Pure: times are nanoseconds of one monotone clock. Call [`Views::poll`] after every `set_` and
/// `handle_` and at [`Views::next_expiry`].
#[derive(Clone, Debug)]
pub struct Views {
    fresh_ns: u64,
    members: BTreeSet<NodeId>,
    targets: BTreeSet<Target>,
    held: BTreeMap<NodeId, Held>,
    down: BTreeSet<Target>,
    /// Something has changed that may change a verdict.
    dirty: bool,
}

#[derive(Clone, Debug)]
struct Held {
    boot: BootId,
    sequence: u64,
    expires_ns: u64,
    /// Expired views stay, so that late messages are still recognised, but no longer count.
    expired: bool,
    up: BTreeMap<Target, bool>,
}

impl Views {
    /// No members, no targets. `fresh` is [`VIEW_FRESH`] outside tests.
    pub fn new(fresh: Duration) -> Self {
        Self {
            fresh_ns: u64::try_from(fresh.as_nanos()).unwrap_or(u64::MAX / 4),
            members: BTreeSet::new(),
            targets: BTreeSet::new(),
            held: BTreeMap::new(),
            down: BTreeSet::new(),
            dirty: false,
        }
    }

    /// Only these nodes' views count. A removed node's view is forgotten.
    pub fn set_members(&mut self, members: impl IntoIterator<Item = NodeId>) {
        self.members = members.into_iter().collect();
        self.held.retain(|node, _| self.members.contains(node));
        self.dirty = true;
    }

    /// Only these targets get a verdict. Others in a peer's view (its configuration may be newer
    /// or older) are ignored until they are set here.
    pub fn set_targets(&mut self, targets: impl IntoIterator<Item = Target>) {
        self.targets = targets.into_iter().collect();
        self.down.retain(|target| self.targets.contains(target));
        self.dirty = true;
    }

    /// Takes a view in: a peer's, or this node's own. Returns false when it does not count: the
    /// sender is no member, or a later view of the same run has been seen.
    pub fn handle_view(&mut self, now_ns: u64, from: NodeId, view: View) -> bool {
        if !self.members.contains(&from) {
            return false;
        }
        let View { boot, sequence, up } = view;
        let old = self.held.get(&from);
        if old.is_some_and(|old| old.boot == boot && old.sequence >= sequence) {
            return false;
        }
        self.dirty |= old.is_none_or(|old| old.expired || old.up != up);
        let expires_ns = now_ns + self.fresh_ns;
        self.held.insert(from, Held { boot, sequence, expires_ns, expired: false, up });
        true
    }

    /// Expires views and returns the targets whose verdict has changed, with the new one: up
    /// (true) or down.
    pub fn poll(&mut self, now_ns: u64) -> Vec<(Target, bool)> {
        for held in self.held.values_mut().filter(|held| !held.expired) {
            if held.expires_ns <= now_ns {
                held.expired = true;
                held.up.clear();
                self.dirty = true;
            }
        }
        if !std::mem::take(&mut self.dirty) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        for target in &self.targets {
            let Some(up) = self.votes(target).verdict() else { continue };
            let changed = if up { self.down.remove(target) } else { self.down.insert(*target) };
            if changed {
                changes.push((*target, up));
            }
        }
        changes
    }

    /// The verdict on a target, as of the last [`Views::poll`].
    pub fn backend_up(&self, target: &Target) -> bool {
        !self.down.contains(target)
    }

    /// How the members see a target, as of the last [`Views::poll`].
    pub fn votes(&self, target: &Target) -> VoteCount {
        let mut votes = VoteCount::default();
        for up in self.held.values().filter_map(|held| held.up.get(target)) {
            if *up {
                votes.up += 1;
            } else {
                votes.down += 1;
            }
        }
        votes
    }

    /// The members whose views count now.
    pub fn reporting(&self) -> impl Iterator<Item = NodeId> {
        self.held.iter().filter(|(_, held)| !held.expired).map(|(node, _)| *node)
    }

    /// When the next view expires if it is not repeated.
    pub fn next_expiry(&self) -> Option<u64> {
        self.held.values().filter(|held| !held.expired).map(|held| held.expires_ns).min()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use steadfast_model::document::CheckKind;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn target(port: u16) -> Target {
        Target { addr: IpAddr::from([192, 0, 2, 1]), port, kind: CheckKind::Tcp }
    }

    fn views(members: u32) -> Views {
        let mut views = Views::new(VIEW_FRESH);
        views.set_members((1..=members).map(NodeId));
        views.set_targets([target(80), target(81)]);
        views
    }

    fn view(sequence: u64, up: &[(u16, bool)]) -> View {
        let up = up.iter().map(|(port, up)| (target(*port), *up)).collect();
        View { boot: BootId(1), sequence, up }
    }

    #[test]
    fn majority_table() {
        // One letter per node: u sees it up, d down, ? reports but has no opinion, - is silent.
        let table = [
            ("u", true),
            ("d", false),
            ("?", true),
            ("-", true),
            ("uu", true),
            ("ud", true),
            ("du", true),
            ("dd", false),
            ("d?", false),
            ("d-", false),
            ("u-", true),
            ("uuu", true),
            ("duu", true),
            ("udu", true),
            ("uud", true),
            ("udd", false),
            ("dud", false),
            ("ddu", false),
            ("ddd", false),
            ("dd?", false),
            ("du?", true),
            ("du-", true),
            ("d--", false),
            ("???", true),
            ("ddduu", false),
            ("dduuu", true),
            ("dduu?", true),
        ];
        for (nodes, up) in table {
            let mut views = views(nodes.len() as u32);
            for (node, sees) in (1..).zip(nodes.chars()) {
                let sees = match sees {
                    'u' => view(1, &[(80, true)]),
                    'd' => view(1, &[(80, false)]),
                    '?' => view(1, &[]),
                    _ => continue,
                };
                assert!(views.handle_view(0, NodeId(node), sees));
            }
            let changes = views.poll(0);
            assert_eq!(views.backend_up(&target(80)), up, "{nodes}");
            assert_eq!(changes, if up { vec![] } else { vec![(target(80), false)] }, "{nodes}");
            assert!(views.backend_up(&target(81)), "{nodes}: never reported, so up");
        }
    }

    #[test]
    fn one_broken_node_ejects_nobody() {
        for nodes in 2..=5_u32 {
            for broken in 1..=nodes {
                let mut views = views(nodes);
                for node in 1..=nodes {
                    let sees = node != broken;
                    views.handle_view(0, NodeId(node), view(1, &[(80, sees), (81, sees)]));
                }
                assert_eq!(views.poll(0), [], "{nodes} nodes, {broken} broken");
            }
        }
    }

    #[test]
    fn views_expire_and_the_last_verdict_stands_when_nobody_reports() {
        let mut views = views(3);
        for (node, at) in [(1, 0), (2, SECOND), (3, 2 * SECOND)] {
            let up = node == 3;
            assert!(views.handle_view(at, NodeId(node), view(1, &[(80, up)])));
        }
        assert_eq!(views.poll(2 * SECOND), [(target(80), false)]);
        assert_eq!(views.votes(&target(80)), VoteCount { up: 1, down: 2 });
        assert_eq!(views.next_expiry(), Some(4 * SECOND));
        assert_eq!(views.poll(4 * SECOND - 1), []);
        // The first is gone: one to one, no majority for down.
        assert_eq!(views.poll(4 * SECOND), [(target(80), true)]);
        assert_eq!(views.reporting().collect::<Vec<_>>(), [NodeId(2), NodeId(3)]);
        assert!(views.handle_view(4 * SECOND, NodeId(1), view(2, &[(80, false)])));
        assert_eq!(views.poll(4 * SECOND), [(target(80), false)]);
        // All silent: the target stays down. It is up again when somebody says so.
        assert_eq!(views.poll(100 * SECOND), []);
        assert_eq!((views.next_expiry(), views.backend_up(&target(80))), (None, false));
        assert!(views.handle_view(100 * SECOND, NodeId(2), view(2, &[(80, true)])));
        assert_eq!(views.poll(100 * SECOND), [(target(80), true)]);
    }

    #[test]
    fn repeating_keeps_a_view_fresh_and_changes_nothing() {
        let mut views = views(1);
        for n in 0..20 {
            assert!(views.handle_view(n * SECOND, NodeId(1), view(n, &[(80, false)])));
            assert_eq!(views.poll(n * SECOND).len(), usize::from(n == 0));
        }
    }

    #[test]
    fn late_and_foreign_views_do_not_count() {
        let mut views = views(2);
        assert!(views.handle_view(0, NodeId(1), view(5, &[(80, true)])));
        assert!(!views.handle_view(0, NodeId(1), view(5, &[(80, false)])));
        assert!(!views.handle_view(0, NodeId(1), view(4, &[(80, false)])));
        assert!(!views.handle_view(0, NodeId(3), view(1, &[(80, false)])), "not a member");
        assert_eq!(views.poll(0), []);
        // A new run counts from its own start.
        let again = View { boot: BootId(2), ..view(1, &[(80, false)]) };
        assert!(views.handle_view(0, NodeId(1), again));
        assert_eq!(views.poll(0), [(target(80), false)]);
        // A removed node's vote goes with it; nobody else reports, so the verdict stands.
        assert!(views.handle_view(0, NodeId(2), view(1, &[(80, true)])));
        assert_eq!(views.poll(0), [(target(80), true)]);
        views.set_members([NodeId(1)]);
        assert_eq!(views.poll(0), [(target(80), false)]);
    }

    #[test]
    fn a_target_that_is_taken_out_and_put_in_again_starts_up() {
        let mut views = views(1);
        views.handle_view(0, NodeId(1), view(1, &[(80, false), (99, false)]));
        assert_eq!(views.poll(0), [(target(80), false)], "99 is not configured here");
        views.set_targets([target(81)]);
        assert_eq!(views.poll(10 * SECOND), []);
        views.set_targets([target(80)]);
        assert_eq!(views.poll(10 * SECOND), []);
        assert!(views.backend_up(&target(80)));
    }
}
