//! Grants, beacons, consent and claims: who announces a VIP group. It replaces VRRP.
//!
//! [`Ownership`] is a pure state machine: integer time, facts and frames in, actions out. No
//! clock, no sockets, no randomness; equal inputs give equal outputs, and values can be compared
//! and hashed, so that the model checker drives exactly this code (`tests/model`).
//!
//! # What it guarantees
//!
//! *Never two announcers that each heard a majority of the voters within the silence time, by their
//! own clocks and with no gap of their loops since.* Four rules carry this:
//!
//! 1. A voter consents to a successor only when it has not heard the holder on any path for the
//!    silence time S, and never twice for one claim number. From then on its beacons say so.
//! 2. Beacons echo the latest sequence heard from each peer. A holder knows when it sent that one,
//!    so it knows that this voter consents to nobody for S from then: counted from *send*, which is
//!    earlier than any hearing, so neither latency nor a pause in between matters.
//! 3. A holder that hears a majority which does not confirm hearing it goes mute
//!    ([`StopReason::NotConfirmed`]). One that hears no majority is alone and keeps announcing until
//!    it hears a higher epoch (policy `available`): two such sides may announce at once while the
//!    network is split, and the guarantee above says no more.
//! 4. A committed grant that moves a group is taken up in [`GroupState::Taking`]: the new holder
//!    schedules connections at once but announces only when a majority of the voters reports that
//!    no earlier holder can still announce, because it has said it obeys, or was confirmed too long
//!    ago. While both live this takes one exchange of beacons, and forwarding never stops.
//!
//! *Of a strict group never two announcers at all*, counting until the time that workers were told
//! ([`Ownership::announce_valid_until`]), also while the loop is paused. Its holder announces only
//! until a majority's confirmation ends, less [`Settings::strict_margin`] for clocks that drift, and
//! hearing no majority means mute. A voter confirms a strict holder only when that one knows all
//! that the voter has promised to others ([`PeerReport::owes`]), and counts only when it knows by
//! which right that one holds.
//!
//! *Without a majority* nobody can consent. A candidate of an available group with `alone: claim`
//! that hears no majority for [`Settings::alone_after`], whose holder is silent as long and whose
//! addresses nobody answers for, announces as a *shadow*: without a right, just below the epoch that
//! is known, yielding to the first sign of its holder and to a shadow of better rank. Back among a
//! majority it claims, before others do, and announces meanwhile.
//!
//! A restarted voter has forgotten its promises; it abstains for S after its paths are up, which is
//! longer than anything its earlier run confirmed: meanwhile it consents to nobody, confirms nobody
//! and clears nothing. A run of a peer that is not known yet is
//! believed only when it echoes what this node sent a moment ago: recorded frames cannot, so an
//! ended run never comes back, not even to a node that has restarted itself.
//!
//! # What it does not
//!
//! Clocks must run at nearly the same rate: a rate difference shortens S by its share, and 500 ppm
//! of 100 ms are 50 us; only strict groups have a margin for it. A group that becomes strict is so
//! from when its holder has applied that. Majorities are those of one set of voters: while that
//! changes, a paused node that has not applied the change may count by the old one. When more groups change at once than one beacon carries
//! ([`GROUPS_PER_BEACON`]), beacons confirm nobody until each change was sent once; a voter that
//! loses all of its repetitions may confirm a holder for one rotation longer. Gratuitous ARP moves
//! hosts and switches, but when they believe it is theirs to say.
//!
//! # States of a group
//!
//! The table is in [`GroupState`]; only `Holding` and `Shadow` announce.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod action;
mod beacon;
mod claim;
mod codec;
mod committed;
mod fitness;
mod group;
mod hold_down;
mod holder;
mod leader;
mod learn;
mod message;
mod ownership;
mod peer;
mod rank;
mod rebalance;
mod receive;
mod reject;
mod report;
mod settings;
mod shadow;
mod stale;
mod state;
mod status;
mod time;
mod wire;

pub use action::{Action, GrantReason, Role, StopReason};
pub use codec::{FRAME_MAX, Seal};
pub use committed::{Committed, CommittedGroup, Grant, Member, SegmentId};
pub use hold_down::{FAILURES_MAX, HoldDown, Verdict};
pub use leader::MoveError;
pub use message::{
    Beacon, CLAIMS_MAX, ClaimAnswer, ClaimRequest, Completeness, Frame, GROUPS_PER_BEACON,
    GroupReport, MOVES_MAX, Message, PATHS_MAX, PEERS_MAX, Path, PeerReport, Refusal, Resign,
    SEGMENTS_MAX, STALE_SENDERS_MAX, StaleSender, Stance, Tally,
};
pub use ownership::Ownership;
pub use rank::rank;
pub use rebalance::{
    Exclusion, Placed, Plan, PlannedMove, REBALANCE_MOVES_MAX, RebalanceInput, Why, plan,
};
pub use reject::RejectReason;
pub use settings::{Settings, SettingsError};
pub use state::{GroupEvent, GroupState};
pub use status::{Counters, GroupStatus, PeerStatus, Status};
pub use steadfast_model::document::{Alone, Policy};
pub use time::Time;
