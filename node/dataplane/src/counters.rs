//! Counters of the packet path.
//!
//! Guarantees: each worker writes cache lines of its own, without read-modify-write instructions;
//! any thread may read and sum them at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::Reason;

/// Workers that a configuration may count for.
pub const WORKERS_MAX: usize = 64;

/// Packets and connections of a server or service.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct FlowTotals {
    /// Connections scheduled.
    pub conns: u64,
    /// Packets to the server.
    pub in_pkts: u64,
    /// Bytes to the server (IP length).
    pub in_bytes: u64,
    /// Packets from the server; always 0 under DR and over tunnels.
    pub out_pkts: u64,
    /// Bytes from the server (IP length).
    pub out_bytes: u64,
}

impl std::ops::Add for FlowTotals {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            conns: self.conns.wrapping_add(other.conns),
            in_pkts: self.in_pkts.wrapping_add(other.in_pkts),
            in_bytes: self.in_bytes.wrapping_add(other.in_bytes),
            out_pkts: self.out_pkts.wrapping_add(other.out_pkts),
            out_bytes: self.out_bytes.wrapping_add(other.out_bytes),
        }
    }
}

/// Counters of one server, a line per worker.
#[derive(Debug)]
pub struct FlowCounters {
    lines: Box<[FlowLine]>,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct FlowLine {
    conns: AtomicU64,
    in_pkts: AtomicU64,
    in_bytes: AtomicU64,
    out_pkts: AtomicU64,
    out_bytes: AtomicU64,
}

const _: () = assert!(size_of::<FlowLine>() == 64);

/// Counters of one worker.
#[derive(Debug)]
#[repr(align(64))]
pub struct WorkerCounters {
    received: AtomicU64,
    forwarded: AtomicU64,
    returned: AtomicU64,
    relayed: AtomicU64,
    answered: AtomicU64,
    too_big: AtomicU64,
    expired: AtomicU64,
    fragmented: AtomicU64,
    released: AtomicU64,
    unfit_replies: AtomicU64,
    longer_replies: AtomicU64,
    told: AtomicU64,
    untold: AtomicU64,
    dropped: [AtomicU64; Reason::COUNT],
}

/// What a transmitted frame was.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Sent {
    /// Client to server.
    Forwarded,
    /// Server to client (NAT).
    Returned,
    /// To the holder of the group.
    Relayed,
    /// An answer of this node: ARP, echo, RST, port unreachable, packet too big.
    Answered,
}

impl FlowCounters {
    /// Zeroed counters for `workers` workers.
    #[must_use]
    pub fn new(workers: usize) -> Self {
        let workers = workers.clamp(1, WORKERS_MAX);
        Self { lines: (0..workers).map(|_| FlowLine::default()).collect() }
    }

    /// Workers it counts for.
    #[must_use]
    pub fn workers(&self) -> usize {
        self.lines.len()
    }

    /// Counts a scheduled connection.
    pub fn count_conn(&self, worker: usize) {
        if let Some(line) = self.lines.get(worker) {
            add(&line.conns, 1);
        }
    }

    /// Counts a packet to the server.
    pub fn count_in(&self, worker: usize, bytes: usize) {
        if let Some(line) = self.lines.get(worker) {
            add(&line.in_pkts, 1);
            add(&line.in_bytes, bytes as u64);
        }
    }

    /// Counts a packet from the server.
    pub fn count_out(&self, worker: usize, bytes: usize) {
        if let Some(line) = self.lines.get(worker) {
            add(&line.out_pkts, 1);
            add(&line.out_bytes, bytes as u64);
        }
    }

    /// The sum over workers.
    #[must_use]
    pub fn totals(&self) -> FlowTotals {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.lines.iter().fold(FlowTotals::default(), |sum, line| FlowTotals {
            conns: sum.conns + read(&line.conns),
            in_pkts: sum.in_pkts + read(&line.in_pkts),
            in_bytes: sum.in_bytes + read(&line.in_bytes),
            out_pkts: sum.out_pkts + read(&line.out_pkts),
            out_bytes: sum.out_bytes + read(&line.out_bytes),
        })
    }
}

impl WorkerCounters {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self {
            received: AtomicU64::new(0),
            forwarded: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            relayed: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            too_big: AtomicU64::new(0),
            expired: AtomicU64::new(0),
            fragmented: AtomicU64::new(0),
            released: AtomicU64::new(0),
            unfit_replies: AtomicU64::new(0),
            longer_replies: AtomicU64::new(0),
            told: AtomicU64::new(0),
            untold: AtomicU64::new(0),
            dropped: [const { AtomicU64::new(0) }; Reason::COUNT],
        }
    }

    pub(crate) fn count_received(&self) {
        add(&self.received, 1);
    }

    pub(crate) fn count_sent(&self, sent: Sent) {
        add(self.of(sent), 1);
    }

    pub(crate) fn count_expired(&self) {
        add(&self.expired, 1);
    }

    pub(crate) fn count_too_big(&self) {
        add(&self.too_big, 1);
    }

    /// A packet that leaves in pieces.
    pub(crate) fn count_fragmented(&self) {
        add(&self.fragmented, 1);
    }

    /// A fragment that waited for its first one, and is sent.
    pub(crate) fn count_released(&self) {
        add(&self.released, 1);
    }

    pub(crate) fn count_unfit_reply(&self) {
        add(&self.unfit_replies, 1);
    }

    pub(crate) fn count_longer_reply(&self) {
        add(&self.longer_replies, 1);
    }

    /// A packet that is to tell the server who its client is, and whether it had room for that.
    pub(crate) fn count_told(&self, told: bool) {
        add(if told { &self.told } else { &self.untold }, 1);
    }

    pub(crate) fn count_dropped(&self, reason: Reason) {
        add(&self.dropped[reason as usize], 1);
    }

    /// Frames handed to the worker.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Frames transmitted, by kind.
    #[must_use]
    pub fn sent(&self, sent: Sent) -> u64 {
        self.of(sent).load(Ordering::Relaxed)
    }

    /// Of the answers: that a packet's TTL ran out here.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired.load(Ordering::Relaxed)
    }

    /// Of the answers: that a packet is too big for its way.
    #[must_use]
    pub fn too_big(&self) -> u64 {
        self.too_big.load(Ordering::Relaxed)
    }

    /// Packets that left in pieces, being too big for their way.
    #[must_use]
    pub fn fragmented(&self) -> u64 {
        self.fragmented.load(Ordering::Relaxed)
    }

    /// Fragments sent after their first one, which they had overtaken: of those that
    /// [`Reason::FragmentEarly`] counts, here or at another worker.
    #[must_use]
    pub fn released(&self) -> u64 {
        self.released.load(Ordering::Relaxed)
    }

    /// 227 replies of FTP servers that went on as they were, with the server's address.
    #[must_use]
    pub fn unfit_replies(&self) -> u64 {
        self.unfit_replies.load(Ordering::Relaxed)
    }

    /// 227 replies that got longer, each once however often it is sent.
    #[must_use]
    pub fn longer_replies(&self) -> u64 {
        self.longer_replies.load(Ordering::Relaxed)
    }

    /// Packets that told a server who its client is.
    #[must_use]
    pub fn told(&self) -> u64 {
        self.told.load(Ordering::Relaxed)
    }

    /// Packets that had no room to tell it.
    #[must_use]
    pub fn untold(&self) -> u64 {
        self.untold.load(Ordering::Relaxed)
    }

    /// Frames dropped, by reason.
    #[must_use]
    pub fn dropped(&self, reason: Reason) -> u64 {
        self.dropped[reason as usize].load(Ordering::Relaxed)
    }

    fn of(&self, sent: Sent) -> &AtomicU64 {
        match sent {
            Sent::Forwarded => &self.forwarded,
            Sent::Returned => &self.returned,
            Sent::Relayed => &self.relayed,
            Sent::Answered => &self.answered,
        }
    }
}

impl Default for WorkerCounters {
    fn default() -> Self {
        Self::new()
    }
}

/// Adds to a counter that only this thread writes.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}
