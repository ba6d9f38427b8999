//! What this node knows of one group.

use std::collections::BTreeSet;

use steadfast_model::{BootId, Epoch, NodeId, document::Policy};

use crate::state::{GroupEvent, GroupState};
use crate::{CommittedGroup, Role, Time};

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Group {
    pub(crate) spec: CommittedGroup,
    pub(crate) state: GroupState,
    pub(crate) since: Time,
    /// The highest known: committed, promised or heard.
    pub(crate) epoch: Epoch,
    /// When that was learned.
    pub(crate) known_at: Time,
    /// Others that may still announce under a lower epoch.
    pub(crate) lingering: BTreeSet<NodeId>,
    /// Others that held under a lower epoch and have not shown yet that they know of a higher one.
    pub(crate) owed: BTreeSet<NodeId>,
    /// The node of `epoch` has said itself, in its present run, that it holds or asks for it.
    pub(crate) vouched: bool,
    /// The epoch under which this run began to hold; meaningless while it does not.
    pub(crate) held_from: Epoch,
    /// Since when the node of `epoch` is known not to announce under it any more.
    pub(crate) gone_at: Option<Time>,
    /// Given up by this run; it never announces under this or less.
    pub(crate) resigned: Option<Epoch>,
    /// Who last really held: the copies that count are those of its connections.
    pub(crate) source: Option<(NodeId, BootId)>,
    pub(crate) attempt: Option<Attempt>,
    /// No new claim before.
    pub(crate) retry_at: Time,
    /// After a gap of the own loop: mute at least until then.
    pub(crate) mute_until: Time,
    /// When somebody last answered for the addresses.
    pub(crate) answered_at: Option<Time>,
    pub(crate) announcing: bool,
    pub(crate) arp: ArpSchedule,
    /// What the data plane was last told.
    pub(crate) published: (Role, Epoch),
    /// Leader only: when a grant was last proposed on top of the committed one.
    pub(crate) proposed_at: Option<Time>,
}

/// A claim that waits for promises.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Attempt {
    pub(crate) epoch: Epoch,
    pub(crate) begun: Time,
    pub(crate) consents: BTreeSet<NodeId>,
    /// When the request is to be sent (again).
    pub(crate) send_at: Time,
}

/// Where a holder is in its series of gratuitous ARPs.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub(crate) struct ArpSchedule {
    pub(crate) started: Time,
    pub(crate) next: usize,
    pub(crate) last: Time,
}

impl Group {
    pub(crate) fn new(now: Time, spec: CommittedGroup) -> Self {
        Self {
            spec,
            state: GroupState::Unowned,
            since: now,
            epoch: Epoch::default(),
            known_at: now,
            lingering: BTreeSet::new(),
            owed: BTreeSet::new(),
            vouched: false,
            held_from: Epoch::default(),
            gone_at: None,
            resigned: None,
            source: None,
            attempt: None,
            retry_at: Time(0),
            mute_until: Time(0),
            answered_at: None,
            announcing: false,
            arp: ArpSchedule::default(),
            published: (Role::NoHolder, Epoch::default()),
            proposed_at: None,
        }
    }

    pub(crate) fn strict(&self) -> bool {
        self.spec.policy == Policy::Strict
    }

    /// Whether any epoch is known at all.
    pub(crate) fn owned(&self) -> bool {
        self.epoch != Epoch::default()
    }

    /// Whether the committed grant is the highest epoch and names this run.
    pub(crate) fn granted_to(&self, node: NodeId, boot: BootId) -> bool {
        self.spec.grant.is_some_and(|grant| {
            grant.epoch == self.epoch && grant.holder == node && grant.boot == boot
        }) && self.resigned < Some(self.epoch)
    }

    /// Whether nobody can still announce under a lower epoch because this node confirmed it.
    pub(crate) fn clear(&self, now: Time, silence: u64) -> bool {
        self.lingering.is_empty() || now.since(self.known_at) >= silence
    }

    /// Applies an event of the table; returns whether the state changed.
    pub(crate) fn apply(&mut self, now: Time, event: GroupEvent) -> bool {
        let Some(next) = self.state.next(event) else { return false };
        let changed = next != self.state;
        if changed {
            if !self.state.holds() {
                self.held_from = self.epoch;
            }
            self.state = next;
            self.since = now;
        }
        if next != GroupState::Claiming {
            self.attempt = None;
        }
        changed
    }

    /// For the data plane.
    pub(crate) fn role(&self, node: NodeId) -> Role {
        match self.state {
            GroupState::Taking | GroupState::Holding | GroupState::Muted | GroupState::Shadow => {
                Role::Holder
            }
            GroupState::Following if self.epoch.node != node => {
                Role::Other { node: self.epoch.node }
            }
            _ => Role::NoHolder,
        }
    }

    /// Whether the claim numbers of `epoch` and of the highest known are the same, whoever asks.
    pub(crate) fn same_claim(&self, epoch: Epoch) -> bool {
        claim_order(self.epoch) == claim_order(epoch)
    }
}

/// An epoch without its node: a promise is for one of these.
pub(crate) fn claim_order(epoch: Epoch) -> (u32, u64, u32) {
    (epoch.generation, epoch.grant_index, epoch.claim)
}
