//! Connection states and the TCP transition tables of IPVS.
//!
//! Guarantees: the tables are those of Linux `net/netfilter/ipvs/ip_vs_proto_tcp.c` (`tcp_states`),
//! cell by cell. Not here: sequence numbers are never looked at, exactly as in IPVS.

use steadfast_packet::TcpFlags;

/// State of a connection; numbers 0 to 10 are those of IPVS (`IP_VS_TCP_S_*`).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum State {
    /// Just created.
    None = 0,
    /// Both ways open.
    Established = 1,
    /// The server opened (never with a client's SYN alone).
    SynSent = 2,
    /// SYN seen from the client.
    SynRecv = 3,
    /// One side has closed.
    FinWait = 4,
    /// Both sides have closed.
    TimeWait = 5,
    /// Reset, or an impossible packet.
    Close = 6,
    /// The server waits for its own close.
    CloseWait = 7,
    /// Waiting for the last acknowledgement.
    LastAck = 8,
    /// Waiting for a data connection (FTP).
    Listen = 9,
    /// SYN answered under `secure_tcp`.
    SynAck = 10,
    /// UDP has one state only.
    Udp = 11,
}

impl State {
    /// Counts as an active connection of its server.
    //= Linux net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_state_active_table[]; UDP never does
    #[must_use]
    pub fn is_active(self) -> bool {
        matches!(self, Self::Established | Self::SynSent | Self::SynRecv | Self::SynAck)
    }
}

/// What a state is worth when the table is full.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Class {
    /// Not yet proven to be a conversation: goes first.
    HalfOpen,
    /// Ending: goes second.
    Closing,
    /// In use: stays.
    Established,
}

/// Which of the three tables applies to a packet.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Direction {
    /// Client to server, replies pass here too (NAT).
    Input,
    /// Server to client.
    Output,
    /// Client to server, replies do not pass here (DR).
    InputOnly,
}

/// Seconds without a packet after which a connection goes, by the number of its state.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Timeouts([u32; State::ALL.len()]);

/// Number of states that are TCP's.
pub const TCP_STATES: usize = 11;

use State::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
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

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; TCP_STATES + 1] =
        [Self::None, ES, SS, SR, FW, TW, CL, CW, LA, LI, SA, Self::Udp];

    /// The state of this number, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The TCP state after a packet with `flags` in `direction`.
    ///
    /// A UDP state stays what it is.
    #[must_use]
    pub fn next(self, direction: Direction, flags: TcpFlags) -> Self {
        if self == Self::Udp {
            return self;
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
        table[row][self as usize]
    }

    /// What the state is worth when room is needed.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::None | SS | SR | SA | LI => Class::HalfOpen,
            FW | TW | CL | CW | LA => Class::Closing,
            ES | Self::Udp => Class::Established,
        }
    }

    /// A SYN in this state opens a new connection (`conn_reuse_mode=1`).
    #[must_use]
    pub fn is_reusable(self) -> bool {
        matches!(self, TW | CL)
    }

    /// The name IPVS prints.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "NONE",
            ES => "ESTABLISHED",
            SS => "SYN_SENT",
            SR => "SYN_RECV",
            FW => "FIN_WAIT",
            TW => "TIME_WAIT",
            CL => "CLOSE",
            CW => "CLOSE_WAIT",
            LA => "LAST_ACK",
            LI => "LISTEN",
            SA => "SYNACK",
            Self::Udp => "UDP",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Timeouts {
    /// Nanoseconds without a packet after which a connection in `state` goes.
    #[must_use]
    pub fn of_ns(&self, state: State) -> u64 {
        u64::from(self.0[state as usize]) * 1_000_000_000
    }

    /// The same but for `state`.
    #[must_use]
    pub fn with(mut self, state: State, seconds: u32) -> Self {
        self.0[state as usize] = seconds;
        self
    }
}

impl Default for Timeouts {
    /// The defaults of IPVS.
    fn default() -> Self {
        //= Linux ip_vs_proto_tcp.c, tcp_timeouts[]; ip_vs_conn_new(): 3 s before the first state
        Self([3, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300])
    }
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
            SA => "SA",
            State::Udp => "UDP",
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
    }

    #[test]
    fn timeouts_are_those_of_ipvs() {
        let seconds: Vec<_> = State::ALL
            .iter()
            .map(|state| Timeouts::default().of_ns(*state) / 1_000_000_000)
            .collect();
        assert_eq!(seconds, [3, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120, 300]);
        for state in State::ALL {
            let changed = Timeouts::default().with(state, 7);
            for other in State::ALL {
                let expected =
                    if other == state { 7_000_000_000 } else { Timeouts::default().of_ns(other) };
                assert_eq!(changed.of_ns(other), expected, "{state} changed, {other} read");
            }
        }
    }

    #[test]
    fn numbers_name_states_both_ways() {
        for state in State::ALL {
            assert_eq!(State::from_u8(state as u8), Some(state));
        }
        assert_eq!(State::from_u8(12), None);
    }
}
