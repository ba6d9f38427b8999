//! States of connections.

use super::{Mode, SECOND, State, sctp, tcp};
use crate::packet::{Proto, Row};

/// The state after a packet.
pub(crate) fn step(proto: Proto, state: State, mode: Mode, inbound: bool, row: Row) -> State {
    match proto {
        Proto::Tcp => tcp::step(state, mode, inbound, row),
        Proto::Sctp => sctp::step(state, mode, inbound, row),
        Proto::Udp => state,
    }
}

/// A connection in this state gives way to a new one.
pub(super) fn is_over(state: State) -> bool {
    matches!(state, "TIME_WAIT" | "CLOSE" | "CLOSED")
}

/// A packet that opens a new connection in the place of one in this state.
pub(crate) fn reopens(state: State, inbound: bool, row: Row) -> bool {
    inbound && matches!(row, Row::Syn | Row::Init) && is_over(state)
}

/// It may never become a conversation.
pub(super) fn is_half_open(state: State) -> bool {
    matches!(state, "NONE" | "SYN_SENT" | "SYN_RECV" | "LISTEN" | "SYNACK")
        || matches!(state, "INIT1" | "INIT" | "C-SENT" | "C-REPLIED" | "C-WAIT" | "COOKIE")
        || state == "C-ECHOED"
}

/// How long it lasts without a packet.
pub(super) fn timeout(state: State) -> u64 {
    let seconds = match state {
        // Not the 2 of the table: a new connection starts with 3 (ipvs.md 1.3).
        "NONE" => 3,
        "ESTABLISHED" => 900,
        "SYN_SENT" => 120,
        "SYN_RECV" => 60,
        "FIN_WAIT" | "TIME_WAIT" => 120,
        "CLOSE" => 10,
        "CLOSE_WAIT" => 60,
        "LAST_ACK" => 30,
        "LISTEN" | "SYNACK" => 120,
        "UDP" => 300,
        "INIT1" | "REJECTED" => 4,
        "INIT" | "C-SENT" | "C-REPLIED" | "C-WAIT" | "COOKIE" | "C-ECHOED" | "CLOSED" => 61,
        "S-SENT" | "S-RECEIVED" | "S-ACK-SENT" => 61,
        other => panic!("{other}"),
    };
    seconds * SECOND
}
