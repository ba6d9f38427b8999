//! Every span and count of the protocol.

use thiserror::Error;

/// Milliseconds in the unit of [`crate::Time`] that `clusterd` uses.
const MS: u64 = 1_000;
/// Clocks may be wrong by 500 ppm each: one part in so many between two of them.
const DRIFT_PARTS: u64 = 1_000;
/// The usual margin is one part in so many of the silence time.
const MARGIN_PARTS: u64 = 50;

/// Spans are in units of [`crate::Time`]; [`Settings::default`] assumes microseconds.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Settings {
    /// Between two beacons of a node.
    pub beacon: u64,
    /// So many beacons unheard make a node silent.
    pub silent_after: u32,
    /// A copy is complete when its latest batch was applied at most so long before the silence.
    pub complete_within: u64,
    /// A stale candidate claims so much later than a complete one.
    pub stale_delay: u64,
    /// An empty candidate claims so much later than a complete one.
    pub empty_delay: u64,
    /// Between two candidates that are ranked one after the other.
    pub rank_step: u64,
    /// A gap of the own loop longer than so many beacons restarts every silence timer.
    pub gap_beacons: u32,
    /// A gap of the own loop of so many beacons mutes a holder.
    pub mute_gap_beacons: u32,
    /// How long a holder stays mute after such a gap, in beacons.
    pub mute_beacons: u32,
    /// How long workers may answer ARP after the last run of the loop, in beacons.
    pub announce_beacons: u32,
    /// A holder of a strict group falls silent so long before its confirmation ends: what two clocks
    /// may drift apart in one silence time.
    pub strict_margin: u64,
    /// Gratuitous ARP after the start of announcing. Empty: none.
    pub arp_offsets: Vec<u64>,
    /// Gratuitous ARP again after so long; 0: never.
    pub arp_refresh: u64,
    /// At least so long between two gratuitous ARPs that answer a lower epoch.
    pub arp_pace: u64,
    /// A node tells the holder who still sends to it so long after the group changed hands.
    pub stale_sender_after: u64,
    /// A planned stop that has not moved every group by then resigns what is left.
    pub shutdown_bound: u64,
    /// A candidate without a majority probes a group's addresses when the holder has been gone, and
    /// no majority heard, for so long; and again after so long.
    pub alone_after: u64,
    /// A candidate that is held down claims so much later than it would.
    pub held_down_delay: u64,
    /// The leader repeats a proposal that has not been committed after so long.
    pub propose_again: u64,
    /// The leader grants a group itself when its holder has been gone so long and nobody claimed.
    pub regrant_after: u64,
}

impl Settings {
    /// How long a node must be unheard on every path to be silent.
    pub fn silence(&self) -> u64 {
        self.beacon.saturating_mul(u64::from(self.silent_after))
    }

    /// `count` beacons.
    pub fn beacons(&self, count: u32) -> u64 {
        self.beacon.saturating_mul(u64::from(count))
    }

    /// The longest the driver may sleep: half a beacon, so that a late wake-up is not yet a gap.
    pub fn wake(&self) -> u64 {
        (self.beacon / 2).max(1)
    }

    /// The usual margin of strict groups: a fiftieth of the silence time, 2 ms of 100. Two clocks
    /// that are wrong by 500 ppm each take a twentieth of it.
    pub fn margin(silence: u64) -> u64 {
        silence / MARGIN_PARTS
    }

    /// 50 ms x 5, for hosts whose loops pause.
    pub fn noisy_host() -> Self {
        let strict_margin = Self::margin(250 * MS);
        Self { beacon: 50 * MS, silent_after: 5, strict_margin, ..Self::default() }
    }

    /// Refuses what would break the argument of the crate's documentation.
    pub fn validate(&self) -> Result<(), SettingsError> {
        if self.beacon == 0 {
            return Err(SettingsError::NoBeacon);
        }
        if self.silent_after < 2 {
            return Err(SettingsError::SilentTooSoon { silent_after: self.silent_after });
        }
        if self.announce_beacons >= self.silent_after {
            return Err(SettingsError::AnnounceTooLong {
                announce_beacons: self.announce_beacons,
                silent_after: self.silent_after,
            });
        }
        if self.mute_gap_beacons > self.announce_beacons {
            return Err(SettingsError::MuteTooLate {
                mute_gap_beacons: self.mute_gap_beacons,
                announce_beacons: self.announce_beacons,
            });
        }
        let least = self.silence() / DRIFT_PARTS;
        if self.strict_margin < least || self.strict_margin >= self.silence() / 2 {
            return Err(SettingsError::Margin {
                strict_margin: self.strict_margin,
                least,
                most: (self.silence() / 2).saturating_sub(1),
            });
        }
        Ok(())
    }
}

impl Default for Settings {
    /// 25 ms x 4, in microseconds.
    fn default() -> Self {
        Self {
            beacon: 25 * MS,
            silent_after: 4,
            complete_within: 200 * MS,
            stale_delay: 200 * MS,
            empty_delay: 1_000 * MS,
            rank_step: 25 * MS,
            gap_beacons: 1,
            mute_gap_beacons: 3,
            mute_beacons: 2,
            announce_beacons: 3,
            strict_margin: Self::margin(100 * MS),
            arp_offsets: vec![0, 20 * MS, 100 * MS, 300 * MS, 700 * MS],
            arp_refresh: 60_000 * MS,
            arp_pace: 100 * MS,
            stale_sender_after: 10_000 * MS,
            shutdown_bound: 3_000 * MS,
            alone_after: 3_000 * MS,
            held_down_delay: 2_000 * MS,
            propose_again: 1_000 * MS,
            regrant_after: 2_000 * MS,
        }
    }
}

/// Why settings are refused.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum SettingsError {
    /// The interval is zero.
    #[error("beacon interval is 0; set it to 25 ms, or 50 ms for noisy hosts")]
    NoBeacon,
    /// One lost beacon would depose a holder.
    #[error(
        "silent after {silent_after} beacons: one lost frame would depose a holder; use 2 or more"
    )]
    SilentTooSoon {
        /// As configured.
        silent_after: u32,
    },
    /// Workers of a stuck node would answer while its successor does.
    #[error(
        "workers may answer for {announce_beacons} beacons, but peers take over after {silent_after}; make the first smaller"
    )]
    AnnounceTooLong {
        /// As configured.
        announce_beacons: u32,
        /// As configured.
        silent_after: u32,
    },
    /// The margin covers no drift, or leaves no time to announce.
    #[error(
        "strict groups have a margin of {strict_margin} for clocks that drift; write {least} to {most}"
    )]
    Margin {
        /// As configured.
        strict_margin: u64,
        /// A thousandth of the silence time: two clocks of 500 ppm, one fast, one slow.
        least: u64,
        /// Less than half of the silence time.
        most: u64,
    },
    /// A paused holder would resume without looking whether it was deposed.
    #[error(
        "a holder is muted after a gap of {mute_gap_beacons} beacons, but its workers stop after {announce_beacons}; make the first no larger"
    )]
    MuteTooLate {
        /// As configured.
        mute_gap_beacons: u32,
        /// As configured.
        announce_beacons: u32,
    },
}
