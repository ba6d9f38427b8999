//! What a client says and what a real server answers.
//!
//! A record is one line of [`RECORD_BYTES`] bytes: session, sequence number, filling and a CRC-32
//! over what stands before it. The answer is the name of the server, a space and the same line.
//! Text, so that a person can talk to the same server with `nc`.

use std::fmt::Write as _;

/// Length of a record, its line feed included.
pub const RECORD_BYTES: usize = 64;

/// Longest line a server echoes and a client reads.
pub const LINE_BYTES_MAX: usize = 4096;

/// Longest name of a server.
pub const NAME_BYTES_MAX: usize = 32;

/// The record number `sequence` of `session`.
#[must_use]
pub fn record(session: u32, sequence: u64) -> Vec<u8> {
    let mut line = format!("{session:06} {sequence:010} ");
    // The filling differs from record to record, so that a byte taken from another one shows.
    let mut filling = (u64::from(session) << 32 | sequence).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while line.len() < RECORD_BYTES - 10 {
        line.push(char::from(b'a' + (filling % 26) as u8));
        filling = filling.rotate_right(5).wrapping_mul(0xd129_0d3a_2b4d_8f1b);
    }
    let crc = crc32fast::hash(line.as_bytes());
    // Writing to a String cannot fail.
    let _ = writeln!(line, " {crc:08x}");
    line.into_bytes()
}

/// Whether `line`, line feed included, ends in the CRC of what stands before it.
#[must_use]
pub fn checksum_matches(line: &[u8]) -> bool {
    let Some(text) = line.strip_suffix(b"\n") else { return false };
    let Some(at) = text.len().checked_sub(9) else { return false };
    let (body, crc) = text.split_at(at);
    crc == format!(" {:08x}", crc32fast::hash(body)).as_bytes()
}

/// The answer of the server `name` to `line`.
#[must_use]
pub fn answer(name: &str, line: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 1 + line.len());
    out.extend_from_slice(name.as_bytes());
    out.push(b' ');
    out.extend_from_slice(line);
    out
}

/// Splits an answer into the server's name and the echoed line.
#[must_use]
pub fn split_answer(answer: &[u8]) -> Option<(&str, &[u8])> {
    let at = answer.iter().take(NAME_BYTES_MAX + 1).position(|&b| b == b' ')?;
    let name = std::str::from_utf8(&answer[..at]).ok()?;
    let known = |c: char| c.is_ascii_alphanumeric() || c == '-';
    (!name.is_empty() && name.chars().all(known)).then(|| (name, &answer[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_line_of_fixed_length_with_a_checksum() {
        for (session, sequence) in [(0, 0), (1, 1), (299, 12_345), (999_999, 9_999_999_999)] {
            let line = record(session, sequence);
            assert_eq!(line.len(), RECORD_BYTES, "{}", String::from_utf8_lossy(&line));
            assert_eq!(line.iter().filter(|&&b| b == b'\n').count(), 1);
            assert!(checksum_matches(&line));
        }
        assert_ne!(record(1, 2), record(2, 1));
    }

    #[test]
    fn every_changed_byte_breaks_the_checksum() {
        let line = record(7, 42);
        for at in 0..line.len() {
            let mut bad = line.clone();
            bad[at] ^= 1;
            assert!(!checksum_matches(&bad), "byte {at}");
        }
    }

    #[test]
    fn an_answer_carries_the_name_and_the_line() {
        let line = record(3, 4);
        let whole = answer("s2", &line);
        assert_eq!(split_answer(&whole), Some(("s2", &line[..])));
        assert_eq!(split_answer(b" x\n"), None);
        assert_eq!(split_answer(b"s\xff x\n"), None);
        assert_eq!(split_answer(&[b'a'; 80]), None);
    }
}
