//! Runs what shows the promises.

use std::{
    fs::{self, File},
    io::Read as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{
    book::{self, Shown},
    list::{Promise, promises},
    page,
    work::{Place, Work},
};
use crate::demo::story::Console;

/// A series that the machine spoilt is tried so often.
const TRIES_MAX: u32 = 3;

/// Runs the commands of the promises whose id is in `only` (all if it is empty) and writes the page;
/// whether every one of those promises was shown.
///
/// # Errors
/// When something cannot be started or written.
pub fn report(place: &Place, only: &[String], page: &std::path::Path) -> Result<bool> {
    let mut console = Console::default();
    let all = promises();
    let meant = |promise: &Promise| only.is_empty() || only.iter().any(|id| id == promise.id);
    if let Some(id) = only.iter().find(|id| all.iter().all(|p| p.id != id.as_str())) {
        let ids: Vec<&str> = all.iter().map(|p| p.id).collect();
        anyhow::bail!("no promise is called `{id}`; there are {}", ids.join(", "));
    }
    for promise in all.iter().filter(|p| meant(p)) {
        console.say(&format!("=== {}: {}", promise.id, promise.says));
        for work in &promise.shown_by {
            let shown = match book::done(place, &work.name()) {
                Some(shown) => shown,
                None => show(place, work, &mut console)?,
            };
            let mark = if shown.passed { "shown" } else { "NOT SHOWN" };
            console.say(&format!("{mark}: {}: {}", shown.command, shown.told));
        }
        // What was found survives whatever comes next.
        write(place, &all, page)?;
    }
    let good = all.iter().filter(|p| meant(p)).all(|promise| promise.is_shown(place));
    console.say(&format!("written: {}", page.display()));
    Ok(good)
}

fn write(place: &Place, all: &[Promise], path: &std::path::Path) -> Result<()> {
    fs::write(path, page::of(place, all))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn show(place: &Place, work: &Work, console: &mut Console) -> Result<Shown> {
    let mut tries = 1;
    loop {
        console.say(&work.told(place));
        let (succeeded, printed) = run(place, work)?;
        let spoilt = matches!(work, Work::Demo(_))
            && work.report(place).is_ok_and(|report| report.shows_nothing());
        if spoilt && tries < TRIES_MAX {
            tries += 1;
            console.say("spoilt by the machine, again");
            continue;
        }
        let mut shown = work.read(place, succeeded, &printed)?;
        if tries > 1 {
            shown.told.push_str(&format!("; spoilt {} times by the machine", tries - 1));
        }
        book::note(place, &shown)?;
        return Ok(shown);
    }
}

/// Runs it to its end, with what it prints in a file beside its results.
fn run(place: &Place, work: &Work) -> Result<(bool, String)> {
    let folder = work.folder(place);
    // A report of an earlier time must not be taken for that of this one.
    crate::host::state::remove(&folder)?;
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join("output.log");
    let log = File::create(&path).with_context(|| path.display().to_string())?;
    let words = work.command(place);
    let (program, args) = words.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    let mut printed = String::new();
    File::open(&path)?.read_to_string(&mut printed)?;
    Ok((status.success(), printed))
}
