//! The trace of a run: a line for each event, hashed as it grows.
//!
//! Guarantees: equal seeds give equal lines, byte for byte; only the last [`KEPT`] are kept.

use std::{
    collections::VecDeque,
    fmt::Write as _,
    fs::File,
    io::{BufWriter, Write as _},
};

use crate::clock::Ns;

/// Lines that a failure shows.
pub(crate) const KEPT: usize = 60;

/// FNV-1a, 64 bits.
const HASH_START: u64 = 0xcbf2_9ce4_8422_2325;
const HASH_PRIME: u64 = 0x0000_0100_0000_01b3;

/// What happened, in order.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: u64,
    /// Lines worth showing to somebody who reads a failure.
    kept: VecDeque<String>,
    file: Option<BufWriter<File>>,
    scratch: String,
}

impl Trace {
    /// An empty trace, written to `file` too if there is one.
    #[must_use]
    pub(crate) fn new(file: Option<File>) -> Self {
        let file = file.map(BufWriter::new);
        Self { hash: HASH_START, lines: 0, kept: VecDeque::new(), file, scratch: String::new() }
    }

    /// Something that a reader wants to know.
    pub(crate) fn note(&mut self, now: Ns, line: &str) {
        self.event(now, format_args!("{line}"));
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        let line = self.scratch.trim_end().to_owned();
        self.kept.push_back(line);
    }

    /// An event of the machinery: hashed and written, not kept.
    pub(crate) fn event(&mut self, now: Ns, what: std::fmt::Arguments<'_>) {
        self.scratch.clear();
        // Writing to a String cannot fail.
        let _ = writeln!(self.scratch, "{:>12}.{:03} {what}", now / 1_000_000, now / 1_000 % 1000);
        for byte in self.scratch.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(HASH_PRIME);
        }
        self.lines += 1;
        if let Some(file) = &mut self.file {
            // A full disk ends the file, not the run: the hash goes on.
            if file.write_all(self.scratch.as_bytes()).is_err() {
                self.file = None;
            }
        }
    }

    /// Mixes an event in that is too frequent for a line.
    pub(crate) fn mix(&mut self, now: Ns, a: u64, b: u64) {
        for word in [now, a, b] {
            self.hash = (self.hash ^ word).wrapping_mul(HASH_PRIME);
        }
        if let Some(file) = &mut self.file
            && writeln!(file, "{now:>16} {a:x} {b:x}").is_err()
        {
            self.file = None;
        }
    }

    /// More about an event, for the file alone: it follows from what is hashed.
    pub(crate) fn detail(&mut self, now: Ns, what: impl FnOnce() -> String) {
        if let Some(file) = &mut self.file
            && writeln!(file, "{now:>16}   {}", what()).is_err()
        {
            self.file = None;
        }
    }

    /// Hash of all lines so far.
    #[must_use]
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    #[must_use]
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// The last ones, oldest first.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &str> {
        self.kept.iter().map(String::as_str)
    }

    /// Writes out what is buffered.
    pub(crate) fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            // Nobody reads a trace that could not be written.
            let _ = file.flush();
        }
    }
}
