//! What the core asks its driver to do.

use steadfast_model::{BootId, Epoch, GroupId, NodeId};

use crate::{Frame, SegmentId, StaleSender};

/// One request to the driver. Actions are executed in the order they are polled.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Action {
    /// Broadcast this frame on a segment.
    SendSegment {
        /// Where.
        segment: SegmentId,
        /// What; to be sealed with [`crate::Seal::encode`].
        frame: Frame,
    },
    /// Send this frame to one peer as a datagram of the control connection.
    SendPeer {
        /// To whom.
        node: NodeId,
        /// What; to be sealed with [`crate::Seal::encode`].
        frame: Frame,
    },
    /// Answer ARP for the group's addresses from now on, within
    /// [`crate::Ownership::announce_valid_until`].
    StartAnnouncing {
        /// Which group.
        group: GroupId,
        /// Under which right.
        epoch: Epoch,
    },
    /// Stop answering ARP for the group's addresses at once, and drop gratuitous ARP not yet sent.
    /// Forwarding goes on.
    StopAnnouncing {
        /// Which group.
        group: GroupId,
        /// Why.
        why: StopReason,
    },
    /// Send one gratuitous ARP (request form) for every address of the group, paced.
    SendGratuitousArp {
        /// Which group.
        group: GroupId,
    },
    /// Ask on the segments whether somebody answers for the addresses of the group (RFC 5227 section
    /// 2.1.1), and report with [`crate::Ownership::handle_probed`]. Without a report nothing
    /// follows, and it is asked for again.
    ProbeAddresses {
        /// Which group.
        group: GroupId,
    },
    /// Send one gratuitous ARP to this sender alone, which still uses another node's MAC address.
    AnnounceTo {
        /// Whom, about what.
        sender: StaleSender,
    },
    /// The data plane's view of the group has changed.
    RoleChanged {
        /// Which group.
        group: GroupId,
        /// What it is now.
        role: Role,
        /// The highest epoch known.
        epoch: Epoch,
    },
    /// Only at the leader: commit a grant if the group's committed epoch is still `expected`.
    ProposeGrant {
        /// Which group.
        group: GroupId,
        /// The committed epoch to compare with; `None`: no grant yet.
        expected: Option<Epoch>,
        /// The new holder.
        holder: NodeId,
        /// In its present run.
        boot: BootId,
        /// Who may take over later, best first; the holder is the first.
        candidates: Vec<NodeId>,
        /// What it is for.
        why: GrantReason,
    },
    /// Ask the leader to move these groups away from this node, because it stops. Repeated until
    /// done or until the bound, after which the groups are resigned.
    RequestMove {
        /// Which groups; at most [`crate::MOVES_MAX`] in one action.
        groups: Vec<GroupId>,
    },
    /// A peer still announces under a lower epoch: the driver may tell it over a slower channel
    /// too, and logs it. Beacons tell it anyway. Paced like the gratuitous ARP it comes with.
    TellStale {
        /// Who.
        node: NodeId,
        /// Which group.
        group: GroupId,
        /// The epoch that it should obey.
        epoch: Epoch,
    },
}

/// The data plane's view of a group.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Role {
    /// This node: schedules new connections.
    Holder,
    /// A live peer: relay what is unknown to it.
    Other {
        /// Who.
        node: NodeId,
    },
    /// Nobody, or nobody that is alive.
    NoHolder,
}

/// Why a holder stops answering ARP.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum StopReason {
    /// A higher epoch was committed, consented to or heard.
    HigherEpoch(Epoch),
    /// The own loop had a gap; mute until it is known that nobody took over.
    LoopGap,
    /// A majority of voters is heard, but does not confirm hearing this node.
    NotConfirmed,
    /// A segment of the group is down here.
    SegmentDown(SegmentId),
    /// The others hear each other on this segment, but not this node, or this node not them.
    CutOff(SegmentId),
    /// A worker makes no progress.
    WorkerStuck,
    /// The planned stop did not finish in time.
    Shutdown,
    /// It announced without a majority, and has to no more: the holder or a better shadow is heard,
    /// or this node cannot serve.
    ShadowEnded,
    /// The group was removed, or this node is no member any more.
    Removed,
}

/// Why the leader grants.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum GrantReason {
    /// The group never had a holder.
    Initial,
    /// A claim by consent becomes a grant.
    Ratify,
    /// An operator or a stopping node asked.
    Move,
    /// The holder is gone and nobody claimed.
    HolderGone,
}
