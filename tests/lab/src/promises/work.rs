//! One command that shows something, and how what it did is read.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{aim::Aim, book::Shown};
use crate::{
    cluster::changes::Changes,
    demo::{
        fault::Fault,
        report::{Origin, Report, Verdict},
        run::Leads,
    },
    host::{family::Family, names::Mode},
};

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Runs of the demonstration.
    Demo(Demo),
    /// Tests of a package, those whose name contains a text.
    Tests {
        /// The package.
        package: &'static str,
        /// `--test NAME`, or `--lib`.
        target: &'static [&'static str],
        /// Part of their names.
        filter: &'static str,
    },
    /// A target of the Makefile with what is given to it.
    Make(&'static [&'static str]),
}

/// Runs of the demonstration.
#[derive(Clone, Debug, PartialEq)]
pub struct Demo {
    /// The fault.
    pub fault: Fault,
    /// How packets reach the servers.
    pub mode: Mode,
    /// Family of the sessions.
    pub family: Family,
    /// Who leads.
    pub leads: Leads,
    /// What is changed in the example.
    pub changes: Changes,
    /// How many.
    pub runs: u32,
    /// What it is to reach.
    pub aims: Vec<Aim>,
}

impl Demo {
    /// Runs of a fault with DR over IPv4, whoever leads.
    #[must_use]
    pub fn of(fault: Fault, runs: u32) -> Self {
        let (mode, family, leads) = (Mode::Dr, Family::V4, Leads::Any);
        let changes = Changes::default();
        Self { fault, mode, family, leads, changes, runs, aims: Vec::new() }
    }

    /// The same in another mode.
    #[must_use]
    pub fn by(self, mode: Mode) -> Self {
        Self { mode, ..self }
    }

    /// The same with another leader.
    #[must_use]
    pub fn led_by(self, leads: Leads) -> Self {
        Self { leads, ..self }
    }

    /// The same with other settings.
    #[must_use]
    pub fn with(self, changes: Changes) -> Self {
        Self { changes, ..self }
    }

    /// The same with aims.
    #[must_use]
    pub fn aiming(self, aims: &[Aim]) -> Self {
        Self { aims: aims.to_vec(), ..self }
    }
}

/// Where things are and go.
#[derive(Clone, Debug)]
pub struct Place {
    /// The program itself.
    pub lab: PathBuf,
    /// Folder of all results.
    pub results: PathBuf,
    /// Sessions of each run.
    pub sessions: u32,
    /// Where and what is measured.
    pub origin: Origin,
}

impl Work {
    /// What its result is called.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Demo(demo) => {
                let leads = match demo.leads {
                    Leads::Any => "",
                    Leads::Holder => "-holder-leads",
                    Leads::Other => "-other-leads",
                };
                let family = demo.family.suffix();
                let (mode, fault, changes) = (demo.mode, demo.fault, demo.changes.suffix());
                format!("{}-{}{changes}{leads}{family}-{}", mode.name(), fault.name(), demo.runs)
            }
            Self::Tests { package, target, filter } => {
                let target = target.iter().map(|word| word.trim_start_matches('-'));
                let words = std::iter::once(*package).chain(target).chain([*filter]);
                let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
                words.join("-").replace(':', "-")
            }
            Self::Make(words) => {
                format!("make-{}", words.join("-").replace('=', "-"))
            }
        }
    }

    /// The command, with its arguments, as one types it.
    #[must_use]
    pub fn command(&self, place: &Place) -> Vec<String> {
        match self {
            Self::Demo(demo) => [
                vec![
                    place.lab.display().to_string(),
                    "demo".to_owned(),
                    "--tag".to_owned(),
                    "report".to_owned(),
                    "--fault".to_owned(),
                    demo.fault.name().to_owned(),
                    "--mode".to_owned(),
                    demo.mode.name().to_owned(),
                    "--family".to_owned(),
                    if demo.family == Family::V6 { "6" } else { "4" }.to_owned(),
                    "--leads".to_owned(),
                    demo.leads.name().to_owned(),
                    "--runs".to_owned(),
                    demo.runs.to_string(),
                    "--sessions".to_owned(),
                    place.sessions.to_string(),
                    "--seed".to_owned(),
                    place.origin.seed.to_string(),
                    "--out".to_owned(),
                    self.folder(place).display().to_string(),
                ],
                demo.changes.arguments(),
            ]
            .concat(),
            Self::Tests { package, target, filter } => {
                let head = ["cargo", "test", "--locked", "-p", package];
                let words = [&head[..], *target, &["--", *filter]].concat();
                words.into_iter().filter(|word| !word.is_empty()).map(str::to_owned).collect()
            }
            Self::Make(words) => {
                let all = std::iter::once(&"make").chain(*words);
                all.map(|word| (*word).to_owned()).collect()
            }
        }
    }

    /// The command for people: of the demonstration only what is not as usual.
    #[must_use]
    pub fn told(&self, place: &Place) -> String {
        match self {
            Self::Tests { .. } | Self::Make(_) => self.command(place).join(" "),
            Self::Demo(demo) => {
                let mut told = format!("make demo FAULT={}", demo.fault.name());
                if demo.mode != Mode::Dr {
                    told.push_str(&format!(" MODE={}", demo.mode.name()));
                }
                if demo.family == Family::V6 {
                    told.push_str(" FAMILY=6");
                }
                if demo.leads != Leads::Any {
                    told.push_str(&format!(" LEADS={}", demo.leads.name()));
                }
                told.push_str(&format!(" RUNS={} SEED={}", demo.runs, place.origin.seed));
                if demo.changes == Changes::default() {
                    return told;
                }
                told + &format!(" DEMO_ARGS='{}'", demo.changes.arguments().join(" "))
            }
        }
    }

    /// Where its files go.
    #[must_use]
    pub fn folder(&self, place: &Place) -> PathBuf {
        place.results.join(self.name())
    }

    /// What it showed, by what it left in its folder and printed.
    ///
    /// # Errors
    /// When a report cannot be read.
    pub fn read(&self, place: &Place, succeeded: bool, printed: &str) -> Result<Shown> {
        let (passed, told) = match self {
            Self::Demo(_) => {
                let report = self.report(place)?;
                (succeeded && report.verdict() == Verdict::Pass, in_short(&report))
            }
            Self::Tests { .. } => {
                let count = tests_passed(printed);
                // A filter that fits no test would pass for ever.
                (succeeded && count > 0, format!("{count} tests passed"))
            }
            Self::Make(_) => {
                let verdict = verdict_line(printed).unwrap_or("it said nothing of a verdict");
                (succeeded, verdict.to_owned())
            }
        };
        let (name, command) = (self.name(), self.told(place));
        Ok(Shown { name, command, passed, told, origin: place.origin.clone() })
    }

    /// The report of a demonstration.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn report(&self, place: &Place) -> Result<Report> {
        read_report(&self.folder(place).join("report.json"))
    }
}

fn read_report(path: &Path) -> Result<Report> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no report", path.display()))
}

fn in_short(report: &Report) -> String {
    let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.0}"));
    let p99 = |value: Option<f64>| value.map_or_else(String::new, |ms| format!(" / {ms:.0}"));
    let mut told = format!(
        "{} runs, {} sessions, {} broken; VIP silent p50{} / max {}{} / {} ms; stall max {} ms; {} probes lost",
        report.runs.len(),
        report.sessions,
        report.broken,
        if report.outage_ms.p99.is_some() { " / p99" } else { "" },
        ms(report.outage_ms.p50),
        p99(report.outage_ms.p99),
        ms(report.outage_ms.max),
        ms(report.stall_ms.max),
        report.probe_lost,
    );
    let void: Vec<&str> = report.runs.iter().flat_map(|r| &r.void).map(String::as_str).collect();
    if !void.is_empty() {
        told.push_str(&format!("; void: {}", void.join("; ")));
    }
    told
}

/// The last line that says how something ended.
fn verdict_line(printed: &str) -> Option<&str> {
    let of_a_demo = |line: &str| ["PASS:", "BROKEN:", "VOID:"].iter().any(|v| line.starts_with(v));
    // `make mutants`: 24 of 25 found.
    let is_verdict = |line: &&str| of_a_demo(line) || line.ends_with(" found");
    printed.lines().map(str::trim).rfind(is_verdict)
}

/// How many tests `cargo test` says passed, over all it ran.
fn tests_passed(printed: &str) -> u64 {
    let results = printed.lines().filter_map(|line| line.trim().strip_prefix("test result: ok. "));
    results.filter_map(|rest| rest.split_once(" passed")?.0.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_verdict_counts() {
        let printed = "PASS: 0 of 300 sessions broken\nnoise\n  24 of 25 found \nx";
        assert_eq!(verdict_line(printed), Some("24 of 25 found"));
        assert_eq!(verdict_line("VOID: x\nPASS: y\n\n"), Some("PASS: y"));
        assert_eq!(verdict_line("make: nothing"), None);
    }

    #[test]
    fn tests_that_passed_are_counted_over_all_that_ran() {
        let printed = "running 3 tests\ntest result: ok. 3 passed; 0 failed; 0 ignored\n\
                       test result: ok. 0 passed; 0 failed\ntest result: FAILED. 7 passed; 1 failed\n";
        assert_eq!(tests_passed(printed), 3);
        assert_eq!(tests_passed("running 0 tests"), 0);
    }
}
