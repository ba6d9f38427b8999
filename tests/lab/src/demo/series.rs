//! A series of runs on one cluster.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    fault::Fault,
    report::{BeforeAfter, Origin, Report, RunOutcome, RunReport},
    run::{AfterFault, Leads, Order, run},
    stats::Summary,
    story::{self, Console},
};
use crate::cluster::{Cluster, Plan};

/// What to do.
#[derive(Clone, Debug)]
pub struct Series {
    /// The fault of every run.
    pub fault: Fault,
    /// How many.
    pub runs: u32,
    /// Sessions of each.
    pub sessions: u32,
    /// The seed.
    pub seed: u64,
    /// Who leads when the fault comes.
    pub leads: Leads,
    /// Where the report goes.
    pub report: PathBuf,
}

impl Series {
    fn order(&self, number: u32) -> Order {
        let Self { fault, sessions, seed, leads, .. } = *self;
        Order { fault, number, seed, sessions, leads }
    }
}

/// Runs the series; the report is written after every run, so that what was found survives
/// whatever comes next. After a set-up failure there are no further runs.
///
/// # Errors
/// When the report cannot be written.
pub async fn run_series(
    cluster: &mut Cluster,
    series: &Series,
    console: &mut Console,
) -> Result<Report> {
    let origin = origin(series.seed);
    let mut outcomes = Vec::new();
    for number in 1..=series.runs {
        let order = series.order(number);
        let result = run(cluster, order, &mut |text| console.say(text)).await;
        let failed = result.is_err();
        let outcome = result.unwrap_or_else(|error| failure(order, cluster.plan(), &error));
        story::print(&story::of_run(&outcome.report, series.runs));
        outcomes.push(outcome);
        write(&Report::of(&outcomes, &origin), &series.report)?;
        if failed {
            break;
        }
    }
    Ok(Report::of(&outcomes, &origin))
}

/// Writes the report of a series that did not even get a cluster.
///
/// # Errors
/// When it cannot be written.
pub fn write_failed(series: &Series, plan: &Plan, error: &anyhow::Error) -> Result<Report> {
    let outcome = failure(series.order(1), plan, error);
    let report = Report::of(&[outcome], &origin(series.seed));
    write(&report, &series.report)?;
    Ok(report)
}

fn failure(order: Order, plan: &Plan, error: &anyhow::Error) -> RunOutcome {
    let report = RunReport {
        number: order.number,
        fault: order.fault,
        done: "the run did not get to its end".to_owned(),
        mode: plan.mode,
        family: plan.family,
        replication: plan.replication,
        leads: order.leads,
        fault_after_ms: 0,
        sessions: u64::from(order.sessions),
        established: 0,
        broken: 0,
        broken_by: Default::default(),
        broken_sessions: Vec::new(),
        outage_ms: None,
        stall_ms: Summary::default(),
        probe_sent: 0,
        probe_lost: 0,
        holder: BeforeAfter::default(),
        epoch: BeforeAfter::default(),
        checks: Vec::new(),
        void: vec![format!("{error:#}")],
        spoilt: !error.is::<AfterFault>(),
        pause_ms: 0.0,
        took_ms: 0,
    };
    RunOutcome { report, stalls_ms: Vec::new() }
}

fn write(report: &Report, path: &Path) -> Result<()> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let text = serde_json::to_string_pretty(report)?;
    fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
}

/// Where this comes from.
#[must_use]
pub fn origin(seed: u64) -> Origin {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let commit = git(&["rev-parse", "HEAD"]).map_or_else(
        || "unknown".to_owned(),
        |commit| match git(&["status", "--porcelain", "--untracked-files=no"]) {
            Some(changes) if changes.is_empty() => commit,
            _ => format!("{commit}-dirty"),
        },
    );
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Origin { seed, commit, kernel: kernel.trim().to_owned(), machine: machine() }
}

fn machine() -> String {
    let field = |path: &str, name: &str| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
        value.map_or_else(|| "?".to_owned(), |(_, value)| value.trim().to_owned())
    };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let (model, memory) =
        (field("/proc/cpuinfo", "model name"), field("/proc/meminfo", "MemTotal"));
    format!("{processors} processors ({model}), {memory} of memory")
}
