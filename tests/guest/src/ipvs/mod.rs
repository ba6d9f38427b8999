//! What is asked of the kernel's IPVS, and what it answers.
//!
//! A [`Scenario`] is one service in a director of its own, and what happens to it step by step. The
//! program `ipvs-oracle` plays it inside a guest ([`play`]) and tells after every step what the
//! kernel holds ([`Seen`]). Who compares that with what is elsewhere.

mod director;
mod frames;
mod listing;
mod player;

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use frames::{
    MARK, THEN_ABORT, VIP_PORT, VIP_PORTS, carried, server_addr, server_port, to_client, to_vip,
    vip,
};
pub use player::{Game, hexadecimal, play};

/// One service, and what happens.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Scenario {
    /// For people.
    pub name: String,
    /// Its scheduler, as ipvsadm names it.
    pub scheduler: String,
    /// Scheduler flags, as ipvsadm names them.
    pub flags: Vec<String>,
    /// What its packets are.
    pub protocol: Protocol,
    /// IPv6, not IPv4.
    pub v6: bool,
    /// How packets reach the servers.
    pub method: Method,
    /// The kernel takes packets to all of [`VIP_PORTS`] for the service, by a firewall mark.
    pub marked: bool,
    /// Every datagram is scheduled.
    pub one_packet: bool,
    /// What each server counted is asked for at the end.
    pub counted: bool,
    /// The servers it begins with, in the order in which they are added.
    pub servers: Vec<Server>,
    /// Clients keep their server.
    pub persistence: Option<Persistence>,
    /// The clients' ends of its connections.
    pub flows: Vec<Flow>,
    /// What happens, one after the other.
    pub steps: Vec<Step>,
}

/// What the packets of a scenario are.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[allow(missing_docs, reason = "names of protocols")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// How packets reach the servers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Method {
    /// Rewritten.
    Nat,
    /// By the MAC address.
    Dr,
    /// In another IP packet.
    IpIp,
}

/// How a service keeps clients at their servers.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Persistence {
    /// A template lasts this long after the last new connection.
    pub timeout_s: u32,
    /// Leading bits of a client's address that count.
    pub prefix_len: u8,
    /// `expire_quiescent_template`.
    pub expire_quiescent: bool,
}

/// A real server.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Server {
    /// The last octet of its address.
    pub number: u8,
    /// Its weight.
    pub weight: u16,
    /// With so many connections it takes no more; 0: no bound.
    pub upper: u32,
    /// Below so many it takes some again; 0: below three quarters of `upper`.
    pub lower: u32,
}

impl Server {
    /// One without thresholds.
    #[must_use]
    pub fn new(number: u8, weight: u16) -> Self {
        Self { number, weight, upper: 0, lower: 0 }
    }
}

/// A client's end of a connection.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
pub struct Flow {
    /// The client's address, out of 10.0.0.0/8 or 2001:db8:c::/48.
    pub addr: IpAddr,
    /// The client's port.
    pub port: u16,
    /// The port of the VIP: one of [`VIP_PORTS`].
    pub vip_port: u16,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Step {
    /// The client of a flow sends a packet.
    Send {
        /// Index of the flow.
        flow: usize,
        /// TCP flags; under SCTP the type of its chunk, and [`THEN_ABORT`].
        flags: u8,
    },
    /// The server of a flow's connection sends one; nothing where there is no connection.
    Reply {
        /// Index of the flow.
        flow: usize,
        /// As above.
        flags: u8,
    },
    /// A server gets another weight.
    Weigh(Server),
    /// A server is added.
    Add(Server),
    /// A server is removed.
    Remove {
        /// Its number.
        number: u8,
    },
    /// Nothing, for a while.
    Wait {
        /// Seconds.
        seconds: u32,
    },
}

impl Step {
    /// The flow it is about.
    #[must_use]
    pub fn flow(&self) -> Option<usize> {
        match self {
            Self::Send { flow, .. } | Self::Reply { flow, .. } => Some(*flow),
            Self::Weigh(_) | Self::Add(_) | Self::Remove { .. } | Self::Wait { .. } => None,
        }
    }
}

/// What is there after a step.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Seen {
    /// The connection of the step's flow.
    pub connection: Option<Entry>,
    /// What became of the step's packet.
    pub sent: Option<Sent>,
    /// That packet as it left, from the IP header on, in hexadecimal.
    pub packet: String,
    /// The template of the step's flow; its state is NONE or ASSURED.
    pub template: Option<Entry>,
    /// How many templates lead to each server, by number.
    pub templates: Vec<(u8, usize)>,
    /// The present servers' connections, by number: active and inactive ones.
    pub loads: Vec<(u8, u32, u32)>,
    /// What the service counted so far.
    pub counts: Counts,
}

/// What a service or a server counted.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets to servers, and their bytes (IP length).
    pub in_pkts: u64,
    /// As above.
    pub in_bytes: u64,
    /// Packets from servers, and their bytes.
    pub out_pkts: u64,
    /// As above.
    pub out_bytes: u64,
}

/// A connection.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Entry {
    /// The number of its server.
    pub server: u8,
    /// Its state, as IPVS names it.
    pub state: String,
    /// Seconds until it goes, rounded down.
    pub expires_s: u64,
}

/// Where a packet went.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub enum Sent {
    /// To the server of this number.
    Server(u8),
    /// To the client, from the VIP.
    Client,
}

/// What the kernel did with a scenario.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Played {
    /// The scenario's index in the script.
    pub scenario: usize,
    /// What was seen before the first step, and after each one; fewer when the guest was too slow
    /// to play all before the first connections expire.
    pub seen: Vec<Seen>,
    /// What each server that is left counted, by number; only if that was asked for.
    pub servers: Vec<(u8, Counts)>,
    /// How long it took, in milliseconds of the guest.
    pub took_ms: u64,
}
