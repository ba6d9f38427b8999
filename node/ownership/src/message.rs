//! What nodes say to each other.

use std::collections::BTreeMap;
use std::net::IpAddr;

use steadfast_model::{BootId, Epoch, GroupId, NodeId};

use crate::SegmentId;

/// Peers one beacon reports on: a cluster has up to 32 nodes.
pub const PEERS_MAX: usize = 31;
/// Paths whose ages one beacon reports, the peer path included. A node on more segments reports
/// the first ones by number only.
pub const PATHS_MAX: usize = 5;
/// (group, epoch) pairs in one beacon, changed ones first, the rest in rotation.
pub const GROUPS_PER_BEACON: usize = 8;
/// Segments a beacon names as working. A node on more of them is a candidate only for groups on the
/// first ones by number.
pub const SEGMENTS_MAX: usize = 8;
/// Groups in one claim request, answer or resignation; more go in further messages.
pub const CLAIMS_MAX: usize = 32;
/// Stale senders in one message, and kept until one is sent; the others are seen again later.
pub const STALE_SENDERS_MAX: usize = 32;
/// Groups in one request to move.
pub const MOVES_MAX: usize = 256;

/// A way from one node to another.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Path {
    /// The control connection.
    Peer,
    /// A shared segment.
    Segment(SegmentId),
}

/// A message with what is needed to tell a fresh one from a replayed one.
///
/// The path is part of the sealed bytes, so that a frame recorded on one segment proves nothing
/// on another.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Frame {
    /// The sender.
    pub from: NodeId,
    /// Its run.
    pub boot: BootId,
    /// Counts up in one run, over all paths.
    pub sequence: u64,
    /// The path it was sent on.
    pub path: Path,
    /// For whom; `None`: for all.
    pub to: Option<NodeId>,
    /// What it says.
    pub body: Message,
}

/// The body of a frame.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Message {
    /// I am alive, and this is what I see.
    Beacon(Beacon),
    /// The holder is silent; consent that I take its groups.
    ClaimRequest(ClaimRequest),
    /// Consent or refusal, group by group.
    ClaimAnswer(ClaimAnswer),
    /// I have stopped announcing these groups; do not wait for my silence.
    Resign(Resign),
    /// To the holder: these still send to me what you should get.
    StaleSenders(Vec<StaleSender>),
}

/// Evidence of life of one node; one series per node, not per group.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Beacon {
    /// It consents but does not claim.
    pub cordoned: bool,
    /// It is stopping, or cannot serve: never a candidate.
    pub leaving: bool,
    /// A restarted voter that does not consent yet.
    pub abstains: bool,
    /// More changed pairs wait than fit: this beacon confirms nobody.
    pub more: bool,
    /// Segments that work at the sender.
    pub segments: Vec<SegmentId>,
    /// The columns of [`PeerReport::path_ages`].
    pub paths: Vec<Path>,
    /// What the sender hears of its peers.
    pub peers: Vec<PeerReport>,
    /// Epochs that changed, then a rotating rest.
    pub groups: Vec<GroupReport>,
}

/// What the sender of a beacon hears of one peer.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct PeerReport {
    /// The peer.
    pub node: NodeId,
    /// The run of it that was heard.
    pub boot: BootId,
    /// Low half of the latest sequence heard: it proves to the peer that the sender heard it, and
    /// that this beacon is no older than that.
    pub echo: u32,
    /// Since when nothing counted was heard on any path. `None`: that run has proven nothing yet.
    pub age: Option<u32>,
    /// The sender's copy of that peer's connections.
    pub copy: Completeness,
    /// That peer may not know yet of a strict group that it has lost: this confirms none of those
    /// that it holds.
    pub owes: bool,
    /// Age in whole beacons per path of [`Beacon::paths`]; 255: that or more, or never.
    pub path_ages: Vec<u8>,
}

/// A (group, epoch) pair of a beacon.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct GroupReport {
    /// Which group.
    pub group: GroupId,
    /// The highest epoch the sender knows: committed, promised, or heard.
    pub epoch: Epoch,
    /// What the sender is under that epoch.
    pub stance: Stance,
    /// Nobody that the sender ever confirmed can still announce under a lower epoch.
    pub clear: bool,
}

/// What a node is under the epoch it reports.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Stance {
    /// The epoch names another node.
    Obeys,
    /// The epoch names the sender, which has not taken it up yet, but may.
    Pending,
    /// The sender holds the group.
    Holds,
    /// The epoch names the sender, which will never announce under it: another run, a claim given
    /// up, or a resignation.
    Gone,
    /// The sender announces, just below the epoch: it hears no majority, and nobody who holds.
    Shadows,
}

/// How good a node's copy of a holder's connections is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Completeness {
    /// The end of the snapshot of this run of the holder is applied, and the latest batch too.
    Complete,
    /// Some of it.
    Stale,
    /// Nothing.
    #[default]
    Empty,
}

/// One batch per dead node, for all its groups.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClaimRequest {
    /// The node whose groups are claimed.
    pub holder: NodeId,
    /// Each group with the epoch the sender would hold under.
    pub claims: Vec<(GroupId, Epoch)>,
}

/// The answer to a [`ClaimRequest`], claim by claim.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct ClaimAnswer {
    /// Low half of the sequence of the request: the consent counts from when that was sent.
    pub echo: u32,
    /// Promised to the asker and to nobody else.
    pub consents: Vec<(GroupId, Epoch)>,
    /// Not promised.
    pub refusals: Vec<(GroupId, Refusal)>,
}

/// Why a voter does not consent.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Refusal {
    /// The voter knows this higher epoch; obey it.
    Behind(Epoch),
    /// The voter promised the same claim to another node.
    Promised(Epoch),
    /// The holder is not silent here; ask again after this span.
    NotSilent(u32),
    /// The voter restarted a moment ago; ask again after this span.
    Abstains(u32),
    /// The voter is no voter, or does not know the group or the asker.
    Unknown,
}

/// Instant silence.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Resign {
    /// Each group with the epoch given up.
    pub groups: Vec<(GroupId, Epoch)>,
}

/// Somebody on a segment whose neighbour entry for an address of a group is out of date.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct StaleSender {
    /// Whose address it is.
    pub group: GroupId,
    /// Where.
    pub segment: SegmentId,
    /// Who.
    pub mac: [u8; 6],
    /// The VIP it sends to; `None`: it sends through the group's gateway address.
    pub vip: Option<IpAddr>,
}

/// Messages by what became of them.
pub type Tally<K> = BTreeMap<K, u64>;
