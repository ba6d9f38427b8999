//! How many connections a service may get, and what becomes of those above.
//!
//! Above a limit a connection is not refused but *goes by the hash*: each of its packets is sent to
//! the server that hashing gives its client, and the table hears nothing of it. What is lost with
//! that is said where it is done, in `degrade.rs`.
//!
//! Guarantees: constant time and memory for each question; limits count what this node lets in.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{WORKERS_MAX, bucket::SharedBucket, counters::add};

/// The limits of a service; 0 is none.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Limits {
    /// New connections a second, and as many at once.
    pub new_per_s: u32,
    /// Connections of one source at a time: an IPv4 address, or the first 64 bits of an IPv6 one.
    pub per_source: u32,
    /// What a connection above them gets.
    pub over: Over,
}

/// What a connection above a limit gets.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Over {
    /// A server, by the hash, and no place in the table.
    #[default]
    Hash,
    /// A reset (SCTP: an ABORT, UDP: port unreachable), within the rate limit of such answers.
    Refuse,
}

/// Which bound a connection would exceed.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Excess {
    /// `half_open_max` of the node.
    HalfOpen,
    /// `new_per_s` of its service.
    NewPerS,
    /// `per_source` of its service.
    PerSource,
}

impl Excess {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::HalfOpen, Self::NewPerS, Self::PerSource];

    /// Its name in documents and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::HalfOpen => "half_open_max",
            Self::NewPerS => "new_per_s",
            Self::PerSource => "per_source",
        }
    }
}

/// What a service has counted above its limits.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ExcessTotals {
    /// Opening packets that went by the hash, by [`Excess`].
    pub hashed: [u64; Excess::ALL.len()],
    /// Opening packets that were refused, or dropped where the hash is not enough.
    pub refused: [u64; Excess::ALL.len()],
    /// Connections that went by the hash and have found a place in the table.
    pub adopted: u64,
    /// Handshakes by cookie, by [`CookieEvent`].
    pub cookies: [u64; CookieEvent::ALL.len()],
}

/// What becomes of handshakes by cookie.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum CookieEvent {
    /// A SYN was answered with a cookie.
    Sent,
    /// A client came back with a cookie that is good.
    Accepted,
    /// A packet of an unknown connection had none that is good.
    Refused,
    /// A server did not answer, or refused the connection.
    GivenUp,
}

impl CookieEvent {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Sent, Self::Accepted, Self::Refused, Self::GivenUp];
}

/// The defence of one service; it lives on over configurations.
#[derive(Debug)]
pub(crate) struct Defence {
    new_per_s: u32,
    new: SharedBucket,
    /// Until then packets of unknown connections go by the hash, because theirs may have.
    hashing_until_ns: AtomicU64,
    lines: Box<[Line]>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    hashed: [AtomicU64; Excess::ALL.len()],
    refused: [AtomicU64; Excess::ALL.len()],
    adopted: AtomicU64,
    cookies: [AtomicU64; CookieEvent::ALL.len()],
}

impl Defence {
    pub(crate) fn new(new_per_s: u32, workers: usize) -> Self {
        let rate = u64::from(new_per_s);
        Self {
            new_per_s,
            new: SharedBucket::new(rate, rate),
            hashing_until_ns: AtomicU64::new(0),
            lines: (0..workers.clamp(1, WORKERS_MAX)).map(|_| Line::default()).collect(),
        }
    }

    /// One of its own that lets in what this one does, and has counted nothing.
    pub(crate) fn copy(&self) -> Self {
        Self {
            new: self.new.copy(),
            hashing_until_ns: AtomicU64::new(self.hashing_until_ns.load(Ordering::Relaxed)),
            ..Self::new(self.new_per_s, self.lines.len())
        }
    }

    /// What goes on under another configuration.
    pub(crate) fn is_for(&self, new_per_s: u32, workers: usize) -> bool {
        self.new_per_s == new_per_s && self.lines.len() == workers.clamp(1, WORKERS_MAX)
    }

    /// Takes over what an older one has counted and promised; no worker counts in this one yet.
    pub(crate) fn continue_from(&self, old: &Self) {
        let until = old.hashing_until_ns.load(Ordering::Relaxed);
        self.hashing_until_ns.store(until, Ordering::Relaxed);
        let totals = old.totals();
        let Some(line) = self.lines.first() else { return };
        let cells =
            line.hashed.iter().chain(&line.refused).chain([&line.adopted]).chain(&line.cookies);
        let counts = totals.hashed.iter().chain(&totals.refused).chain([&totals.adopted]);
        let counts = counts.chain(&totals.cookies);
        cells.zip(counts).for_each(|(cell, count)| cell.store(*count, Ordering::Relaxed));
    }

    /// One more connection, if `new_per_s` allows it.
    pub(crate) fn take_new(&self, now_ns: u64) -> bool {
        self.new_per_s == 0 || self.new.take(now_ns)
    }

    /// Packets of unknown connections go by the hash.
    pub(crate) fn is_hashing(&self, now_ns: u64) -> bool {
        now_ns < self.hashing_until_ns.load(Ordering::Relaxed)
    }

    /// They do from now on, for `time`.
    pub(crate) fn hash_for(&self, now_ns: u64, time: Duration) {
        let until = now_ns.saturating_add(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
        self.hashing_until_ns.fetch_max(until, Ordering::Relaxed);
    }

    pub(crate) fn count_hashed(&self, worker: usize, excess: Excess) {
        if let Some(line) = self.lines.get(worker) {
            add(&line.hashed[excess as usize], 1);
        }
    }

    pub(crate) fn count_refused(&self, worker: usize, excess: Excess) {
        if let Some(line) = self.lines.get(worker) {
            add(&line.refused[excess as usize], 1);
        }
    }

    pub(crate) fn count_adopted(&self, worker: usize) {
        if let Some(line) = self.lines.get(worker) {
            add(&line.adopted, 1);
        }
    }

    pub(crate) fn count_cookie(&self, worker: usize, event: CookieEvent) {
        if let Some(line) = self.lines.get(worker) {
            add(&line.cookies[event as usize], 1);
        }
    }

    /// The sum over workers.
    pub(crate) fn totals(&self) -> ExcessTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let mut totals = ExcessTotals::default();
        for line in &self.lines {
            for excess in Excess::ALL.map(|excess| excess as usize) {
                totals.hashed[excess] += read(&line.hashed[excess]);
                totals.refused[excess] += read(&line.refused[excess]);
            }
            totals.adopted += read(&line.adopted);
            for event in CookieEvent::ALL.map(|event| event as usize) {
                totals.cookies[event] += read(&line.cookies[event]);
            }
        }
        totals
    }
}
