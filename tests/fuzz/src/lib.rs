//! Fuzz targets: every parser of what comes from outside, each with a corpus in `corpus/NAME`.
//!
//! `make fuzz` runs them with libFuzzer for a minute (`TARGET=name SECONDS=n SEED=n`), `make test`
//! does the same, and `cargo test` runs every input that is kept, without a fuzzer. An input that made a
//! target fail goes into `regressions/NAME`, under a name that says what it is.
//!
//! | what is read | of whom | by | target |
//! |---|---|---|---|
//! | Ethernet, VLAN tags, ARP, IPv4 with options, IPv6 with extension headers, fragments | anybody | `packet/parse.rs`, `ipv4.rs`, `ipv6.rs`, `vlan.rs`, `transport.rs` | `packet`, `frame` |
//! | TCP options | anybody | `packet/options.rs`, `segment.rs`, `mss.rs`, `shift.rs`, `toa.rs` | `packet`, `frame` |
//! | SCTP chunks | anybody | `packet/sctp.rs`, `packet/answer/abort.rs` | `packet`, `frame` |
//! | packets quoted by ICMP and ICMPv6 errors | anybody | `packet/quote.rs`, `dataplane/icmp.rs` | `packet`, `frame` |
//! | cookies that come back | anybody | `dataplane/cookie.rs`, `handshake.rs` | `frame` |
//! | first data, of whom a PROXY header tells | anybody | `packet/proxy.rs`, `dataplane/proxy_header.rs` | `frame` |
//! | ICMP and ICMPv6 errors about tunnels | anybody | `packet/tunnel_error.rs` | `packet` |
//! | neighbour solicitations | anybody | `packet/ipv6.rs` | `packet`, `frame` |
//! | replies to PASV | real servers | `packet/ftp.rs` | `packet`, `frame` |
//! | QUIC headers and connection IDs | anybody | `packet/quic.rs`, `dataplane/quic.rs` | `packet`, `frame` |
//! | beacons, claims | anybody on a segment | `ownership/codec.rs` | `beacon` |
//! | records, acknowledgements, snapshots | members | `replication/wire` | `replication` |
//! | what health checks see | members | `health/view.rs` | `view` |
//! | Raft's requests and responses; commands and states in them | members | `consensus/frame.rs`, `model` | `raft` |
//! | configuration documents | operators | `model/document.rs`, `ctl/locate` | `document` |
//! | join tokens, fingerprints, prefixes, durations, the packet of `trace` | whoever asks | `peer/pki`, `model`, `ctl` | `text` |
//!
//! Not here, because other people's code reads it: TLS, certificates, QUIC, HTTP/2, protobuf,
//! netlink, the database file, the BPF object. What is left of our own beside these: names in
//! certificates, read when TLS has verified them (`peer/tests/peers/pki.rs`); lengths in front of frames
//! of a stream (`peer/tests/peers/links.rs`); records on disk, behind a CRC (`consensus/store/record.rs`);
//! the local file of the daemon and `clusterctl`'s credentials, which root writes.
//!
//! # Keeping an input, growing a corpus
//!
//! ```text
//! make fuzz-replay TARGET=frame INPUT=FILE
//! TARGET=frame target/debug/fuzz -minimize_crash=1 -runs=100000 FILE        makes it smaller
//! TARGET=frame target/debug/fuzz -max_total_time=600 NEW tests/fuzz/corpus/frame
//! TARGET=frame target/debug/fuzz -set_cover_merge=1 tests/fuzz/corpus/frame NEW
//! ```
//!
//! The last two look for ten minutes and keep what leads to new places. The first inputs of all were
//! made by `cargo run -p steadfast-fuzz --example seeds FOLDER`.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

// `clusterctl` knows a protocol by the name that the API gives it.
extern crate self as steadfast_proto;

pub mod beacon;
pub mod document;
pub mod frame;
pub mod packet;
mod pki;
pub mod raft;
pub mod replication;
pub mod text;
pub mod view;
pub mod wire;
mod world;

use std::sync::OnceLock;

/// Something to run inputs through.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its corpus.
    pub name: &'static str,
    /// Panics when something is wrong.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 8] = [
    Target { name: "frame", run: frame::run },
    Target { name: "packet", run: packet::run },
    Target { name: "replication", run: replication::run },
    Target { name: "document", run: document::run },
    Target { name: "beacon", run: beacon::run },
    Target { name: "raft", run: raft::run },
    Target { name: "view", run: view::run },
    Target { name: "text", run: text::run },
];

/// The target that the variable `TARGET` names; the program ends when there is none.
#[must_use]
pub fn chosen() -> &'static Target {
    static CHOSEN: OnceLock<&Target> = OnceLock::new();
    CHOSEN.get_or_init(|| {
        let name = std::env::var("TARGET").unwrap_or_default();
        TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| {
            let names = TARGETS.map(|target| target.name).join(", ");
            eprintln!("TARGET={name} is no fuzz target; there are {names}");
            std::process::exit(64)
        })
    })
}

/// What `clusterctl` reads the packet of a trace into, without the crate of the API.
#[doc(hidden)]
pub mod v1 {
    /// As in the API.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum Protocol {
        /// TCP.
        Tcp,
        /// UDP.
        Udp,
        /// SCTP.
        Sctp,
    }
}
