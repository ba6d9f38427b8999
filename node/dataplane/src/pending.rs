//! Handshakes by cookie whose servers have not answered: when each is asked again.
//!
//! Guarantees: at most [`HANDSHAKES_MAX`] of them, in memory made at start; taking one that is due
//! costs a look at each of few queues, whatever their lengths.

use std::collections::VecDeque;

use crate::Connection;

/// Servers that a worker waits for at a time; more clients than that are not let in.
pub const HANDSHAKES_MAX: usize = 4096;

/// How long a server has for its answer before it is asked again, in ms; after the last the client
/// is told that nobody answers. The first is below that of a client (1 s, RFC 6298 section 2): what
/// is lost here the client never sends again.
pub const WAITS_MS: [u64; 5] = [200, 400, 800, 1600, 3200];

const MS: u64 = 1_000_000;

/// A handshake whose server has not answered.
#[derive(Clone, Debug)]
pub(crate) struct Pending {
    pub(crate) connection: Connection,
    /// How often the server was asked again.
    pub(crate) tries: usize,
    due_ns: u64,
}

/// Those of a worker. All that wait for the same time are in one queue, so each queue is in order.
#[derive(Debug)]
pub(crate) struct Handshakes {
    queues: [VecDeque<Pending>; WAITS_MS.len()],
    len: usize,
}

impl Handshakes {
    pub(crate) fn new() -> Self {
        let mut queues: [VecDeque<Pending>; WAITS_MS.len()] = Default::default();
        queues[0].reserve(HANDSHAKES_MAX);
        Self { queues, len: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len >= HANDSHAKES_MAX
    }

    /// Nobody is waited for.
    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The server of this connection was asked now, for the `tries`-th time after the first.
    pub(crate) fn put(&mut self, connection: Connection, tries: usize, now_ns: u64) {
        let (Some(queue), Some(wait)) = (self.queues.get_mut(tries), WAITS_MS.get(tries)) else {
            return;
        };
        if self.len < HANDSHAKES_MAX {
            let due_ns = now_ns.saturating_add(wait * MS);
            queue.push_back(Pending { connection, tries, due_ns });
            self.len += 1;
        }
    }

    /// One whose time is over.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<Pending> {
        let is_due = |queue: &&mut VecDeque<Pending>| {
            queue.front().is_some_and(|pending| pending.due_ns <= now_ns)
        };
        let queue = self.queues.iter_mut().find(is_due)?;
        self.len -= 1;
        queue.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ConnectionTable, TableOptions, slab::Place};

    #[test]
    fn each_is_asked_again_in_its_time_and_no_more_than_there_is_room_for() {
        let options = TableOptions { connections_max: 1, half_open_max: 1, seed: [0; 2] };
        let connection = ConnectionTable::new(options).at(Place::default());
        let mut handshakes = Handshakes::new();
        for n in 0..HANDSHAKES_MAX as u64 + 1 {
            handshakes.put(connection.clone(), 0, n);
        }
        assert!(handshakes.is_full());
        assert!(handshakes.take_due(WAITS_MS[0] * MS - 1).is_none());
        let mut asked = vec![0];
        let mut now_ns = WAITS_MS[0] * MS;
        while let Some(pending) = handshakes.take_due(now_ns) {
            asked.push(now_ns / MS);
            handshakes.put(connection.clone(), pending.tries + 1, now_ns);
            let next = WAITS_MS.get(pending.tries + 1).map_or(0, |wait| wait * MS);
            now_ns += next;
            // All the others have been waiting since the beginning.
            while handshakes.take_due(now_ns).is_some_and(|other| other.tries == 0) {}
            handshakes = Handshakes::new();
            handshakes.put(connection.clone(), pending.tries + 1, now_ns - next);
        }
        assert_eq!(asked, [0, 200, 600, 1400, 3000, 6200]);
        assert!(handshakes.is_empty());
    }
}
