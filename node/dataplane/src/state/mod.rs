//! Connection states, and how long each lasts without a packet.
//!
//! Guarantees: states, time-outs and transitions are those of IPVS; the tables are in a file for
//! each protocol. UDP has one state, which no packet changes.

mod sctp;
mod tcp;

use steadfast_packet::{Chunk, Protocol, TcpFlags};

pub use self::{sctp::SCTP_STATES, tcp::TCP_STATES};

/// State of a connection. The numbers are this table's own; [`State::number`] is that of IPVS.
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
    /// SCTP: INIT seen from the client.
    SctpInit1 = 12,
    /// SCTP: a second INIT seen from the client.
    SctpInit = 13,
    /// SCTP: the server answered with a cookie.
    SctpCookieSent = 14,
    /// SCTP: the client showed the cookie.
    SctpCookieReplied = 15,
    /// SCTP: the server opened.
    SctpCookieWait = 16,
    /// SCTP: the client answered a server that opened.
    SctpCookie = 17,
    /// SCTP: the server showed a cookie.
    SctpCookieEchoed = 18,
    /// SCTP: both ways open.
    SctpEstablished = 19,
    /// SCTP: the server closes.
    SctpShutdownSent = 20,
    /// SCTP: the client closes.
    SctpShutdownReceived = 21,
    /// SCTP: the server has answered a close.
    SctpShutdownAckSent = 22,
    /// SCTP: refused.
    SctpRejected = 23,
    /// SCTP: ended.
    SctpClosed = 24,
}

impl State {
    /// Counts as an active connection of its server.
    //= Linux net/netfilter/ipvs/ip_vs_proto_tcp.c, tcp_state_active_table[]; UDP never does
    //= Linux net/netfilter/ipvs/ip_vs_proto_sctp.c, set_sctp_state(): ESTABLISHED alone
    #[must_use]
    pub fn is_active(self) -> bool {
        self.is_established() || matches!(self, Self::SynSent | Self::SynRecv | Self::SynAck)
    }

    /// ESTABLISHED, of TCP or of SCTP.
    #[must_use]
    pub fn is_established(self) -> bool {
        matches!(self, Self::Established | Self::SctpEstablished)
    }

    /// A connection of this protocol can be in this state.
    #[must_use]
    pub fn is_of(self, protocol: Protocol) -> bool {
        match self {
            Self::None => protocol != Protocol::Udp,
            Self::Udp => protocol == Protocol::Udp,
            state if (state as usize) < TCP_STATES => protocol == Protocol::Tcp,
            _ => protocol == Protocol::Sctp,
        }
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
pub struct Timeouts([u32; STATES]);

use State::{
    Close as CL, CloseWait as CW, Established as ES, FinWait as FW, LastAck as LA, Listen as LI,
    SynAck as SA, SynRecv as SR, SynSent as SS, TimeWait as TW,
};

/// All states.
const STATES: usize = TCP_STATES + 1 + SCTP_STATES - 1;

impl State {
    /// All states, in the order of their numbers in this table.
    pub const ALL: [Self; STATES] = {
        let tcp = [Self::None, ES, SS, SR, FW, TW, CL, CW, LA, LI, SA];
        let mut all = [Self::Udp; STATES];
        let mut at = 0;
        while at < TCP_STATES {
            all[at] = tcp[at];
            at += 1;
        }
        // After UDP those of SCTP, but for NONE, which both have.
        while at < STATES - 1 {
            at += 1;
            all[at] = sctp::STATES[at - TCP_STATES];
        }
        all
    };

    /// The state of this number in this table, if there is one.
    #[must_use]
    pub fn from_u8(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The number of IPVS, which depends on the protocol; 11 for UDP.
    #[must_use]
    pub fn number(self) -> u8 {
        let number = self as u8;
        if number > Self::Udp as u8 { number - Self::Udp as u8 } else { number }
    }

    /// The state with this [number](Self::number) in `protocol`, if there is one.
    #[must_use]
    pub fn of_number(protocol: Protocol, number: u8) -> Option<Self> {
        let state = match protocol {
            Protocol::Sctp => sctp::STATES.get(usize::from(number)).copied(),
            _ => Self::from_u8(number),
        };
        state.filter(|state| state.is_of(protocol))
    }

    /// The state in which a connection of `protocol` begins.
    #[must_use]
    pub fn first(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Udp => Self::Udp,
            Protocol::Tcp | Protocol::Sctp => Self::None,
        }
    }

    /// The TCP state after a packet with `flags` in `direction`; other states stay what they are.
    #[must_use]
    pub fn next(self, direction: Direction, flags: TcpFlags) -> Self {
        tcp::next(self, direction, flags)
    }

    /// The SCTP state after a packet that `chunk` speaks for; other states stay what they are.
    #[must_use]
    pub fn next_sctp(self, direction: Direction, chunk: Chunk) -> Self {
        sctp::next(self, direction, chunk)
    }

    /// What the state is worth when room is needed.
    #[must_use]
    pub fn class(self) -> Class {
        match self {
            Self::None | SS | SR | SA | LI => Class::HalfOpen,
            Self::SctpInit1
            | Self::SctpInit
            | Self::SctpCookieSent
            | Self::SctpCookieReplied
            | Self::SctpCookieWait
            | Self::SctpCookie
            | Self::SctpCookieEchoed => Class::HalfOpen,
            FW | TW | CL | CW | LA => Class::Closing,
            Self::SctpShutdownSent
            | Self::SctpShutdownReceived
            | Self::SctpShutdownAckSent
            | Self::SctpRejected
            | Self::SctpClosed => Class::Closing,
            ES | Self::Udp | Self::SctpEstablished => Class::Established,
        }
    }

    /// A SYN or INIT in this state opens a new connection (`conn_reuse_mode=1`).
    //= Linux ip_vs_core.c, is_new_conn_expected()
    #[must_use]
    pub fn is_reusable(self) -> bool {
        matches!(self, TW | CL | Self::SctpClosed)
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
            //= Linux ip_vs_proto_sctp.c, sctp_state_name_table[]
            Self::SctpInit1 => "INIT1",
            Self::SctpInit => "INIT",
            Self::SctpCookieSent => "C-SENT",
            Self::SctpCookieReplied => "C-REPLIED",
            Self::SctpCookieWait => "C-WAIT",
            Self::SctpCookie => "COOKIE",
            Self::SctpCookieEchoed => "C-ECHOED",
            Self::SctpEstablished => "ESTABLISHED",
            Self::SctpShutdownSent => "S-SENT",
            Self::SctpShutdownReceived => "S-RECEIVED",
            Self::SctpShutdownAckSent => "S-ACK-SENT",
            Self::SctpRejected => "REJECTED",
            Self::SctpClosed => "CLOSED",
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
        const TCP: [u32; TCP_STATES] = [3, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120];
        //= Linux ip_vs_proto_udp.c, udp_timeouts[]
        const UDP: [u32; 1] = [300];
        //= Linux ip_vs_proto_sctp.c, sctp_timeouts[], after NONE
        const SCTP: [u32; SCTP_STATES - 1] = [4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61];
        let mut seconds = TCP.into_iter().chain(UDP).chain(SCTP);
        Self(std::array::from_fn(|_| seconds.next().unwrap_or(0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_those_of_ipvs() {
        let seconds: Vec<_> = State::ALL
            .iter()
            .map(|state| Timeouts::default().of_ns(*state) / 1_000_000_000)
            .collect();
        let (tcp, rest) = seconds.split_at(TCP_STATES);
        assert_eq!(tcp, [3, 900, 120, 60, 120, 120, 10, 60, 30, 120, 120]);
        assert_eq!(rest[0], 300, "UDP");
        assert_eq!(rest[1..], [4, 61, 61, 61, 61, 61, 61, 900, 61, 61, 61, 4, 61]);
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
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        for (number, state) in State::ALL.into_iter().enumerate() {
            assert_eq!((State::from_u8(number as u8), state as usize), (Some(state), number));
            for protocol in protocols.into_iter().filter(|protocol| state.is_of(*protocol)) {
                assert_eq!(State::of_number(protocol, state.number()), Some(state));
            }
        }
        assert_eq!(State::from_u8(STATES as u8), None);
        for (protocol, numbers) in
            [(Protocol::Tcp, 0..=10), (Protocol::Udp, 11..=11), (Protocol::Sctp, 0..=13)]
        {
            let known = |number: &u8| State::of_number(protocol, *number).is_some();
            assert_eq!((0..=255).filter(known).collect::<Vec<_>>(), numbers.collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_counts_as_active_is_that_of_ipvs() {
        let active = State::ALL.into_iter().filter(|state| state.is_active());
        let expected = [ES, SS, SR, SA, State::SctpEstablished];
        assert_eq!(active.collect::<Vec<_>>(), expected);
        let reusable = State::ALL.into_iter().filter(|state| state.is_reusable());
        assert_eq!(reusable.collect::<Vec<_>>(), [TW, CL, State::SctpClosed]);
    }
}
