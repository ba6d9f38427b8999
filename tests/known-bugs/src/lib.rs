//! Bugs put in on purpose, one at a time, to see that tests find them.
//!
//! Each is a deviation of one line at the place where the rule lives: `is_on(Bug::X)` stands there.
//! Guarantees: without the feature `known-bugs` the answer is the constant `false`, so a build for
//! use has none of them. With it one bug is on, or none, for each thread.
//!
//! What another mechanism makes up for is no bug to be found, and is not here: that the new run of a
//! holder is not taken for its resignation. Only a beacon can show that a run is new, and the same
//! beacon says that the run does not hold (`Stance::Gone`), which ends the holder's time as well.
#![forbid(unsafe_code)]

macro_rules! bugs {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// A bug.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        pub enum Bug { $($(#[doc = $doc])* $name,)* }

        impl Bug {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What it is.
            #[must_use]
            pub fn text(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)*).trim_ascii(),)* }
            }
        }
    };
}

bugs! {
    /// Ownership: a voter consents although it hears the holder, and asks nobody else first.
    ConsentWithoutSilence,
    /// Ownership: a restarted voter does not abstain.
    NoAbstention,
    /// Ownership: a grant is taken up by any run of the node it names.
    GrantNotBoundToRun,
    /// Ownership: epochs that peers tell are compared without the claim.
    ClaimNotCompared,
    /// Ownership: a holder goes on though a majority does not hear it.
    UnconfirmedGoesOn,
    /// Ownership: a grant is announced before the earlier holder is known to have stopped.
    TakenUpAtOnce,
    /// Ownership: workers go on answering though the loop that extends it stands still.
    WorkersGoOn,
    /// Ownership: what is resigned is held on.
    ResignedHeldOn,
    /// Replication: sweeps do not wait for donations.
    SweepBeforeDonations,
    /// Replication: what was not acknowledged when a stream broke is forgotten.
    RemarkForgotten,
    /// Replication: records of a lower epoch are taken.
    LowerEpochTaken,
    /// Replication: a replica expires by its own time-out.
    ReplicaExpires,
    /// Replication: after a take-over time-outs run on from the last packet.
    NoFullTimeout,
    /// Replication: a peer that restarted gets no new snapshot.
    RestartedPeerForgotten,
    /// Replication: deletes are not sent.
    DeletesNotSent,
    /// Replication: what a snapshot has is not confirmed, and swept.
    SnapshotNotConfirmed,
    /// Replication: donations are dropped.
    DonationDropped,
    /// Replication: keys that are marked while a snapshot is sent are lost.
    DeltaBeforeSnapshotLost,
    /// Log: a grant replaces whatever is there.
    CompareAndSetIgnored,
    /// Log: after a restart an applied entry is not there.
    CommittedGoesBack,
    /// Log: a leader commits what it alone has.
    CommittedAlone,
    /// Log: votes are given to who knows less.
    VoteForWhoKnowsLess,
    /// Log: what conflicts with the leader's entries stays.
    ConflictStays,
    /// Log: a deposed leader is followed.
    DeposedLeaderFollowed,
    /// Log: after a restart the last entry is applied to nothing.
    AppliedToNothing,
}

#[cfg(feature = "known-bugs")]
thread_local! {
    static ON: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Whether this bug is on.
#[cfg(feature = "known-bugs")]
#[must_use]
pub fn is_on(bug: Bug) -> bool {
    ON.get() == Some(bug)
}

/// Whether this bug is on: never, in this build.
#[cfg(not(feature = "known-bugs"))]
#[must_use]
#[inline(always)]
pub const fn is_on(_bug: Bug) -> bool {
    false
}

/// Switches one bug on in this thread, and all others off.
#[cfg(feature = "known-bugs")]
pub fn switch(bug: Option<Bug>) {
    ON.set(bug);
}
