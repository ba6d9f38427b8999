//! The orchestrator's end of `lab-client`.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{ChildStdin, ChildStdout},
};

use crate::{
    cluster::{Plan, running::tail},
    host::{
        names::Host,
        process::{Launch, Process},
        state::Ledger,
    },
    load::{
        judge::FaultWindow,
        wire::{Command, Event, ProbeReport, SessionReport},
    },
};

/// How long the client may take to answer: longer than anything it waits for itself.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Rate of the probe.
const PROBE_HZ: u32 = 1000;

/// A running `lab-client`.
#[derive(Debug)]
pub struct ClientLink {
    process: Process,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    log: std::path::PathBuf,
}

/// What came of opening sessions.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Sessions up.
    pub established: u32,
    /// Why the others are not.
    pub failures: Vec<String>,
    /// When the last was up.
    pub last_up_ns: u64,
}

impl ClientLink {
    /// Starts the client in its namespace.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(plan: &Plan, ledger: &mut Ledger) -> Result<Self> {
        let log = plan.log(Host::Client);
        let launch = Launch {
            what: "lab-client",
            namespace: &plan.tag.namespace_path(Host::Client),
            program: &plan.program("lab-client"),
            args: Vec::new(),
            log: &log,
            talks: true,
        };
        let mut process = Process::start(&launch, ledger)?;
        let (input, output) = process.take_pipes().context("lab-client has no pipes")?;
        Ok(Self { process, input, output: BufReader::new(output).lines(), log })
    }

    /// Starts the probe; the server that answered it.
    ///
    /// # Errors
    /// When nobody answers.
    pub async fn probe(&mut self, target: SocketAddr) -> Result<String> {
        match self.ask(&Command::Probe { target, rate_hz: PROBE_HZ }).await? {
            Event::Probing { server } => Ok(server),
            other => Err(unexpected(&other)),
        }
    }

    /// Opens sessions.
    ///
    /// # Errors
    /// When the client fails; sessions that do not come up are no error here.
    pub async fn open(&mut self, target: SocketAddr, talkers: u32, silent: u32) -> Result<Opened> {
        match self.ask(&Command::Open { target, talkers, silent }).await? {
            Event::Opened { established, failures, last_up_ns } => {
                Ok(Opened { established, failures, last_up_ns })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// What the sessions have seen so far.
    ///
    /// # Errors
    /// When the client fails.
    pub async fn snapshot(&mut self) -> Result<Vec<SessionReport>> {
        match self.ask(&Command::Snapshot).await? {
            Event::Sessions { sessions } => Ok(sessions),
            other => Err(unexpected(&other)),
        }
    }

    /// Lets the silent sessions speak once.
    ///
    /// # Errors
    /// When the client fails.
    pub async fn speak(&mut self) -> Result<u32> {
        match self.ask(&Command::Speak).await? {
            Event::Speaking { sessions } => Ok(sessions),
            other => Err(unexpected(&other)),
        }
    }

    /// Ends sessions and probe and takes their last word; the client ends too.
    ///
    /// # Errors
    /// When the client fails.
    pub async fn finish(
        mut self,
        fault: FaultWindow,
    ) -> Result<(Vec<SessionReport>, Option<ProbeReport>)> {
        let event = self.ask(&Command::Finish { fault }).await?;
        drop(self.input);
        self.process.wait(Duration::from_secs(5)).await?;
        match event {
            Event::Finished { sessions, probe } => Ok((sessions, probe)),
            other => Err(unexpected(&other)),
        }
    }

    async fn ask(&mut self, command: &Command) -> Result<Event> {
        let mut line = serde_json::to_string(command)?;
        line.push('\n');
        let exchange = async {
            self.input.write_all(line.as_bytes()).await?;
            self.output.next_line().await
        };
        match tokio::time::timeout(ANSWER_WITHIN, exchange).await {
            Ok(Ok(Some(answer))) => match serde_json::from_str(&answer)? {
                Event::Failed { reason } => bail!("lab-client: {reason}"),
                event => Ok(event),
            },
            Ok(_) => bail!("lab-client ended:\n{}", tail(&self.log)),
            Err(_) => bail!("lab-client gives no answer to {command:?}"),
        }
    }
}

fn unexpected(event: &Event) -> anyhow::Error {
    anyhow!("lab-client: unexpected {event:?}")
}
