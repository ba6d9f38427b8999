//! The faults, and what each must and must not do to the group.

use std::time::Duration;

use clap::{ValueEnum, builder::PossibleValue};
use serde::{Deserialize, Serialize};

use crate::host::planes::{Plane, Way};

/// A fault.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(into = "String", try_from = "String")]
pub enum Fault {
    /// SIGKILL of the holder's daemon.
    Kill,
    /// The holder's bridge ports go down, then SIGKILL: nobody sees it die.
    Power,
    /// The holder is isolated for 5 s, alive, then healed.
    Cut,
    /// SIGSTOP of the holder's daemon for so many milliseconds.
    Pause(u32),
    /// A planned move by clusterctl.
    Move,
    /// SIGTERM of the holder's daemon.
    Stop,
    /// Every daemon is told to stop and started again, one after the other, the holder first.
    Rolling,
    /// The holder's daemon is killed and started again, six times in half a minute.
    CrashLoop,
    /// The nodes begin with another version, are upgraded to this one and brought back, one after the
    /// other, with planned moves and a kill while both are there.
    Upgrade,
    /// The holder is killed, wiped, joins anew and takes over when the next holder is killed.
    Return,
    /// A leader that holds nothing is killed.
    Leader,
    /// Both other nodes are killed.
    Quorum,
    /// One plane of the holder is cut for 5 s, one way or both, then healed.
    Plane(Plane, Way),
    /// So many of 100 replication packets are lost; sessions come up meanwhile, then the holder is
    /// killed.
    Loss(u8),
    /// Both processors are busy with something else for 10 s.
    Hogs,
    /// The holder is killed in a flood of forged SYNs.
    Flood,
    /// Silent sessions stay so for two thirds of their timeout, the holder is killed, and they stay
    /// silent for as long again.
    Idle,
    /// Nothing happens.
    None,
}

/// What must become of the group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Group {
    /// Another node holds it in the end, under a higher epoch.
    Moves,
    /// It moved, and anybody may hold it in the end, under a higher epoch.
    Wanders,
    /// The same node holds it, under the same epoch.
    Stays,
}

/// Length of the plain `pause`.
pub const PAUSE_MS: u32 = 2000;

/// Every fault, in the order of the suite.
pub const FAULTS: [Fault; 31] = [
    Fault::None,
    Fault::Kill,
    Fault::Power,
    Fault::Cut,
    Fault::Pause(200),
    Fault::Pause(500),
    Fault::Pause(PAUSE_MS),
    Fault::Pause(10_000),
    Fault::Move,
    Fault::Stop,
    Fault::Leader,
    Fault::Quorum,
    Fault::Plane(Plane::Control, Way::Both),
    Fault::Plane(Plane::Control, Way::In),
    Fault::Plane(Plane::Control, Way::Out),
    Fault::Plane(Plane::Replication, Way::Both),
    Fault::Plane(Plane::Replication, Way::In),
    Fault::Plane(Plane::Replication, Way::Out),
    Fault::Plane(Plane::Segment, Way::Both),
    Fault::Plane(Plane::Segment, Way::In),
    Fault::Plane(Plane::Segment, Way::Out),
    Fault::Loss(1),
    Fault::Loss(5),
    Fault::Loss(20),
    Fault::Hogs,
    Fault::Flood,
    Fault::Idle,
    Fault::CrashLoop,
    Fault::Rolling,
    Fault::Upgrade,
    Fault::Return,
];

impl Fault {
    /// The word on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Power => "power",
            Self::Cut => "cut",
            Self::Pause(200) => "pause-200ms",
            Self::Pause(500) => "pause-500ms",
            Self::Pause(10_000) => "pause-10s",
            Self::Pause(_) => "pause",
            Self::Move => "move",
            Self::Stop => "stop",
            Self::Rolling => "rolling",
            Self::CrashLoop => "crash-loop",
            Self::Upgrade => "upgrade",
            Self::Return => "return",
            Self::Leader => "leader",
            Self::Quorum => "quorum",
            Self::Plane(Plane::Control, Way::Both) => "cut-control",
            Self::Plane(Plane::Control, Way::In) => "cut-control-in",
            Self::Plane(Plane::Control, Way::Out) => "cut-control-out",
            Self::Plane(Plane::Replication, Way::Both) => "cut-replication",
            Self::Plane(Plane::Replication, Way::In) => "cut-replication-in",
            Self::Plane(Plane::Replication, Way::Out) => "cut-replication-out",
            Self::Plane(Plane::Segment, Way::Both) => "cut-segment",
            Self::Plane(Plane::Segment, Way::In) => "cut-segment-in",
            Self::Plane(Plane::Segment, Way::Out) => "cut-segment-out",
            Self::Loss(1) => "loss-1",
            Self::Loss(5) => "loss-5",
            Self::Loss(_) => "loss-20",
            Self::Hogs => "hogs",
            Self::Flood => "flood",
            Self::Idle => "idle",
            Self::None => "none",
        }
    }

    /// What happens, for people.
    #[must_use]
    pub fn story(self) -> String {
        let told = match self {
            Self::Kill => "SIGKILL of the holder's daemon",
            Self::Power => "the holder loses power: its ports go down, then SIGKILL",
            Self::Cut => "the holder is isolated for 5 s, alive, then healed",
            Self::Pause(ms) => {
                return format!("SIGSTOP of the holder's daemon for {:?}", millis(ms));
            }
            Self::Move => "a planned move of the group by clusterctl",
            Self::Stop => "SIGTERM of the holder's daemon",
            Self::Rolling => "every daemon is stopped and started, one after the other",
            Self::CrashLoop => {
                "the holder's daemon is killed and started, six times in half a minute"
            }
            Self::Upgrade => "from another version to this one and back, node by node, with a kill",
            Self::Return => "the holder dies, is wiped, joins anew; then the next holder dies",
            Self::Leader => "SIGKILL of the Raft leader, which holds nothing",
            Self::Quorum => "SIGKILL of both nodes that do not hold the group",
            Self::Plane(plane, way) => {
                return format!(
                    "for 5 s the holder's {} passes nothing {}",
                    plane.name(),
                    way.told()
                );
            }
            Self::Loss(percent) => {
                return format!("{percent}% of replication is lost, then SIGKILL of the holder");
            }
            Self::Hogs => "for 10 s every processor is busy with something else",
            Self::Flood => "SIGKILL of the holder's daemon in a flood of forged SYNs",
            Self::Idle => {
                "SIGKILL of the holder's daemon between two silences, each of two thirds of the timeout"
            }
            Self::None => "nothing happens",
        };
        told.to_owned()
    }

    /// What must become of the group.
    #[must_use]
    pub fn group(self) -> Group {
        match self {
            Self::Rolling | Self::Upgrade => Group::Wanders,
            Self::Leader | Self::Quorum | Self::Hogs | Self::None => Group::Stays,
            // The holder is heard on the segment, and that is where it serves.
            Self::Plane(Plane::Control | Plane::Replication, _) => Group::Stays,
            _ => Group::Moves,
        }
    }

    /// Whether the holder is what it hits.
    #[must_use]
    pub fn hits_the_holder(self) -> bool {
        !matches!(self, Self::Leader | Self::Quorum | Self::Hogs | Self::None)
    }

    /// Whether the old holder must still run afterwards and have yielded.
    #[must_use]
    pub fn victim_must_yield(self) -> bool {
        let lives = matches!(self, Self::Cut | Self::Pause(_) | Self::Move | Self::Plane(..));
        lives && self.group() == Group::Moves
    }

    /// Datagrams of the probe that may be lost, where the fault promises that.
    #[must_use]
    pub fn probe_loss_promised(self) -> Option<u64> {
        match self {
            Self::Move | Self::Stop => Some(5),
            // A stop for each daemon.
            Self::Rolling => Some(15),
            Self::Leader | Self::Quorum | Self::None => Some(0),
            Self::Plane(..) if self.group() == Group::Stays => Some(0),
            _ => None,
        }
    }
}

/// A time of so many milliseconds.
pub(crate) fn millis(ms: u32) -> Duration {
    Duration::from_millis(ms.into())
}

impl ValueEnum for Fault {
    fn value_variants<'a>() -> &'a [Self] {
        &FAULTS
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()).help(self.story()))
    }
}

impl From<Fault> for String {
    fn from(fault: Fault) -> Self {
        fault.name().to_owned()
    }
}

impl TryFrom<String> for Fault {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        let found = FAULTS.into_iter().find(|fault| fault.name() == name);
        found.ok_or_else(|| format!("no fault is called `{name}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_a_name_of_its_own() {
        for fault in FAULTS {
            assert_eq!(Fault::try_from(fault.name().to_owned()), Ok(fault));
        }
    }
}
