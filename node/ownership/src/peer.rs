//! What this node knows of one peer.

use std::collections::BTreeMap;

use steadfast_model::{BootId, GroupId, NodeId};

use crate::{Completeness, Frame, GroupReport, Path, PeerReport, RejectReason, SegmentId, Time};

/// Ended runs of a peer that are remembered. A run that is forgotten still cannot come back: it
/// would have to echo a frame that this node sent a moment ago.
const RETIRED_MAX: usize = 8;
/// How far the sequence of one path may lag behind that of another: frames of one run on several
/// paths overtake each other, but not by more.
const PATH_LAG_MAX: u64 = 64;

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Peer {
    /// The run that has proven to be fresh.
    pub(crate) boot: Option<BootId>,
    /// A run that was heard but has not echoed this node yet, its latest sequence, and when.
    pub(crate) unproven: Option<(BootId, u64, Time)>,
    retired: Vec<BootId>,
    /// Per path: latest sequence, and when.
    pub(crate) paths: BTreeMap<Path, (u64, Time)>,
    /// Latest sequence over all paths.
    pub(crate) newest: u64,
    /// When it was last heard; forgotten by a gap of the own loop.
    pub(crate) heard: Option<Time>,
    /// Where its silence is counted from: last heard, last gap of the own loop, or the start.
    pub(crate) quiet_from: Time,
    /// It will not consent against this node before then, on this node's clock.
    pub(crate) confirmed_until: Time,
    /// The same for strict groups: by what it said when it had told this node everything.
    pub(crate) strict_until: Time,
    /// Its latest beacon.
    pub(crate) view: Option<View>,
    /// What it last said about each group, in its present run.
    pub(crate) reports: BTreeMap<GroupId, GroupReport>,
}

/// What a peer's latest beacon says about itself and others.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct View {
    pub(crate) at: Time,
    pub(crate) cordoned: bool,
    pub(crate) leaving: bool,
    pub(crate) abstains: bool,
    pub(crate) segments: Vec<SegmentId>,
    pub(crate) paths: Vec<Path>,
    pub(crate) peers: BTreeMap<NodeId, PeerReport>,
}

/// What accepting a frame has shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heard {
    /// One more frame of a peer that is being heard.
    Again,
    /// The peer was silent or forgotten.
    Back,
    /// A new run of a peer, whose earlier run has therefore ended.
    NewRun,
}

impl Peer {
    pub(crate) fn new(now: Time) -> Self {
        Self {
            boot: None,
            unproven: None,
            retired: Vec::new(),
            paths: BTreeMap::new(),
            newest: 0,
            heard: None,
            quiet_from: now,
            confirmed_until: Time(0),
            strict_until: Time(0),
            view: None,
            reports: BTreeMap::new(),
        }
    }

    /// Takes a frame as evidence of life, or says why it is none. `proof`: the frame echoes
    /// something this node sent a moment ago.
    pub(crate) fn accept(
        &mut self,
        now: Time,
        frame: &Frame,
        proof: bool,
    ) -> Result<Heard, RejectReason> {
        if self.retired.contains(&frame.boot) {
            return Err(RejectReason::OldBoot);
        }
        let mut heard = if self.heard.is_some() { Heard::Again } else { Heard::Back };
        if self.boot != Some(frame.boot) {
            if !proof {
                self.unproven = Some((frame.boot, frame.sequence, now));
                return Err(RejectReason::Unproven);
            }
            if self.begin_run(frame.boot) {
                heard = Heard::NewRun;
            }
        } else {
            let floor = self.newest.saturating_sub(PATH_LAG_MAX);
            let last = self.paths.get(&frame.path).map_or(floor, |(sequence, _)| *sequence);
            if frame.sequence <= last {
                return Err(RejectReason::Replayed);
            }
        }
        self.paths.insert(frame.path, (frame.sequence, now));
        self.newest = self.newest.max(frame.sequence);
        self.heard = Some(now);
        self.quiet_from = now;
        Ok(heard)
    }

    /// Whether it has been unheard on every path for `silence`.
    pub(crate) fn silent(&self, now: Time, silence: u64) -> bool {
        now.since(self.quiet_from) >= silence
    }

    /// Whether it was really heard within `silence`, with no gap of the own loop since.
    pub(crate) fn heard_within(&self, now: Time, silence: u64) -> bool {
        self.heard.is_some_and(|at| now.since(at) < silence)
    }

    /// Its copy of the connections of `source`, as it says.
    pub(crate) fn copy_of(&self, source: NodeId) -> Completeness {
        let report = self.view.as_ref().and_then(|view| view.peers.get(&source));
        report.map_or(Completeness::Empty, |report| report.copy)
    }

    /// Whether a newer run than `boot` has been heard.
    pub(crate) fn ended(&self, boot: BootId) -> bool {
        self.retired.contains(&boot)
    }

    /// Restarts the silence timer after a gap of the own loop.
    pub(crate) fn restart_timer(&mut self, now: Time) {
        self.quiet_from = now;
        self.heard = None;
    }

    /// Returns whether an earlier run has ended by that.
    fn begin_run(&mut self, boot: BootId) -> bool {
        let ended = self.boot.replace(boot);
        if let Some(ended) = ended {
            if self.retired.len() == RETIRED_MAX {
                self.retired.remove(0);
            }
            self.retired.push(ended);
        }
        self.unproven = None;
        self.paths.clear();
        self.newest = 0;
        self.view = None;
        self.reports.clear();
        // Both confirmations stay: the new run abstains for longer than the old one promised.
        ended.is_some()
    }
}
