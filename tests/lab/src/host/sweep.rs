//! Removing a lab: what the ledger lists, and what carries the tag's name.
//!
//! Guarantees: it can be run at any time and again; it kills only processes that the ledger names
//! by number and start time, or that run one of our programs inside one of the tag's namespaces.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::{
    exec,
    names::{BPF_ROOT, Tag},
    state::{self, Ledger, ProcessId, proc_stat},
};

/// Our programs, as `/proc/PID/exe` names them.
const PROGRAMS: [&str; 4] = ["clusterd", "lab-server", "lab-client", "clusterctl"];

/// How long killed processes may take to go.
const GONE_WITHIN: Duration = Duration::from_secs(5);

/// Namespaces of this tag that are there.
#[must_use]
pub fn namespaces(tag: &Tag) -> Vec<String> {
    let prefix = tag.prefix();
    let entries = fs::read_dir("/run/netns").into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|n| n.starts_with(&prefix)).collect();
    names.sort();
    names
}

/// Removes everything of `tag`; how many namespaces there were.
///
/// # Errors
/// What could not be removed. Everything else is removed all the same.
pub fn sweep(tag: &Tag) -> Result<usize> {
    let names = namespaces(tag);
    let mut first_error = None;
    let mut note = |result: Result<()>| {
        if let Err(error) = result {
            first_error.get_or_insert(error);
        }
    };
    // A ledger that cannot be read must not keep the rest from being removed.
    let ledger = if tag.run_dir().exists() { Ledger::open(tag).ok() } else { None };
    let state = ledger.map(|l| l.state().clone()).unwrap_or_default();
    let mut processes: Vec<ProcessId> = state.processes;
    for name in &names {
        match strays(name) {
            Ok(found) => processes.extend(found),
            Err(error) => note(Err(error)),
        }
    }
    note(end(&processes));
    for name in &names {
        let deleted = exec::run("ip", ["netns", "delete", name]).map(drop);
        // An `ip` of a killed lab may still be deleting, too: what is gone is gone.
        if Path::new("/run/netns").join(name).exists() {
            note(deleted);
        }
    }
    let remove = |path: &Path| {
        state::remove(path).with_context(|| format!("cannot remove {}", path.display()))
    };
    note(remove(&tag.bpf_dir()));
    // Only if it is empty: others may have their pins there.
    let _ = fs::remove_dir(BPF_ROOT);
    if state.mounted_bpf {
        note(exec::run("umount", ["/sys/fs/bpf"]).map(drop));
    }
    for path in &state.mounts {
        // It was written down before it was mounted.
        if is_mounted(path) {
            note(exec::run("umount", [path]).map(drop));
        }
    }
    for path in &state.paths {
        note(remove(path));
    }
    note(remove(&tag.run_dir()));
    // Only if no other lab has its state or its lock there.
    let _ = tag.run_dir().parent().map(fs::remove_dir);
    first_error.map_or(Ok(names.len()), Err)
}

/// Whether a file system of its own is on this folder.
fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(1).is_some_and(|at| Path::new(at) == path))
}

/// Processes of ours in a namespace, whether or not anybody wrote them down.
fn strays(namespace: &str) -> Result<Vec<ProcessId>> {
    let pids = exec::run("ip", ["netns", "pids", namespace])?;
    let ours = |pid: &i32| {
        let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
        let name = exe.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A program that was rebuilt meanwhile shows as `NAME (deleted)`.
        PROGRAMS.contains(&name.trim_end_matches(" (deleted)"))
    };
    let pids = pids.split_ascii_whitespace().filter_map(|p| p.parse::<i32>().ok());
    Ok(pids
        .filter(ours)
        .filter_map(|pid| {
            let (_, start_ticks) = proc_stat(pid)?;
            Some(ProcessId { pid, start_ticks, what: format!("stray in {namespace}") })
        })
        .collect())
}

fn end(processes: &[ProcessId]) -> Result<()> {
    for process in processes.iter().filter(|p| p.is_alive()) {
        if let Some(pid) = Pid::from_raw(process.pid) {
            // It may end by itself between the look and the signal.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    let step = Duration::from_millis(10);
    for _ in 0..GONE_WITHIN.as_millis() / step.as_millis() {
        if !processes.iter().any(ProcessId::is_alive) {
            return Ok(());
        }
        std::thread::sleep(step);
    }
    let left: Vec<&str> =
        processes.iter().filter(|p| p.is_alive()).map(|p| p.what.as_str()).collect();
    anyhow::bail!("still running after SIGKILL: {}", left.join(", "))
}
