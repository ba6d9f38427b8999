//! Counts of a run, and whether it counts.

use std::{collections::BTreeMap, fmt};

use crate::clock::{MS, Ns, SECOND};

/// A violated invariant.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which.
    pub invariant: &'static str,
    /// What was seen.
    pub what: String,
    /// When.
    pub at: Ns,
}

/// What happened, counted.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Events.
    pub events: u64,
    /// Frames that workers handled.
    pub frames: u64,
    /// Those dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Sessions that were begun.
    pub opened: u64,
    /// Sessions that were opened.
    pub established: u64,
    /// Questions that were answered.
    pub answers: u64,
    /// Sessions that two nodes knew.
    pub safe: u64,
    /// Sessions that broke without an excuse.
    pub broken: u64,
    /// Sessions whose breaking is excused, by why.
    pub excused: BTreeMap<&'static str, u64>,
    /// The fewest sessions that were open at once.
    pub open_min: Option<u64>,
    /// Packets that another server got.
    pub pcc: u64,
    /// The longest wait for an answer.
    pub waited_max: Ns,
    /// Connections of persistent clients that were judged.
    pub persistent: u64,
    /// Faults by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// Faults that waited for copies.
    pub waited: u64,
    /// Faults that did not happen at all.
    pub skipped: u64,
    /// Runs that lost power.
    pub kills: u64,
    /// Runs that were started.
    pub starts: u64,
    /// Planned stops that came to their end.
    pub stops: u64,
    /// Parts that stood still.
    pub pauses: u64,
    /// Planned moves.
    pub moves: u64,
    /// Times a node became holder.
    pub take_overs: u64,
    /// Times a node began to announce.
    pub announcements: u64,
    /// Times two announced at once.
    pub duals: u64,
    /// Single hosts that were told where a VIP is.
    pub announced_to: u64,
    /// Proposals that were committed and granted.
    pub commits: u64,
    /// Proposals that were refused when they were applied.
    pub refused: u64,
    /// Batches of copies.
    pub batches: u64,
    /// Their octets.
    pub copied_bytes: u64,
    /// Streams that broke.
    pub breaks: u64,
    /// Connections that were created.
    pub created: u64,
    /// The most keys that waited at a node.
    pub waiting_max: u64,
    /// Connections compared at rest.
    pub compared: u64,
    /// Connections that peers were asked for.
    pub asked: u64,
    /// Those that a peer knew.
    pub found: u64,
    /// Those that all peers answered for, and none knew.
    pub known_to_nobody: u64,
}

impl Figures {
    /// All faults.
    #[must_use]
    pub fn faults_all(&self) -> u64 {
        self.faults.values().sum()
    }

    /// All excused sessions.
    #[must_use]
    pub fn excused_all(&self) -> u64 {
        self.excused.values().sum()
    }

    /// Whether traffic flowed and faults happened.
    pub(crate) fn judge(&self, span: Ns, sessions: u32, planned: usize) -> Result<(), String> {
        let seconds = span / SECOND;
        let at_least = |name: &str, got: u64, want: u64| {
            if got < want { Err(format!("{name}: {got}, at least {want} wanted")) } else { Ok(()) }
        };
        at_least("answers", self.answers, seconds * u64::from(sessions) / 20)?;
        at_least("sessions opened", self.established, u64::from(sessions))?;
        at_least("open sessions", self.open_min.unwrap_or(0), u64::from(sessions) * 6 / 10)?;
        at_least("sessions compared at rest", self.compared, u64::from(sessions) / 4)?;
        let planned = planned as u64;
        at_least("faults", self.faults_all(), planned - planned / 8)?;
        if self.excused_all() > self.established / 50 + 5 {
            return Err(format!("{} of {} sessions excused", self.excused_all(), self.established));
        }
        Ok(())
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in [
            (&mut self.drops, &other.drops),
            (&mut self.excused, &other.excused),
            (&mut self.faults, &other.faults),
        ] {
            for (name, count) in theirs {
                *mine.entry(name).or_default() += count;
            }
        }
        self.events += other.events;
        self.frames += other.frames;
        self.opened += other.opened;
        self.established += other.established;
        self.answers += other.answers;
        self.safe += other.safe;
        self.broken += other.broken;
        self.pcc += other.pcc;
        let fewest = [self.open_min, other.open_min].into_iter().flatten().min();
        self.open_min = fewest;
        self.waited_max = self.waited_max.max(other.waited_max);
        self.persistent += other.persistent;
        self.waited += other.waited;
        self.skipped += other.skipped;
        self.kills += other.kills;
        self.starts += other.starts;
        self.stops += other.stops;
        self.pauses += other.pauses;
        self.moves += other.moves;
        self.take_overs += other.take_overs;
        self.announcements += other.announcements;
        self.duals += other.duals;
        self.announced_to += other.announced_to;
        self.commits += other.commits;
        self.refused += other.refused;
        self.batches += other.batches;
        self.copied_bytes += other.copied_bytes;
        self.breaks += other.breaks;
        self.created += other.created;
        self.waiting_max = self.waiting_max.max(other.waiting_max);
        self.compared += other.compared;
        self.asked += other.asked;
        self.found += other.found;
        self.known_to_nobody += other.known_to_nobody;
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let excused = self.excused_all();
        writeln!(
            f,
            "sessions: {} opened, {} known to two nodes, {} answers, {} open at least, {} broken, \
             {excused} excused {:?}, longest wait {} ms",
            self.established,
            self.safe,
            self.answers,
            self.open_min.unwrap_or(0),
            self.broken,
            self.excused,
            self.waited_max / MS
        )?;
        writeln!(
            f,
            "faults: {} {:?}, {} postponed, {} left out",
            self.faults_all(),
            self.faults,
            self.waited,
            self.skipped
        )?;
        writeln!(
            f,
            "groups: {} take-overs, {} moves, {} times two at once, {} grants committed, {} refused",
            self.take_overs, self.moves, self.duals, self.commits, self.refused
        )?;
        writeln!(
            f,
            "copies: {} batches, {} octets, {} streams broke, {} connections compared at rest",
            self.batches, self.copied_bytes, self.breaks, self.compared
        )?;
        writeln!(
            f,
            "unknown connections: {} asked for, {} found at peers, {} known to nobody",
            self.asked, self.found, self.known_to_nobody
        )?;
        write!(
            f,
            "events: {}, frames {}, dropped {:?}, starts {}, kills {}, stops {}",
            self.events, self.frames, self.drops, self.starts, self.kills, self.stops
        )
    }
}
