//! Services, schedulers, connections and forwarding decisions; pure.
//!
//! A [`Worker`] takes frames and gives verdicts; what all workers of a node share is in
//! [`Shared`]: the compiled [`Config`], the [`Groups`] this node plays a part in, the
//! [`NextHops`] and the [`ConnectionTable`].
//!
//! Guarantees: no clock, no I/O, no randomness but seeds that the driver gives; nothing that a
//! packet or a peer contains makes it panic; every table and queue has a named bound.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod admit;
mod alone;
mod bucket;
mod cache;
mod client_address;
mod config;
mod connection;
mod cookie;
mod counters;
mod degrade;
mod deltas;
mod early;
mod estimator;
mod expired;
mod express;
mod fast;
mod follow;
mod forward;
mod fragments;
mod frame;
mod ftp;
mod group;
mod handshake;
mod hook;
mod icmp;
mod ids;
mod index;
mod ledger;
mod limits;
mod listen;
mod lists;
mod local_ports;
mod lookup;
mod mss;
mod neighbour;
mod newcomers;
mod next_hop;
mod once;
mod other;
mod outbox;
mod pending;
mod persist;
mod pieces;
mod policies;
mod prepare;
mod proxy_header;
mod question;
mod quic;
mod rehearse;
mod replica;
mod replies;
mod room;
mod scheduler;
mod shared;
mod sip;
mod slab;
mod sources;
mod spec;
mod stale;
mod state;
mod table;
mod template;
mod templates;
mod too_big;
mod tunnel;
mod tunnel_mtu;
mod unknown;
mod verdict;
mod wheel;
mod worker;

pub use admit::HOLD_BACK_NS;
pub use config::{Address, AddressKind, Config, ConfigError, Service};
pub use connection::{
    Connection, FlowKey, Gone, NewConnection, Protocol, Provenance, Record, ReplyKey, Target,
};
pub use cookie::{CookieKey, CookieKeys};
pub use counters::{FlowCounters, FlowTotals, Sent, WORKERS_MAX, WorkerCounters};
pub use deltas::{Deltas, LongerReply};
pub use early::{
    EARLY_BYTES_MAX, EARLY_BYTES_OF_PACKET_MAX, EARLY_MAX, EARLY_OF_PACKET_MAX, EARLY_TIMEOUT_NS,
};
pub use estimator::{ESTIMATE_EVERY, Estimators, FlowRates};
pub use fragments::{FRAGMENT_TIMEOUT_NS, FRAGMENTED_MAX};
pub use group::{GroupState, Groups, Role};
pub use hook::{Carried, NoHook, Removal, SyncHook};
pub use ids::{GroupId, Origin, ServerId, ServiceId};
pub use index::PROBE_MAX;
pub use limits::{CookieEvent, Excess, ExcessTotals, Limits, Over};
pub use listen::{Listen, Ports};
pub use local_ports::{
    Exhausted, Holding, Local, LocalPorts, PORT_MIN, PORTS_PER_SLOT, PROBES_MAX, PortSlot, SLOTS,
};
pub use next_hop::{Hop, NextHops, NextHopsSpec, PortSpec, Resolved, Route, Tagged};
pub use outbox::{OUTBOX_BYTES_MAX, OUTBOX_FRAMES_MAX};
pub use pending::{HANDSHAKES_MAX, WAITS_MS};
pub use policies::{ConnReuse, OnServerGone, Policies};
pub use question::{Question, Step};
pub use quic::{
    NONCE_LEN_MIN, QUIC_CONFIGS_MAX, QUIC_SERVER_ID_LEN_MAX, QuicConfig, QuicServerId, QuicSpec,
};
pub use rehearse::{Met, Rehearsal};
pub use room::HALF_OPEN_KEEP_S;
pub use scheduler::{Asked, Scheduler, ServerLoad, Slot};
pub use shared::Shared;
pub use spec::{
    ClientAddress, ConfigSpec, Forwarding, Ftp, GroupSpec, HashOptions, MssClamp, SchedulerKind,
    ServerOrder, ServerSpec, ServiceSpec, SynProxy, SyncSettings, Unserved,
};
pub use stale::{STALE_SENDERS_MAX, StaleSender, StaleSenders};
pub use state::{Class, Direction, SCTP_STATES, State, TCP_STATES, Timeouts};
pub use steadfast_packet::{Grown, Tunnel, UdpChecksum};
pub use table::{
    Advanced, Applied, CONNECTIONS_CEILING, ConnectionTable, Cursor, InsertError, Replica, Sweep,
    TableOptions,
};
pub use template::{Persistence, Template, TemplateKey, TemplateRecord, TemplateReplica};
pub use templates::Templates;
pub use tunnel_mtu::{TUNNEL_MTU_TIMEOUT_NS, TUNNEL_MTUS_MAX, TunnelErrors, TunnelMtus};
pub use unknown::{ADOPT_AFTER_TAKE_OVER_NS, ASKED_MAX, QUESTIONS_PER_SECOND, Unknown, Wanted};
pub use verdict::{ACTIONS_MAX, Action, Actions, Reason, SmallFrame, Verdict};
pub use worker::Worker;
