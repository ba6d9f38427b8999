//! One UDP socket for one purpose, client and server at once.

use std::{
    fmt,
    net::{SocketAddr, UdpSocket},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use quinn::{
    ConnectionId, ConnectionIdGenerator, IdleTimeout, TransportConfig, VarInt,
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use socket2::{Domain, Protocol, Socket, Type};
use steadfast_model::NodeId;
use tokio::runtime::Handle;

use crate::{
    BindError, Membership,
    limits::{DATAGRAM_BUFFER_BYTES, HANDSHAKES_MAX, STREAMS_PER_CONNECTION_MAX},
    pki::{Identity, PeerIdentity, PkiError},
    tls,
};

/// What an endpoint is for. The two have sockets and connections of their own, so that a bulk
/// copy never delays evidence of life, and cannot be connected to each other (ALPN differs).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Purpose {
    /// Raft, consent, claims, beacons. Has datagrams.
    Control,
    /// Connection records. No datagrams.
    Replication,
}

impl Purpose {
    /// The protocol name in the TLS handshake.
    pub fn alpn(self) -> &'static str {
        match self {
            Self::Control => "steadfast-control/1",
            Self::Replication => "steadfast-repl/1",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Replication => "replication",
        }
    }
}

/// When a silent connection is given up.
///
/// Both sides' values count, the smaller idle timeout wins (RFC 9000, 10.1). A dead node is
/// noticed by its beacons, not here: this only decides how soon a new connection is made and how
/// long a call to a node that has just died may hang.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Timing {
    /// Silence after which a connection is lost.
    pub idle: Duration,
    /// Something is sent at least this often.
    pub keep_alive: Duration,
}

impl Timing {
    /// Control: lost after 1 s, so that a restarted or healed peer is dialed anew at once; a packet
    /// every 200 ms survives four losses in a row. Replication: lost after 2 s, because a copy
    /// that starts again costs more than one that waits; a packet every 400 ms.
    pub fn for_purpose(purpose: Purpose) -> Self {
        let (idle, keep_alive) = match purpose {
            Purpose::Control => (1000, 200),
            Purpose::Replication => (2000, 400),
        };
        Self { idle: Duration::from_millis(idle), keep_alive: Duration::from_millis(keep_alive) }
    }
}

/// How to open an [`Endpoint`].
#[derive(Clone, Debug)]
pub struct EndpointConfig {
    /// What it is for.
    pub purpose: Purpose,
    /// Address and port to listen on and to dial from.
    pub listen: SocketAddr,
    /// This node's certificate, key and authority.
    pub identity: Identity,
    /// Who is admitted.
    pub membership: Membership,
    /// When a silent connection is given up.
    pub timing: Timing,
    /// The socket, where it is open already; otherwise it is opened with the endpoint.
    pub socket: Option<OpenSocket>,
}

impl EndpointConfig {
    /// A configuration with the usual [`Timing`].
    pub fn new(
        purpose: Purpose,
        listen: SocketAddr,
        identity: Identity,
        membership: Membership,
    ) -> Self {
        let timing = Timing::for_purpose(purpose);
        Self { purpose, listen, identity, membership, timing, socket: None }
    }
}

/// A socket that was opened before its [`Endpoint`] could be: a node that has no certificate yet
/// learns that its address is taken before it asks for one. The first endpoint that is configured
/// with it, or with a clone of it, uses it up; one after that opens a socket of its own.
#[derive(Clone, Debug)]
pub struct OpenSocket(Arc<Mutex<Option<UdpSocket>>>);

impl OpenSocket {
    /// Opens the socket as [`Endpoint::bind`] would.
    pub fn bind(purpose: Purpose, listen: SocketAddr) -> Result<Self, BindError> {
        let socket = socket(listen).map_err(|source| BindError::Socket {
            addr: listen,
            purpose: purpose.name(),
            source,
        })?;
        Ok(Self(Arc::new(Mutex::new(Some(socket)))))
    }

    fn take(&self) -> Option<UdpSocket> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// An open QUIC endpoint. [`crate::Links`] does the talking.
pub struct Endpoint {
    pub(crate) quinn: quinn::Endpoint,
    pub(crate) client: quinn::ClientConfig,
    pub(crate) runtime: Handle,
    pub(crate) purpose: Purpose,
    pub(crate) node: NodeId,
    pub(crate) cluster: String,
    pub(crate) membership: Membership,
    /// Tells this run of the process from the one before, to peers.
    pub(crate) instance: u64,
}

impl Endpoint {
    /// Opens the socket. All tasks of the endpoint and of its links run on the tokio runtime this
    /// is called in (a current-thread one will do); they may be used from any other.
    ///
    /// The port is not shared: UDP has no waiting time after a close, so a restarted process gets
    /// it at once, and SO_REUSEADDR would let a second daemon steal the first one's packets.
    pub fn bind(config: EndpointConfig) -> Result<Self, BindError> {
        let runtime = Handle::try_current().map_err(|_| BindError::NoRuntime)?;
        let EndpointConfig { purpose, listen, identity, membership, timing, socket: open } = config;
        let PeerIdentity::Node { cluster, id } = identity.who().clone() else {
            return Err(BindError::NotANode { found: identity.who().to_string() });
        };
        let transport = Arc::new(transport(purpose, timing));

        let server = tls::server_config(&identity, purpose.alpn().as_bytes())?;
        let server = QuicServerConfig::try_from(server).map_err(unsuitable)?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(server));
        // A node's address changes by configuration only.
        server.migration(false).max_incoming(HANDSHAKES_MAX);
        server.transport_config(transport.clone());

        let client = tls::client_config(&identity, purpose.alpn().as_bytes())?;
        let client = QuicClientConfig::try_from(client).map_err(unsuitable)?;
        let mut client = quinn::ClientConfig::new(Arc::new(client));
        client.transport_config(transport);

        let socket = match open.and_then(|open| open.take()) {
            Some(socket) => socket,
            None => socket(listen).map_err(|source| BindError::Socket {
                addr: listen,
                purpose: purpose.name(),
                source,
            })?,
        };
        let quinn = quinn::Endpoint::new(
            quinn_config(&identity, purpose),
            Some(server),
            socket,
            Arc::new(quinn::TokioRuntime),
        )
        .map_err(|source| BindError::Socket {
            addr: listen,
            purpose: purpose.name(),
            source,
        })?;
        let mut instance = [0; 8];
        SystemRandom::new()
            .fill(&mut instance)
            .map_err(|_| PkiError::Crypto("no random numbers".into()))?;
        Ok(Self {
            quinn,
            client,
            runtime,
            purpose,
            node: id,
            cluster,
            membership,
            instance: u64::from_le_bytes(instance),
        })
    }

    /// The address it listens on, with the port the system chose if none was given.
    pub fn local_addr(&self) -> Result<SocketAddr, BindError> {
        self.quinn.local_addr().map_err(|source| BindError::Socket {
            addr: SocketAddr::from(([0, 0, 0, 0], 0)),
            purpose: self.purpose.name(),
            source,
        })
    }

    /// This node, as its certificate names it.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("node", &self.node)
            .field("cluster", &self.cluster)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

fn unsuitable(error: impl fmt::Display) -> PkiError {
    PkiError::Crypto(error.to_string())
}

fn socket(listen: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // As much as the system allows (net.core.rmem_max): a pause of this process must not lose
    // what arrives meanwhile. Less is no error.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// Keys that survive a restart of the process: a peer that still uses a connection of the last
/// run gets a stateless reset it can believe (RFC 9000, 10.3) and dials anew at once, instead of
/// waiting for its idle timeout.
fn quinn_config(identity: &Identity, purpose: Purpose) -> quinn::EndpointConfig {
    let private = hmac::Key::new(hmac::HMAC_SHA256, identity.key_der().secret_der());
    let label = format!("steadfast stateless reset {}", purpose.alpn());
    let derived = hmac::sign(&private, label.as_bytes());
    let key = hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref());
    let mut config = quinn::EndpointConfig::new(Arc::new(key));
    config.cid_generator(|| Box::new(RandomIds(SystemRandom::new())));
    config
}

/// Connection ids without inner structure: quinn's own carry a check that is keyed per process,
/// so that it would drop packets of the last run instead of answering them with a reset.
struct RandomIds(SystemRandom);

const CONNECTION_ID_BYTES: usize = 8;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; CONNECTION_ID_BYTES];
        // Fails only where the system has no random numbers at all, and then no TLS handshake
        // succeeds either; a repeated id is detected by quinn and another one is drawn.
        let _ = self.0.fill(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn transport(purpose: Purpose, timing: Timing) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = VarInt::from_u64(timing.idle.as_millis() as u64).unwrap_or(VarInt::MAX);
    transport
        .max_idle_timeout(Some(IdleTimeout::from(idle)))
        .keep_alive_interval(Some(timing.keep_alive))
        // Peers are in one data centre: the first packet is repeated after 3 x this (RFC 9002,
        // 6.2), not after the standard's second.
        .initial_rtt(Duration::from_millis(20))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_PER_CONNECTION_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES));
    match purpose {
        Purpose::Control => transport
            .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES))
            .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES),
        Purpose::Replication => transport.datagram_receive_buffer_size(None),
    };
    transport
}

/// Sent and not yet acknowledged, per stream and per connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

const SOCKET_BUFFER_BYTES: usize = 4 << 20;
