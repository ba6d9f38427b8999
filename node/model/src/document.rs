//! The desired state as an operator writes it: one YAML document.
//!
//! Guarantees: an unknown key, a wrong type or a value out of range is an error with line and
//! column; nothing is guessed. Does not check how the parts fit together: that is
//! [`crate::validate`].

mod client_address;
mod connections;
mod copies;
mod ftp;
mod hold_down;
mod limits;
mod listening;
mod persistence;
mod policy;
mod quic;
mod scheduling;
mod syn_proxy;
mod sync_group;
mod tunnel;

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Serialize, de::IgnoredAny};
use thiserror::Error;

pub use self::{
    client_address::ClientAddress,
    connections::{ConnReuse, OnServerGone, Timeouts},
    copies::CopiesSpec,
    ftp::FtpSpec,
    hold_down::HoldDownSpec,
    limits::{LimitsSpec, Over},
    listening::{Listener, MatchSpec, Ports},
    persistence::PersistenceSpec,
    policy::{Alone, Policy},
    quic::{QuicLbSpec, octets},
    scheduling::{HashSpec, Scheduler, SchedulerText, ServerOrder},
    syn_proxy::SynProxy,
    sync_group::SyncGroup,
    tunnel::{GUE_PORT, MssClamp, TunnelKind, TunnelSpec},
};

/// The only `apiVersion` this build reads.
pub const API_VERSION: &str = "steadfast/v1";

/// A document larger than this is refused before it is parsed.
pub const DOCUMENT_BYTES_MAX: usize = 4 << 20;

/// The whole desired state of a cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Format of the document: [`API_VERSION`].
    #[serde(rename = "apiVersion")]
    pub api_version: String,
    /// Networks the nodes forward on. A node finds its interface by its own address there.
    #[serde(default)]
    pub segments: Vec<SegmentSpec>,
    /// VIP groups.
    #[serde(default)]
    pub groups: Vec<GroupSpec>,
    /// Virtual services.
    #[serde(default)]
    pub services: Vec<ServiceSpec>,
    /// Settings of the whole cluster.
    #[serde(default)]
    pub settings: Settings,
}

/// A network, by name and prefixes.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentSpec {
    /// Name, as `clusterctl status` shows it.
    pub name: String,
    /// The prefix of the network, such as `198.18.0.0/24`.
    pub prefix: Prefix,
    /// Further prefixes of the same network, such as its IPv6 one. A node is on the segment with
    /// an address in any of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prefixes: Vec<Prefix>,
}

impl SegmentSpec {
    /// All its prefixes, as the document gives them.
    pub fn all_prefixes(&self) -> impl Iterator<Item = Prefix> {
        std::iter::once(self.prefix).chain(self.prefixes.iter().copied())
    }
}

/// Addresses that move together.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Name of the group.
    pub name: String,
    /// Virtual IPs.
    pub addresses: Vec<IpAddr>,
    /// Addresses that the servers of NAT services use as their gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Addresses from which full-NAT services talk to their servers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub local_addresses: Vec<IpAddr>,
    /// What counts more: that somebody announces the group, or that never two nodes do.
    #[serde(default)]
    pub policy: Policy,
    /// Whether a candidate may announce without a majority; none: `never` for strict groups, else
    /// `claim`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<Alone>,
    /// Which nodes keep copies of its connections beside its holder.
    #[serde(default, skip_serializing_if = "SyncGroup::is_all")]
    pub sync_group: SyncGroup,
}

impl GroupSpec {
    /// What a candidate does without a majority.
    pub fn alone(&self) -> Alone {
        self.alone.unwrap_or(match self.policy {
            Policy::Available => Alone::Claim,
            Policy::Strict => Alone::Never,
        })
    }

    /// All that moves together: VIPs, gateways, local addresses.
    pub fn all_addresses(&self) -> impl Iterator<Item = &IpAddr> {
        self.addresses.iter().chain(&self.gateways).chain(&self.local_addresses)
    }
}

/// One virtual service.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Name, unique in the cluster.
    pub name: String,
    /// Name of the group its address belongs to.
    pub group: String,
    /// The VIP. It stands here with `port` and `protocol`, or in `match`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The port, or several, on the VIP.
    #[serde(alias = "ports", default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Ports>,
    /// Transport protocol; none: TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// A match group: several addresses, protocols and ports that are one service, in place of a
    /// firewall mark.
    #[serde(rename = "match", default, skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<MatchSpec>,
    /// How a server is chosen for a new connection.
    #[serde(default)]
    pub scheduler: Scheduler,
    /// Options of `sh` and `mh`; other schedulers have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<HashSpec>,
    /// In which order the scheduler looks at the servers.
    #[serde(default)]
    pub server_order: ServerOrder,
    /// For so long the weight of a server that came up grows from a tenth to the whole; none: at
    /// once. Only for schedulers that share by weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start_s: Option<u32>,
    /// How packets reach the server.
    #[serde(default)]
    pub forwarding: Forwarding,
    /// The tunnel of `forwarding: tun`; left out: IPIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel: Option<TunnelSpec>,
    /// How servers that see another address hear who their client is.
    #[serde(default)]
    pub client_address: ClientAddress,
    /// Whether TCP handshakes are kept from announcing segments that do not fit.
    #[serde(default)]
    pub mss_clamp: MssClamp,
    /// Whether TCP clients have to come back with a cookie before their server hears of them.
    #[serde(default)]
    pub syn_proxy: SynProxy,
    /// The real servers.
    #[serde(default)]
    pub servers: Vec<ServerSpec>,
    /// The health check of each server; none: a server counts as up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckSpec>,
    /// Clients keep their server; none: each connection is scheduled anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistence: Option<PersistenceSpec>,
    /// Clients of QUIC keep their server when their address changes; up to seven ways in which
    /// servers name themselves in connection IDs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quic_lb: Vec<QuicLbSpec>,
    /// Its port is the control port of FTP: data connections go where the client's session is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ftp: Option<FtpSpec>,
    /// Each datagram gets a server of its own, and no connection; LVS calls it `-o`, `ops`.
    #[serde(default)]
    pub one_packet: bool,
    /// Which packets of a connection cause it to be replicated.
    #[serde(default)]
    pub sync: SyncSpec,
    /// How many connections it may get.
    #[serde(default)]
    pub limits: LimitsSpec,
    /// What becomes of a connection whose server is in the document no more.
    #[serde(default)]
    pub on_server_gone: OnServerGone,
    /// What a SYN of a finished connection does.
    #[serde(default)]
    pub conn_reuse: ConnReuse,
    /// Any TCP packet but a reset opens a connection.
    #[serde(default)]
    pub sloppy_tcp: bool,
    /// Any SCTP packet but an ABORT opens a connection.
    #[serde(default)]
    pub sloppy_sctp: bool,
    /// Idle timeouts of its connections.
    #[serde(default)]
    pub timeouts: Timeouts,
}

/// A real server.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// Its own address.
    pub address: IpAddr,
    /// Its port; none: the port that the packet was sent to, which only NAT can change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Share of new connections; 0 drains.
    #[serde(default = "weight_default")]
    pub weight: u32,
    /// Takes no new connections, but keeps its weight for later.
    #[serde(default)]
    pub drain: bool,
    /// With so many connections at a node it gets no new ones there; none: no bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upper: Option<u32>,
    /// Below so many it gets new ones again; none: below three quarters of `upper`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lower: Option<u32>,
    /// What it calls itself in QUIC connection IDs, in hexadecimal digits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quic_ids: Vec<String>,
}

fn weight_default() -> u32 {
    1
}

/// Transport protocol of a service.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP, RFC 9293.
    #[default]
    Tcp,
    /// UDP, RFC 768.
    Udp,
    /// SCTP, RFC 9260.
    Sctp,
}

impl Protocol {
    /// The name as the document spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Forwarding method.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Forwarding {
    /// Direct routing: only the MAC address is rewritten; the server answers the client itself.
    #[default]
    Dr,
    /// Destination NAT; the server's gateway is an address of the group.
    Nat,
    /// Destination and source NAT: the server sees a local address of the group, and may be any
    /// number of routers away. DPVS calls it FNAT.
    #[serde(rename = "full_nat", alias = "fnat")]
    FullNat,
    /// The packet travels inside another one; the server, which may be any number of routers away
    /// and of the other address family, answers the client itself.
    Tun,
}

impl Forwarding {
    /// Addresses and ports are rewritten both ways.
    #[must_use]
    pub fn is_nat(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }

    /// The name as the document spells it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Nat => "nat",
            Self::FullNat => "full_nat",
            Self::Tun => "tun",
        }
    }
}

/// A health check.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct CheckSpec {
    /// How a server is checked.
    #[serde(rename = "type", default)]
    pub kind: CheckKind,
    /// Port to check; default: the port of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Time between two checks, in milliseconds.
    #[serde(default = "check_interval_default")]
    pub interval_ms: u32,
    /// A check that has no answer by then has failed, in milliseconds.
    #[serde(default = "check_timeout_default")]
    pub timeout_ms: u32,
    /// Successes in a row that bring a server up.
    #[serde(default = "check_rise_default")]
    pub rise: u32,
    /// Failures in a row that take it down.
    #[serde(default = "check_fall_default")]
    pub fall: u32,
}

fn check_interval_default() -> u32 {
    2000
}

fn check_timeout_default() -> u32 {
    1000
}

fn check_rise_default() -> u32 {
    1
}

fn check_fall_default() -> u32 {
    3
}

/// Kinds of health checks.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum CheckKind {
    /// A TCP connection is accepted.
    #[default]
    Tcp,
}

/// IPVS's `sync_threshold` rules (net/netfilter/ipvs/ip_vs_sync.c) and what IPVS lacks.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct SyncSpec {
    /// Packet number within a period on which a connection is replicated.
    pub threshold: u32,
    /// Period in packets; 0: once, on packet `threshold`.
    pub period: u32,
    /// Seconds within which an unchanged timer needs no new record; 0: off.
    pub refresh_period_s: u32,
    /// How often a record is repeated within a refresh period, 0 to 3.
    pub retries: u32,
    /// Replicate on the packet that establishes the connection.
    pub on_established: bool,
    /// Replicate on every packet, for the careful.
    pub every_packet: bool,
    /// Replicate templates alone, not the connections that they lead (`sync_persist_mode`).
    pub persist_mode: bool,
}

impl Default for SyncSpec {
    fn default() -> Self {
        Self {
            threshold: 3,
            period: 50,
            refresh_period_s: 0,
            retries: 0,
            on_established: true,
            every_packet: false,
            persist_mode: false,
        }
    }
}

/// Settings of the whole cluster.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Size of each node's connection table, allocated at start.
    pub connections_max: u32,
    /// Half-open connections that it has room for beside them.
    pub half_open_max: u32,
    /// Whether connections are copied to the peers at all.
    pub replication: Switch,
    /// Bounds of copying.
    pub copies: CopiesSpec,
    /// How nodes tell each other that they live.
    pub beacon: BeaconSpec,
    /// When a node that fails again and again gets no groups for a while.
    pub hold_down: HoldDownSpec,
    /// What a packet to a port of a VIP without a service gets.
    pub unserved: Unserved,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connections_max: 262_144,
            half_open_max: 65_536,
            replication: Switch::On,
            copies: CopiesSpec::default(),
            beacon: BeaconSpec::default(),
            hold_down: HoldDownSpec::default(),
            unserved: Unserved::Reject,
        }
    }
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Switched on.
    On,
    /// Switched off.
    Off,
}

/// What a packet to a port of a VIP without a service gets.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Unserved {
    /// RST or port unreachable, rate-limited.
    Reject,
    /// Nothing.
    Drop,
}

/// How nodes tell each other that they live.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BeaconSpec {
    /// Time between two beacons, in milliseconds.
    pub interval_ms: u32,
    /// Beacons that must be missing before a node counts as silent.
    pub silent_after: u32,
}

impl Default for BeaconSpec {
    fn default() -> Self {
        Self { interval_ms: 25, silent_after: 4 }
    }
}

/// An address prefix; host bits are zero.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

impl Prefix {
    /// The prefix of `length` bits that `address` lies in; `None` when the family has fewer bits.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(a) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from(u32::from(a) & mask))
            }
            IpAddr::V6(a) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from(u128::from(a) & mask))
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// The lowest address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Number of leading bits that are fixed.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` means the network or all its hosts, and so no host (RFC 1122 section
    /// 3.2.1.3). Prefixes of two addresses have no such ones (RFC 3021).
    #[must_use]
    pub fn is_reserved(&self, address: IpAddr) -> bool {
        let (IpAddr::V4(a), true) = (address, self.contains(address) && self.length < 31) else {
            return false;
        };
        let host = u32::MAX.checked_shr(u32::from(self.length)).unwrap_or(0);
        u32::from(a) & host == 0 || u32::from(a) & host == host
    }

    /// Whether `address` lies in this prefix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self::new(address, self.length).is_some_and(|p| p.address == self.address)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("`{s}` is not a prefix: write it as 198.18.0.0/24 or 2001:db8::/64");
        let (address, length) = s.split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let length: u8 = length.parse().map_err(|_| bad())?;
        let prefix = Self::new(address, length).ok_or_else(bad)?;
        if prefix.address != address {
            return Err(format!("`{s}` has host bits set: did you mean {prefix}?"));
        }
        Ok(prefix)
    }
}

impl Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a document could not be read.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum DocumentError {
    /// Larger than [`DOCUMENT_BYTES_MAX`].
    #[error(
        "the document has {bytes} bytes, at most {DOCUMENT_BYTES_MAX} are accepted; split off what is not configuration"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// Not the YAML that is expected; the message names line and column.
    #[error("the document cannot be read: {message}")]
    Syntax {
        /// What the parser said, with the place.
        message: String,
    },
    /// Another `apiVersion`. Told as a [`Problem`](crate::Problem) is, with the path first.
    #[error("apiVersion: `{found:.63}` is not read by this cluster; write `{API_VERSION}`")]
    ApiVersion {
        /// What the document says.
        found: String,
    },
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// Where and why it is not a document of this version.
    pub fn parse(text: &str) -> Result<Self, DocumentError> {
        if text.len() > DOCUMENT_BYTES_MAX {
            return Err(DocumentError::TooLarge { bytes: text.len() });
        }
        let document: Self = serde_saphyr::from_str(text)
            .map_err(|e| DocumentError::Syntax { message: crate::reading::told(&e) })?;
        if document.api_version != API_VERSION {
            return Err(DocumentError::ApiVersion { found: document.api_version });
        }
        Ok(document)
    }

    /// Whether a document without groups and services says so, with keys of its own, and does not
    /// only leave them out. It must be one that can be read.
    #[must_use]
    pub fn says_it_is_empty(text: &str) -> bool {
        let keys = serde_saphyr::from_str::<BTreeMap<String, IgnoredAny>>(text);
        keys.is_ok_and(|keys| keys.contains_key("groups") && keys.contains_key("services"))
    }

    /// An empty document: what a new cluster starts with.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            api_version: API_VERSION.to_owned(),
            segments: Vec::new(),
            groups: Vec::new(),
            services: Vec::new(),
            settings: Settings::default(),
        }
    }

    /// The segment `address` lies in.
    #[must_use]
    pub fn segment_of(&self, address: IpAddr) -> Option<&SegmentSpec> {
        self.prefix_of(address).map(|(segment, _)| segment)
    }

    /// The segment `address` lies in, and in which of its prefixes.
    #[must_use]
    pub fn prefix_of(&self, address: IpAddr) -> Option<(&SegmentSpec, Prefix)> {
        self.segments
            .iter()
            .flat_map(|s| s.all_prefixes().map(move |prefix| (s, prefix)))
            .filter(|(_, prefix)| prefix.contains(address))
            .max_by_key(|(_, prefix)| prefix.length())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = "
apiVersion: steadfast/v1
segments: [{name: front, prefix: 198.18.0.0/24}]
groups: [{name: web, addresses: [198.18.0.100]}]
services:
  - name: echo
    group: web
    address: 198.18.0.100
    port: 7
    scheduler: rr
    forwarding: dr
    servers: [{address: 198.18.0.11, port: 7}]
    check: {type: tcp, interval_ms: 1000}
settings: {replication: off, beacon: {interval_ms: 25}}
";

    #[test]
    fn defaults_fill_what_is_left_out() {
        let document = Document::parse(EXAMPLE).unwrap();
        let service = &document.services[0];
        assert_eq!(service.servers[0].weight, 1);
        assert!(!service.servers[0].drain && service.servers[0].upper.is_none());
        assert_eq!(service.sync, SyncSpec::default());
        assert_eq!(service.check.as_ref().unwrap().fall, 3);
        assert_eq!(document.settings.replication, Switch::Off);
        assert_eq!(document.settings.beacon.silent_after, 4);
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let text = EXAMPLE.replace("scheduler: rr", "schedular: rr");
        let error = Document::parse(&text).unwrap_err().to_string();
        assert!(error.contains("schedular") && error.contains("line 10"), "{error}");
        assert!(error.contains("column ") && !error.contains('\n'), "not one line: {error}");
    }

    #[test]
    fn another_api_version_is_refused() {
        let text = EXAMPLE.replace("steadfast/v1", "steadfast/v9");
        assert_eq!(
            Document::parse(&text),
            Err(DocumentError::ApiVersion { found: "steadfast/v9".to_owned() })
        );
    }

    #[test]
    fn prefixes_with_host_bits_are_refused_with_a_suggestion() {
        let error = "198.18.0.7/24".parse::<Prefix>().unwrap_err();
        assert!(error.contains("did you mean 198.18.0.0/24"), "{error}");
        assert!("198.18.0.0/33".parse::<Prefix>().is_err());
        assert!("0.0.0.0/0".parse::<Prefix>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!("::/0".parse::<Prefix>().unwrap().contains("2001:db8::1".parse().unwrap()));
        assert!(!"::/0".parse::<Prefix>().unwrap().contains("1.2.3.4".parse().unwrap()));
    }
}
