//! The report for people.

use std::{
    fmt::{self, Write as _},
    io::Write as _,
    time::Instant,
};

use super::{
    report::{Report, RunReport, Verdict},
    stats::Summary,
};

/// Broken sessions told of one by one.
pub const BROKEN_TOLD: usize = 3;

/// Progress on standard output, with the time since the start.
#[derive(Debug)]
pub struct Console {
    started: Instant,
}

impl Default for Console {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Console {
    /// A line of progress.
    pub fn say(&mut self, text: &str) {
        print(&format!("[{:5.1} s] {text}\n", self.started.elapsed().as_secs_f64()));
    }
}

/// Prints; a reader that went away is no reason to stop (and leave things behind).
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// One run, in a few lines.
#[must_use]
pub fn of_run(run: &RunReport, runs: u32) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(
        out,
        "\nRun {} of {runs}: {} ({}, {}, replication {})",
        run.number,
        run.fault.story(),
        run.mode.name().to_uppercase(),
        run.family,
        if run.replication { "on" } else { "off" }
    );
    let _ = writeln!(
        out,
        "  sessions    {} opened, {} established, {} broken{}",
        run.sessions,
        run.established,
        run.broken,
        reasons(run.broken_by.iter())
    );
    for session in run.broken_sessions.iter().take(BROKEN_TOLD) {
        let _ = writeln!(
            out,
            "              session {} ({}) after {} ms: {}",
            session.id,
            session.why.name(),
            session.after_fault_ms,
            session.detail
        );
    }
    if let Some(outage) = run.outage_ms {
        let _ = writeln!(
            out,
            "  VIP silent  {outage} ms; {} of {} probes lost",
            run.probe_lost, run.probe_sent
        );
    }
    let _ = writeln!(out, "  stall       {} (talkers send every 100 ms)", Spread(&run.stall_ms));
    let _ = writeln!(out, "  holder      {}", way(run));
    if run.pause_ms > 0.0 {
        let _ = writeln!(out, "  machine     kept threads waiting for {} ms at most", run.pause_ms);
    }
    for check in &run.checks {
        let mark = if check.passed { "yes" } else { "NO" };
        let _ = writeln!(out, "  {mark:<11} {}: {}", check.what, check.seen);
    }
    for reason in &run.void {
        let _ = writeln!(out, "  VOID        {reason}");
    }
    out
}

/// The whole series.
#[must_use]
pub fn of_series(report: &Report, path: &str) -> String {
    let mut out = String::new();
    let runs = report.runs.len();
    let fault = report.runs.first().map_or("none", |r| r.fault.name());
    let _ = writeln!(out, "\n{runs} run{} of `{fault}`", if runs == 1 { "" } else { "s" });
    let _ = writeln!(
        out,
        "  sessions    {} opened, {} established, {} broken{}",
        report.sessions,
        report.established,
        report.broken,
        reasons(report.broken_by.iter())
    );
    let _ = writeln!(
        out,
        "  VIP silent  {}; {} probes lost",
        Spread(&report.outage_ms),
        report.probe_lost
    );
    let _ = writeln!(out, "  stall       {}", Spread(&report.stall_ms));
    let _ = writeln!(out, "  {}", report.origin);
    let _ = writeln!(out, "  {path}");
    let verdict = match report.verdict() {
        Verdict::Pass => format!("PASS: 0 of {} sessions broken", report.sessions),
        Verdict::Broken => format!("BROKEN: {} of {} sessions", report.broken, report.sessions),
        Verdict::Void => "VOID: this shows nothing, see the reasons above".to_owned(),
    };
    let _ = writeln!(out, "\n{verdict}");
    out
}

fn way(run: &RunReport) -> String {
    let epoch = |e: &Option<crate::cluster::api::Epoch>| {
        e.as_ref().map_or_else(String::new, |e| format!(", epoch {e}"))
    };
    let before = run.holder.before.as_deref().unwrap_or("nobody");
    let after = run.holder.after.as_deref().unwrap_or("nobody");
    let (from, to) = (epoch(&run.epoch.before), epoch(&run.epoch.after));
    if before == after && run.epoch.before == run.epoch.after {
        format!("{before}{from}, before and after")
    } else {
        format!("{before}{from} -> {after}{to}")
    }
}

fn reasons<'a>(broken_by: impl Iterator<Item = (&'a String, &'a u64)>) -> String {
    let parts: Vec<String> = broken_by.map(|(why, count)| format!("{count} {why}")).collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

struct Spread<'a>(&'a Summary);

impl fmt::Display for Spread<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Some(p50), Some(max)) = (self.0.p50, self.0.max) else { return f.write_str("-") };
        if self.0.n == 1 {
            return write!(f, "{max} ms");
        }
        write!(f, "p50 {p50} ms, ")?;
        if let Some(p99) = self.0.p99 {
            write!(f, "p99 {p99} ms, ")?;
        }
        write!(f, "max {max} ms ({} samples)", self.0.n)
    }
}
