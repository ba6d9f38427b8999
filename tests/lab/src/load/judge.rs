//! How a session is judged: the pure half of the client.
//!
//! A session is *broken* by a reset, a time-out, an end of file, a missing or wrong byte, the name
//! of another server in an answer, or no echo within [`ECHO_WITHIN_NS`] after the fault ended.
//! Nothing mends a broken session: there is no reconnecting, and the first reason stands.
//!
//! Feed it what was sent and what arrived; it reads no clock and owns no socket.

use std::{collections::VecDeque, io};

use serde::{Deserialize, Serialize};

use super::{
    SECOND,
    record::{self, LINE_BYTES_MAX},
};

/// A session without an echo for this long after the fault ended is broken.
pub const ECHO_WITHIN_NS: u64 = 5 * SECOND;

/// What a session does.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Sends a record at every tick.
    Talker,
    /// Connects, and says nothing until the fault is over; then speaks once.
    Silent,
}

/// Why a session is broken.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The connection was reset.
    Reset,
    /// The kernel gave up on it.
    Timeout,
    /// The other side ended it.
    Eof,
    /// A byte that was not sent, or one that is missing.
    WrongBytes,
    /// An answer from another server than the first.
    OtherServer,
    /// No echo in time after the fault ended.
    NoEchoInTime,
    /// Another error of the socket.
    Error,
}

impl Why {
    /// The word in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::Timeout => "timeout",
            Self::Eof => "eof",
            Self::WrongBytes => "wrong_bytes",
            Self::OtherServer => "other_server",
            Self::NoEchoInTime => "no_echo_in_time",
            Self::Error => "error",
        }
    }

    /// What an error of the socket means.
    #[must_use]
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::BrokenPipe => Self::Reset,
            io::ErrorKind::TimedOut => Self::Timeout,
            io::ErrorKind::UnexpectedEof => Self::Eof,
            _ => Self::Error,
        }
    }
}

/// That a session is broken, since when and how.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Broken {
    /// Why.
    pub why: Why,
    /// When it was noticed.
    pub at_ns: u64,
    /// What exactly was seen.
    pub detail: String,
}

/// The time of a fault, as the orchestrator took it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct FaultWindow {
    /// Just before the fault was injected.
    pub begin_ns: u64,
    /// Just after it ended.
    pub ended_ns: u64,
}

impl FaultWindow {
    /// End of the time in which an echo must have come.
    #[must_use]
    pub fn echo_deadline_ns(&self) -> u64 {
        self.ended_ns + ECHO_WITHIN_NS
    }
}

/// Judges one session.
#[derive(Debug)]
pub struct Judge {
    session: u32,
    kind: Kind,
    sequence: u64,
    outstanding: VecDeque<(u64, Vec<u8>)>,
    partial: Vec<u8>,
    server: Option<String>,
    /// For each echo, in order: when its record was sent, when it came.
    echoes: Vec<(u64, u64)>,
    broken: Option<Broken>,
}

impl Judge {
    /// A session that is up and has said nothing yet.
    #[must_use]
    pub fn new(session: u32, kind: Kind) -> Self {
        Self {
            session,
            kind,
            sequence: 0,
            outstanding: VecDeque::new(),
            partial: Vec::new(),
            server: None,
            echoes: Vec::new(),
            broken: None,
        }
    }

    /// The next record to send; from now on its echo is awaited.
    pub fn handle_tick(&mut self, now_ns: u64) -> Vec<u8> {
        let line = record::record(self.session, self.sequence);
        self.sequence += 1;
        self.outstanding.push_back((now_ns, line.clone()));
        line
    }

    /// Bytes that arrived.
    pub fn handle_bytes(&mut self, bytes: &[u8], now_ns: u64) {
        for &byte in bytes {
            if self.broken.is_some() {
                return;
            }
            self.partial.push(byte);
            if byte == b'\n' {
                let line = std::mem::take(&mut self.partial);
                self.handle_answer(&line, now_ns);
            } else if self.partial.len() > LINE_BYTES_MAX {
                self.break_it(Why::WrongBytes, now_ns, "an answer without an end".to_owned());
            }
        }
    }

    /// An error of the socket.
    pub fn handle_error(&mut self, error: &io::Error, now_ns: u64) {
        self.break_it(Why::of(error), now_ns, error.to_string());
    }

    /// The other side ended the stream.
    pub fn handle_eof(&mut self, now_ns: u64) {
        self.break_it(Why::Eof, now_ns, "the other side ended the connection".to_owned());
    }

    /// The last word, once nothing more is sent and the time for echoes is over.
    pub fn handle_end(&mut self, fault: FaultWindow, now_ns: u64) {
        let in_time =
            |&(sent, came): &(u64, u64)| sent >= fault.ended_ns && came <= fault.echo_deadline_ns();
        if !self.echoes.iter().any(in_time) {
            let detail = "nothing sent after the fault was echoed in time".to_owned();
            self.break_it(Why::NoEchoInTime, now_ns, detail);
        } else if let Some((sent, _)) = self.outstanding.front() {
            let age_ms = now_ns.saturating_sub(*sent) / super::MS;
            let detail = format!(
                "{} records without an echo, the oldest sent {age_ms} ms ago",
                self.outstanding.len()
            );
            self.break_it(Why::NoEchoInTime, now_ns, detail);
        }
    }

    /// What the session does.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether it is broken, and why.
    #[must_use]
    pub fn broken(&self) -> Option<&Broken> {
        self.broken.as_ref()
    }

    /// The server that answered first.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.server.as_deref()
    }

    /// Records sent.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sequence
    }

    /// Echoes received.
    #[must_use]
    pub fn echoed(&self) -> u64 {
        self.echoes.len() as u64
    }

    /// Records whose echo is awaited.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    /// Longest time between two echoes that touches the time from the beginning of the fault to
    /// `until_ns`; a session that was not heard again counts until then. The time between two
    /// records is part of it: an undisturbed talker shows about one tick. `None` for a session
    /// that was not talking before the fault.
    #[must_use]
    pub fn stall_ns(&self, fault: FaultWindow, until_ns: u64) -> Option<u64> {
        let came = self.echoes.iter().map(|&(_, came)| came);
        longest_gap(came, fault.begin_ns, until_ns).filter(|_| self.kind == Kind::Talker)
    }

    fn handle_answer(&mut self, line: &[u8], now_ns: u64) {
        let Some((name, echoed)) = record::split_answer(line) else {
            let detail = format!("no answer of a server: {}", printable(line));
            return self.break_it(Why::WrongBytes, now_ns, detail);
        };
        let Some((sent, expected)) = self.outstanding.pop_front() else {
            let detail = format!("an answer to nothing: {}", printable(line));
            return self.break_it(Why::WrongBytes, now_ns, detail);
        };
        if echoed != expected || !record::checksum_matches(echoed) {
            let detail = format!("sent {}, got {}", printable(&expected), printable(echoed));
            return self.break_it(Why::WrongBytes, now_ns, detail);
        }
        match &self.server {
            None => self.server = Some(name.to_owned()),
            Some(first) if first != name => {
                let detail = format!("{first} answered first, now {name}");
                return self.break_it(Why::OtherServer, now_ns, detail);
            }
            Some(_) => {}
        }
        self.echoes.push((sent, now_ns));
    }

    fn break_it(&mut self, why: Why, at_ns: u64, detail: String) {
        // The first reason stands; what follows from it is no news.
        if self.broken.is_none() {
            self.broken = Some(Broken { why, at_ns, detail });
        }
    }
}

/// Longest time between two neighbours of the ascending `times` that ends after `from_ns`, and
/// from the last of them to `until_ns`. `None` if there was none before `from_ns`.
pub(crate) fn longest_gap(
    times: impl Iterator<Item = u64>,
    from_ns: u64,
    until_ns: u64,
) -> Option<u64> {
    let mut last: Option<u64> = None;
    let mut longest = 0;
    let mut known_before = false;
    for time in times.take_while(|&t| t <= until_ns) {
        if let Some(last) = last
            && time > from_ns
        {
            longest = longest.max(time - last);
        }
        known_before |= time <= from_ns;
        last = Some(time);
    }
    let last = last.filter(|_| known_before)?;
    Some(longest.max(until_ns.saturating_sub(last)))
}

fn printable(bytes: &[u8]) -> String {
    let shown = &bytes[..bytes.len().min(96)];
    format!("`{}`", shown.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAULT: FaultWindow = FaultWindow { begin_ns: 1000 * MS, ended_ns: 1100 * MS };
    const MS: u64 = super::super::MS;

    fn echo(judge: &mut Judge, name: &str, sent_ns: u64, came_ns: u64) {
        let line = judge.handle_tick(sent_ns);
        judge.handle_bytes(&record::answer(name, &line), came_ns);
    }

    #[test]
    fn echoes_before_and_after_the_fault_keep_a_session_whole() {
        let mut judge = Judge::new(1, Kind::Talker);
        for t in [800, 900, 1000] {
            echo(&mut judge, "s1", t * MS, (t + 1) * MS);
        }
        for t in [1400, 1500] {
            echo(&mut judge, "s1", t * MS, (t + 1) * MS);
        }
        judge.handle_end(FAULT, 6200 * MS);
        assert_eq!(judge.broken(), None);
        assert_eq!(judge.server(), Some("s1"));
        assert_eq!(judge.stall_ns(FAULT, 1550 * MS), Some(400 * MS));
    }

    #[test]
    fn each_misbehaviour_has_its_name() {
        type Feed = fn(&mut Judge);
        let cases: [(&str, Feed, Why); 10] = [
            ("eof", |j| j.handle_eof(1), Why::Eof),
            ("reset", |j| j.handle_error(&io::ErrorKind::ConnectionReset.into(), 1), Why::Reset),
            ("pipe", |j| j.handle_error(&io::ErrorKind::BrokenPipe.into(), 1), Why::Reset),
            ("timeout", |j| j.handle_error(&io::ErrorKind::TimedOut.into(), 1), Why::Timeout),
            (
                "host unreachable",
                |j| j.handle_error(&io::ErrorKind::HostUnreachable.into(), 1),
                Why::Error,
            ),
            ("other server", |j| echo(j, "s2", 1, 2), Why::OtherServer),
            (
                "missing byte",
                |j| {
                    let mut line = j.handle_tick(1);
                    line.remove(20);
                    j.handle_bytes(&record::answer("s1", &line), 2);
                },
                Why::WrongBytes,
            ),
            (
                "changed byte",
                |j| {
                    let mut line = j.handle_tick(1);
                    line[20] ^= 1;
                    j.handle_bytes(&record::answer("s1", &line), 2);
                },
                Why::WrongBytes,
            ),
            (
                "same answer twice",
                |j| {
                    let line = j.handle_tick(1);
                    j.handle_bytes(&record::answer("s1", &line), 2);
                    j.handle_bytes(&record::answer("s1", &line), 2);
                },
                Why::WrongBytes,
            ),
            (
                "no end of line",
                |j| j.handle_bytes(&vec![b'x'; LINE_BYTES_MAX + 1], 2),
                Why::WrongBytes,
            ),
        ];
        for (name, feed, why) in cases {
            let mut judge = Judge::new(1, Kind::Talker);
            echo(&mut judge, "s1", 0, 0);
            feed(&mut judge);
            assert_eq!(judge.broken().map(|b| b.why), Some(why), "{name}");
        }
    }

    #[test]
    fn the_first_reason_stands() {
        let mut judge = Judge::new(1, Kind::Talker);
        judge.handle_error(&io::ErrorKind::ConnectionReset.into(), 5);
        judge.handle_eof(6);
        judge.handle_end(FAULT, 7);
        assert_eq!(judge.broken().map(|b| (b.why, b.at_ns)), Some((Why::Reset, 5)));
    }

    #[test]
    fn an_echo_must_come_within_five_seconds_of_the_end_of_the_fault() {
        let deadline = FAULT.echo_deadline_ns();
        let cases = [
            // (record sent, echo came, broken)
            (FAULT.ended_ns, deadline, false),
            (FAULT.ended_ns, deadline + 1, true),
            (FAULT.ended_ns - 1, FAULT.ended_ns + 1, true),
        ];
        for (sent, came, broken) in cases {
            let mut judge = Judge::new(1, Kind::Silent);
            echo(&mut judge, "s1", sent, came);
            judge.handle_end(FAULT, came + 1);
            let why = judge.broken().map(|b| b.why);
            assert_eq!(why, broken.then_some(Why::NoEchoInTime), "{sent} {came}");
        }
    }

    #[test]
    fn a_silent_session_that_never_got_its_echo_is_broken() {
        let mut judge = Judge::new(1, Kind::Silent);
        let _ = judge.handle_tick(2100 * MS);
        judge.handle_end(FAULT, 6100 * MS);
        assert_eq!(judge.broken().map(|b| b.why), Some(Why::NoEchoInTime));
        assert_eq!(judge.stall_ns(FAULT, 6100 * MS), None);
    }

    #[test]
    fn a_record_left_without_an_echo_breaks_the_session() {
        let mut judge = Judge::new(1, Kind::Talker);
        echo(&mut judge, "s1", 1200 * MS, 1201 * MS);
        let _ = judge.handle_tick(1300 * MS);
        judge.handle_end(FAULT, 7000 * MS);
        assert_eq!(judge.broken().map(|b| b.why), Some(Why::NoEchoInTime));
    }

    #[test]
    fn the_longest_gap_is_the_one_around_the_fault() {
        let gap = |times: &[u64], from, until| longest_gap(times.iter().copied(), from, until);
        // The gap of 50 before the fault does not count, the one that spans its begin does.
        assert_eq!(gap(&[0, 50, 60, 75, 80], 61, 85), Some(15));
        // Not heard again: until the end.
        assert_eq!(gap(&[0, 10, 20], 25, 100), Some(80));
        // Heard only after the end of the window.
        assert_eq!(gap(&[0, 10, 200], 15, 100), Some(90));
        // Never heard before the fault.
        assert_eq!(gap(&[30], 25, 100), None);
        assert_eq!(gap(&[], 25, 100), None);
    }
}
