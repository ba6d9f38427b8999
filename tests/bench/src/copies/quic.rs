//! A snapshot over QUIC, between two threads with an endpoint each.

use std::{
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use steadfast_dataplane::Shared;
use steadfast_model::NodeId;
use steadfast_peer::{
    Endpoint, EndpointConfig, Handler, Incoming, Links, LinksConfig, Membership, Peer, PeerStream,
    Purpose,
    pki::{Ca, Identity, JoinRequest},
};
use steadfast_replication::{
    Copies, DirtySet, GroupRole, Receiver, SHARDS, Sender, check_hello, wire::BATCH_BYTES_MAX,
};
use tokio::{runtime::Runtime, sync::oneshot, task::JoinSet};

use super::{CLUSTER, G, local, spent_ns};
use crate::world::{self, World};

/// All of it is over by then, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(120);

/// What it cost.
#[derive(Debug)]
pub(super) struct Cost {
    /// Processor time of the thread with the senders.
    pub(super) sender_ns: u64,
    /// Of the thread with the receivers.
    pub(super) receiver_ns: u64,
    /// From the first byte until all was acknowledged.
    pub(super) wall_ns: u64,
}

/// Copies a table into another.
pub(super) fn snapshot(holder: &World, copy: &World, records: u64) -> anyhow::Result<Cost> {
    let ca = Ca::generate(&format!("{CLUSTER:016x}"))?;
    let (told, addr) = mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    let (identity, table) = (identity(&ca, 2)?, Arc::clone(&copy.shared));
    let (own, sender_addr) = mpsc::channel();
    let receiver = thread::spawn(move || receive(identity, &table, &told, &sender_addr, stopped));
    let to = addr.recv().context("the receiving thread has ended")?;
    let sent = send(self::identity(&ca, 1)?, holder, to, &own);
    let _ = stop.send(());
    let receiver_ns = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))??;
    let (sender_ns, wall_ns) = sent?;
    let came = copy.shared.table.len() as u64;
    ensure!(came == records, "{came} of {records} records came");
    Ok(Cost { sender_ns, receiver_ns, wall_ns })
}

fn identity(ca: &Ca, id: u32) -> anyhow::Result<Identity> {
    let request = JoinRequest::generate()?;
    let cert = ca.issue_node(NodeId(id), request.csr_pem())?;
    Ok(Identity::from_pem(&cert, request.key_pem(), ca.cert_pem())?)
}

fn runtime() -> anyhow::Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn links(identity: Identity) -> anyhow::Result<(Links, Incoming, SocketAddr)> {
    let members = Membership::new([NodeId(1), NodeId(2)]);
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = EndpointConfig::new(Purpose::Replication, listen, identity, members);
    let endpoint = Endpoint::bind(config)?;
    let addr = endpoint.local_addr()?;
    let handler: Handler = Arc::new(|_, _, _| Box::pin(std::future::ready(Vec::new())));
    let handler_runtime = tokio::runtime::Handle::current();
    let (links, incoming) = Links::start(endpoint, LinksConfig { handler, handler_runtime });
    Ok((links, incoming, addr))
}

/// The thread with the receivers; its processor time from the first stream on.
fn receive(
    identity: Identity,
    table: &Arc<Shared>,
    told: &mpsc::Sender<SocketAddr>,
    peer: &mpsc::Receiver<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) -> anyhow::Result<u64> {
    runtime()?.block_on(async {
        let (links, mut incoming, addr) = links(identity)?;
        told.send(addr)?;
        let addr = peer.recv()?;
        links.set_peers(&[Peer { id: NodeId(1), addr }]);
        let (copies, mut streams) = (Arc::new(Copies::new()), JoinSet::new());
        let mut begun = None;
        let mut stopped = stopped;
        loop {
            tokio::select! {
                _ = &mut stopped => break,
                stream = incoming.streams.recv() => {
                    let Some(stream) = stream else { break };
                    begun.get_or_insert_with(spent_ns);
                    streams.spawn(apply(stream.stream, Arc::clone(table), Arc::clone(&copies)));
                }
                Some(ended) = streams.join_next() => ended??,
            }
        }
        let spent = spent_ns() - begun.context("no stream came")?;
        links.close().await;
        Ok(spent)
    })
}

async fn apply(
    mut stream: PeerStream,
    table: Arc<Shared>,
    copies: Arc<Copies>,
) -> anyhow::Result<()> {
    let first = stream.read_frame().await?.context("closed before its first frame")?;
    let dirty = Arc::new(DirtySet::new());
    let mut receiver = Receiver::new(local(2), NodeId(1), &first, copies, dirty)?;
    stream.write_frame(&receiver.hello()).await?;
    let (mut writer, mut reader) = stream.split();
    let start = Instant::now();
    // The sender closes when it has the acknowledgements that it waits for; what came over is counted.
    while let Ok(Some(frame)) = reader.read_frame().await {
        let now_ns = 1_000_000_000 + start.elapsed().as_nanos() as u64;
        let reply = receiver.handle_frame(now_ns, &*table, &frame)?;
        if !reply.ack.is_empty() && writer.write_frame(&reply.ack).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// The senders, in this thread: its processor time, and how long it took.
fn send(
    identity: Identity,
    holder: &World,
    to: SocketAddr,
    told: &mpsc::Sender<SocketAddr>,
) -> anyhow::Result<(u64, u64)> {
    runtime()?.block_on(async {
        let (links, _incoming, addr) = links(identity)?;
        told.send(addr)?;
        links.set_peers(&[Peer { id: NodeId(2), addr: to }]);
        let start = Instant::now();
        while !links.connected(NodeId(2)) {
            ensure!(start.elapsed() < PATIENCE, "no connection within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let (begun, start) = (spent_ns(), Instant::now());
        let mut streams = JoinSet::new();
        for shard in 0..SHARDS {
            let stream = links.open_stream(NodeId(2)).await?;
            let (table, dirty) = (Arc::clone(&holder.shared), Arc::clone(&holder.dirty));
            streams.spawn(copy(stream, shard, table, dirty));
        }
        let all = async {
            while let Some(ended) = streams.join_next().await {
                ended??;
            }
            anyhow::Ok(())
        };
        tokio::time::timeout(PATIENCE, all).await.context("it takes too long")??;
        let cost = (spent_ns() - begun, start.elapsed().as_nanos() as u64);
        links.close().await;
        Ok(cost)
    })
}

/// One shard, as the daemon's task does it.
async fn copy(
    mut stream: PeerStream,
    shard: u8,
    table: Arc<Shared>,
    dirty: Arc<DirtySet>,
) -> anyhow::Result<()> {
    let slot = dirty.slot(NodeId(2)).context("no place for a peer")?;
    let mut sender = Sender::new(local(1), slot, shard, dirty);
    sender.handle_role(0, G, GroupRole::Send { epoch: world::epoch() });
    stream.write_frame(&sender.hello()).await?;
    let hello = stream.read_frame().await?.context("closed before its first frame")?;
    sender.handle_stream_up(0, &check_hello(local(1), NodeId(2), &hello)?);
    let (mut writer, mut reader) = stream.split();
    let start = Instant::now();
    loop {
        let now_ns = start.elapsed().as_nanos() as u64;
        while let Some(frame) = sender.poll_transmit(now_ns, &*table, BATCH_BYTES_MAX) {
            writer.write_frame(&frame).await?;
        }
        if sender.is_done(G) {
            writer.finish();
            return Ok(());
        }
        tokio::select! {
            frame = reader.read_frame() => match frame? {
                Some(frame) => sender.handle_ack(start.elapsed().as_nanos() as u64, &frame)?,
                None => bail!("closed by the peer"),
            },
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
}
