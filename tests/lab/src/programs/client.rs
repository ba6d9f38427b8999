//! A client's program, in the client's namespace.

use std::{
    path::PathBuf,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use tokio::process::Command;

/// No session takes this long; a program that does hangs.
const PROGRAM_WITHIN: Duration = Duration::from_secs(40);

/// Where clients run.
#[derive(Clone, Debug)]
pub struct Client {
    /// The client's namespace.
    pub namespace: PathBuf,
}

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code; none after a signal.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it complained of.
    pub err: String,
}

impl Ended {
    /// What went wrong, in one line.
    #[must_use]
    pub fn complaint(&self) -> String {
        format!("exit {:?}: {} {}", self.code, self.err.trim(), self.out.trim())
    }
}

impl Client {
    /// A program that is ended with whoever waits for it. No proxy and no file of the user's home
    /// changes what it does.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.namespace.display()))
            .args(["--", program])
            .env("HOME", "/nonexistent")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    /// When it cannot be started or hangs.
    pub async fn run(&self, program: &str, args: &[&str]) -> Result<Ended> {
        let mut command = self.command(program);
        command.args(args);
        let child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        finish(program, child).await
    }
}

/// Waits for the end of a program that [`Client::command`] made.
///
/// # Errors
/// When it hangs.
pub async fn finish(program: &str, child: tokio::process::Child) -> Result<Ended> {
    let output = tokio::time::timeout(PROGRAM_WITHIN, child.wait_with_output()).await;
    let Output { status, stdout, stderr } =
        output.map_err(|_| anyhow!("{program} has not ended after {PROGRAM_WITHIN:?}"))??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ended { code: status.code(), out: text(stdout), err: text(stderr) })
}
