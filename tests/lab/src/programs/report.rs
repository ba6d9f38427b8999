//! What became of a cell, for programs and for who goes on where it stopped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::cell::{Program, Round};
use crate::demo::{report::Origin, table::Table};

/// What a session saw.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Seen {
    /// What was not as it must be; nothing: it is good.
    pub wrong: Vec<String>,
    /// In a few words, what was done.
    pub figures: String,
}

impl Seen {
    /// A session that did not get to its end.
    #[must_use]
    pub fn failed(error: &anyhow::Error) -> Self {
        Self { wrong: vec![format!("{error:#}")], figures: String::new() }
    }

    /// Notes `what` unless it is so.
    pub fn must(&mut self, so: bool, what: impl FnOnce() -> String) {
        if !so {
            self.wrong.push(what());
        }
    }
}

/// The report of one cell.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CellReport {
    /// Its name.
    pub cell: String,
    /// What was seen.
    pub seen: Seen,
    /// Where it comes from.
    pub origin: Origin,
}

impl CellReport {
    /// Where it is kept.
    #[must_use]
    pub fn path(reports: &Path, round: &Round, program: Program) -> PathBuf {
        reports.join("programs").join(format!("{}.json", round.cell(program)))
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        }
        let text = serde_json::to_string_pretty(self)?;
        fs::write(path, text + "\n").with_context(|| path.display().to_string())
    }

    /// A good report of this very commit, when there is one.
    #[must_use]
    pub fn done_before(path: &Path, now: &Origin) -> Option<Self> {
        let report: Self = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
        let commit = &now.commit;
        let clean = commit != "unknown" && !commit.ends_with("-dirty");
        let good = report.seen.wrong.is_empty();
        (clean && good && report.origin.commit == *commit).then_some(report)
    }

    /// Its row in the table of the suite.
    pub fn add_to(&self, table: &mut Table) {
        let line = format!("{:<28} {}", self.cell, self.seen.figures);
        table.add(&line, self.seen.wrong.is_empty(), &self.seen.wrong);
    }

    /// What is told as soon as it is done.
    #[must_use]
    pub fn line(&self) -> String {
        let Seen { wrong, figures } = &self.seen;
        let mut line = format!("{:<28} {figures}", self.cell);
        line.push_str(if wrong.is_empty() { "  ok\n" } else { "  FAILED\n" });
        for what in wrong {
            line.push_str(&format!("{:<28} {what}\n", ""));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_good_cells_of_the_same_clean_commit_are_done() {
        let dir = std::env::temp_dir().join(format!("steadfast-cells-{}", std::process::id()));
        let path = dir.join("cell.json");
        let origin = |commit: &str| {
            let [commit, kernel, machine] = [commit, "6", "2 processors"].map(str::to_owned);
            Origin { seed: 1, commit, kernel, machine }
        };
        let cell = |commit: &str, wrong: &[&str]| {
            let wrong = wrong.iter().map(|&w| w.to_owned()).collect();
            let seen = Seen { wrong, figures: "all".into() };
            CellReport { cell: "curl".into(), seen, origin: origin(commit) }
        };
        for (of, wrong, now, done) in [
            ("c", &[][..], "c", true),
            ("c", &["lost"], "c", false),
            ("b", &[], "c", false),
            ("c-dirty", &[], "c-dirty", false),
            ("unknown", &[], "unknown", false),
        ] {
            cell(of, wrong).write(&path).unwrap();
            let found = CellReport::done_before(&path, &origin(now));
            assert_eq!(found.is_some(), done, "{of} {wrong:?} {now}");
        }
        fs::remove_dir_all(&dir).unwrap();
        assert!(cell("c", &["lost"]).line().contains("FAILED\n"));
        assert!(cell("c", &[]).line().ends_with(" ok\n"));
    }
}
