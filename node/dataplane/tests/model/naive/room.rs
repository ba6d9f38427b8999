//! A table that is full: closing connections go, established ones stay (docs/internals.md, "Bounds").

use super::{Conn, Naive, excess::Worth};

/// What became of connections and of who asked for one.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) enum Room {
    /// Nobody new comes in.
    Refused,
    /// A closing one went for one that was established.
    GaveWay,
    /// None could go: there are more than there should be.
    Exceeded,
    /// Not even those have room.
    Crammed,
}

impl Naive {
    fn held(&self, worth: Worth) -> impl Iterator<Item = (usize, &Conn)> {
        self.conns.iter().enumerate().filter(move |(_, conn)| conn.worth() == worth)
    }

    fn oldest(&self, worth: Worth) -> Option<usize> {
        self.held(worth).min_by_key(|(_, conn)| conn.entered).map(|(at, _)| at)
    }

    /// Connections that are not half-open.
    fn others(&self) -> usize {
        self.conns.iter().filter(|conn| conn.worth() != Worth::Little).count()
    }

    /// A new connection would have no place once it is established.
    pub(super) fn is_full(&mut self) -> bool {
        // Counting takes long.
        let is_full = self.conns.len() >= self.connections_max
            && self.others() >= self.connections_max
            && self.oldest(Worth::Less).is_none();
        self.note_room(Room::Refused, is_full);
        is_full
    }

    /// One at `at` is half-open no more.
    pub(super) fn joined(&mut self, at: usize) {
        if self.conns.len() <= self.connections_max || self.others() <= self.connections_max {
            return;
        }
        match self.oldest(Worth::Less).filter(|oldest| *oldest != at) {
            Some(oldest) => {
                self.note_room(Room::GaveWay, true);
                let gone = self.conns.remove(oldest);
                self.leave(&gone);
            }
            None => self.note_room(Room::Exceeded, true),
        }
    }

    /// A place for one that may come in: all may be taken by those that exceeded.
    pub(super) fn squeeze(&mut self, service: usize) {
        if self.conns.len() < self.connections_max.saturating_add(self.half_open_max) {
            return;
        }
        let oldest = self.oldest(Worth::Little).or_else(|| self.oldest(Worth::Less));
        if let Some(oldest) = oldest {
            self.note_room(Room::Crammed, true);
            let gone = self.conns.remove(oldest);
            self.leave(&gone);
            self.expect(service, &gone);
        }
    }

    fn note_room(&mut self, room: Room, is_so: bool) {
        *self.tally.rooms.entry(room).or_default() += u64::from(is_so);
    }
}
