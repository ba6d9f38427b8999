//! Copies of connections: records encoded, sent and applied, by the processor time that it takes.
//!
//! The senders, the wire and the receivers are those of the daemon. Encoding and applying are
//! measured apart, without a network, by one thread. Sending goes over QUIC between two threads on
//! loopback, each with the endpoint of the daemon: what it costs is the processor time of the thread
//! that has that end, sockets and encryption included. Not measured: a network, and packets meanwhile.

mod quic;

use std::sync::Arc;

use anyhow::{Context, ensure};
use rustix::time::{ClockId, clock_gettime};
use steadfast_dataplane::SchedulerKind;
use steadfast_model::{BootId, GroupId, NodeId};
use steadfast_replication::{
    Copies, DirtySet, GroupRole, Local, Receiver, SHARDS, Sender, Table,
    adapter::key_of,
    check_hello, shard_of,
    wire::{Ack, BATCH_BYTES_MAX, BatchWriter, Item, Message},
};

use crate::{
    mode::Mode,
    world::{self, Shape, World},
};

pub(crate) const CLUSTER: u64 = 1;
pub(crate) const G: GroupId = GroupId(world::GROUP.0);
const NS_PER_S: f64 = 1e9;
/// Sweeps come a few seconds after a take-over; the clock of a measurement need not wait for them.
const STEP_NS: u64 = 2_000_000;

/// What the table has as its columns; the order is that of [`Row::fields`].
#[derive(Debug, Default)]
pub(crate) struct Row {
    snapshot_bytes: f64,
    change_bytes: f64,
    encoded: f64,
    changes_encoded: f64,
    applied: f64,
    changes_applied: f64,
    sent: f64,
    received: f64,
    wall_ms: f64,
}

impl Row {
    fn fields(&self) -> [f64; 9] {
        let Self { snapshot_bytes, change_bytes, encoded, changes_encoded, .. } = *self;
        let Self { applied, changes_applied, sent, received, wall_ms, .. } = *self;
        let rates = [encoded, changes_encoded, applied, changes_applied, sent, received];
        let [a, b, c, d, e, f] = rates;
        [snapshot_bytes, change_bytes, a, b, c, d, e, f, wall_ms]
    }
}

/// Prints the table; `measure` has a row measured by a process of its own.
pub(crate) fn print(
    records: u64,
    measure: impl Fn(Mode, u64) -> anyhow::Result<Vec<f64>>,
) -> anyhow::Result<()> {
    println!(
        "\nCopies of {records} connections from one table into another; records per second of processor time. \
         `B` is bytes per record on the wire, of a snapshot and of changes, headers of batches included. \
         `encode` and `apply` without a network: of a snapshot, and of changes to what is there. `sent` and \
         `received`: a snapshot over QUIC between two threads on loopback, by the time of \
         each; `wall` is how long that took. IPVS has 36 B."
    );
    println!(
        "\n| copies of | B | B, changes | encode/s | changes encoded/s | apply/s | changes applied/s | \
         sent/s | received/s | wall |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for mode in [Mode::Dr, Mode::Nat, Mode::FullNat, Mode::Dr6] {
        let fields = measure(mode, records)?;
        let [bytes, change_bytes, rates @ .., wall_ms] = fields.as_slice() else { continue };
        let rates: Vec<String> = rates.iter().map(|rate| format!("{rate:.0}")).collect();
        println!(
            "| {} | {bytes:.1} | {change_bytes:.1} | {} | {wall_ms:.0} ms |",
            mode.title(mode.ways()[0]),
            rates.join(" | ")
        );
    }
    Ok(())
}

/// Measures one row and prints its fields, tab-separated.
pub(crate) fn row(mode: Mode, records: u64) -> anyhow::Result<()> {
    let row = measure(mode, records)?;
    let fields: Vec<String> = row.fields().iter().map(|field| format!("{field:.2}")).collect();
    println!("{}", fields.join("\t"));
    Ok(())
}

fn measure(mode: Mode, records: u64) -> anyhow::Result<Row> {
    let holder = Arc::new(filled(mode, records)?);
    let mut row = Row::default();
    let (snapshot, took) = encode(&holder, records, What::Snapshot)?;
    row.snapshot_bytes = bytes(&snapshot) / records as f64;
    row.encoded = rate(records, took);
    let (changes, took) = encode(&holder, records, What::Changes)?;
    row.change_bytes = bytes(&changes) / records as f64;
    row.changes_encoded = rate(records, took);
    let copy = World::new(holder.shape)?;
    row.applied = rate(records, apply(&copy, &snapshot, records)?);
    row.changes_applied = rate(records, apply(&copy, &changes, records)?);
    let over_quic = quic::snapshot(&holder, &World::new(holder.shape)?, records)?;
    row.sent = rate(records, over_quic.sender_ns as f64);
    row.received = rate(records, over_quic.receiver_ns as f64);
    row.wall_ms = over_quic.wall_ns as f64 / 1e6;
    Ok(row)
}

fn filled(mode: Mode, records: u64) -> anyhow::Result<World> {
    let scheduler = SchedulerKind::default();
    let connections_max = records as usize * 5 / 4;
    let shape = Shape { mode, services: 10, servers: 10, scheduler, connections_max };
    let mut world = World::new(shape)?;
    world.fill(0, records)?;
    Ok(world)
}

/// Processor time of this thread: what others do on the machine meanwhile does not count.
fn spent_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn rate(records: u64, ns: f64) -> f64 {
    records as f64 * NS_PER_S / ns
}

fn bytes(frames: &[(u8, Vec<u8>)]) -> f64 {
    frames.iter().map(|(_, frame)| frame.len()).sum::<usize>() as f64
}

/// Each frame with its shard.
type Frames = Vec<(u8, Vec<u8>)>;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum What {
    Snapshot,
    Changes,
}

pub(crate) fn local(node: u32) -> Local {
    Local { cluster: CLUSTER, node: NodeId(node), boot: BootId(node.into()) }
}

/// A sender, and the receiver at the end of its stream.
fn pair(
    shard: u8,
    dirty: &Arc<DirtySet>,
    copies: &Arc<Copies>,
) -> anyhow::Result<(Sender, Receiver)> {
    let slot = dirty.slot(NodeId(2)).context("no place for a peer")?;
    let sender = Sender::new(local(1), slot, shard, Arc::clone(dirty));
    let first = sender.hello();
    let unused = Arc::new(DirtySet::new());
    let receiver = Receiver::new(local(2), NodeId(1), &first, Arc::clone(copies), unused)?;
    Ok((sender, receiver))
}

/// Polls until all is said and acknowledged; every frame, and the nanoseconds that making them took.
/// Who reads them acknowledges at once.
fn poll_all<T>(
    sender: &mut Sender,
    now_ns: &mut u64,
    seq: &mut u64,
    table: &T,
) -> (Vec<Vec<u8>>, f64)
where
    T: Table + ?Sized,
{
    let (mut frames, mut took_ns) = (Vec::new(), 0.0);
    loop {
        *now_ns += STEP_NS;
        let start = spent_ns();
        let frame = sender.poll_transmit(*now_ns, table, BATCH_BYTES_MAX);
        took_ns += (spent_ns() - start) as f64;
        if let Some(frame) = frame {
            frames.push(frame);
            *seq += 1;
            let ack = Ack { seq: *seq, ..Ack::default() };
            // Such an acknowledgement is never refused.
            let _ = sender.handle_ack(*now_ns, &ack.encode());
        }
        let metrics = sender.metrics();
        if metrics.snapshots_pending + metrics.waiting + metrics.unacked_records == 0 {
            return (frames, took_ns);
        }
    }
}

/// Every frame with its shard, and the nanoseconds that making them took.
fn encode(holder: &World, records: u64, what: What) -> anyhow::Result<(Frames, f64)> {
    let copies = Arc::new(Copies::new());
    let empty = World::new(Shape { connections_max: 1024, ..holder.shape })?;
    let (mut frames, mut took_ns) = (Vec::new(), 0.0);
    for shard in 0..SHARDS {
        let (mut now_ns, mut seq) = (holder.now_ns, 0);
        let (mut sender, receiver) = pair(shard, &holder.dirty, &copies)?;
        let hello = check_hello(local(1), NodeId(2), &receiver.hello())?;
        sender.handle_role(now_ns, G, GroupRole::Send { epoch: world::epoch() });
        sender.handle_stream_up(now_ns, &hello);
        if what == What::Changes {
            // The snapshot first, of a table that has nothing.
            poll_all(&mut sender, &mut now_ns, &mut seq, &*empty.shared);
            let keys = (0..records).map(|flow| key_of(&holder.key(flow)));
            keys.filter(|key| shard_of(key) == shard).for_each(|key| holder.dirty.mark(&key, G));
        }
        let (made, ns) = poll_all(&mut sender, &mut now_ns, &mut seq, &*holder.shared);
        frames.extend(made.into_iter().map(|frame| (shard, frame)));
        took_ns += ns;
        sender.handle_role(now_ns, G, GroupRole::Idle);
    }
    Ok((frames, took_ns))
}

/// Applies what [`encode`] made; the nanoseconds it took.
fn apply(copy: &World, frames: &[(u8, Vec<u8>)], records: u64) -> anyhow::Result<f64> {
    let copies = Arc::new(Copies::new());
    let mut took_ns = 0.0;
    for shard in 0..SHARDS {
        let dirty = Arc::new(DirtySet::new());
        let (_, mut receiver) = pair(shard, &dirty, &copies)?;
        let mut now_ns = copy.now_ns;
        let own: Vec<&Vec<u8>> =
            frames.iter().filter(|(of, _)| *of == shard).map(|(_, frame)| frame).collect();
        for frame in renumbered(&own)? {
            now_ns += STEP_NS;
            let start = spent_ns();
            receiver.handle_frame(now_ns, &*copy.shared, &frame)?;
            took_ns += (spent_ns() - start) as f64;
        }
        let metrics = receiver.metrics();
        ensure!(metrics.rejected_full + metrics.rejected_unfit == 0, "{metrics:?}");
    }
    ensure!(copy.shared.table.len() as u64 == records, "{} records came", copy.shared.table.len());
    Ok(took_ns)
}

/// The frames as a stream of their own: a receiver takes only those that count from 1.
fn renumbered(frames: &[&Vec<u8>]) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut all = Vec::new();
    for (seq, frame) in (1..).zip(frames) {
        let Message::Batch(batch) = Message::decode(frame)? else { continue };
        let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
        for item in &batch.items {
            let header = batch.groups[usize::from(item.header())];
            match item {
                Item::Record { record, .. } => writer.record(header, record),
                Item::Delete { key, incarnation, .. } => writer.delete(header, key, *incarnation),
                Item::Begin { snapshot, .. } => writer.begin(header, *snapshot),
                Item::End { snapshot, .. } => writer.end(header, *snapshot),
                Item::Sweep { snapshot, .. } => writer.sweep(header, *snapshot),
                Item::DonationEnd { .. } => writer.donation_end(header),
            }
        }
        all.push(writer.finish(seq, batch.sent_ms, batch.age_ms));
    }
    Ok(all)
}
