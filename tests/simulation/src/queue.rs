//! What happens when: the one queue of events.

use std::{cmp::Reverse, collections::BinaryHeap, rc::Rc};

use steadfast_model::{BootId, NodeId};
use steadfast_ownership::{Frame, Path};

use crate::{clock::Ns, faults::Fault, raft::RaftMessage};

/// Who is on a segment.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Device {
    /// An interface of a node, by its port: 0 in front, 1 at the back.
    Node(NodeId, u16),
    /// A client.
    Client(u16),
    /// A server, by its port: 0 in front, 1 at the back.
    Server(u16),
}

/// A stream of replication: from, to, shard.
pub(crate) type StreamKey = (NodeId, NodeId, u8);

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// The ownership loop of a run turns.
    OwnerTurn(NodeId, BootId),
    /// A frame of ownership arrives.
    Owner {
        /// At whom.
        to: NodeId,
        /// On which way.
        path: Path,
        /// What.
        frame: Rc<Frame>,
        /// When it was sent.
        sent: Ns,
    },
    /// An Ethernet frame arrives.
    Ether(Device, Rc<[u8]>),
    /// Connections are expired.
    Expire(NodeId, BootId),
    /// The follower takes up what was applied.
    Follow(NodeId, BootId),
    /// A sender of copies looks around.
    Sender(NodeId, BootId, NodeId, u8),
    /// A frame of a stream arrives; the number tells streams of one key apart.
    Copy(StreamKey, u64, Rc<[u8]>),
    /// An acknowledgement arrives.
    Ack(StreamKey, u64, Rc<[u8]>),
    /// The sender opens its stream.
    Open(StreamKey, BootId),
    /// A stream's end is noticed at the sender.
    Broken(StreamKey, u64),
    /// A message of the log arrives.
    Raft(NodeId, NodeId, Rc<RaftMessage>),
    /// Timers of the log.
    RaftTimer(NodeId, BootId),
    /// A write of the log is on the disk.
    Synced(NodeId, BootId, u64),
    /// A proposal has waited long enough.
    ProposalTimeout(NodeId, BootId, u64),
    /// A request to move a group arrives at a node that may be the leader.
    AskMove(NodeId, steadfast_model::GroupId),
    /// A client acts.
    Session(usize),
    /// A server has waited for the third packet of a handshake, so many times.
    Handshake(u16, Rc<[u8]>, u32),
    /// A fault begins.
    Begin(usize),
    /// A fault ends.
    End(Fault),
    /// A node is hit once it takes a group up.
    Strike(NodeId, steadfast_model::GroupId, u8, u32),
    /// A fault that comes in steps goes on.
    Step(Fault, u32),
    /// A node in a crash loop dies.
    DieAgain(NodeId),
    /// A node that was killed or stopped starts.
    Start(NodeId),
    /// A node that stops as planned looks whether it may go.
    Leave(NodeId, BootId, u32),
    /// Invariants are checked.
    Check,
    /// An operator acts.
    Operate,
}

#[derive(Debug)]
struct Entry(Ns, u64, Event);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

/// Events by time; those of one time in the order in which they were put in.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    heap: BinaryHeap<Reverse<Entry>>,
    serial: u64,
}

impl Queue {
    /// Has something happen at `at`.
    pub(crate) fn put(&mut self, at: Ns, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse(Entry(at, self.serial, event)));
    }

    /// The next event, if it happens before `end`.
    pub(crate) fn take(&mut self, end: Ns) -> Option<(Ns, Event)> {
        if self.heap.peek()?.0.0 >= end {
            return None;
        }
        self.heap.pop().map(|Reverse(Entry(at, _, event))| (at, event))
    }
}
