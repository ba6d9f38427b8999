//! `report.json`: what was found, for programs.
//!
//! The top level has exactly the keys of [`Report`]; everything else is in its runs.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use super::{fault::Fault, run::Leads, stats::Summary, validity::Check};
use crate::{
    cluster::api::Epoch,
    host::{family::Family, names::Mode},
    load::judge::{Kind, Why},
};

/// A series of runs.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Report {
    /// Sessions asked for, over all runs.
    pub sessions: u64,
    /// Sessions that came up. Must equal `sessions`.
    pub established: u64,
    /// Sessions that broke.
    pub broken: u64,
    /// The same by reason: `reset`, `timeout`, `eof`, `wrong_bytes`, `other_server`,
    /// `no_echo_in_time`, `error`. Reasons that did not happen are missing.
    pub broken_by: BTreeMap<String, u64>,
    /// How long the VIP was silent: one sample a run, in milliseconds.
    pub outage_ms: Summary,
    /// Longest time between two echoes around the fault: one sample for each talker that was
    /// talking before it, in milliseconds. An undisturbed talker has about 100.
    pub stall_ms: Summary,
    /// Datagrams of the 1 kHz probe that were never answered.
    pub probe_lost: u64,
    /// Where and what was measured, among the fields of the report itself.
    #[serde(flatten)]
    pub origin: Origin,
    /// Who held the group before the first and after the last run.
    pub holder: BeforeAfter<String>,
    /// Under which epoch.
    pub epoch: BeforeAfter<Epoch>,
    /// Each run.
    pub runs: Vec<RunReport>,
}

/// A thing before and after.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BeforeAfter<T> {
    /// Before; absent when it was never known.
    pub before: Option<T>,
    /// After.
    pub after: Option<T>,
}

/// One run.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RunReport {
    /// From 1.
    pub number: u32,
    /// The fault.
    pub fault: Fault,
    /// What exactly was done to whom.
    pub done: String,
    /// DR or NAT.
    pub mode: Mode,
    /// Family of the sessions.
    #[serde(default)]
    pub family: Family,
    /// Whether connections were copied.
    pub replication: bool,
    /// Who was to lead.
    #[serde(default)]
    pub leads: Leads,
    /// When the fault came, after the last session was up.
    pub fault_after_ms: u64,
    /// Sessions asked for.
    pub sessions: u64,
    /// Sessions that came up.
    pub established: u64,
    /// Sessions that broke.
    pub broken: u64,
    /// The same by reason.
    pub broken_by: BTreeMap<String, u64>,
    /// The first of those that broke.
    pub broken_sessions: Vec<BrokenSession>,
    /// How long the VIP was silent; absent without a probe.
    pub outage_ms: Option<f64>,
    /// Stalls of this run.
    pub stall_ms: Summary,
    /// Datagrams of the probe sent.
    pub probe_sent: u64,
    /// Those never answered.
    pub probe_lost: u64,
    /// Who held the group.
    pub holder: BeforeAfter<String>,
    /// Under which epoch.
    pub epoch: BeforeAfter<Epoch>,
    /// What the fault was to show besides, and what was seen.
    pub checks: Vec<Check>,
    /// Why the run does not count; empty if it does.
    pub void: Vec<String>,
    /// If it is void, then because of the machine and not of the cluster's answer to the fault: it
    /// stood still, or what went wrong came before the fault.
    pub spoilt: bool,
    /// The longest time that the machine kept threads waiting which should have run.
    #[serde(default)]
    pub pause_ms: f64,
    /// How long the run took, from the ready cluster to the verdict.
    pub took_ms: u64,
}

/// A broken session.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BrokenSession {
    /// Its number.
    pub id: u32,
    /// What it did.
    pub kind: Kind,
    /// Its own address.
    pub local: String,
    /// Its real server, as far as known.
    pub server: Option<String>,
    /// Why.
    pub why: Why,
    /// When it was noticed, after the beginning of the fault.
    pub after_fault_ms: f64,
    /// What was seen.
    pub detail: String,
}

/// What a run adds to the sums beside its report.
#[derive(Clone, Debug)]
pub struct RunOutcome {
    /// Its report.
    pub report: RunReport,
    /// Its samples.
    pub stalls_ms: Vec<f64>,
}

/// Where and what is measured.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Origin {
    /// The seed that repeats the times and choices.
    pub seed: u64,
    /// The commit, with `-dirty` if files differ from it; `unknown` outside of a repository.
    pub commit: String,
    /// Release of the kernel.
    pub kernel: String,
    /// How many processors of which kind, and how much memory.
    pub machine: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, commit, kernel, machine } = self;
        write!(f, "seed {seed}, commit {commit}, Linux {kernel}, {machine}")
    }
}

/// What the demonstration ends with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// No session broke, every run counts.
    Pass,
    /// A session broke in a run that counts.
    Broken,
    /// A run does not count, or there is none.
    Void,
}

impl Verdict {
    /// The exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Broken => 1,
            Self::Void => 2,
        }
    }
}

impl Report {
    /// Sums up runs.
    #[must_use]
    pub fn of(outcomes: &[RunOutcome], origin: &Origin) -> Self {
        let runs: Vec<RunReport> = outcomes.iter().map(|o| o.report.clone()).collect();
        let sum = |f: fn(&RunReport) -> u64| runs.iter().map(f).sum();
        let mut broken_by: BTreeMap<String, u64> = BTreeMap::new();
        for (why, count) in runs.iter().flat_map(|r| &r.broken_by) {
            *broken_by.entry(why.clone()).or_default() += count;
        }
        let outages: Vec<f64> = runs.iter().filter_map(|r| r.outage_ms).collect();
        let stalls: Vec<f64> = outcomes.iter().flat_map(|o| o.stalls_ms.clone()).collect();
        let first = runs.iter().find(|r| r.holder.before.is_some());
        let last = runs.iter().rev().find(|r| r.holder.after.is_some());
        Self {
            sessions: sum(|r| r.sessions),
            established: sum(|r| r.established),
            broken: sum(|r| r.broken),
            broken_by,
            outage_ms: Summary::of(&outages),
            stall_ms: Summary::of(&stalls),
            probe_lost: sum(|r| r.probe_lost),
            origin: origin.clone(),
            holder: BeforeAfter {
                before: first.and_then(|r| r.holder.before.clone()),
                after: last.and_then(|r| r.holder.after.clone()),
            },
            epoch: BeforeAfter {
                before: first.and_then(|r| r.epoch.before.clone()),
                after: last.and_then(|r| r.epoch.after.clone()),
            },
            runs,
        }
    }

    /// What it comes to. A broken session in a run that counts outweighs a void run; neither is a
    /// pass.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if self.runs.iter().any(|r| r.broken > 0 && r.void.is_empty()) {
            Verdict::Broken
        } else if self.runs.is_empty() || self.runs.iter().any(|r| !r.void.is_empty()) {
            Verdict::Void
        } else {
            Verdict::Pass
        }
    }

    /// Void by the machine's fault, and no session broke either: it may be tried again. A broken
    /// session is never tried away, nor is what went wrong after a fault while the machine ran.
    #[must_use]
    pub fn shows_nothing(&self) -> bool {
        let void = self.runs.iter().filter(|r| !r.void.is_empty());
        self.verdict() == Verdict::Void && self.broken == 0 && void.clone().all(|r| r.spoilt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin() -> Origin {
        let [commit, kernel, machine] = ["abc", "6.1", "2 processors"].map(str::to_owned);
        Origin { seed: 42, commit, kernel, machine }
    }

    fn epoch(claim: u64, node: u64) -> Epoch {
        Epoch { generation: 1, grant_index: 7, claim, node }
    }

    fn run(number: u32, broken: u64, void: &[&str], outage_ms: f64) -> RunOutcome {
        let report = RunReport {
            number,
            fault: Fault::Power,
            done: "n1 lost power".to_owned(),
            mode: Mode::Dr,
            family: Family::V4,
            replication: true,
            leads: Leads::Any,
            fault_after_ms: 2500,
            sessions: 300,
            established: 300,
            broken,
            broken_by: [("reset".to_owned(), broken)].into_iter().filter(|b| b.1 > 0).collect(),
            broken_sessions: Vec::new(),
            outage_ms: Some(outage_ms),
            stall_ms: Summary::of(&[100.0, 400.0]),
            probe_sent: 9000,
            probe_lost: 150,
            holder: BeforeAfter {
                before: Some(format!("n{number}")),
                after: Some(format!("n{}", number + 1)),
            },
            epoch: BeforeAfter {
                before: Some(epoch(u64::from(number), 1)),
                after: Some(epoch(u64::from(number) + 1, 2)),
            },
            checks: Vec::new(),
            void: void.iter().map(|&v| v.to_owned()).collect(),
            spoilt: false,
            pause_ms: 3.0,
            took_ms: 9000,
        };
        RunOutcome { report, stalls_ms: vec![100.0, 400.0] }
    }

    #[test]
    fn runs_are_summed() {
        let report = Report::of(&[run(1, 2, &[], 140.0), run(2, 3, &[], 160.0)], &origin());
        assert_eq!((report.sessions, report.established, report.broken), (600, 600, 5));
        assert_eq!(report.broken_by, [("reset".to_owned(), 5)].into());
        assert_eq!(report.outage_ms.n, 2);
        assert_eq!(report.outage_ms.max, Some(160.0));
        assert_eq!((report.stall_ms.n, report.stall_ms.p50), (4, Some(100.0)));
        assert_eq!(report.probe_lost, 300);
        assert_eq!(report.holder.before.as_deref(), Some("n1"));
        assert_eq!(report.holder.after.as_deref(), Some("n3"));
        assert_eq!(report.epoch.after, Some(epoch(3, 2)));
    }

    #[test]
    fn verdicts() {
        // (runs as (broken, void), verdict)
        type Runs<'a> = &'a [(u64, &'a [&'a str])];
        let table: [(Runs<'_>, Verdict); 7] = [
            (&[(0, &[]), (0, &[])], Verdict::Pass),
            (&[(0, &[]), (1, &[])], Verdict::Broken),
            (&[(0, &[]), (0, &["x"])], Verdict::Void),
            (&[(1, &["x"])], Verdict::Void),
            (&[(1, &["x"]), (0, &[])], Verdict::Void),
            (&[(1, &[]), (0, &["x"])], Verdict::Broken),
            (&[], Verdict::Void),
        ];
        for (runs, verdict) in table {
            let outcomes: Vec<RunOutcome> =
                runs.iter().map(|&(broken, void)| run(1, broken, void, 1.0)).collect();
            assert_eq!(Report::of(&outcomes, &origin()).verdict(), verdict, "{runs:?}");
        }
        let codes = [Verdict::Pass, Verdict::Broken, Verdict::Void].map(Verdict::exit_code);
        assert_eq!(codes, [0, 1, 2]);
    }

    #[test]
    fn a_broken_session_is_never_tried_away() {
        let again = |broken, void: &[&str], spoilt| {
            let mut spoilt_run = run(1, broken, void, 1.0);
            spoilt_run.report.spoilt = spoilt;
            Report::of(&[run(1, 0, &[], 1.0), spoilt_run], &origin()).shows_nothing()
        };
        assert!(again(0, &["x"], true));
        assert!(!again(1, &["x"], true) && !again(1, &[], true) && !again(0, &[], true));
        assert!(!again(0, &["x"], false), "what went wrong after the fault is never tried away");
    }

    #[test]
    fn the_report_survives_json_and_its_top_level_is_what_was_promised() {
        let report = Report::of(&[run(1, 0, &["why"], 140.0)], &origin());
        let text = serde_json::to_string_pretty(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        let mut promised = [
            "sessions",
            "established",
            "broken",
            "broken_by",
            "outage_ms",
            "stall_ms",
            "probe_lost",
            "seed",
            "commit",
            "kernel",
            "machine",
            "holder",
            "epoch",
            "runs",
        ];
        promised.sort_unstable();
        assert_eq!(keys, promised);
        for key in ["n", "p50", "p99", "max"] {
            assert!(value["outage_ms"].get(key).is_some(), "{key}");
        }
    }
}
