//! How far one group has come towards one peer.
//!
//! ```text
//!           role: Send             begin written        walk over, end written      end acked
//! (nothing) ----------> Wanted ------------------> Walking ----------------> Ending --------> Done
//!                         ^   stream broke, peer restarted, lane overflowed, peer asks        |
//!                         +--------------------------------------------------------------------+
//! ```
//!
//! A donation of everything goes the same way without a beginning; one of what is not acknowledged
//! goes from Draining to Ending.

use steadfast_model::Epoch;

/// What this node is to a group, towards one peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum GroupRole {
    /// The peer gets nothing: this node does not hold the group, or the peer is no candidate.
    Idle,
    /// This node holds the group and the peer is a candidate.
    Send {
        /// Held under this epoch.
        epoch: Epoch,
    },
    /// The peer holds the group now.
    Donate {
        /// What the donor knew the group by: the epoch it held it under, or followed.
        epoch: Epoch,
        /// Everything this node knows of the group (a survivor's replicas), rather than only what
        /// the peer has not acknowledged while this node was the holder.
        everything: bool,
    },
}

/// One group, towards one peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    pub(super) role: GroupRole,
    pub(super) phase: Phase,
    /// When sweeps are allowed.
    pub(super) sweep_from_ns: u64,
    pub(super) sweep: SweepState,
    /// The peer has refused records that it acknowledged: it knows of a higher epoch. Which ones is
    /// not remembered, so that everything is donated once this node knows as well.
    pub(super) fenced: bool,
    /// Batches of this stream up to this number went out under an earlier epoch of ours: when the
    /// peer refused those, it had only heard of the present one before we did.
    pub(super) older_until_seq: u64,
}

/// How far the snapshot of a group, or its donation, has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// To be sent with the next walk.
    Wanted,
    /// Its entries are being sent.
    Walking { snapshot: u64 },
    /// Donations: the rest is what stands in the lane up to this count.
    Draining { queued: u64 },
    /// Everything was written, in the batch of this number.
    Ending { snapshot: u64, seq: u64 },
    /// And acknowledged.
    Done { snapshot: u64 },
}

/// Whether the peer was told to sweep after its present snapshot.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SweepState {
    Due,
    Sent { seq: u64 },
    Done,
}

impl Group {
    pub(super) fn is_settled(&self) -> bool {
        let swept = self.sweep == SweepState::Done || matches!(self.role, GroupRole::Donate { .. });
        matches!(self.phase, Phase::Done { .. }) && swept
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.phase == Phase::Wanted
    }

    pub(super) fn want_again(&mut self) {
        self.phase = Phase::Wanted;
        self.sweep = SweepState::Due;
    }
}
