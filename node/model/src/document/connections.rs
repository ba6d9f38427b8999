//! What a service does with its connections once they are there.

use serde::{Deserialize, Serialize};

/// What becomes of a connection whose server is in the document no more.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnServerGone {
    /// Its packets are dropped until it times out, SYNs too; LVS's `expire_nodest_conn=0`.
    Drop,
    /// Its client gets a reset and may connect again at once; UDP gets another server.
    #[default]
    Reset,
    /// It is forgotten, and its packets are those of an unknown connection; LVS's
    /// `expire_nodest_conn=1`.
    Reschedule,
}

/// What a SYN of a connection in TIME_WAIT or CLOSE does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnReuse {
    /// It opens a new connection, to whichever server; LVS's `conn_reuse_mode=1`.
    #[default]
    Always,
    /// As `always`, and also in FIN_WAIT, the last state that is seen of a connection by DR and TUN;
    /// LVS's `conn_reuse_mode=2` or 3.
    FinWait,
    /// It follows the old one to its server; LVS's `conn_reuse_mode=0`.
    Never,
}

/// Idle timeouts in seconds; defaults of IPVS (`ip_vs_proto_tcp.c`, `_udp.c`, `_sctp.c`).
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// An established TCP connection.
    pub tcp_s: u32,
    /// A TCP connection that has seen a FIN (FIN_WAIT).
    pub tcp_fin_s: u32,
    /// A UDP flow.
    pub udp_s: u32,
    /// An established SCTP association.
    pub sctp_s: u32,
    /// SYN_SENT: the server opens.
    pub syn_sent_s: u32,
    /// SYN_RECV: the client has sent a SYN.
    pub syn_recv_s: u32,
    /// TIME_WAIT: both sides have closed.
    pub time_wait_s: u32,
    /// CLOSE: reset, or an impossible packet.
    pub close_s: u32,
    /// CLOSE_WAIT: the client has closed, the server has not.
    pub close_wait_s: u32,
    /// LAST_ACK.
    pub last_ack_s: u32,
    /// LISTEN: a data connection is waited for.
    pub listen_s: u32,
    /// SYNACK.
    pub synack_s: u32,
    /// NONE: before the first state of TCP or SCTP.
    pub none_s: u32,
    /// INIT1: the client has sent an INIT.
    pub sctp_init1_s: u32,
    /// INIT: it has sent another.
    pub sctp_init_s: u32,
    /// C-SENT: the server has answered with a cookie.
    pub sctp_cookie_sent_s: u32,
    /// C-REPLIED: the client has shown the cookie.
    pub sctp_cookie_replied_s: u32,
    /// C-WAIT: the server opens.
    pub sctp_cookie_wait_s: u32,
    /// COOKIE: the client has answered a server that opens.
    pub sctp_cookie_s: u32,
    /// C-ECHOED: the server has shown a cookie.
    pub sctp_cookie_echoed_s: u32,
    /// S-SENT: the server closes.
    pub sctp_shutdown_sent_s: u32,
    /// S-RECEIVED: the client closes.
    pub sctp_shutdown_received_s: u32,
    /// S-ACK-SENT: the server has answered a close.
    pub sctp_shutdown_ack_sent_s: u32,
    /// REJECTED: refused.
    pub sctp_rejected_s: u32,
    /// CLOSED: ended.
    pub sctp_closed_s: u32,
}

impl Timeouts {
    /// Each with its name in the document.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u32); 25] {
        [
            ("tcp_s", self.tcp_s),
            ("tcp_fin_s", self.tcp_fin_s),
            ("udp_s", self.udp_s),
            ("sctp_s", self.sctp_s),
            ("syn_sent_s", self.syn_sent_s),
            ("syn_recv_s", self.syn_recv_s),
            ("time_wait_s", self.time_wait_s),
            ("close_s", self.close_s),
            ("close_wait_s", self.close_wait_s),
            ("last_ack_s", self.last_ack_s),
            ("listen_s", self.listen_s),
            ("synack_s", self.synack_s),
            ("none_s", self.none_s),
            ("sctp_init1_s", self.sctp_init1_s),
            ("sctp_init_s", self.sctp_init_s),
            ("sctp_cookie_sent_s", self.sctp_cookie_sent_s),
            ("sctp_cookie_replied_s", self.sctp_cookie_replied_s),
            ("sctp_cookie_wait_s", self.sctp_cookie_wait_s),
            ("sctp_cookie_s", self.sctp_cookie_s),
            ("sctp_cookie_echoed_s", self.sctp_cookie_echoed_s),
            ("sctp_shutdown_sent_s", self.sctp_shutdown_sent_s),
            ("sctp_shutdown_received_s", self.sctp_shutdown_received_s),
            ("sctp_shutdown_ack_sent_s", self.sctp_shutdown_ack_sent_s),
            ("sctp_rejected_s", self.sctp_rejected_s),
            ("sctp_closed_s", self.sctp_closed_s),
        ]
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_s: 900,
            tcp_fin_s: 120,
            udp_s: 300,
            sctp_s: 900,
            syn_sent_s: 120,
            syn_recv_s: 60,
            time_wait_s: 120,
            close_s: 10,
            close_wait_s: 60,
            last_ack_s: 30,
            listen_s: 120,
            synack_s: 120,
            none_s: 3,
            sctp_init1_s: 4,
            sctp_init_s: 61,
            sctp_cookie_sent_s: 61,
            sctp_cookie_replied_s: 61,
            sctp_cookie_wait_s: 61,
            sctp_cookie_s: 61,
            sctp_cookie_echoed_s: 61,
            sctp_shutdown_sent_s: 61,
            sctp_shutdown_received_s: 61,
            sctp_shutdown_ack_sent_s: 61,
            sctp_rejected_s: 4,
            sctp_closed_s: 61,
        }
    }
}
