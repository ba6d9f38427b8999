//! The states of one group at one node, and the only ways between them.

/// What this node is for one group.
///
/// | state | `NamedElse` | `NamedHere` | `HolderGone` | `HolderBack` | `ClaimDue` | `Won` | `Lost` | `Cleared` | `Doubt` | `Sure` | `Resigned` | `AloneDue` | `Unanswered` | `Yield` |
/// |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|
/// | `Unowned` | `Following` | `Taking` | | | | | | | | | | | | |
/// | `Following` | `Following` | `Taking` | `Suspect` | | | | | | | | | | | |
/// | `Suspect` | `Following` | `Taking` | | `Following` | `Claiming` | | | | | | | `Probing` | | |
/// | `Claiming` | `Following` | `Taking` | | `Following` | | `Holding` | `Suspect` | | | | | | | |
/// | `Taking` | `Following` | `Taking` | | | | | | `Holding` | | | `Suspect` | | | |
/// | `Holding` | `Following` | `Holding` | | | | | | | `Muted` | | `Suspect` | | | |
/// | `Muted` | `Following` | `Muted` | | | | | | | | `Holding` | `Suspect` | | | |
/// | `Probing` | `Following` | `Taking` | | `Following` | | | | | | | | | `Shadow` | `Suspect` |
/// | `Shadow` | `Following` | `Taking` | | `Following` | | `Holding` | | | | | | | | `Suspect` |
///
/// `Removed` leads to `Unowned` from everywhere. An empty cell is an event that changes nothing in
/// that state. Only `Holding` and `Shadow` announce.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum GroupState {
    /// Neither a grant nor a claim is known.
    #[default]
    Unowned,
    /// The highest epoch names another node, or another run of this one.
    Following,
    /// Nobody holds: the holder is silent, has resigned, or runs no more under that right.
    Suspect,
    /// This node has asked the voters for consent.
    Claiming,
    /// A committed grant names this run, but an earlier holder may still announce.
    Taking,
    /// This node holds and announces.
    Holding,
    /// This node holds, but does not announce for a moment.
    Muted,
    /// Nobody holds, and no majority is heard: this node looks whether somebody answers for the
    /// addresses.
    Probing,
    /// This node announces without a right, because nobody can give one: just below the epoch that
    /// is known, yielding to whoever holds.
    Shadow,
}

/// What can happen to a group.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum GroupEvent {
    /// A higher epoch is known that this run does not hold under.
    NamedElse,
    /// A committed grant names this run.
    NamedHere,
    /// The holder is silent on every path, resigned, or restarted.
    HolderGone,
    /// The holder is heard again, or the silence timers were restarted.
    HolderBack,
    /// The delay for this node's rank and copy has passed and a majority reports the silence.
    ClaimDue,
    /// A majority of voters has promised the claim.
    Won,
    /// The promises did not come in time.
    Lost,
    /// A majority of voters reports that no earlier holder can still announce.
    Cleared,
    /// The own loop had a gap, or a majority is heard that does not hear this node.
    Doubt,
    /// The reasons for the doubt are over and nothing higher was heard.
    Sure,
    /// This node cannot serve the group.
    Resigned,
    /// The holder has been gone for long, no majority is heard, and it is this node's turn.
    AloneDue,
    /// Nobody answers for the addresses of the group.
    Unanswered,
    /// Somebody answers for the addresses, shadows with a better rank, or a majority may decide; or
    /// this node cannot serve.
    Yield,
    /// The group or this node's membership is gone.
    Removed,
}

impl GroupState {
    /// Every state, in the order of the table.
    pub const ALL: [Self; 9] = [
        Self::Unowned,
        Self::Following,
        Self::Suspect,
        Self::Claiming,
        Self::Taking,
        Self::Holding,
        Self::Muted,
        Self::Probing,
        Self::Shadow,
    ];

    /// The state after `event`; `None` where the event changes nothing.
    pub fn next(self, event: GroupEvent) -> Option<Self> {
        use GroupEvent as E;
        Some(match (self, event) {
            (_, E::Removed) => Self::Unowned,
            (_, E::NamedElse) => Self::Following,
            (Self::Holding, E::NamedHere) => Self::Holding,
            (Self::Muted, E::NamedHere) => Self::Muted,
            (_, E::NamedHere) => Self::Taking,
            (Self::Following, E::HolderGone) => Self::Suspect,
            (Self::Suspect | Self::Claiming | Self::Probing | Self::Shadow, E::HolderBack) => {
                Self::Following
            }
            (Self::Suspect, E::ClaimDue) => Self::Claiming,
            (Self::Claiming | Self::Shadow, E::Won) => Self::Holding,
            (Self::Claiming, E::Lost) => Self::Suspect,
            (Self::Taking, E::Cleared) => Self::Holding,
            (Self::Holding, E::Doubt) => Self::Muted,
            (Self::Muted, E::Sure) => Self::Holding,
            (Self::Taking | Self::Holding | Self::Muted, E::Resigned) => Self::Suspect,
            (Self::Suspect, E::AloneDue) => Self::Probing,
            (Self::Probing, E::Unanswered) => Self::Shadow,
            (Self::Probing | Self::Shadow, E::Yield) => Self::Suspect,
            _ => return None,
        })
    }

    /// Whether this node is the group's holder for the data plane.
    pub fn holds(self) -> bool {
        matches!(self, Self::Taking | Self::Holding | Self::Muted)
    }
}

impl GroupEvent {
    /// Every event, in the order of the table.
    pub const ALL: [Self; 15] = [
        Self::NamedElse,
        Self::NamedHere,
        Self::HolderGone,
        Self::HolderBack,
        Self::ClaimDue,
        Self::Won,
        Self::Lost,
        Self::Cleared,
        Self::Doubt,
        Self::Sure,
        Self::Resigned,
        Self::AloneDue,
        Self::Unanswered,
        Self::Yield,
        Self::Removed,
    ];
}

#[cfg(test)]
mod tests {
    use super::{GroupEvent as E, GroupState as S};

    #[test]
    fn transition_table_is_exhaustive_and_correct() {
        const X: Option<S> = None;
        const UN: Option<S> = Some(S::Unowned);
        const FO: Option<S> = Some(S::Following);
        const SU: Option<S> = Some(S::Suspect);
        const CL: Option<S> = Some(S::Claiming);
        const TA: Option<S> = Some(S::Taking);
        const HO: Option<S> = Some(S::Holding);
        const MU: Option<S> = Some(S::Muted);
        const PR: Option<S> = Some(S::Probing);
        const SH: Option<S> = Some(S::Shadow);
        // Columns: else, here, gone, back, due, won, lost, cleared, doubt, sure, resigned, alone,
        // unanswered, yield, removed.
        let table: [(S, [Option<S>; 15]); 9] = [
            (S::Unowned, [FO, TA, X, X, X, X, X, X, X, X, X, X, X, X, UN]),
            (S::Following, [FO, TA, SU, X, X, X, X, X, X, X, X, X, X, X, UN]),
            (S::Suspect, [FO, TA, X, FO, CL, X, X, X, X, X, X, PR, X, X, UN]),
            (S::Claiming, [FO, TA, X, FO, X, HO, SU, X, X, X, X, X, X, X, UN]),
            (S::Taking, [FO, TA, X, X, X, X, X, HO, X, X, SU, X, X, X, UN]),
            (S::Holding, [FO, HO, X, X, X, X, X, X, MU, X, SU, X, X, X, UN]),
            (S::Muted, [FO, MU, X, X, X, X, X, X, X, HO, SU, X, X, X, UN]),
            (S::Probing, [FO, TA, X, FO, X, X, X, X, X, X, X, X, SH, SU, UN]),
            (S::Shadow, [FO, TA, X, FO, X, HO, X, X, X, X, X, X, X, SU, UN]),
        ];
        assert_eq!(table.map(|row| row.0), S::ALL);
        for (state, row) in table {
            for (event, expected) in E::ALL.into_iter().zip(row) {
                assert_eq!(state.next(event), expected, "({state:?}, {event:?})");
            }
        }
    }
}
