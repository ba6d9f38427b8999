//! What the orchestrator and `lab-client` say to each other: one JSON document a line.
//!
//! The orchestrator sends a [`Command`] on the client's standard input and waits for exactly one
//! [`Event`] on its standard output. When the input ends the client ends.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::judge::{Broken, FaultWindow, Kind};

/// What the client shall do.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Starts the UDP probe and waits for its first answer. Answer: [`Event::Probing`].
    Probe {
        /// Where to.
        target: SocketAddr,
        /// Datagrams a second.
        rate_hz: u32,
    },
    /// Opens sessions and waits until each is up or failed. Answer: [`Event::Opened`].
    Open {
        /// Where to.
        target: SocketAddr,
        /// Sessions that talk.
        talkers: u32,
        /// Sessions that only connect.
        silent: u32,
    },
    /// What each session has seen so far. Answer: [`Event::Sessions`].
    Snapshot,
    /// The silent sessions speak once, now. Answer: [`Event::Speaking`].
    Speak,
    /// Nobody sends any more; outstanding echoes are awaited for a moment, every session is
    /// judged and closed. Answer: [`Event::Finished`].
    Finish {
        /// When the fault was.
        fault: FaultWindow,
    },
}

/// What the client answers.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The probe has its first answer.
    Probing {
        /// The server that answered.
        server: String,
    },
    /// All sessions of one `Open` are up, or failed.
    Opened {
        /// How many are up.
        established: u32,
        /// Why the others are not; the first few.
        failures: Vec<String>,
        /// When the last of them was up.
        last_up_ns: u64,
    },
    /// The sessions, by id.
    Sessions {
        /// All of them.
        sessions: Vec<SessionReport>,
    },
    /// The silent sessions have spoken.
    Speaking {
        /// How many did.
        sessions: u32,
    },
    /// The last word.
    Finished {
        /// Every session that was ever up.
        sessions: Vec<SessionReport>,
        /// The probe, if one was started.
        probe: Option<ProbeReport>,
    },
    /// The command could not be carried out.
    Failed {
        /// Why.
        reason: String,
    },
}

/// What one session has seen.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct SessionReport {
    /// Its number.
    pub id: u32,
    /// What it does.
    pub kind: Kind,
    /// Its own address and port.
    pub local: SocketAddr,
    /// The server that answered it first.
    pub server: Option<String>,
    /// Records sent.
    pub sent: u64,
    /// Echoes received.
    pub echoed: u64,
    /// Longest time between two echoes around the fault; only in [`Event::Finished`].
    pub stall_ns: Option<u64>,
    /// Why it is broken, if it is.
    pub broken: Option<Broken>,
}

/// What the probe has seen.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct ProbeReport {
    /// Datagrams sent since the first answer.
    pub sent: u64,
    /// Those answered.
    pub answered: u64,
    /// Those never answered.
    pub lost: u64,
    /// Those of `lost` that were sent before the fault.
    pub lost_before_fault: u64,
    /// Longest time between two answers around the fault.
    pub silent_ns: u64,
    /// The servers that answered, in order of appearance.
    pub servers: Vec<String>,
    /// Errors the socket reported, such as an ICMP message.
    pub socket_errors: u64,
}
