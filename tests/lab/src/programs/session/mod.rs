//! What clients do, and how it is judged.

mod curl;
mod dig;
mod ftp;
mod iperf;
mod mail;
mod wrk;

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};
use tokio::sync::watch;

use super::{
    cell::{Phase, Program},
    client::Client,
    mode::Mode,
    report::Seen,
    server::Files,
};

/// What a session is to do.
#[derive(Clone, Debug)]
pub struct Ask {
    /// Where it runs.
    pub client: Client,
    /// What the servers have.
    pub files: Files,
    /// The name of its cell, which nothing else carries.
    pub cell: String,
    /// How packets reach the servers.
    pub mode: Mode,
    /// Where it asks.
    pub vip: IpAddr,
    /// A folder of its own.
    pub dir: PathBuf,
    /// What happens meanwhile.
    pub phase: Phase,
    /// A long session has at least this time.
    pub lasts: Duration,
    /// When the fault was, once it was.
    pub fault: watch::Receiver<Option<Instant>>,
}

impl Ask {
    /// The VIP as it stands in an URL.
    #[must_use]
    pub fn host(&self) -> String {
        match self.vip {
            IpAddr::V4(vip) => vip.to_string(),
            IpAddr::V6(vip) => format!("[{vip}]"),
        }
    }

    /// Waits for the fault.
    ///
    /// # Errors
    /// When there is none.
    pub async fn faulted(&mut self) -> Result<()> {
        let seen = self.fault.wait_for(Option::is_some).await;
        seen.map(drop).map_err(|_| anyhow!("no fault happened"))
    }

    /// Notes when a session that was to live through the fault ended before it. What ends at the
    /// same instant shows nothing either.
    fn must_outlive_the_fault(&self, seen: &mut Seen) {
        if self.phase == Phase::Kill {
            let over = self.fault.borrow().is_some_and(|at| at.elapsed() > TAKEN_OVER_WITHIN);
            seen.must(over, || "it was over before the fault".to_owned());
        }
    }
}

/// A take-over is long done by then.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(1);

/// Does what `program` does; never fails but in what it saw.
pub async fn run(program: Program, ask: Ask) -> Seen {
    let (phase, told) = (ask.clone(), ask.cell.clone());
    let seen = match fs::create_dir_all(&ask.dir) {
        Err(error) => Err(anyhow!("{told}: {error}")),
        Ok(()) => match program {
            Program::Curl => curl::run(&ask).await,
            Program::Wrk => wrk::run(&ask).await,
            Program::Dig => dig::run(&ask).await,
            Program::Mail => mail::run(ask).await,
            Program::Iperf => iperf::run(&ask).await,
            Program::Ftp => ftp::run(&ask).await,
        },
    };
    let mut seen = seen.unwrap_or_else(|error| Seen::failed(&error));
    phase.must_outlive_the_fault(&mut seen);
    seen
}

/// A port of the VIP.
fn target(ask: &Ask, port: u16) -> String {
    SocketAddr::from((ask.vip, port)).to_string()
}

/// Notes where a file that was fetched differs from what was served.
fn same(seen: &mut Seen, got: &Path, sent: &Path) {
    let (got, sent) = (fs::read(got).unwrap_or_default(), fs::read(sent).unwrap_or_default());
    seen.must(!sent.is_empty() && got == sent, || {
        let first = got.iter().zip(&sent).position(|(a, b)| a != b);
        format!("{} of {} octets, the first that differs: {first:?}", got.len(), sent.len())
    });
}
