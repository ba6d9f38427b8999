//! What was shown so far: a file for each command, so that a report can go on where it stopped.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use super::work::Place;
use crate::demo::report::Origin;

/// What a command showed.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Shown {
    /// Name of the work.
    pub name: String,
    /// The command, as one types it.
    pub command: String,
    /// Whether it came out as it must.
    pub passed: bool,
    /// What was seen.
    pub told: String,
    /// Where and what was measured.
    pub origin: Origin,
}

fn path(place: &Place, name: &str) -> PathBuf {
    place.results.join(format!("{name}.json"))
}

/// Writes it down.
///
/// # Errors
/// When that does not work.
pub fn note(place: &Place, shown: &Shown) -> Result<()> {
    let path = path(place, &shown.name);
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let text = serde_json::to_string_pretty(shown)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What was noted of a work, whenever that was.
#[must_use]
pub fn noted(place: &Place, name: &str) -> Option<Shown> {
    serde_json::from_slice(&fs::read(path(place, name)).ok()?).ok()
}

/// What was noted of it if it need not be run again: it came out as it must, at this very commit.
#[must_use]
pub fn done(place: &Place, name: &str) -> Option<Shown> {
    let commit = &place.origin.commit;
    let whole = commit != "unknown" && !commit.ends_with("-dirty");
    noted(place, name).filter(|shown| whole && shown.passed && shown.origin.commit == *commit)
}
