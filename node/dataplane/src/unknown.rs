//! Packets in the middle of connections that nobody here knows, after a take-over.
//!
//! Such a packet is held back, and its connection is asked for: the driver takes the questions, asks
//! the peers, and puts what they know into the table, where the next packet finds it. When every live
//! peer has said that it knows nothing, the driver says so here, and from then on the connection is
//! *adopted* where the hash alone decides ([`crate::Config::is_derivable`]): that is where the former
//! holder sent it, if it had no time to tell. What the hash does not decide is held back for as long
//! as before.
//!
//! Guarantees: one question for a connection in `ASK_AGAIN_NS`; at most [`ASKED_MAX`] connections
//! are remembered, the oldest give way; at most [`QUESTIONS_PER_SECOND`] are asked; a worker never
//! waits for another one.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    fmt,
    sync::{Mutex, OnceLock, PoisonError},
};

use crate::{FlowKey, GroupId, Origin, bucket::TokenBucket};

/// Connections that were asked for and are remembered.
pub const ASKED_MAX: usize = 8192;
/// Questions in a second, and at once.
pub const QUESTIONS_PER_SECOND: u64 = 2000;
/// See [`QUESTIONS_PER_SECOND`].
pub(crate) const QUESTIONS_BURST: u64 = 2000;
/// Between two questions for one connection: the packet that comes again asks again.
pub(crate) const ASK_AGAIN_NS: u64 = 150_000_000;
/// How long it is known that nobody knows.
pub(crate) const NOBODY_NS: u64 = 10_000_000_000;
/// How long after a take-over connections are adopted by the hash: as long as an established one may
/// be silent.
//= Linux ip_vs_proto_tcp.c, tcp_timeouts: IP_VS_TCP_S_ESTABLISHED, 15 minutes
pub const ADOPT_AFTER_TAKE_OVER_NS: u64 = 900_000_000_000;

/// Who has this connection?
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Wanted {
    /// The connection.
    pub key: FlowKey,
    /// Its group.
    pub group: GroupId,
    /// The epoch under which this node holds the group.
    pub epoch: Origin,
}

/// What is known about a connection that is not in the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Known {
    /// It was asked for, or cannot be now.
    NotYet,
    /// Every live peer has said that it knows nothing.
    Nobody,
}

/// Questions and answers, shared by all workers.
#[derive(Debug)]
pub struct Unknown {
    inner: Mutex<Inner>,
    waker: OnceLock<Waker>,
}

/// Called when there is a question.
struct Waker(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for Waker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waker")
    }
}

#[derive(Debug)]
struct Inner {
    asked: HashMap<FlowKey, Asked>,
    /// Keys of `asked`, the oldest first.
    order: VecDeque<FlowKey>,
    queue: Vec<Wanted>,
    budget: TokenBucket,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    epoch: Origin,
    at_ns: u64,
    nobody: bool,
}

impl Default for Unknown {
    fn default() -> Self {
        let budget = TokenBucket::new(QUESTIONS_PER_SECOND, QUESTIONS_BURST);
        let (asked, order, queue) = Default::default();
        Self { inner: Mutex::new(Inner { asked, order, queue, budget }), waker: OnceLock::new() }
    }
}

impl Unknown {
    /// Has `wake` called when there is a question. Called on the packet path: it must not block. Only
    /// the first call counts; without one nothing is asked.
    pub fn set_waker(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.waker.set(Waker(Box::new(wake)));
    }

    /// The questions since the last call, at most a burst of them.
    pub fn take(&self) -> Vec<Wanted> {
        std::mem::take(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner).queue)
    }

    /// Every live peer has said that it does not know the connection.
    pub fn nobody_knows(&self, now_ns: u64, wanted: &Wanted) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) = inner.asked.get_mut(&wanted.key)
            && asked.epoch == wanted.epoch
        {
            (asked.nobody, asked.at_ns) = (true, now_ns);
        }
    }

    /// What is known about a connection; asks for it, if that is due.
    pub(crate) fn ask(&self, now_ns: u64, wanted: Wanted) -> Known {
        let Some(Waker(wake)) = self.waker.get() else { return Known::NotYet };
        // Whoever finds another worker there asks with its next packet.
        let Ok(mut inner) = self.inner.try_lock() else { return Known::NotYet };
        let (known, is_new) = inner.ask(now_ns, wanted);
        drop(inner);
        if is_new {
            wake();
        }
        known
    }
}

impl Inner {
    /// What is known, and whether a question was added.
    fn ask(&mut self, now_ns: u64, wanted: Wanted) -> (Known, bool) {
        if let Some(asked) = self.asked.get(&wanted.key).filter(|a| a.epoch == wanted.epoch) {
            let age = now_ns.saturating_sub(asked.at_ns);
            match asked.nobody {
                true if age < NOBODY_NS => return (Known::Nobody, false),
                false if age < ASK_AGAIN_NS => return (Known::NotYet, false),
                _ => {}
            }
        }
        if self.queue.len() as u64 >= QUESTIONS_BURST || !self.budget.take(now_ns) {
            return (Known::NotYet, false);
        }
        let asked = Asked { epoch: wanted.epoch, at_ns: now_ns, nobody: false };
        match self.asked.entry(wanted.key) {
            Entry::Occupied(mut place) => *place.get_mut() = asked,
            Entry::Vacant(place) => {
                place.insert(asked);
                self.order.push_back(wanted.key);
            }
        }
        while self.order.len() > ASKED_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.asked.remove(&oldest);
            }
        }
        self.queue.push(wanted);
        (Known::NotYet, true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;
    use crate::Protocol;

    const START: u64 = 1_000_000_000_000;

    fn wanted(client_port: u16, claim: u32) -> Wanted {
        let key = FlowKey {
            protocol: Protocol::Tcp,
            client: [198, 18, 0, 2].into(),
            client_port,
            vip: [198, 18, 0, 100].into(),
            vip_port: 80,
        };
        let epoch = Origin { generation: 1, grant_index: 7, claim, node: 1 };
        Wanted { key, group: GroupId(1), epoch }
    }

    fn unknown() -> (Unknown, Arc<AtomicUsize>) {
        let (unknown, woken) = (Unknown::default(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&woken);
        unknown.set_waker(move || {
            count.fetch_add(1, Ordering::Relaxed);
        });
        (unknown, woken)
    }

    #[test]
    fn a_connection_is_asked_for_once_until_its_packet_comes_again() {
        let (unknown, woken) = unknown();
        for at in [0, 1, ASK_AGAIN_NS - 1] {
            assert_eq!(unknown.ask(START + at, wanted(1, 0)), Known::NotYet);
        }
        assert_eq!(unknown.take(), [wanted(1, 0)]);
        assert_eq!(unknown.ask(START + ASK_AGAIN_NS, wanted(1, 0)), Known::NotYet);
        assert_eq!((unknown.take().len(), woken.load(Ordering::Relaxed)), (1, 2));
    }

    #[test]
    fn what_nobody_knows_is_known_for_a_while_and_under_one_epoch() {
        let (unknown, _) = unknown();
        unknown.nobody_knows(START, &wanted(1, 0));
        assert_eq!(unknown.ask(START, wanted(1, 0)), Known::NotYet, "it was not asked for");
        unknown.nobody_knows(START, &wanted(1, 0));
        assert_eq!(unknown.ask(START + NOBODY_NS - 1, wanted(1, 0)), Known::Nobody);
        assert_eq!(unknown.ask(START + 1, wanted(1, 1)), Known::NotYet, "another take-over");
        unknown.nobody_knows(START, &wanted(1, 0));
        assert_eq!(unknown.ask(START + 2, wanted(1, 1)), Known::NotYet, "a late answer");
        unknown.nobody_knows(START, &wanted(1, 1));
        assert_eq!(unknown.ask(START + NOBODY_NS, wanted(1, 1)), Known::NotYet, "asked again");
    }

    #[test]
    fn a_flood_of_unknown_packets_meets_its_bounds() {
        let (unknown, _) = unknown();
        for port in 0..u16::MAX {
            assert_eq!(unknown.ask(START, wanted(port, 0)), Known::NotYet);
        }
        assert_eq!(unknown.take().len() as u64, QUESTIONS_BURST);
        for second in 1..40 {
            for port in 0..QUESTIONS_BURST as u16 + 100 {
                unknown.ask(START + second * 1_000_000_000, wanted(port, second as u32));
            }
            assert!(unknown.take().len() as u64 <= QUESTIONS_PER_SECOND);
        }
        let (mut now, mut asked) = (START + 100 * 1_000_000_000, 0);
        for port in 0..30_000 {
            now += 1_000_000_000 / QUESTIONS_PER_SECOND;
            unknown.ask(now, wanted(port, 0));
            asked += unknown.take().len();
        }
        assert_eq!(asked, 30_000);
        let inner = unknown.inner.lock().unwrap();
        assert_eq!((inner.asked.len(), inner.order.len()), (ASKED_MAX, ASKED_MAX));
    }

    #[test]
    fn without_a_driver_nothing_is_asked() {
        let unknown = Unknown::default();
        assert_eq!(unknown.ask(START, wanted(1, 0)), Known::NotYet);
        assert!(unknown.take().is_empty());
    }
}
