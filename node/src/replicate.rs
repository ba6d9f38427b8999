//! The driver of replication: streams to and from every peer.
//!
//! One task per (peer, shard) sends, one per incoming stream applies. Guarantees: a stream that
//! breaks is opened again, and the core then sends what was not acknowledged. Pure decisions are
//! made in `steadfast_replication`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use steadfast_dataplane::Shared;
use steadfast_model::{GroupId, NodeId, document::CopiesSpec};
use steadfast_ownership::Role;
use steadfast_peer::{
    Endpoint, EndpointConfig, Handler, Incoming, Links, LinksConfig, Peer, PeerStream,
};
use steadfast_replication::{
    BATCH_INTERVAL_NS, Copies, DirtySet, GroupRole, Local, Receiver, ReceiverMetrics, SHARDS,
    Sender, SenderMetrics, Slot, SnapshotBudget, answer, check_hello, wire,
};
use tokio::{
    sync::{Notify, watch},
    task::AbortHandle,
    time::Instant,
};
use tracing::{debug, info, warn};

use crate::{
    asking::{self, Asker, CALL_WHO_HAS},
    clock,
    owner::{News, RoleNow, Roles},
};

/// Before a broken stream is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(50);

/// How long a peer may take to answer the first frame.
const HELLO_WITHIN: Duration = Duration::from_secs(2);

/// How often a sender looks around while nothing wakes it.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Counters of a peer: what was sent to it and what came from it, over all shards.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerFigures {
    pub(crate) sent: BTreeMap<u8, SenderMetrics>,
    pub(crate) received: BTreeMap<u8, ReceiverMetrics>,
}

/// Replication of this node.
pub(crate) struct Replicator {
    inner: Arc<Inner>,
    tasks: Mutex<BTreeMap<NodeId, Vec<AbortHandle>>>,
    accepting: AbortHandle,
    asking: AbortHandle,
    /// Who is asked for connections that nobody here knows.
    members: watch::Sender<BTreeSet<NodeId>>,
    asked: Arc<asking::Figures>,
}

struct Inner {
    local: Local,
    shared: Arc<Shared>,
    dirty: Arc<DirtySet>,
    copies: Arc<Copies>,
    roles: Arc<Roles>,
    links: Links,
    budget: Arc<SnapshotBudget>,
    figures: Mutex<BTreeMap<NodeId, PeerFigures>>,
    /// Wakes the senders of a shard when a key is marked.
    marked: Vec<Notify>,
}

/// What replication works on.
pub(crate) struct Parts {
    pub(crate) local: Local,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dirty: Arc<DirtySet>,
    pub(crate) copies: Arc<Copies>,
    pub(crate) roles: Arc<Roles>,
    pub(crate) news: watch::Receiver<News>,
}

impl Replicator {
    /// Opens the endpoint and starts to accept.
    ///
    /// # Errors
    /// When the replication address is taken or not ours.
    pub(crate) fn start(parts: Parts, endpoint: EndpointConfig) -> anyhow::Result<Self> {
        let endpoint = Endpoint::bind(endpoint)?;
        let Parts { local, shared, dirty, copies, roles, news } = parts;
        let handler = answering(Arc::clone(&shared), Arc::clone(&dirty), Arc::clone(&roles));
        let config = LinksConfig { handler, handler_runtime: tokio::runtime::Handle::current() };
        let (links, incoming) = Links::start(endpoint, config);
        let (members, to_ask) = watch::channel(BTreeSet::new());
        let asked = Arc::new(asking::Figures::default());
        let asking = Asker {
            node: local.node,
            shared: Arc::clone(&shared),
            dirty: Arc::clone(&dirty),
            links: links.clone(),
            news,
            members: to_ask,
            figures: Arc::clone(&asked),
        };
        let asking = asking.start();
        let figures = Mutex::default();
        let marked = (0..SHARDS).map(|_| Notify::new()).collect();
        let budget = Arc::new(SnapshotBudget::unlimited());
        let inner = Inner { local, shared, dirty, copies, roles, links, budget, figures, marked };
        let inner = Arc::new(inner);
        let waker = Arc::downgrade(&inner);
        inner.dirty.set_waker(move |shard| {
            if let Some(marked) =
                waker.upgrade().as_ref().and_then(|i| i.marked.get(usize::from(shard)))
            {
                marked.notify_waiters();
            }
        });
        let accepting = tokio::spawn(accept(Arc::clone(&inner), incoming)).abort_handle();
        Ok(Self { inner, tasks: Mutex::default(), accepting, asking, members, asked })
    }

    /// Sends to exactly these peers from now on.
    pub(crate) fn set_peers(&self, peers: &[Peer]) {
        self.inner.links.set_peers(peers);
        self.members.send_replace(peers.iter().map(|peer| peer.id).collect());
        let mut tasks = lock(&self.tasks);
        let own = self.inner.local.node;
        tasks.retain(|node, handles| {
            let stays = peers.iter().any(|p| p.id == *node);
            if !stays {
                handles.iter().for_each(AbortHandle::abort);
                self.inner.dirty.release(*node);
                lock(&self.inner.figures).remove(node);
            }
            stays
        });
        for peer in peers.iter().filter(|p| p.id != own) {
            if tasks.contains_key(&peer.id) {
                continue;
            }
            let Some(slot) = self.inner.dirty.slot(peer.id) else {
                warn!(peer = %peer.id, "no slot is free: it gets no copies");
                continue;
            };
            let handles = (0..SHARDS).map(|shard| {
                let inner = Arc::clone(&self.inner);
                tokio::spawn(send(inner, peer.id, slot, shard)).abort_handle()
            });
            tasks.insert(peer.id, handles.collect());
        }
    }

    /// Bounds what is sent from now on.
    pub(crate) fn set_bounds(&self, copies: &CopiesSpec) {
        self.inner.budget.set_rate(copies.snapshot_bytes_per_s());
        self.inner.copies.set_lag_max(u64::from(copies.lag_max_ms) * 1_000_000);
    }

    /// The copies that this node has.
    pub(crate) fn copies(&self) -> &Copies {
        &self.inner.copies
    }

    /// Counters by peer.
    pub(crate) fn figures(&self) -> BTreeMap<NodeId, PeerFigures> {
        lock(&self.inner.figures).clone()
    }

    /// What was asked of peers, by name.
    pub(crate) fn asked(&self) -> [(&'static str, u64); 3] {
        self.asked.all()
    }

    /// Whether the connection to a peer is up.
    pub(crate) fn connected(&self, peer: NodeId) -> bool {
        self.inner.links.connected(peer)
    }

    /// Closes all streams and accepts no more.
    pub(crate) async fn close(&self) {
        self.accepting.abort();
        self.asking.abort();
        for handle in lock(&self.tasks).values().flatten() {
            handle.abort();
        }
        self.inner.links.close().await;
    }
}

/// Answers peers that ask for connections.
fn answering(shared: Arc<Shared>, dirty: Arc<DirtySet>, roles: Arc<Roles>) -> Handler {
    Arc::new(move |peer, kind, request| {
        let epoch = |group| {
            let now = roles.now(group)?;
            Some(now.before.map_or(now.epoch, |(_, epoch)| epoch))
        };
        let slot = dirty.slot(peer).filter(|_| kind == CALL_WHO_HAS);
        // What is no question has an empty answer, which is none.
        let answered = slot.map(|slot| answer(&request, &*shared, slot, epoch));
        let frame = answered.and_then(|frame| {
            frame.inspect_err(|error| debug!(%peer, "a question that cannot be read: {error}")).ok()
        });
        Box::pin(std::future::ready(frame.unwrap_or_default()))
    })
}

/// What this node is to a group towards `peer`, which keeps copies of it or does not.
fn role_towards(peer: NodeId, now: &RoleNow, keeps_copies: bool) -> GroupRole {
    match (now.role, now.before) {
        (Role::Holder, _) if keeps_copies => GroupRole::Send { epoch: now.epoch },
        (Role::Other { node }, Some((before, epoch)))
            if node == peer && before != (Role::Other { node }) =>
        {
            GroupRole::Donate { epoch, everything: before != Role::Holder }
        }
        _ => GroupRole::Idle,
    }
}

async fn send(inner: Arc<Inner>, peer: NodeId, slot: Slot, shard: u8) {
    let mut sender = Sender::new(inner.local, slot, shard, Arc::clone(&inner.dirty))
        .limited_by(Arc::clone(&inner.budget));
    let mut known: BTreeMap<GroupId, GroupRole> = BTreeMap::new();
    let mut roles = inner.roles.watch();
    loop {
        take_roles(&inner, peer, &mut sender, &mut known);
        match stream(&inner, peer, &mut sender, &mut known, &mut roles).await {
            Ok(()) => {}
            Err(error) => debug!(%peer, shard, "stream: {error:#}"),
        }
        sender.handle_stream_down(clock::now_ns());
        note(&inner, peer, &sender);
        tokio::time::sleep(REOPEN_AFTER).await;
    }
}

fn take_roles(
    inner: &Inner,
    peer: NodeId,
    sender: &mut Sender,
    known: &mut BTreeMap<GroupId, GroupRole>,
) {
    let now_ns = clock::now_ns();
    let all = inner.roles.all();
    for (group, now) in &all {
        let role = role_towards(peer, now, inner.roles.keeps_copies(*group, peer));
        if known.insert(*group, role) != Some(role) {
            sender.handle_role(now_ns, *group, role);
        }
    }
    known.retain(|group, _| {
        let stays = all.contains_key(group);
        if !stays {
            sender.handle_role(now_ns, *group, GroupRole::Idle);
        }
        stays
    });
}

async fn stream(
    inner: &Arc<Inner>,
    peer: NodeId,
    sender: &mut Sender,
    known: &mut BTreeMap<GroupId, GroupRole>,
    roles: &mut tokio::sync::watch::Receiver<u64>,
) -> anyhow::Result<()> {
    let mut stream = inner.links.open_stream(peer).await?;
    stream.write_frame(&sender.hello()).await?;
    let hello = tokio::time::timeout(HELLO_WITHIN, stream.read_frame()).await??;
    let hello = hello.ok_or_else(|| anyhow::anyhow!("closed before its first frame"))?;
    let hello = check_hello(inner.local, peer, &hello)?;
    sender.handle_stream_up(clock::now_ns(), &hello);
    let (mut writer, mut reader) = stream.split();
    let mut noted = Instant::now();
    loop {
        // Registered before the look: a key that is marked after it ends the wait.
        let marked = inner.marked[usize::from(sender.shard())].notified();
        let now_ns = clock::now_ns();
        while let Some(frame) = sender.poll_transmit(now_ns, &*inner.shared, wire::BATCH_BYTES_MAX)
        {
            writer.write_frame(&frame).await?;
        }
        if noted.elapsed() >= Duration::from_millis(20) {
            noted = Instant::now();
            note(inner, peer, sender);
        }
        let wait = sender.next_deadline().map_or(LOOK_EVERY, |at| {
            let ns = at.saturating_sub(clock::now_ns()).max(BATCH_INTERVAL_NS / 4);
            Duration::from_nanos(ns).min(LOOK_EVERY)
        });
        tokio::select! {
            frame = reader.read_frame() => match frame? {
                Some(frame) => sender.handle_ack(clock::now_ns(), &frame)?,
                None => anyhow::bail!("closed by the peer"),
            },
            changed = roles.changed() => {
                changed?;
                take_roles(inner, peer, sender, known);
            }
            () = marked => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn note(inner: &Inner, peer: NodeId, sender: &Sender) {
    let mut figures = lock(&inner.figures);
    figures.entry(peer).or_default().sent.insert(sender.shard(), sender.metrics());
}

fn note_received(inner: &Inner, peer: NodeId, receiver: &Receiver) {
    let mut figures = lock(&inner.figures);
    figures.entry(peer).or_default().received.insert(receiver.shard(), receiver.metrics());
}

async fn accept(inner: Arc<Inner>, mut incoming: Incoming) {
    loop {
        tokio::select! {
            stream = incoming.streams.recv() => match stream {
                Some(stream) => {
                    tokio::spawn(receive(Arc::clone(&inner), stream.from, stream.stream));
                }
                None => return,
            },
            event = incoming.events.recv() => match event {
                Some(event) => info!(?event, "replication"),
                None => return,
            },
        }
    }
}

async fn receive(inner: Arc<Inner>, peer: NodeId, stream: PeerStream) {
    if let Err(error) = apply(&inner, peer, stream).await {
        debug!(%peer, "incoming stream: {error:#}");
    }
}

async fn apply(inner: &Inner, peer: NodeId, mut stream: PeerStream) -> anyhow::Result<()> {
    let first = tokio::time::timeout(HELLO_WITHIN, stream.read_frame()).await??;
    let first = first.ok_or_else(|| anyhow::anyhow!("closed before its first frame"))?;
    let (copies, dirty) = (Arc::clone(&inner.copies), Arc::clone(&inner.dirty));
    let mut receiver = Receiver::new(inner.local, peer, &first, copies, dirty)?;
    stream.write_frame(&receiver.hello()).await?;
    let (mut writer, mut reader) = stream.split();
    let mut refused = 0;
    while let Some(frame) = reader.read_frame().await? {
        let reply = receiver.handle_frame(clock::now_ns(), &*inner.shared, &frame)?;
        if receiver.metrics().digests_refused > refused {
            refused = receiver.metrics().digests_refused;
            let shard = receiver.shard();
            warn!(%peer, shard, "the copy differs from what its holder sent: a snapshot is asked for");
        }
        note_received(inner, peer, &receiver);
        if !reply.ack.is_empty() {
            writer.write_frame(&reply.ack).await?;
        }
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use steadfast_model::Epoch;

    use super::*;

    #[test]
    fn a_deposed_holder_donates_the_rest_and_a_survivor_everything() {
        let at = |grant_index| Epoch { grant_index, ..Epoch::default() };
        let other = |n| Role::Other { node: NodeId(n) };
        let now = |role, before| RoleNow { role, epoch: at(9), before };
        let towards = |role, before| role_towards(NodeId(2), &now(role, before), true);
        let donate = |everything| GroupRole::Donate { epoch: at(5), everything };
        for (role, before, expected) in [
            (Role::Holder, None, GroupRole::Send { epoch: at(9) }),
            (other(2), None, GroupRole::Idle),
            (other(3), Some((Role::Holder, at(5))), GroupRole::Idle),
            (other(2), Some((Role::Holder, at(5))), donate(false)),
            (other(2), Some((other(3), at(5))), donate(true)),
            (other(2), Some((other(2), at(5))), GroupRole::Idle),
            (Role::NoHolder, Some((other(2), at(5))), GroupRole::Idle),
        ] {
            assert_eq!(towards(role, before), expected, "{role:?} {before:?}");
            // Who is told nothing of it as a copy is told all when it holds.
            let outside = role_towards(NodeId(2), &now(role, before), false);
            let sends = matches!(expected, GroupRole::Send { .. });
            assert_eq!(outside, if sends { GroupRole::Idle } else { expected }, "{role:?}");
        }
    }
}
