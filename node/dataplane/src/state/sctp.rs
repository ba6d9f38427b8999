//! The SCTP transition tables of IPVS.
//!
//! Guarantees: the tables are those of Linux `net/netfilter/ipvs/ip_vs_proto_sctp.c`
//! (`sctp_states`), cell by cell. Not here: tags and TSNs are never looked at, and an association is
//! known by one address of each side, exactly as in IPVS.

use steadfast_packet::{Chunk, Protocol};

use super::{Direction, State};

/// Number of states that are SCTP's.
pub const SCTP_STATES: usize = 14;
/// Number of rows: what a packet can mean.
const EVENTS: usize = 10;

use State::{
    None as NO, SctpClosed as CL, SctpCookie as CO, SctpCookieEchoed as CE,
    SctpCookieReplied as CR, SctpCookieSent as CS, SctpCookieWait as CW, SctpEstablished as ES,
    SctpInit as IN, SctpInit1 as I1, SctpRejected as RJ, SctpShutdownAckSent as SA,
    SctpShutdownReceived as SR, SctpShutdownSent as SS,
};

/// Rows: DATA, INIT, INIT ACK, COOKIE ECHO, COOKIE ACK, SHUTDOWN, SHUTDOWN ACK, SHUTDOWN COMPLETE,
/// ERROR, ABORT. Columns: the old state in the order of [`STATES`].
type Table = [[State; SCTP_STATES]; EVENTS];

/// The states in the order of IPVS (`IP_VS_SCTP_S_*`): the place of each is its number there.
pub(super) const STATES: [State; SCTP_STATES] =
    [NO, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL];

//= Linux net/netfilter/ipvs/ip_vs_proto_sctp.c, sctp_states[], INPUT
const INPUT: Table = [
    [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [I1, IN, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, IN, IN],
    [CW, CW, CW, CS, CR, CO, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CR, IN, IN, CR, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, I1, IN, CS, CR, CW, CO, ES, ES, SS, SR, SA, RJ, CL],
    [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    [CL, IN, IN, CS, CR, CW, CO, CE, ES, CL, SR, CL, RJ, CL],
    [CL, CL, CL, CS, CR, CW, CO, CE, ES, SS, SR, CL, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CL, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

//= Linux net/netfilter/ipvs/ip_vs_proto_sctp.c, sctp_states[], OUTPUT
const OUTPUT: Table = [
    [ES, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CW, CW, CW, CW, CW, CW, CW, CW, ES, CW, CW, CW, CW, CW],
    [CS, CS, CS, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CE, CE, CE, CE, CE, CE, CE, CE, ES, SS, SR, SA, RJ, CL],
    [ES, ES, ES, ES, ES, ES, ES, ES, ES, SS, SR, SA, RJ, CL],
    [SS, SS, SS, SS, SS, SS, SS, SS, SS, SS, SR, SA, RJ, CL],
    [SA, SA, SA, SA, SA, CW, CO, CE, ES, SA, SA, SA, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL, CL],
];

//= Linux net/netfilter/ipvs/ip_vs_proto_sctp.c, sctp_states[], INPUT-ONLY
const INPUT_ONLY: Table = [
    [ES, I1, IN, CS, CR, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    [I1, IN, IN, IN, IN, IN, CO, CE, ES, SS, SR, SA, IN, IN],
    [CE, CE, CE, CE, CE, CE, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, ES, ES, ES, ES, ES, CO, CE, ES, SS, SR, SA, RJ, CL],
    [ES, I1, IN, ES, ES, CW, ES, ES, ES, SS, SR, SA, RJ, CL],
    [SR, I1, IN, CS, CR, CW, CO, CE, SR, SS, SR, SA, RJ, CL],
    [CL, IN, IN, CS, CR, CW, CO, CE, CL, CL, SR, CL, RJ, CL],
    [CL, CL, CL, CL, CL, CW, CO, CE, ES, SS, CL, CL, RJ, CL],
    [CL, I1, IN, CS, CR, CW, CO, CE, ES, SS, SR, SA, RJ, CL],
    [CL, CL, CL, CL, CL, RJ, CL, CL, CL, CL, CL, CL, CL, CL],
];

/// The state after a packet that `chunk` speaks for; `old` itself if it is no state of SCTP.
pub(super) fn next(old: State, direction: Direction, chunk: Chunk) -> State {
    if !old.is_of(Protocol::Sctp) {
        return old;
    }
    let table = match direction {
        Direction::Input => &INPUT,
        Direction::Output => &OUTPUT,
        Direction::InputOnly => &INPUT_ONLY,
    };
    table[event(chunk)][usize::from(old.number())]
}

/// The row of a chunk.
//= Linux ip_vs_proto_sctp.c, sctp_events[]: SACK, HEARTBEAT, ECNE and what is not known are DATA
fn event(chunk: Chunk) -> usize {
    match chunk {
        Chunk::INIT => 1,
        Chunk::INIT_ACK => 2,
        Chunk::COOKIE_ECHO => 3,
        Chunk::COOKIE_ACK => 4,
        Chunk::SHUTDOWN => 5,
        Chunk::SHUTDOWN_ACK => 6,
        Chunk::SHUTDOWN_COMPLETE => 7,
        Chunk::ERROR => 8,
        Chunk::ABORT => 9,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; SCTP_STATES] =
        ["NO", "I1", "IN", "CS", "CR", "CW", "CO", "CE", "ES", "SS", "SR", "SA", "RJ", "CL"];

    /// (direction, then for each chunk the new state for each old state in the order of NAMES)
    const EXPECTED: [(Direction, [(Chunk, &str); EVENTS]); 3] = [
        (
            Direction::Input,
            [
                (Chunk::DATA, "ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL"),
                (Chunk::INIT, "I1 IN IN CS CR CW CO CE ES SS SR SA IN IN"),
                (Chunk::INIT_ACK, "CW CW CW CS CR CO CO CE ES SS SR SA RJ CL"),
                (Chunk::COOKIE_ECHO, "CR IN IN CR CR CW CO CE ES SS SR SA RJ CL"),
                (Chunk::COOKIE_ACK, "ES I1 IN CS CR CW CO ES ES SS SR SA RJ CL"),
                (Chunk::SHUTDOWN, "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL"),
                (Chunk::SHUTDOWN_ACK, "CL IN IN CS CR CW CO CE ES CL SR CL RJ CL"),
                (Chunk::SHUTDOWN_COMPLETE, "CL CL CL CS CR CW CO CE ES SS SR CL RJ CL"),
                (Chunk::ERROR, "CL I1 IN CS CR CW CO CL ES SS SR SA RJ CL"),
                (Chunk::ABORT, "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL"),
            ],
        ),
        (
            Direction::Output,
            [
                (Chunk::DATA, "ES I1 IN CS CR CW CO CE ES SS SR SA RJ CL"),
                (Chunk::INIT, "CW CW CW CW CW CW CW CW ES CW CW CW CW CW"),
                (Chunk::INIT_ACK, "CS CS CS CS CR CW CO CE ES SS SR SA RJ CL"),
                (Chunk::COOKIE_ECHO, "CE CE CE CE CE CE CE CE ES SS SR SA RJ CL"),
                (Chunk::COOKIE_ACK, "ES ES ES ES ES ES ES ES ES SS SR SA RJ CL"),
                (Chunk::SHUTDOWN, "SS SS SS SS SS SS SS SS SS SS SR SA RJ CL"),
                (Chunk::SHUTDOWN_ACK, "SA SA SA SA SA CW CO CE ES SA SA SA RJ CL"),
                (Chunk::SHUTDOWN_COMPLETE, "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL"),
                (Chunk::ERROR, "CL CL CL CL CL CW CO CE ES SS SR SA RJ CL"),
                (Chunk::ABORT, "CL RJ CL CL CL CL CL CL CL CL CL CL CL CL"),
            ],
        ),
        (
            Direction::InputOnly,
            [
                (Chunk::DATA, "ES I1 IN CS CR ES CO CE ES SS SR SA RJ CL"),
                (Chunk::INIT, "I1 IN IN IN IN IN CO CE ES SS SR SA IN IN"),
                (Chunk::INIT_ACK, "CE CE CE CE CE CE CO CE ES SS SR SA RJ CL"),
                (Chunk::COOKIE_ECHO, "ES ES ES ES ES ES CO CE ES SS SR SA RJ CL"),
                (Chunk::COOKIE_ACK, "ES I1 IN ES ES CW ES ES ES SS SR SA RJ CL"),
                (Chunk::SHUTDOWN, "SR I1 IN CS CR CW CO CE SR SS SR SA RJ CL"),
                (Chunk::SHUTDOWN_ACK, "CL IN IN CS CR CW CO CE CL CL SR CL RJ CL"),
                (Chunk::SHUTDOWN_COMPLETE, "CL CL CL CL CL CW CO CE ES SS CL CL RJ CL"),
                (Chunk::ERROR, "CL I1 IN CS CR CW CO CE ES SS SR SA RJ CL"),
                (Chunk::ABORT, "CL CL CL CL CL RJ CL CL CL CL CL CL CL CL"),
            ],
        ),
    ];

    #[test]
    fn sctp_transitions_are_those_of_ipvs() {
        for (direction, rows) in EXPECTED {
            for (chunk, expected) in rows {
                let new: Vec<_> = STATES
                    .iter()
                    .map(|old| NAMES[usize::from(old.next_sctp(direction, chunk).number())])
                    .collect();
                assert_eq!(new.join(" "), expected, "{direction:?} {chunk:?}");
            }
        }
    }

    #[test]
    fn chunks_without_a_row_are_data() {
        for kind in [3, 4, 5, 12, 13, 15, 64, 128, 130, 192, 255] {
            for old in STATES {
                let as_data = old.next_sctp(Direction::Input, Chunk::DATA);
                assert_eq!(old.next_sctp(Direction::Input, Chunk(kind)), as_data, "{kind}");
            }
        }
        assert_eq!(State::Udp.next_sctp(Direction::Input, Chunk::ABORT), State::Udp);
        let established = State::Established;
        assert_eq!(established.next_sctp(Direction::Input, Chunk::ABORT), established);
    }
}
