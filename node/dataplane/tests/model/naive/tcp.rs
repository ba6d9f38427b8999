//! The TCP transition tables, typed in again.

use super::{Mode, State};
use crate::packet::Row;

// ipvs.md 1.6, typed in again: columns NO ES SS SR FW TW CL CW LA LI SA.
const COLUMNS: [State; 11] = [
    "NONE",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "SYNACK",
];
const IN: [&str; 4] = [
    "SR ES ES SR SR SR SR SR SR SR SR",
    "CL CW SS TW TW TW CL CW LA LI TW",
    "ES ES SS ES FW TW CL CW CL LI ES",
    "CL CL CL SR CL CL CL CL LA LI SR",
];
const OUT: [&str; 4] = [
    "SS ES SS SR SS SS SS SS SS LI SR",
    "TW FW SS TW FW TW CL TW LA LI TW",
    "ES ES SS ES FW TW CL CW LA ES ES",
    "CL CL SS CL CL TW CL CL CL CL CL",
];
const IN_ONLY: [&str; 4] = [
    "SR ES ES SR SR SR SR SR SR SR SR",
    "CL FW SS TW FW TW CL CW LA LI TW",
    "ES ES SS ES FW TW CL CW CL LI ES",
    "CL CL CL SR CL CL CL CL LA LI CL",
];

pub(super) fn step(state: State, mode: Mode, inbound: bool, row: Row) -> State {
    let table = match (inbound, mode.returns()) {
        (false, _) => OUT,
        (true, true) => IN,
        (true, false) => IN_ONLY,
    };
    let line = match row {
        Row::Syn => table[0],
        Row::Fin => table[1],
        Row::Ack => table[2],
        Row::Rst => table[3],
        // What has none of the flags.
        _ => return "CLOSE",
    };
    let column = COLUMNS.iter().position(|name| *name == state).unwrap();
    match line.split(' ').nth(column).unwrap() {
        "NO" => "NONE",
        "ES" => "ESTABLISHED",
        "SS" => "SYN_SENT",
        "SR" => "SYN_RECV",
        "FW" => "FIN_WAIT",
        "TW" => "TIME_WAIT",
        "CL" => "CLOSE",
        "CW" => "CLOSE_WAIT",
        "LA" => "LAST_ACK",
        "LI" => "LISTEN",
        "SA" => "SYNACK",
        other => panic!("{other}"),
    }
}
