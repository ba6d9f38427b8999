//! A long-running process of the lab, in a namespace, known to the ledger.

use std::{
    ffi::OsString,
    fs::File,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::state::{Ledger, ProcessId, proc_stat};

/// A process that this `lab` started.
#[derive(Debug)]
pub struct Process {
    what: String,
    id: ProcessId,
    child: Child,
}

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What it is, for people.
    pub what: &'a str,
    /// The namespace it runs in.
    pub namespace: &'a Path,
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Takes its standard error, and its standard output unless `talks`; appended to.
    pub log: &'a Path,
    /// Its standard input and output are pipes.
    pub talks: bool,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started, or not be written down.
    pub fn start(launch: &Launch<'_>, ledger: &mut Ledger) -> Result<Self> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(launch.log)
            .with_context(|| format!("cannot open {}", launch.log.display()))?;
        // nsenter replaces itself by the program, so the child is the program.
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", launch.namespace.display()))
            .arg("--")
            .arg(launch.program)
            .args(&launch.args)
            .process_group(0)
            .env("RUST_BACKTRACE", "1")
            .stderr(log.try_clone()?);
        if launch.talks {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(log);
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", launch.what))?;
        let pid = child.id().and_then(|p| i32::try_from(p).ok());
        let pid = pid.ok_or_else(|| anyhow!("{} ended at once", launch.what))?;
        let start_ticks = proc_stat(pid).map_or(0, |(_, ticks)| ticks);
        let id = ProcessId { pid, start_ticks, what: launch.what.to_owned() };
        ledger.update(|s| {
            s.processes.retain(ProcessId::is_alive);
            s.processes.push(id.clone());
        })?;
        Ok(Self { what: launch.what.to_owned(), id, child })
    }

    /// What it is, for people.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// Its process number.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.id.pid
    }

    /// The pipes of a process that talks; `None` the second time.
    pub fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.child.stdin.take()?, self.child.stdout.take()?))
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Sends it a signal. It has not been reaped, so its number is its own.
    ///
    /// # Errors
    /// When it ended before.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            return Err(anyhow!("{} has ended already: {status}", self.what));
        }
        let pid = Pid::from_raw(self.id.pid).context("no process number")?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.what))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it is still there after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => Err(anyhow!("{} has not ended after {limit:?}", self.what)),
        }
    }

    /// Kills it and waits until it is gone; fine if it has ended before.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn kill(&mut self) -> Result<()> {
        if self.ended()?.is_none() {
            self.signal(Signal::KILL)?;
        }
        self.wait(Duration::from_secs(5)).await.map(drop)
    }
}
