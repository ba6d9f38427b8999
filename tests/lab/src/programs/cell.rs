//! What is tried: a program, a way of forwarding, a family, at rest or through a fault.

use serde::{Deserialize, Serialize};

use super::mode::{MODES, Mode};
use crate::{demo::suite::Extent, host::family::Family};

/// A pair of real programs.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// nginx and curl: downloads.
    Curl,
    /// nginx and wrk: connections that are kept.
    Wrk,
    /// dnsmasq and dig.
    Dig,
    /// chasquid and curl as a mail client.
    Mail,
    /// iperf3 in both directions at once.
    Iperf,
    /// vsftpd and curl, passive and active.
    Ftp,
}

impl Program {
    /// Every one.
    pub const ALL: [Self; 6] =
        [Self::Curl, Self::Wrk, Self::Dig, Self::Mail, Self::Iperf, Self::Ftp];

    /// The word in names of cells.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Curl => "curl",
            Self::Wrk => "wrk",
            Self::Dig => "dig",
            Self::Mail => "mail",
            Self::Iperf => "iperf",
            Self::Ftp => "ftp",
        }
    }
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Nothing.
    Steady,
    /// SIGKILL of the holder's daemon, in the middle of every session.
    Kill,
}

impl Phase {
    /// The word in names of cells.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Kill => "kill",
        }
    }
}

/// All programs at once, in one way of forwarding.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Round {
    /// How packets reach the servers.
    pub mode: Mode,
    /// Family of the sessions.
    pub family: Family,
    /// What happens.
    pub phase: Phase,
}

impl Round {
    /// The name of a cell's report.
    #[must_use]
    pub fn cell(&self, program: Program) -> String {
        format!("{}-{self}", program.name())
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let family = match self.family {
            Family::V4 => "v4",
            Family::V6 => "v6",
        };
        write!(f, "{}-{family}-{}", self.mode.name, self.phase.name())
    }
}

/// The rounds of a suite: every cell, or each pair of program, mode, family and phase once.
#[must_use]
pub fn rounds(extent: Extent) -> Vec<Round> {
    let mut rounds = Vec::new();
    for (row, mode) in MODES.into_iter().enumerate() {
        let all = [Family::V4, Family::V6].into_iter();
        let all = all.flat_map(|family| [Phase::Steady, Phase::Kill].map(|phase| (family, phase)));
        // Each mode with both families and both phases, and over all rows each family with each.
        let paired = |(family, phase)| {
            ((family == Family::V4) == (phase == Phase::Steady)) == (row % 2 == 0)
        };
        for (family, phase) in all.filter(|&pair| extent == Extent::Full || paired(pair)) {
            rounds.push(Round { mode, family, phase });
        }
    }
    rounds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_rounds_have_every_pair() {
        let rounds = rounds(Extent::Quick);
        let has = |is: &dyn Fn(&Round) -> bool| rounds.iter().any(is);
        for family in [Family::V4, Family::V6] {
            for phase in [Phase::Steady, Phase::Kill] {
                assert!(has(&|r| r.family == family && r.phase == phase));
                for mode in MODES {
                    assert!(has(&|r| r.mode == mode && r.family == family), "{mode:?}");
                    assert!(has(&|r| r.mode == mode && r.phase == phase), "{mode:?}");
                }
            }
        }
        assert_eq!(rounds.len(), 2 * MODES.len());
    }

    #[test]
    fn the_full_rounds_have_every_cell() {
        let rounds = rounds(Extent::Full);
        let mut names: Vec<_> =
            rounds.iter().flat_map(|r| Program::ALL.map(|program| r.cell(program))).collect();
        assert_eq!(names.len(), Program::ALL.len() * MODES.len() * 2 * 2);
        names.sort();
        names.dedup();
        assert_eq!(names.len(), Program::ALL.len() * MODES.len() * 2 * 2);
        assert!(names.contains(&"curl-nat-one-arm-v6-kill".to_owned()));
    }
}
