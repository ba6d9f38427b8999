//! What a service does with connections whose server is gone or drained, and with ports that
//! clients use again.
//!
//! Guarantees: pure; no packet is ever let through to a server that left the configuration.

use steadfast_packet::Protocol;

use crate::State;

/// The settings of a service for that.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Policies {
    /// When the server of a connection is in the configuration no more.
    pub on_server_gone: OnServerGone,
    /// Of which connections a SYN or an INIT opens a new one in their place.
    pub reuse: ConnReuse,
    /// Any TCP packet but a reset opens a connection (`sloppy_tcp=1`).
    pub sloppy_tcp: bool,
    /// Any SCTP packet but an ABORT opens a connection (`sloppy_sctp=1`).
    pub sloppy_sctp: bool,
}

/// Of which connections a SYN or an INIT opens a new one in their place; of the others it follows the
/// old one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ConnReuse {
    /// Of none (`conn_reuse_mode=0`).
    Never,
    /// Of those in TIME_WAIT or CLOSE, and of closed associations (`conn_reuse_mode=1`).
    #[default]
    Always,
    /// Of these, and of those in FIN_WAIT whose answers do not pass here: nothing of theirs will show
    /// that the server has closed, too (`conn_reuse_mode=2`, or 3).
    FinWait,
}

impl ConnReuse {
    /// An opening packet takes the place of a connection in `state`. `both_ways`: its answers pass here.
    //= Linux net/netfilter/ipvs/ip_vs_core.c, is_new_conn_expected(): NOOUTPUT is `both_ways` here,
    //= for what a server sends by itself is never seen
    pub(crate) fn replaces(self, state: State, both_ways: bool) -> bool {
        match self {
            Self::Never => false,
            Self::Always => state.is_reusable(),
            Self::FinWait => state.is_reusable() || state == State::FinWait && !both_ways,
        }
    }
}

/// What becomes of a connection whose server is in the configuration no more.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum OnServerGone {
    /// Its packets are dropped until it times out, SYNs too (`expire_nodest_conn=0`).
    Drop,
    /// Its client is told by a reset and may connect again at once; UDP, which has no resets, gets
    /// another server.
    #[default]
    Reset,
    /// It is forgotten, and its packet is that of an unknown connection (`expire_nodest_conn=1`).
    Reschedule,
}

/// What a packet of a connection is, as far as these rules look.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Part {
    /// A SYN without RST, or an INIT.
    Opening,
    /// Any other TCP or SCTP packet.
    Middle,
    /// UDP: each one may be the first.
    Datagram,
}

/// How it is with the server of a connection.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Standing {
    /// It may get new connections as far as the configuration says.
    Serving,
    /// It drains.
    Drained,
    /// It is in the configuration no more.
    Gone,
}

/// What to do with a packet whose connection is in the table.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Fate {
    /// It goes where the connection goes.
    Follow,
    /// It is as if the connection was not known, and takes its place if it opens one.
    Replace,
    /// Forget it.
    Drop,
}

impl Default for Policies {
    fn default() -> Self {
        Self {
            on_server_gone: OnServerGone::Reset,
            reuse: ConnReuse::Always,
            sloppy_tcp: false,
            sloppy_sctp: false,
        }
    }
}

impl Policies {
    /// What to do with a packet of a known connection. `replaced`: an opening one takes the place of
    /// this connection, see [`ConnReuse::replaces`].
    //= Linux net/netfilter/ipvs/ip_vs_core.c, ip_vs_in_hook(): the port reuse check, then the
    //= server's
    pub(crate) fn fate(self, part: Part, replaced: bool, standing: Standing) -> Fate {
        let opening = part == Part::Opening;
        match (standing, self.on_server_gone) {
            _ if opening && replaced => Fate::Replace,
            (Standing::Drained, OnServerGone::Reschedule) if opening => Fate::Replace,
            (Standing::Serving | Standing::Drained, _) => Fate::Follow,
            (Standing::Gone, OnServerGone::Drop) => Fate::Drop,
            (Standing::Gone, OnServerGone::Reset | OnServerGone::Reschedule) => Fate::Replace,
        }
    }

    /// Whether a packet that neither opens nor resets may open a connection. `known`: one of
    /// its key is in the table.
    pub(crate) fn opens_in_the_middle(self, protocol: Protocol, known: bool) -> bool {
        let is_sloppy = match protocol {
            Protocol::Tcp => self.sloppy_tcp,
            Protocol::Sctp => self.sloppy_sctp,
            Protocol::Udp => true,
        };
        is_sloppy && !(known && self.on_server_gone == OnServerGone::Reset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_packet_replaces_what_has_ended() {
        use ConnReuse::*;
        let ended = [State::TimeWait, State::Close, State::SctpClosed];
        for state in State::ALL {
            for both_ways in [false, true] {
                let has_ended = ended.contains(&state);
                let half_closed = state == State::FinWait && !both_ways;
                let cases =
                    [(Never, false), (Always, has_ended), (FinWait, has_ended || half_closed)];
                for (reuse, expected) in cases {
                    let found = reuse.replaces(state, both_ways);
                    assert_eq!(found, expected, "{reuse:?} {state} {both_ways}");
                }
            }
        }
    }

    #[test]
    fn each_packet_of_a_known_connection_has_its_fate() {
        use {Fate::*, OnServerGone as Gone, Part::*, Standing::*};
        // (part, finished, standing), then what drop, reset and reschedule do with it.
        let table = [
            ((Opening, false, Serving), [Follow, Follow, Follow]),
            ((Opening, true, Serving), [Replace, Replace, Replace]),
            ((Opening, false, Drained), [Follow, Follow, Replace]),
            ((Opening, true, Drained), [Replace, Replace, Replace]),
            ((Opening, false, Standing::Gone), [Drop, Replace, Replace]),
            ((Opening, true, Standing::Gone), [Replace, Replace, Replace]),
            ((Middle, false, Serving), [Follow, Follow, Follow]),
            ((Middle, true, Serving), [Follow, Follow, Follow]),
            ((Middle, false, Drained), [Follow, Follow, Follow]),
            ((Middle, true, Drained), [Follow, Follow, Follow]),
            ((Middle, false, Standing::Gone), [Drop, Replace, Replace]),
            ((Middle, true, Standing::Gone), [Drop, Replace, Replace]),
            ((Datagram, false, Serving), [Follow, Follow, Follow]),
            ((Datagram, false, Drained), [Follow, Follow, Follow]),
            ((Datagram, false, Standing::Gone), [Drop, Replace, Replace]),
        ];
        let all = [Gone::Drop, Gone::Reset, Gone::Reschedule];
        for ((part, finished, standing), fates) in table {
            for (on_server_gone, expected) in all.into_iter().zip(fates) {
                let policies = Policies { on_server_gone, ..Policies::default() };
                let fate = policies.fate(part, finished, standing);
                assert_eq!(fate, expected, "{on_server_gone:?} {part:?} {finished} {standing:?}");
            }
        }
    }
}
