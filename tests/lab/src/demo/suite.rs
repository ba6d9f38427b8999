//! Many series, as `make test` and `make test-full` run them: faults with DR and NAT, a kill
//! with full-NAT and with tunnels, the proof that the demonstration can fail, and real programs.

use std::{
    collections::VecDeque,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use super::{
    fault::{FAULTS, Fault, PAUSE_MS},
    report::{Report, Verdict},
    run::Leads,
    series::{Series, origin, run_series, write_failed},
    story::{self, Console},
    table::{Table, reasons},
};
use crate::{
    cluster::{Cluster, Plan, changes::Changes},
    host::{
        family::Family,
        names::Mode,
        planes::{Plane, Way},
        sweep,
    },
    programs,
};

/// Silent connections are forgotten after so long in the case `idle`.
const IDLE_TIMEOUT_S: u32 = 30;

/// A case that is void this often has failed.
const TRIES_MAX: u32 = 3;

/// One series of the suite.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Case {
    /// The fault.
    pub fault: Fault,
    /// DR, NAT, full-NAT or TUN.
    pub mode: Mode,
    /// Runs.
    pub runs: u32,
    /// Whether connections are copied.
    pub replication: bool,
    /// Queues of the nodes' data links.
    pub queues: u32,
    /// Family of the sessions.
    pub family: Family,
}

impl Case {
    /// What its report is called.
    #[must_use]
    pub fn name(&self) -> String {
        let replication = if self.replication { "" } else { "-unreplicated" };
        let queues = if self.queues > 1 { "-two-queues" } else { "" };
        let family = self.family.suffix();
        format!("{}-{}{replication}{queues}{family}", self.mode.name(), self.fault.name())
    }

    /// What must come out.
    #[must_use]
    pub fn expected(&self) -> Verdict {
        if self.replication { Verdict::Pass } else { Verdict::Broken }
    }

    fn changes(&self) -> Changes {
        let tcp_timeout = (self.fault == Fault::Idle).then_some(IDLE_TIMEOUT_S);
        Changes { tcp_timeout, ..Changes::default() }
    }

    fn same_cluster(&self, other: &Self) -> bool {
        let Self { mode, replication, queues, family, .. } = *self;
        (mode, replication, queues, family)
            == (other.mode, other.replication, other.queues, other.family)
            && self.changes() == other.changes()
    }
}

/// How much.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Extent {
    /// One run of everything.
    Quick,
    /// The runs that the figures in the README come from.
    Full,
}

/// The cases of a suite.
#[must_use]
pub fn cases(extent: Extent) -> Vec<Case> {
    let family = Family::V4;
    let case = |fault, mode, runs| Case { fault, mode, runs, replication: true, queues: 1, family };
    let runs = |fault, mode| match extent {
        Extent::Quick => 1,
        Extent::Full => full_runs(fault, mode),
    };
    let mut cases = Vec::new();
    for mode in [Mode::Dr, Mode::Nat] {
        let meant = |fault: &Fault| extent == Extent::Full || quick_modes(*fault).contains(&mode);
        // Another version is nothing that a clone has.
        let faults = FAULTS.into_iter().filter(|&f| f != Fault::Upgrade).filter(meant);
        cases.extend(faults.map(|fault| case(fault, mode, runs(fault, mode))));
    }
    cases.push(Case { queues: 2, ..case(Fault::Kill, Mode::Nat, 1) });
    for mode in [Mode::Dr, Mode::Nat] {
        let family = Family::V6;
        cases.push(Case { family, ..case(Fault::Kill, mode, runs(Fault::Kill, mode)) });
    }
    for mode in [Mode::FullNat, Mode::Tun] {
        for family in [Family::V4, Family::V6] {
            let kill = case(Fault::Kill, mode, runs(Fault::Kill, mode));
            cases.push(Case { family, ..kill });
        }
    }
    cases.push(Case { replication: false, ..case(Fault::Kill, Mode::Dr, 1) });
    cases
}

/// How often `make test-full` runs a fault. Of those that come in many shapes `make report` makes more
/// runs, by itself and for as long as it takes.
fn full_runs(fault: Fault, mode: Mode) -> u32 {
    match fault {
        Fault::Kill | Fault::Power if mode == Mode::Dr => 20,
        Fault::Kill | Fault::Power | Fault::Move | Fault::Cut | Fault::Stop => 5,
        Fault::Quorum | Fault::Return | Fault::Leader | Fault::None => 5,
        Fault::Pause(PAUSE_MS) => 5,
        Fault::Pause(_) | Fault::Plane(..) | Fault::Loss(_) | Fault::Idle | Fault::CrashLoop => 2,
        Fault::Rolling | Fault::Flood | Fault::Hogs | Fault::Upgrade => 2,
    }
}

/// In which modes `make test` has a fault. What the nodes do about one hardly depends on the mode,
/// and each pair costs a quarter of a minute: most faults take turns with the modes, and of those
/// that are alike only some are there. `make test-full` has every pair.
fn quick_modes(fault: Fault) -> &'static [Mode] {
    match fault {
        Fault::Kill | Fault::Move | Fault::Return => &[Mode::Dr, Mode::Nat],
        Fault::None | Fault::Cut | Fault::Stop | Fault::Quorum => &[Mode::Dr],
        Fault::Pause(200) | Fault::Loss(5) | Fault::Hogs => &[Mode::Dr],
        Fault::Plane(Plane::Control | Plane::Segment, Way::Both) => &[Mode::Dr],
        Fault::Power | Fault::Leader | Fault::Pause(PAUSE_MS) => &[Mode::Nat],
        Fault::Plane(Plane::Replication, Way::Both) => &[Mode::Nat],
        Fault::Plane(Plane::Segment, Way::In) => &[Mode::Nat],
        Fault::Rolling | Fault::Flood => &[Mode::Nat],
        Fault::Pause(_)
        | Fault::Plane(..)
        | Fault::Loss(_)
        | Fault::Idle
        | Fault::CrashLoop
        | Fault::Upgrade => &[],
    }
}

/// How to run a suite.
#[derive(Clone, Debug)]
pub struct Suite {
    /// How much.
    pub extent: Extent,
    /// The cluster; mode, replication and queues come from the cases.
    pub plan: Plan,
    /// Sessions of each run.
    pub sessions: u32,
    /// The seed.
    pub seed: u64,
    /// Where the reports go.
    pub reports: PathBuf,
}

/// Runs a suite; whether everything came out as it must. A case that has a report of this very
/// commit with the right verdict in the folder is not run again, if `extent` is full.
///
/// # Errors
/// When something cannot be removed or written.
pub async fn run_suite(suite: &Suite, console: &mut Console) -> Result<bool> {
    let mut table = Table::default();
    let mut left: VecDeque<Case> = cases(suite.extent).into();
    while let Some(case) = left.pop_front() {
        let mut batch = vec![case];
        while left.front().is_some_and(|next| next.same_cluster(&case)) {
            batch.extend(left.pop_front());
        }
        run_batch(suite, &batch, console, &mut table).await?;
    }
    programs::suite::run(suite, "", console, &mut table).await?;
    table.tell(&origin(suite.seed));
    Ok(table.is_good())
}

/// Runs the part with real programs alone, those rounds whose name contains `only`.
///
/// # Errors
/// When something cannot be removed or written.
pub async fn run_programs(suite: &Suite, only: &str, console: &mut Console) -> Result<bool> {
    let mut table = Table::default();
    programs::suite::run(suite, only, console, &mut table).await?;
    table.tell(&origin(suite.seed));
    Ok(table.is_good())
}

/// Runs the cases that share a cluster. After a set-up failure the next case gets a new one.
async fn run_batch(
    suite: &Suite,
    batch: &[Case],
    console: &mut Console,
    table: &mut Table,
) -> Result<()> {
    let mut cluster: Option<Cluster> = None;
    for case in batch {
        let path = suite.reports.join(format!("{}.json", case.name()));
        if suite.extent == Extent::Full
            && let Some(report) = done_before(&path, case, suite)
        {
            table.add(&line(case, &report), true, &[]);
            continue;
        }
        let plan = Plan {
            mode: case.mode,
            replication: case.replication,
            queues: case.queues,
            family: case.family,
            changes: case.changes(),
            ..suite.plan.clone()
        };
        let series = Series {
            fault: case.fault,
            runs: case.runs,
            sessions: suite.sessions,
            seed: suite.seed,
            leads: Leads::Any,
            report: path,
        };
        console.say(&format!("=== {} x {}", case.name(), case.runs));
        let mut report = run_case(&mut cluster, &plan, &series, console).await?;
        let mut tries = 1;
        while tries < TRIES_MAX {
            if !report.shows_nothing() {
                break;
            }
            let why = report.runs.iter().flat_map(|r| &r.void).cloned().collect::<Vec<_>>();
            console.say(&format!("=== {} was spoilt, again: {}", case.name(), why.join("; ")));
            tries += 1;
            report = run_case(&mut cluster, &plan, &series, console).await?;
        }
        let as_expected = is_as_expected(case, &report, suite.extent);
        let mut line = line(case, &report);
        if tries > 1 {
            line.push_str(&format!("  spoilt {} times by the machine", tries - 1));
        }
        table.add(&line, as_expected, &reasons(&report));
    }
    drop(cluster);
    sweep::sweep(&suite.plan.tag)?;
    Ok(())
}

async fn run_case(
    cluster: &mut Option<Cluster>,
    plan: &Plan,
    series: &Series,
    console: &mut Console,
) -> Result<Report> {
    if cluster.is_none() {
        sweep::sweep(&plan.tag)?;
        match Cluster::start(plan.clone(), &mut |text| console.say(text)).await {
            Ok(started) => *cluster = Some(started),
            Err(error) => {
                story::print(&format!("no cluster: {error:#}\n"));
                return write_failed(series, plan, &error);
            }
        }
    }
    let Some(running) = cluster else { bail!("no cluster") };
    let report = run_series(running, series, console).await?;
    story::print(&story::of_series(&report, &series.report.display().to_string()));
    if report.verdict() != Verdict::Pass {
        keep_logs(plan, &series.report, console)?;
    }
    if report.verdict() == Verdict::Void {
        *cluster = None;
    }
    Ok(report)
}

/// Copies what the daemons logged beside the report: the next cluster begins new logs. Those of an
/// earlier try are replaced, so that there is one set for each case.
fn keep_logs(plan: &Plan, report: &Path, console: &mut Console) -> Result<()> {
    let kept = report.with_extension("logs");
    crate::host::state::remove(&kept)?;
    fs::create_dir_all(&kept)?;
    for entry in fs::read_dir(plan.log_dir())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), kept.join(entry.file_name()))?;
        }
    }
    console.say(&format!("logs of the cluster: {}", kept.display()));
    Ok(())
}

/// What was promised of lost probes counts in the full suite only: `make test` asserts no times.
fn is_as_expected(case: &Case, report: &Report, extent: Extent) -> bool {
    let promised = case.fault.probe_loss_promised().filter(|_| extent == Extent::Full);
    let lost_more = |most| report.runs.iter().any(|r| r.probe_lost > most);
    report.verdict() == case.expected() && !promised.is_some_and(lost_more)
}

fn done_before(path: &Path, case: &Case, suite: &Suite) -> Option<Report> {
    let report: Report = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let commit = origin(0).commit;
    let same = report.origin.commit == commit && commit != "unknown" && !commit.ends_with("-dirty");
    let whole = report.runs.len() == case.runs as usize;
    let enough = report.sessions >= u64::from(suite.sessions) * u64::from(case.runs);
    (same && whole && enough && is_as_expected(case, &report, suite.extent)).then_some(report)
}

fn line(case: &Case, report: &Report) -> String {
    let number = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.0}"));
    format!(
        "{:<26} {:>3} runs {:>6} sessions {:>6} broken  outage p50 {:>5} max {:>5}  \
         stall p50 {:>5} max {:>5}  lost {:>5}",
        case.name(),
        report.runs.len(),
        report.sessions,
        report.broken,
        number(report.outage_ms.p50),
        number(report.outage_ms.max),
        number(report.stall_ms.p50),
        number(report.stall_ms.max),
        report.probe_lost,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_suite_has_the_runs_that_were_promised() {
        let cases = cases(Extent::Full);
        for fault in FAULTS.into_iter().filter(|f| ![Fault::None, Fault::Upgrade].contains(f)) {
            let runs = |mode| {
                let is = |c: &&Case| {
                    let four = c.family == Family::V4;
                    four && c.fault == fault && c.mode == mode && c.replication && c.queues == 1
                };
                cases.iter().find(is).map_or(0, |c| c.runs)
            };
            let promised = match fault {
                Fault::Kill | Fault::Power => (20, 5),
                Fault::Move | Fault::Cut | Fault::Stop | Fault::Quorum => (5, 5),
                Fault::Return | Fault::Leader | Fault::Pause(PAUSE_MS) => (5, 5),
                _ => (2, 2),
            };
            assert_eq!((runs(Mode::Dr), runs(Mode::Nat)), promised, "{fault:?}");
        }
        assert!(cases.iter().any(|c| c.queues == 2 && c.mode == Mode::Nat));
        for mode in [Mode::Dr, Mode::Nat] {
            assert!(cases.iter().any(|c| c.family == Family::V6 && c.mode == mode));
        }
        for name in ["fullnat-kill", "fullnat-kill-v6", "tun-kill", "tun-kill-v6"] {
            assert!(cases.iter().any(|c| c.name() == name), "{name}");
        }
    }

    #[test]
    fn the_quick_suite_has_every_kind_of_fault_and_one_case_that_must_fail() {
        let cases = cases(Extent::Quick);
        for fault in FAULTS {
            let there = cases.iter().any(|c| c.fault == fault);
            let another_is = match fault {
                Fault::Pause(ms) => ms != 200 && ms != PAUSE_MS,
                Fault::Loss(percent) => percent != 5,
                Fault::Plane(Plane::Segment, way) => way == Way::Out,
                Fault::Plane(_, way) => way != Way::Both,
                Fault::Idle | Fault::CrashLoop | Fault::Upgrade => true,
                _ => false,
            };
            assert_eq!(there, !another_is, "{fault:?}");
        }
        let must_break: Vec<&Case> =
            cases.iter().filter(|c| c.expected() == Verdict::Broken).collect();
        assert_eq!(must_break.len(), 1);
        assert!(!must_break[0].replication && must_break[0].fault == Fault::Kill);
        let mut names: Vec<String> = cases.iter().map(Case::name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), cases.len());
    }
}
