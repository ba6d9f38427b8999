//! The TCP transition tables of IPVS.
//!
//! Guarantees: the tables are those of Linux `net/netfilter/ipvs/ip_vs_proto_tcp.c` (`tcp_states`),
//! cell by cell. Not here: sequence numbers are never looked at, exactly as in IPVS.

use steadfast_packet::TcpFlags;

use super::{Direction, State};

/// Number of states that are TCP's.
pub const TCP_STATES: usize = 11;

use State::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    SynRecv as SR, SynSent as SS, TimeWait as TW,
};

/// Rows: SYN, FIN, ACK, RST. Columns: the old state in the order of [`State`].
type Table = [[State; TCP_STATES]; 4];

//= Linux net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_states[], INPUT
const INPUT: Table = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR],
];

//= Linux net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_states[], OUTPUT
const OUTPUT: Table = [
    [SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR],
    [TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES],
    [CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL],
];

//= Linux net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_states[], INPUT-ONLY
const INPUT_ONLY: Table = [
    [SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR],
    [CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW],
    [ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES],
    [CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL],
];

/// The state after a packet with `flags`; `old` itself if it is no state of TCP.
pub(super) fn next(old: State, direction: Direction, flags: TcpFlags) -> State {
    if !old.is_of(steadfast_packet::Protocol::Tcp) {
        return old;
    }
    let table = match direction {
        Direction::Input => &INPUT,
        Direction::Output => &OUTPUT,
        Direction::InputOnly => &INPUT_ONLY,
    };
    //= Linux ip_vs_proto_tcp.c, tcp_state_idx(): RST before SYN before FIN before ACK
    let row = if flags.rst() {
        3
    } else if flags.syn() {
        0
    } else if flags.fin() {
        1
    } else if flags.ack() {
        2
    } else {
        return CL;
    };
    table[row][old as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYN: TcpFlags = TcpFlags(0x02);
    const FIN: TcpFlags = TcpFlags(0x11);
    const ACK: TcpFlags = TcpFlags(0x10);
    const RST: TcpFlags = TcpFlags(0x14);

    fn abbreviation(state: State) -> &'static str {
        match state {
            State::None => "NO",
            ES => "ES",
            SS => "SS",
            SR => "SR",
            FW => "FW",
            TW => "TW",
            CL => "CL",
            CW => "CW",
            LA => "LA",
            LI => "LI",
            State::SynAck => "SA",
            _ => "not TCP",
        }
    }

    #[test]
    fn tcp_transitions_are_those_of_ipvs() {
        // (direction, flags, the new state for each old state NO ES SS SR FW TW CL CW LA LI SA)
        let table = [
            (Direction::Input, SYN, "SR ES ES SR SR SR SR SR SR SR SR"),
            (Direction::Input, FIN, "CL CW SS TW TW TW CL CW LA LI TW"),
            (Direction::Input, ACK, "ES ES SS ES FW TW CL CW CL LI ES"),
            (Direction::Input, RST, "CL CL CL SR CL CL CL CL LA LI SR"),
            (Direction::Output, SYN, "SS ES SS SR SS SS SS SS SS LI SR"),
            (Direction::Output, FIN, "TW FW SS TW FW TW CL TW LA LI TW"),
            (Direction::Output, ACK, "ES ES SS ES FW TW CL CW LA ES ES"),
            (Direction::Output, RST, "CL CL SS CL CL TW CL CL CL CL CL"),
            (Direction::InputOnly, SYN, "SR ES ES SR SR SR SR SR SR SR SR"),
            (Direction::InputOnly, FIN, "CL FW SS TW FW TW CL CW LA LI TW"),
            (Direction::InputOnly, ACK, "ES ES SS ES FW TW CL CW CL LI ES"),
            (Direction::InputOnly, RST, "CL CL CL SR CL CL CL CL LA LI CL"),
        ];
        for (direction, flags, expected) in table {
            let new: Vec<_> = State::ALL[..TCP_STATES]
                .iter()
                .map(|old| abbreviation(old.next(direction, flags)))
                .collect();
            assert_eq!(new.join(" "), expected, "{direction:?} {flags:?}");
        }
    }

    #[test]
    fn flags_are_judged_in_the_order_rst_syn_fin_ack() {
        let all = TcpFlags(0x17);
        assert_eq!(ES.next(Direction::Input, all), CL, "RST wins");
        assert_eq!(TW.next(Direction::Input, TcpFlags(0x13)), SR, "then SYN");
        assert_eq!(ES.next(Direction::Input, TcpFlags(0x11)), CW, "then FIN");
        assert_eq!(ES.next(Direction::Input, TcpFlags(0)), CL, "none of them closes");
        assert_eq!(State::Udp.next(Direction::Input, RST), State::Udp);
        assert_eq!(State::SctpInit.next(Direction::Input, RST), State::SctpInit);
    }
}
