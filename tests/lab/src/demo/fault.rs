//! The faults, and what each must and must not do to the group.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A fault.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    /// SIGKILL of the holder's daemon.
    Kill,
    /// The holder's bridge ports go down, then SIGKILL: nobody sees it die.
    Power,
    /// The holder is isolated for 5 s, alive, then healed.
    Cut,
    /// SIGSTOP of the holder's daemon for 2 s.
    Pause,
    /// A planned move by clusterctl.
    Move,
    /// SIGTERM of the holder's daemon.
    Stop,
    /// The holder is killed, wiped, joins anew and takes over when the next holder is killed.
    Return,
    /// A leader that holds nothing is killed.
    Leader,
    /// Both other nodes are killed.
    Quorum,
    /// Nothing happens.
    None,
}

impl Fault {
    /// The word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Power => "power",
            Self::Cut => "cut",
            Self::Pause => "pause",
            Self::Move => "move",
            Self::Stop => "stop",
            Self::Return => "return",
            Self::Leader => "leader",
            Self::Quorum => "quorum",
            Self::None => "none",
        }
    }

    /// What happens, for people.
    #[must_use]
    pub fn story(self) -> &'static str {
        match self {
            Self::Kill => "SIGKILL of the holder's daemon",
            Self::Power => "the holder loses power: its ports go down, then SIGKILL",
            Self::Cut => "the holder is isolated for 5 s, alive, then healed",
            Self::Pause => "SIGSTOP of the holder's daemon for 2 s",
            Self::Move => "a planned move of the group by clusterctl",
            Self::Stop => "SIGTERM of the holder's daemon",
            Self::Return => "the holder dies, is wiped, joins anew; then the next holder dies",
            Self::Leader => "SIGKILL of the Raft leader, which holds nothing",
            Self::Quorum => "SIGKILL of both nodes that do not hold the group",
            Self::None => "nothing happens",
        }
    }

    /// Whether another node must hold the group afterwards, under a higher epoch. If not, the
    /// group must stay where it is, under the same epoch.
    #[must_use]
    pub fn moves_group(self) -> bool {
        !matches!(self, Self::Leader | Self::Quorum | Self::None)
    }

    /// Whether the old holder must still run afterwards and have yielded.
    #[must_use]
    pub fn victim_must_yield(self) -> bool {
        matches!(self, Self::Cut | Self::Pause | Self::Move)
    }

    /// Datagrams of the probe that may be lost, where the fault promises that.
    #[must_use]
    pub fn probe_loss_promised(self) -> Option<u64> {
        match self {
            Self::Move | Self::Stop => Some(5),
            Self::Leader | Self::Quorum | Self::None => Some(0),
            Self::Kill | Self::Power | Self::Cut | Self::Pause | Self::Return => None,
        }
    }
}
