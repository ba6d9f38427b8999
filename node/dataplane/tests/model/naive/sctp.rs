//! The SCTP transition tables (ipvs.md 1.7), typed in again.

use super::{Mode, State};
use crate::packet::{Proto, Row};

/// Columns: a state, and how the tables abbreviate it.
const COLUMNS: [(State, &str); 14] = [
    ("NONE", "NO"),
    ("INIT1", "I1"),
    ("INIT", "IN"),
    ("C-SENT", "CS"),
    ("C-REPLIED", "CR"),
    ("C-WAIT", "CW"),
    ("COOKIE", "CO"),
    ("C-ECHOED", "CE"),
    ("ESTABLISHED", "ES"),
    ("S-SENT", "SS"),
    ("S-RECEIVED", "SR"),
    ("S-ACK-SENT", "SA"),
    ("REJECTED", "RJ"),
    ("CLOSED", "CL"),
];

/// Rows as in `Proto::rows`.
const IN: [&str; 10] = [
    "ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
    "I1 IN IN CS CR CW CO CE ES SS SR SA IN IN",
    "CW CW CW CS CR CO CO CE ES SS SR SA RJ CL",
    "CR IN IN CR CR CW CO CE ES SS SR SA RJ CL",
    "ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL",
    "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL",
    "CL IN IN CS CR CW CO CE ES CL SR CL RJ CL",
    "CL CL CL CS CR CW CO CE ES SS SR CL RJ CL",
    "CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL",
    "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL",
];
const OUT: [&str; 10] = [
    "ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
    "CW CW CW CW CW CW CW CW ES CW CW CW CW CW",
    "CS CS CS CS CR CW CO CE ES SS SR SA RJ CL",
    "CE CE CE CE CE CE CE CE ES SS SR SA RJ CL",
    "ES ES ES ES ES ES ES ES ES SS SR SA RJ CL",
    "SS SS SS SS SS SS SS SS SS SS SR SA RJ CL",
    "SA SA SA SA SA CW CO CE ES SA SA SA RJ CL",
    "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
    "CL CL CL CL CL CW CO CE ES SS SR SA RJ CL",
    "CL RJ CL CL CL CL CL CL CL CL CL CL CL CL",
];
const IN_ONLY: [&str; 10] = [
    "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL",
    "I1 IN IN IN IN IN CO CE ES SS SR SA IN IN",
    "CE CE CE CE CE CE CO CE ES SS SR SA RJ CL",
    "ES ES ES ES ES ES CO CE ES SS SR SA RJ CL",
    "ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL",
    "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL",
    "CL IN IN CS CR CW CO CE CL CL SR CL RJ CL",
    "CL CL CL CL CL CW CO CE ES SS CL CL RJ CL",
    "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL",
    "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL",
];

pub(super) fn step(state: State, mode: Mode, inbound: bool, row: Row) -> State {
    let table = match (inbound, mode.returns()) {
        (false, _) => OUT,
        (true, true) => IN,
        (true, false) => IN_ONLY,
    };
    let line = Proto::Sctp.rows().iter().position(|known| *known == row).unwrap();
    let column = COLUMNS.iter().position(|(name, _)| *name == state).unwrap();
    let next = table[line].split(' ').nth(column).unwrap();
    COLUMNS.iter().find(|(_, short)| *short == next).unwrap().0
}
