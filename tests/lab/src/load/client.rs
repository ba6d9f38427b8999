//! The client: opens sessions and a probe, holds them, judges them, as [`Command`]s say.
//!
//! Guarantees: one [`Event`] for each command; a session is opened once and never again.

use std::{cell::RefCell, rc::Rc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    sync::watch,
    task::JoinSet,
    time::Instant,
};

use super::{
    judge::{FaultWindow, Judge, Kind},
    now_ns,
    probe::Probe,
    session::{self, Orders, Session, TICK},
    wire::{Command, Event, SessionReport},
};

/// How long outstanding echoes are awaited after the last record was sent.
const DRAIN: Duration = Duration::from_secs(1);

/// How long the probe may take to its first answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// Connections being opened at a time: enough to be quick, few enough not to drop SYNs.
const OPENING_MAX: usize = 32;

/// Reasons of failed connections that are passed on.
const FAILURES_SHOWN: usize = 5;

/// The client of one run.
#[derive(Debug)]
pub struct Client {
    sessions: Vec<Rc<Session>>,
    orders: watch::Sender<Orders>,
    next_id: u32,
    probe: Option<Probe>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            sessions: Vec::new(),
            orders: watch::Sender::new(Orders::default()),
            // 0 is the probe's.
            next_id: 1,
            probe: None,
        }
    }
}

/// Carries out commands from standard input until it ends. Must run on a `LocalSet`.
///
/// # Errors
/// When standard input or output fails.
pub async fn run_stdio() -> std::io::Result<()> {
    let mut client = Client::default();
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut out = tokio::io::stdout();
    while let Some(line) = lines.next_line().await? {
        let event = match serde_json::from_str(&line) {
            Ok(command) => client.handle(command).await,
            Err(error) => Event::Failed { reason: format!("no command: {error}: {line}") },
        };
        let mut text = serde_json::to_string(&event)?;
        text.push('\n');
        out.write_all(text.as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

impl Client {
    /// Carries out one command.
    pub async fn handle(&mut self, command: Command) -> Event {
        match command {
            Command::Probe { target, rate_hz } => self.start_probe(target, rate_hz).await,
            Command::Open { target, talkers, silent } => self.open(target, talkers, silent).await,
            Command::Snapshot => Event::Sessions { sessions: self.reports(None) },
            Command::Speak => {
                self.orders.send_modify(|o| o.speak += 1);
                let silent = |s: &&Rc<Session>| s.judge.borrow().kind() == Kind::Silent;
                let sessions = self.sessions.iter().filter(silent).count();
                Event::Speaking { sessions: u32::try_from(sessions).unwrap_or(u32::MAX) }
            }
            Command::Finish { fault } => self.finish(fault).await,
        }
    }

    async fn start_probe(&mut self, target: std::net::SocketAddr, rate_hz: u32) -> Event {
        let probe = match Probe::start(target, rate_hz) {
            Ok(probe) => probe,
            Err(error) => return Event::Failed { reason: format!("probe to {target}: {error}") },
        };
        let deadline = Instant::now() + PROBE_TIMEOUT;
        loop {
            if let Some(server) = probe.first_server() {
                self.probe = Some(probe);
                return Event::Probing { server };
            }
            if Instant::now() > deadline {
                let seconds = PROBE_TIMEOUT.as_secs();
                let reason = format!("no answer to the probe from {target} within {seconds} s");
                return Event::Failed { reason };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn open(&mut self, target: std::net::SocketAddr, talkers: u32, silent: u32) -> Event {
        let total = talkers + silent;
        let gate = Rc::new(tokio::sync::Semaphore::new(OPENING_MAX));
        let failures = Rc::new(RefCell::new(Vec::new()));
        let mut opening = JoinSet::new();
        for n in 0..total {
            let kind = kind_of(n, talkers, total);
            let id = self.next_id;
            self.next_id += 1;
            let (gate, failures) = (Rc::clone(&gate), Rc::clone(&failures));
            let orders = self.orders.subscribe();
            let first_tick = TICK * n / total.max(1);
            opening.spawn_local(async move {
                let permit = gate.acquire().await;
                let connected = session::connect(target).await;
                drop(permit);
                let stream = match connected {
                    Ok(stream) => stream,
                    Err(error) => {
                        failures.borrow_mut().push(format!("session {id}: {error}"));
                        return None;
                    }
                };
                let local = stream.local_addr().ok()?;
                let judge = RefCell::new(Judge::new(id, kind));
                let session = Rc::new(Session { id, local, judge });
                let task = session::run(Rc::clone(&session), stream, first_tick, orders);
                tokio::task::spawn_local(task);
                Some(session)
            });
        }
        let mut established = 0;
        while let Some(opened) = opening.join_next().await {
            if let Ok(Some(session)) = opened {
                established += 1;
                self.sessions.push(session);
            }
        }
        self.sessions.sort_by_key(|s| s.id);
        let mut failures = failures.take();
        failures.truncate(FAILURES_SHOWN);
        Event::Opened { established, failures, last_up_ns: now_ns() }
    }

    async fn finish(&mut self, fault: FaultWindow) -> Event {
        self.orders.send_modify(|o| o.quiet = true);
        if let Some(probe) = &self.probe {
            probe.stop_sending();
        }
        let deadline = Instant::now() + DRAIN;
        let waiting = |s: &Rc<Session>| {
            let judge = s.judge.borrow();
            judge.broken().is_none() && judge.outstanding() > 0
        };
        // The probe's last answers get a tenth of a second even if no session waits.
        tokio::time::sleep(Duration::from_millis(100)).await;
        while Instant::now() < deadline && self.sessions.iter().any(waiting) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let now = now_ns();
        for session in &self.sessions {
            session.judge.borrow_mut().handle_end(fault, now);
        }
        let sessions = self.reports(Some(fault));
        self.orders.send_modify(|o| o.close = true);
        let probe = self.probe.take().map(|p| p.finish(fault));
        Event::Finished { sessions, probe }
    }

    fn reports(&self, fault: Option<FaultWindow>) -> Vec<SessionReport> {
        let report = |session: &Rc<Session>| {
            let judge = session.judge.borrow();
            SessionReport {
                id: session.id,
                kind: judge.kind(),
                local: session.local,
                server: judge.server().map(str::to_owned),
                sent: judge.sent(),
                echoed: judge.echoed(),
                stall_ns: fault.and_then(|f| judge.stall_ns(f, f.echo_deadline_ns())),
                broken: judge.broken().cloned(),
            }
        };
        self.sessions.iter().map(report).collect()
    }
}

/// Spreads the talkers evenly among the sessions, so that round robin gives every server both
/// kinds.
fn kind_of(n: u32, talkers: u32, total: u32) -> Kind {
    let before = |n: u32| u64::from(n) * u64::from(talkers) / u64::from(total.max(1));
    if before(n + 1) > before(n) { Kind::Talker } else { Kind::Silent }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn talkers_and_silent_ones_are_mixed_in_the_numbers_asked_for() {
        for (talkers, silent) in [(200, 100), (0, 5), (5, 0), (1, 1), (67, 33)] {
            let total = talkers + silent;
            let kinds: Vec<Kind> = (0..total).map(|n| kind_of(n, talkers, total)).collect();
            let count = kinds.iter().filter(|&&k| k == Kind::Talker).count();
            assert_eq!(count, talkers as usize);
        }
    }
}
