//! What the daemon compiles into a [`Config`](crate::Config): the committed configuration and
//! what health checks say about it.

use std::net::IpAddr;

use steadfast_packet::Tunnel;

use crate::{
    GroupId, Limits, Listen, Persistence, Policies, PortSlot, Ports, QuicSpec, ServerId, ServiceId,
    Timeouts,
};

/// Input of [`Config::compile`](crate::Config::compile).
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConfigSpec {
    /// Raised with every change, health included: caches of workers check it on every packet.
    pub generation: u64,
    /// All VIP groups.
    pub groups: Vec<GroupSpec>,
    /// All services.
    pub services: Vec<ServiceSpec>,
    /// When this is compiled: servers that came up since the last time begin to warm up now.
    pub now_ns: u64,
    /// Workers that will count packets, at most [`crate::WORKERS_MAX`].
    pub workers: usize,
    /// The committed slot of this node: which local ports it may give. Without one it opens no
    /// full-NAT connection.
    pub port_slot: Option<PortSlot>,
    /// The highest id that any server was given so far. Ids are given once: a server with this id or
    /// a lower one that is not here was removed, one with a higher id is still to come.
    pub servers_given: ServerId,
}

/// A VIP group and its addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GroupSpec {
    /// Its committed id.
    pub id: GroupId,
    /// Virtual addresses that services listen on.
    pub vips: Vec<IpAddr>,
    /// Gateway addresses of NAT pools: ARP and echo are answered, nothing is served.
    pub gateways: Vec<IpAddr>,
    /// Local addresses of full-NAT services: connections go to their servers from there.
    pub locals: Vec<IpAddr>,
    /// What a packet gets that no service listens for.
    pub unserved: Unserved,
}

/// A virtual service.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ServiceSpec {
    /// Its committed id.
    pub id: ServiceId,
    /// The group its VIPs belong to.
    pub group: GroupId,
    /// Where it listens: several addresses, protocols and ports are one service (a match group).
    pub listen: Vec<Listen>,
    /// How new connections choose a server.
    pub scheduler: SchedulerKind,
    /// In which order it looks at the servers.
    pub order: ServerOrder,
    /// How packets reach the server.
    pub forwarding: Forwarding,
    /// How servers hear who their client is, when they see another address.
    pub client_address: ClientAddress,
    /// Whether TCP handshakes are kept from announcing segments that do not fit.
    pub mss_clamp: MssClamp,
    /// Real servers, in any order.
    pub servers: Vec<ServerSpec>,
    /// How long a server that came up gets fewer connections than its weight says; 0: off.
    pub slow_start_ns: u64,
    /// How many connections it may get.
    pub limits: Limits,
    /// Whether its clients have to show that they are where they say; with NAT and full-NAT alone.
    pub syn_proxy: SynProxy,
    /// What becomes of connections whose server is gone, and the like.
    pub policies: Policies,
    /// Each datagram is scheduled anew, and there are no connections; UDP alone.
    pub one_packet: bool,
    /// FTP: where its data connections are. With NAT alone, and persistent.
    pub ftp: Option<Ftp>,
    /// Time-outs of its connections.
    pub timeouts: Timeouts,
    /// Clients keep their server; none: each connection is scheduled anew.
    pub persistence: Option<Persistence>,
    /// Clients of QUIC keep their server when their address changes.
    pub quic: QuicSpec,
    /// When its connections are replicated; carried for the replication policy, not used here.
    pub sync: SyncSettings,
}

/// A real server of a service.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ServerSpec {
    /// Its committed id.
    pub id: ServerId,
    /// Address.
    pub addr: IpAddr,
    /// Port; 0: the port that the packet was sent to. Another one than that only with NAT, and only
    /// for a service of a single port.
    pub port: u16,
    /// Weight; 0 takes no new connections.
    pub weight: u16,
    /// Its place in hash tables while its weight is 0: the weight it had before, or 0 for none.
    pub last_weight: u16,
    /// Takes no new connections but keeps weight and place (planned).
    pub drained: bool,
    /// Takes new connections as far as health checks know.
    pub up: bool,
    /// With so many connections it takes no new ones; 0: no bound.
    pub upper: u32,
    /// Below so many it takes new ones again; 0: below three quarters of `upper`.
    pub lower: u32,
    /// Since when it takes new connections; [`Config::compile`](crate::Config::compile) fills it
    /// in.
    pub up_since_ns: u64,
}

/// How a service chooses a server for a new connection.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum SchedulerKind {
    /// Round robin: weights are ignored but for 0.
    #[default]
    Rr,
    /// Weighted round robin.
    Wrr,
    /// Fewest connections.
    Lc,
    /// Fewest connections for the weight.
    Wlc,
    /// Shortest expected delay.
    Sed,
    /// Never queue: an idle server, else shortest expected delay.
    Nq,
    /// The heaviest that is available.
    Fo,
    /// The heaviest, overflowing to the next when it has as many active connections as its weight.
    Ovf,
    /// The better of two at random.
    Twos,
    /// Locality: a destination stays with its server.
    Lblc,
    /// Locality: a destination stays with a set of servers.
    Lblcr,
    /// Hashing of the destination address.
    Dh,
    /// Hashing of the client address.
    Sh(HashOptions),
    /// Maglev hashing of the client address.
    Mh(HashOptions),
}

/// Options of `sh` and `mh`.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct HashOptions {
    /// The client's port is part of the key (`sh-port`, `mh-port`).
    pub port: bool,
    /// A server that is not available is replaced by another (`sh-fallback`, `mh-fallback`).
    pub fallback: bool,
}

/// In which order a service's servers stand in its tables and rounds.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ServerOrder {
    /// By address and port: the same everywhere, whatever the history.
    #[default]
    Canonical,
    /// The one added last stands first, as in IPVS.
    NewestFirst,
}

/// How packets reach the real server.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Forwarding {
    /// Direct routing: only the MAC addresses (and the TTL) change.
    #[default]
    Dr,
    /// Destination address and port are rewritten, and back in replies.
    Nat,
    /// Source and destination are rewritten: the server sees a local address of the group, and its
    /// answers come back there, wherever its routes lead.
    FullNat,
    /// The packet travels unchanged inside another one to the server, which may be any number of
    /// routers away and of the other address family.
    Tunnel(Tunnel),
}

/// How a server hears who its client is.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum ClientAddress {
    /// By nothing but the source address.
    #[default]
    None,
    /// By a TCP option (TOA); with full-NAT.
    Toa,
    /// By a header of the PROXY protocol, version 2, before all else; with NAT and full-NAT.
    ProxyV2,
}

/// Up to which maximum segment size TCP handshakes may announce (RFC 9293 section 3.7.1).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum MssClamp {
    /// Handshakes are left alone.
    #[default]
    Off,
    /// What fits the interface that the packet came from and the way it goes on.
    Auto,
    /// No more than this.
    At(u16),
}

/// When a TCP client gets a cookie, and its server hears of it only once it has come back with that
/// (RFC 4987 section 3.6).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum SynProxy {
    /// Never.
    #[default]
    Off,
    /// While the places of half-open connections are full.
    Auto,
    /// Always.
    Always,
}

/// The answer to a packet for a VIP that no service listens for.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Unserved {
    /// RST or port unreachable, rate-limited.
    #[default]
    Reject,
    /// Nothing.
    Drop,
}

/// When connections of a service are replicated (IPVS names and meanings).
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct SyncSettings {
    /// `sync_threshold`, in inbound packets.
    pub threshold: u32,
    /// `sync_period`, in inbound packets.
    pub period: u32,
    /// `sync_refresh_period`, in seconds; 0 is off.
    pub refresh_period_s: u32,
    /// `sync_retries`, 0 to 3.
    pub retries: u8,
    /// Replicate when a connection becomes ESTABLISHED.
    pub on_established: bool,
    /// Replicate after every inbound packet.
    pub every_packet: bool,
    /// `sync_persist_mode`: templates alone, not the connections that they lead.
    pub persist_mode: bool,
}

impl Forwarding {
    /// Packets are rewritten, and what the server answers comes back this way.
    #[must_use]
    pub fn is_nat(self) -> bool {
        matches!(self, Self::Nat | Self::FullNat)
    }
}

impl Default for SyncSettings {
    /// The defaults of IPVS, and `on_established`.
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

/// The data connections of an FTP service (RFC 959).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ftp {
    /// Where servers wait for them; the same ports at the VIP.
    pub data: Ports,
}

impl ServiceSpec {
    /// Data connections of FTP come to this port of the VIP.
    #[must_use]
    pub fn is_data_port(&self, vip_port: u16) -> bool {
        self.ftp.is_some() && self.single_port() != Some(vip_port)
    }

    /// The port of a server for packets that were sent to `vip_port`, or come from there.
    ///
    /// Of FTP, data ports are the same on both sides, but for the one below the control port, from
    /// which servers open data connections (RFC 959 section 3.2).
    #[must_use]
    pub fn server_port(&self, server: &ServerSpec, vip_port: u16) -> u16 {
        let Some(control) = self.single_port().filter(|_| self.is_data_port(vip_port)) else {
            return server.port_for(vip_port);
        };
        if Some(vip_port) == control.checked_sub(1) {
            server.port_for(control).saturating_sub(1)
        } else {
            vip_port
        }
    }

    /// The other way round, of a data connection that `server` opens from its `port`.
    pub(crate) fn data_vip_port(&self, server: &ServerSpec, port: u16) -> Option<u16> {
        let (ftp, control) = (self.ftp?, self.single_port()?);
        if Some(port) == server.port_for(control).checked_sub(1) {
            return control.checked_sub(1);
        }
        ftp.data.contains(port).then_some(port)
    }

    /// Its one port, if there is just one, on whatever addresses.
    #[must_use]
    pub fn single_port(&self) -> Option<u16> {
        let first = self.listen.first()?.ports.single()?;
        self.listen.iter().all(|listen| listen.ports.single() == Some(first)).then_some(first)
    }
}

impl Default for ServerSpec {
    /// No server: one that is up and has the weight 1, at no address.
    fn default() -> Self {
        Self {
            id: ServerId::default(),
            addr: IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            port: 0,
            weight: 1,
            last_weight: 0,
            drained: false,
            up: true,
            upper: 0,
            lower: 0,
            up_since_ns: 0,
        }
    }
}

impl ServerSpec {
    /// The port for packets that were sent to `vip_port`.
    #[must_use]
    pub fn port_for(&self, vip_port: u16) -> u16 {
        if self.port == 0 { vip_port } else { self.port }
    }

    /// Weight in hash tables: going to 0 moves nobody but its own clients.
    //= Linux net/netfilter/ipvs/ip_vs_mh.c: `last_weight`
    #[must_use]
    pub fn table_weight(&self) -> u16 {
        if self.weight > 0 { self.weight } else { self.last_weight }
    }

    /// May get new connections.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.up && !self.drained && self.weight > 0
    }
}
