//! What the cluster has committed, as this core needs it: input, the same on every node.

use std::collections::BTreeSet;

use steadfast_model::{
    BootId, Epoch, GroupId, NodeId,
    document::{Alone, Policy},
};

/// A layer-2 segment, by its committed number. The document names segments by prefix; every node
/// finds its interface for one by its own address there.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SegmentId(pub u16);

/// The part of the replicated state that ownership is decided on.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Committed {
    /// Raised when the cluster is restored from a backup.
    pub generation: u32,
    /// Index of the last log entry applied here.
    pub applied_index: u64,
    /// Who consents. 1, 3 or 5 nodes.
    pub voters: Vec<NodeId>,
    /// Voters and learners.
    pub members: Vec<Member>,
    /// Every VIP group.
    pub groups: Vec<CommittedGroup>,
}

impl Committed {
    /// How many voters are a majority of them.
    pub fn majority(&self) -> usize {
        self.voters.len() / 2 + 1
    }

    /// Whether a node never holds anything.
    pub fn witness(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.witness)
    }

    /// Whether a node is trusted with groups only when no other one is there.
    pub fn held_down(&self, node: NodeId) -> bool {
        self.member(node).is_some_and(|member| member.held_down)
    }

    /// The member with this id.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.iter().find(|member| member.node == node)
    }
}

/// A node of the cluster.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Member {
    /// Its id.
    pub node: NodeId,
    /// It consents but neither claims nor gets grants.
    pub cordoned: bool,
    /// It failed again and again: it gets no groups, and claims after all others.
    pub held_down: bool,
    /// An operator said it will not come back; candidates behind it do not wait for it.
    pub known_dead: bool,
    /// It votes and consents, and is on no segment: it never holds, claims or gets a grant, even if
    /// a group names it as a candidate.
    pub witness: bool,
}

/// A VIP group and its last committed grant.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct CommittedGroup {
    /// Its id.
    pub id: GroupId,
    /// Every one of these must work at a node that holds the group.
    pub segments: Vec<SegmentId>,
    /// Who may hold it, best first.
    pub candidates: Vec<NodeId>,
    /// `None` before the first grant.
    pub grant: Option<Grant>,
    /// What counts more: that somebody announces, or that never two do.
    pub policy: Policy,
    /// Whether a candidate that hears no majority may announce it.
    pub alone: Alone,
    /// Who keeps copies of its connections beside its holder; `None`: every member.
    pub sync_group: Option<BTreeSet<NodeId>>,
}

impl CommittedGroup {
    /// Whether a node keeps copies of the group's connections while another holds it.
    pub fn keeps_copies(&self, node: NodeId) -> bool {
        self.sync_group.as_ref().is_none_or(|members| members.contains(&node))
    }
}

/// A committed right to announce.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Grant {
    /// Index of its log entry, claim 0, and the holder.
    pub epoch: Epoch,
    /// Who may announce; the same as `epoch.node`.
    pub holder: NodeId,
    /// In which run of its daemon.
    pub boot: BootId,
}
