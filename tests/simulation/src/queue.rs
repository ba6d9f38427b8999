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
    /// Questions for connections that nobody here knows are asked.
    Gather(NodeId, BootId),
    /// Such a question arrives.
    Asked {
        /// Of whom.
        from: NodeId,
        /// Of which run.
        boot: BootId,
        /// At whom.
        to: NodeId,
        /// Which.
        number: u64,
        /// As it was sent.
        frame: Rc<[u8]>,
    },
    /// Its answer arrives.
    Answered {
        /// Of whom.
        by: NodeId,
        /// At whom.
        to: NodeId,
        /// At which run.
        boot: BootId,
        /// To which question.
        number: u64,
        /// As it was sent.
        frame: Rc<[u8]>,
    },
    /// A question has waited long enough.
    Unanswered(NodeId, BootId, u64),
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

/// Width of a slot of the wheel, as a power of two: 65 us.
const SLOT_BITS: u32 = 16;
/// Slots of the wheel, a turn of 268 ms: nearly all that happens is put in for sooner.
const SLOTS: usize = 1 << 12;

/// When, in which order of putting in, and where the event is.
type Place = (Ns, u64, u32);

/// Events by time; those of one time in the order in which they were put in.
///
/// A wheel for what is near and a heap for what is far, with places only: events are larger, and
/// would be moved with every step of it.
#[derive(Debug)]
pub(crate) struct Queue {
    /// What is due in each slot of the turn that began last; in no order but for the present one.
    wheel: Vec<Vec<Place>>,
    /// The slot at hand, counted from the beginning of time; its places are sorted, the next one last.
    slot: u64,
    /// Places in the wheel.
    near: usize,
    far: BinaryHeap<Reverse<Place>>,
    events: Vec<Option<Event>>,
    free: Vec<u32>,
    serial: u64,
}

impl Default for Queue {
    fn default() -> Self {
        let wheel = (0..SLOTS).map(|_| Vec::new()).collect();
        let (far, events, free) = Default::default();
        Self { wheel, slot: 0, near: 0, far, events, free, serial: 0 }
    }
}

impl Queue {
    /// Has something happen at `at`.
    pub(crate) fn put(&mut self, at: Ns, event: Event) {
        self.serial += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() as u32 - 1
        });
        self.events[place as usize] = Some(event);
        let place = (at, self.serial, place);
        if (at >> SLOT_BITS) < self.slot + SLOTS as u64 {
            self.put_near(place);
        } else {
            self.far.push(Reverse(place));
        }
    }

    /// What should have happened already happens in the slot at hand.
    fn put_near(&mut self, place: Place) {
        let slot = (place.0 >> SLOT_BITS).max(self.slot);
        let places = &mut self.wheel[slot as usize % SLOTS];
        if slot == self.slot {
            let before = places.partition_point(|other| *other > place);
            places.insert(before, place);
        } else {
            places.push(place);
        }
        self.near += 1;
    }

    /// The next event, if it happens before `end`.
    pub(crate) fn take(&mut self, end: Ns) -> Option<(Ns, Event)> {
        loop {
            let places = &mut self.wheel[self.slot as usize % SLOTS];
            if let Some((at, _, place)) = places.last().copied() {
                if at >= end {
                    return None;
                }
                places.pop();
                self.near -= 1;
                self.free.push(place);
                return Some((at, self.events[place as usize].take()?));
            }
            if self.slot > end >> SLOT_BITS {
                return None;
            }
            self.turn()?;
        }
    }

    /// Goes on to the next slot; `None` when nothing is left.
    fn turn(&mut self) -> Option<()> {
        self.slot += 1;
        if self.near == 0 {
            self.slot = self.slot.max(self.far.peek()?.0.0 >> SLOT_BITS);
        }
        while let Some(Reverse(place)) = self.far.peek().copied()
            && place.0 >> SLOT_BITS < self.slot + SLOTS as u64
        {
            self.far.pop();
            self.wheel[(place.0 >> SLOT_BITS) as usize % SLOTS].push(place);
            self.near += 1;
        }
        self.wheel[self.slot as usize % SLOTS].sort_unstable_by(|a, b| b.cmp(a));
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    /// As a heap gives them, whenever they are put in.
    #[test]
    fn events_come_in_order() {
        let (mut queue, mut heap, mut rng) = (Queue::default(), BinaryHeap::new(), Rng::new(1));
        let (mut now, mut serial) = (0, 0);
        for round in 0..2_000 {
            for _ in 0..rng.below(20) {
                let span = [0, 1_000, 1 << 20, 1 << 30, 1 << 36][rng.index(5)];
                let at = now + rng.below(span + 1);
                serial += 1;
                queue.put(at, Event::Begin(serial));
                heap.push(Reverse((at, serial)));
            }
            let end = now + rng.below(1 << 28);
            let take = rng.below(12);
            for _ in 0..take {
                let want = heap.peek().filter(|next| next.0.0 < end).copied();
                let got = queue.take(end);
                match (want, got) {
                    (Some(Reverse((at, serial))), Some((time, Event::Begin(number)))) => {
                        assert_eq!((at, serial), (time, number), "round {round}");
                        heap.pop();
                        now = at;
                    }
                    (None, None) => {
                        now = now.max(end);
                        break;
                    }
                    other => panic!("round {round}: {other:?}"),
                }
            }
        }
    }
}
