//! The connections of a node to all its peers, over one endpoint.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use quinn::SendDatagramError;
use steadfast_model::NodeId;
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
};

use crate::{
    BindError, CallError, DatagramError, Endpoint, PeerStream, Purpose, StreamError,
    accept::accept_all,
    call, dial,
    hello::STREAM_FRAMES,
    limits::{
        DATAGRAM_QUEUE_MAX, EVENT_QUEUE_MAX, INCOMING_STREAM_QUEUE_MAX, PEERS_MAX,
        REQUEST_BYTES_MAX,
    },
    serve,
    slots::{CLOSE_SHUTDOWN, Live, Side, Slots},
    tls,
};

/// A future in a box.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// Answers a peer's request: who asks, the kind of call, its bytes.
pub type Handler = Arc<dyn Fn(NodeId, u8, Vec<u8>) -> BoxFuture<Vec<u8>> + Send + Sync>;

/// A node to keep a connection to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its id, which its certificate must name.
    pub id: NodeId,
    /// Where the endpoint of the same purpose listens.
    pub addr: SocketAddr,
}

/// How links behave.
#[derive(Clone)]
pub struct LinksConfig {
    /// Answers calls.
    pub handler: Handler,
    /// Where the handler runs. Must not be the thread that sends beacons: a slow answer would
    /// delay them.
    pub handler_runtime: Handle,
}

/// What arrives.
#[derive(Debug)]
pub struct Incoming {
    /// Datagrams of admitted peers. Take the time of receipt where you read them.
    pub datagrams: mpsc::Receiver<Datagram>,
    /// Ordered streams that peers have opened.
    pub streams: mpsc::Receiver<IncomingStream>,
    /// Peers that came and went. A hint: when the queue is full, events are dropped and counted.
    pub events: mpsc::Receiver<PeerEvent>,
}

/// A datagram and who sent it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Datagram {
    /// An admitted peer.
    pub from: NodeId,
    /// What it sent.
    pub bytes: Vec<u8>,
}

/// An ordered stream and who opened it.
#[derive(Debug)]
pub struct IncomingStream {
    /// An admitted peer.
    pub from: NodeId,
    /// The stream.
    pub stream: PeerStream,
}

/// A change of the connections.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PeerEvent {
    /// A peer can be reached.
    Connected {
        /// Which.
        peer: NodeId,
    },
    /// A peer cannot be reached any more.
    Disconnected {
        /// Which.
        peer: NodeId,
        /// Why.
        why: String,
    },
    /// Somebody was not let in, or did not let us in. Told once while it repeats itself; the
    /// counter shows how often.
    Refused {
        /// Where it is.
        addr: SocketAddr,
        /// Why, for a person.
        why: String,
    },
}

/// What is known of a peer now.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PeerStatus {
    /// Whether it can be reached.
    pub connected: bool,
    /// Round-trip time, smoothed.
    pub rtt: Option<Duration>,
    /// Why it could not be reached the last time, while it is not connected.
    pub last_error: Option<String>,
    /// It said that this node is no member of the cluster, and has not let it in since.
    pub disowns: bool,
}

/// Counted since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Datagrams handed to the driver.
    pub datagrams_in: u64,
    /// Datagrams dropped because the driver did not keep up.
    pub datagrams_dropped: u64,
    /// Connections refused, by this node or by the peer.
    pub refused: u64,
    /// Incoming streams refused because too many waited.
    pub streams_refused: u64,
    /// Requests above their bound.
    pub oversized: u64,
    /// Events dropped because nobody took them.
    pub events_dropped: u64,
}

/// A connection to every peer, kept up.
///
/// Every node dials every peer and accepts every peer, so there are two connections per pair, and
/// either will do for everything: no rule who dials has to hold, a fault of one direction's
/// handshake costs nothing, and a peer whose address we have wrong still reaches us. What we send
/// goes over the one we dialed, else over the one we accepted.
///
/// A peer that restarts is noticed by a stateless reset, by its close message, or by the new
/// connection it dials, whichever is first; the old ones are dropped at once. A silent peer is
/// given up after [`crate::Timing::idle`] and dialed every 100 ms.
///
/// Cheap to clone; when the last clone is dropped, everything is closed.
#[derive(Clone)]
pub struct Links {
    inner: Arc<Inner>,
    _guard: Arc<Guard>,
}

impl Links {
    /// Starts to accept. Dials nobody before [`Links::set_peers`].
    pub fn start(endpoint: Endpoint, config: LinksConfig) -> (Self, Incoming) {
        let (datagrams, datagrams_out) = mpsc::channel(DATAGRAM_QUEUE_MAX);
        let (streams, streams_out) = mpsc::channel(INCOMING_STREAM_QUEUE_MAX);
        let (events, events_out) = mpsc::channel(EVENT_QUEUE_MAX);
        let runtime = endpoint.runtime.clone();
        let inner = Arc::new(Inner {
            endpoint,
            slots: Slots::default(),
            handler: config.handler,
            handler_runtime: config.handler_runtime,
            datagrams,
            streams,
            events,
            counters: AtomicCounters::default(),
            told: Mutex::new(None),
            stop: watch::Sender::new(false),
        });
        runtime.spawn(accept_all(inner.clone()));
        runtime.spawn(watch_membership(inner.clone()));
        let links = Self { _guard: Arc::new(Guard(inner.clone())), inner };
        let incoming =
            Incoming { datagrams: datagrams_out, streams: streams_out, events: events_out };
        (links, incoming)
    }

    /// Keeps a connection to exactly these peers. This node itself may be among them and is
    /// skipped; peers above [`PEERS_MAX`] are ignored. Peers that are not named any more are
    /// disconnected; a changed address is dialed at once.
    pub fn set_peers(&self, peers: &[Peer]) {
        let ours = self.inner.endpoint.node;
        let peers: Vec<_> = peers.iter().filter(|peer| peer.id != ours).take(PEERS_MAX).collect();
        let mut slots = self.inner.slots.lock();
        if *self.inner.stop.borrow() {
            return;
        }
        for (id, slot) in slots.iter_mut() {
            let addr = peers.iter().find(|peer| peer.id == *id).map(|peer| peer.addr);
            if slot.addr.is_some() && slot.addr != addr {
                slot.addr = None;
                slot.stop("address changed or removed by configuration");
            }
        }
        slots.retain(|_, slot| slot.in_use());
        for peer in peers {
            let slot = slots.entry(peer.id).or_default();
            if slot.addr.is_none() {
                slot.addr = Some(peer.addr);
                let dialer = dial::keep_dialed(self.inner.clone(), *peer);
                slot.dialer = Some(self.inner.endpoint.runtime.spawn(dialer).abort_handle());
            }
        }
    }

    /// Sends a request and waits for the answer. May be awaited on any tokio runtime.
    ///
    /// Not repeated on failure: after anything but [`CallError::NotConnected`] and
    /// [`CallError::RequestTooLong`] the peer may have executed it.
    pub async fn call(
        &self,
        peer: NodeId,
        kind: u8,
        request: &[u8],
        timeout: Duration,
    ) -> Result<Vec<u8>, CallError> {
        if request.len() > REQUEST_BYTES_MAX {
            return Err(CallError::RequestTooLong { bytes: request.len() });
        }
        let Some(connection) = self.inner.pick(peer) else {
            return Err(CallError::NotConnected { peer, last: self.status(peer).last_error });
        };
        let exchange = call::exchange(peer, &connection, kind, request);
        tokio::time::timeout(timeout, exchange)
            .await
            .unwrap_or(Err(CallError::Timeout { peer, timeout }))
    }

    /// Sends a datagram, or drops it: never waits. When the connection is held back by congestion,
    /// the oldest unsent datagrams go first.
    pub fn send_datagram(&self, peer: NodeId, bytes: Vec<u8>) -> Result<(), DatagramError> {
        if self.inner.endpoint.purpose != Purpose::Control {
            return Err(DatagramError::Unsupported);
        }
        let connection = self.inner.pick(peer).ok_or(DatagramError::NotConnected { peer })?;
        let length = bytes.len();
        connection.send_datagram(bytes.into()).map_err(|error| match error {
            SendDatagramError::TooLarge => {
                let max = connection.max_datagram_size().unwrap_or(0);
                DatagramError::TooLarge { peer, bytes: length, max }
            }
            SendDatagramError::ConnectionLost(_) => DatagramError::NotConnected { peer },
            SendDatagramError::UnsupportedByPeer | SendDatagramError::Disabled => {
                DatagramError::Unsupported
            }
        })
    }

    /// The longest datagram that this peer can be sent now.
    pub fn datagram_max(&self, peer: NodeId) -> Option<usize> {
        self.inner.pick(peer)?.max_datagram_size()
    }

    /// Opens an ordered stream; the peer finds it in [`Incoming::streams`] as soon as the first
    /// frame, or nothing but the opening itself, arrives.
    pub async fn open_stream(&self, peer: NodeId) -> Result<PeerStream, StreamError> {
        let connection = self.inner.pick(peer).ok_or(StreamError::NotConnected { peer })?;
        let broken = |why: String| StreamError::Broken { peer, why };
        let (mut send, recv) =
            connection.open_bi().await.map_err(|error| broken(tls::explain(&error)))?;
        send.write_all(&[STREAM_FRAMES]).await.map_err(|error| broken(error.to_string()))?;
        Ok(PeerStream::new(peer, send, recv))
    }

    /// Whether a peer can be reached, as far as is known.
    pub fn connected(&self, peer: NodeId) -> bool {
        self.inner.pick(peer).is_some()
    }

    /// Smoothed round-trip time to a connected peer.
    pub fn rtt(&self, peer: NodeId) -> Option<Duration> {
        Some(self.inner.pick(peer)?.rtt())
    }

    /// Everything known of a peer.
    pub fn status(&self, peer: NodeId) -> PeerStatus {
        let slots = self.inner.slots.lock();
        let Some(slot) = slots.get(&peer) else { return PeerStatus::default() };
        match slot.pick() {
            Some(connection) => {
                PeerStatus { connected: true, rtt: Some(connection.rtt()), ..PeerStatus::default() }
            }
            None => PeerStatus {
                connected: false,
                rtt: None,
                last_error: slot.last_error.clone(),
                disowns: slot.disowns,
            },
        }
    }

    /// What has been counted.
    pub fn counters(&self) -> Counters {
        self.inner.counters.get()
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.inner.endpoint.node
    }

    /// The address it listens on.
    pub fn local_addr(&self) -> Result<SocketAddr, BindError> {
        self.inner.endpoint.local_addr()
    }

    /// Closes everything and tells the peers, so that they notice at once. Waits until they know,
    /// for half a second at most.
    pub async fn close(&self) {
        self.inner.shut_down();
        let idle = self.inner.endpoint.quinn.wait_idle();
        let _ = tokio::time::timeout(CLOSE_WAIT, idle).await;
    }
}

const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// The same refusal of the same machine is told again after this.
const REPEAT_REFUSAL: Duration = Duration::from_secs(10);

/// What all tasks of the links share.
pub(crate) struct Inner {
    pub(crate) endpoint: Endpoint,
    pub(crate) slots: Slots,
    pub(crate) handler: Handler,
    pub(crate) handler_runtime: Handle,
    pub(crate) datagrams: mpsc::Sender<Datagram>,
    pub(crate) streams: mpsc::Sender<IncomingStream>,
    events: mpsc::Sender<PeerEvent>,
    pub(crate) counters: AtomicCounters,
    /// The refusal that was told last: who is not let in tries again several times a second.
    told: Mutex<Option<(IpAddr, String, Instant)>>,
    stop: watch::Sender<bool>,
}

impl Inner {
    /// Takes an admitted connection into use until it is gone. Called on the endpoint's runtime.
    pub(crate) fn adopt(self: &Arc<Self>, peer: NodeId, side: Side, live: Live) {
        if self.slots.register(peer, side, live.clone()) {
            self.tell(PeerEvent::Connected { peer });
        }
        // Asked again now that the membership's watcher can see the connection.
        if !self.endpoint.membership.contains(peer) {
            live.connection.close(CLOSE_SHUTDOWN, b"no longer a member of the cluster");
        }
        let connection = &live.connection;
        tokio::spawn(serve::serve_streams(self.clone(), peer, connection.clone()));
        if self.endpoint.purpose == Purpose::Control {
            tokio::spawn(serve::serve_datagrams(self.clone(), peer, connection.clone()));
        }
        let inner = self.clone();
        tokio::spawn(async move {
            let why = tls::explain(&live.connection.closed().await);
            if inner.slots.unregister(peer, side, &live, &why) {
                inner.tell(PeerEvent::Disconnected { peer, why });
            }
        });
    }

    /// A dialed peer was not reached.
    pub(crate) fn note_failure(&self, peer: &Peer, why: String, refused: bool) {
        let news = self.slots.lock().get_mut(&peer.id).is_some_and(|slot| {
            let news = slot.last_error.as_ref() != Some(&why);
            slot.last_error = Some(why.clone());
            news
        });
        if refused {
            self.counters.refused.add();
        }
        // Repeated several times a second while it lasts: said once.
        if news && refused {
            self.tell(PeerEvent::Refused { addr: peer.addr, why });
        }
    }

    /// A dialed peer does not know us as a member.
    pub(crate) fn note_disowned(&self, peer: &Peer) {
        if let Some(slot) = self.slots.lock().get_mut(&peer.id) {
            slot.disowns = true;
        }
    }

    /// Somebody who dialed us is not let in.
    pub(crate) fn note_refused(&self, addr: SocketAddr, why: String) {
        self.counters.refused.add();
        // A stranger's port changes with every attempt of a tool, its address does not.
        let news = {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            let same = |(ip, last, at): &(IpAddr, String, Instant)| {
                *ip == addr.ip() && *last == why && at.elapsed() < REPEAT_REFUSAL
            };
            let news = !told.as_ref().is_some_and(same);
            if news {
                *told = Some((addr.ip(), why.clone(), Instant::now()));
            }
            news
        };
        if news {
            self.tell(PeerEvent::Refused { addr, why });
        }
    }

    fn pick(&self, peer: NodeId) -> Option<quinn::Connection> {
        self.slots.lock().get(&peer)?.pick().cloned()
    }

    fn tell(&self, event: PeerEvent) {
        if self.events.try_send(event).is_err() {
            self.counters.events_dropped.add();
        }
    }

    fn shut_down(&self) {
        self.stop.send_replace(true);
        for slot in self.slots.lock().values_mut() {
            slot.addr = None;
            if let Some(dialer) = slot.dialer.take() {
                dialer.abort();
            }
        }
        self.endpoint.quinn.close(CLOSE_SHUTDOWN, b"shutting down");
    }
}

struct Guard(Arc<Inner>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.shut_down();
    }
}

/// Closes the connections of nodes that are taken out of the membership.
async fn watch_membership(inner: Arc<Inner>) {
    let mut members = inner.endpoint.membership.watch();
    let mut stop = inner.stop.subscribe();
    loop {
        tokio::select! {
            changed = members.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let members = members.borrow_and_update().clone();
        inner.slots.retain_members(&members);
    }
}

#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Default)]
pub(crate) struct AtomicCounters {
    pub(crate) datagrams_in: Counter,
    pub(crate) datagrams_dropped: Counter,
    refused: Counter,
    pub(crate) streams_refused: Counter,
    pub(crate) oversized: Counter,
    events_dropped: Counter,
}

impl AtomicCounters {
    fn get(&self) -> Counters {
        Counters {
            datagrams_in: self.datagrams_in.get(),
            datagrams_dropped: self.datagrams_dropped.get(),
            refused: self.refused.get(),
            streams_refused: self.streams_refused.get(),
            oversized: self.oversized.get(),
            events_dropped: self.events_dropped.get(),
        }
    }
}
