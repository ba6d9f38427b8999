//! The view for `clusterctl status`, and counters.

use steadfast_model::{BootId, Epoch, GroupId, NodeId};

use crate::{Completeness, GroupEvent, GroupState, Path, RejectReason, Role, Tally, Time};

/// A snapshot of everything an operator may ask.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its run.
    pub boot: BootId,
    /// Whether it proposes grants.
    pub leader: bool,
    /// Whether it still abstains after its start.
    pub abstains: bool,
    /// Voters it hears, itself included.
    pub voters_heard: usize,
    /// Whether those are a majority.
    pub majority_heard: bool,
    /// Every group.
    pub groups: Vec<GroupStatus>,
    /// Every peer.
    pub peers: Vec<PeerStatus>,
    /// Since the start.
    pub counters: Counters,
}

/// One group, as this node sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupStatus {
    /// Which.
    pub group: GroupId,
    /// State of the state machine.
    pub state: GroupState,
    /// The data plane's view.
    pub role: Role,
    /// The highest epoch known.
    pub epoch: Epoch,
    /// The node that the epoch names.
    pub holder: Option<NodeId>,
    /// Whether ARP is answered here now.
    pub announcing: bool,
    /// Since when this node knows of the epoch.
    pub since: Time,
    /// This node's copy of the holder's connections; `None` at the holder.
    pub copy: Option<Completeness>,
}

/// One peer, as this node sees it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PeerStatus {
    /// Which.
    pub node: NodeId,
    /// Its run; `None`: never heard.
    pub boot: Option<BootId>,
    /// Unheard on every path for the silence time.
    pub silent: bool,
    /// Age of what was last heard, per path.
    pub paths: Vec<(Path, u64)>,
    /// It said it hears this node, for so much longer.
    pub confirmed_for: u64,
    /// It consents but does not claim.
    pub cordoned: bool,
    /// It is stopping or cannot serve.
    pub leaving: bool,
    /// Its copy of each node's connections.
    pub copies: Vec<(NodeId, Completeness)>,
}

/// Since the start of the daemon.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Beacons sent, per path.
    pub beacons_sent: Tally<Path>,
    /// Beacons accepted, per path.
    pub beacons_received: Tally<Path>,
    /// Frames that changed nothing, by reason.
    pub rejected: Tally<RejectReason>,
    /// Steps of the table of [`GroupState`], as (state, event).
    pub transitions: Tally<(GroupState, GroupEvent)>,
    /// Claims begun.
    pub claims: u64,
    /// Claims that reached a majority.
    pub claims_won: u64,
    /// Promises given to others.
    pub consents: u64,
    /// Promises refused.
    pub refusals: u64,
    /// Groups resigned here.
    pub resignations: u64,
    /// Gaps of the own loop that restarted the silence timers.
    pub gaps: u64,
    /// Times a holder went mute.
    pub mutes: u64,
    /// Times this node obeyed a higher epoch while it held.
    pub deposed: u64,
    /// Gratuitous ARPs asked for, per group address set.
    pub gratuitous_arps: u64,
    /// Grants proposed.
    pub proposals: u64,
}
