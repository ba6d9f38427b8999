//! The connection table as replication needs it.
//!
//! Guarantees: nothing here knows how the table is built; [`crate::adapter`] implements it for what
//! the workers share. What a table must guarantee stands at each method.

use steadfast_dataplane::Cursor;
use steadfast_model::{Epoch, GroupId};

use crate::{Key, Life, Record};

/// Under whose authority a record arrives.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Authority {
    /// The holder's epoch; for a donation the epoch under which the donor knew the connection.
    pub epoch: Epoch,
    /// Sent by a node that does not hold the group: inserted only where the key is absent or
    /// half-open, never over higher-epoch state.
    pub donated: bool,
    /// Stamp of the copy; a sweep removes what carries a lower one.
    pub generation: u64,
    /// When it arrived, by the receiver's clock.
    pub now_ns: u64,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Applied {
    /// The key was absent.
    Inserted,
    /// The entry was brought up to date.
    Updated,
    /// Another life of the same key, or another server, was replaced.
    Replaced,
    /// What the table had is worth more.
    Kept,
    /// The table is full: this copy is not complete.
    Full,
    /// The table cannot hold such a record (a protocol or state it does not know).
    Unfit,
}

/// What became of a delete.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Deleted {
    /// The entry is gone.
    Removed,
    /// There was none, or it is not the one that was named.
    Kept,
}

/// The connection table.
pub trait Table {
    /// The current state of a connection, `None` when absent or not fit to be copied (half-open).
    ///
    /// Notes in the entry that the peer of bit `slot` was sent it, *before* the state is read, so
    /// that whoever removes the entry at the same time either hides it here or sees the bit.
    fn get(&self, key: &Key, slot: Slot) -> Option<Record>;

    /// Calls `visit` for the entries of replication shard `shard`, looking at about `limit`
    /// entries, and returns where to go on, `None` at the end.
    ///
    /// An entry that stays in the table from the first call to the last is visited at least once.
    fn walk(
        &self,
        shard: u8,
        cursor: Cursor,
        limit: usize,
        visit: &mut dyn FnMut(&Key, GroupId),
    ) -> Option<Cursor>;

    /// As [`Self::walk`], with what a digest is made of. Only connections that are fit to be copied
    /// are visited.
    fn walk_lives(
        &self,
        shard: u8,
        cursor: Cursor,
        limit: usize,
        visit: &mut dyn FnMut(&Life),
    ) -> Option<Cursor>;

    /// Connections and templates in the table, roughly.
    fn entries(&self) -> usize;

    /// Merges a record in.
    fn apply(&self, record: &Record, authority: &Authority) -> Applied;

    /// Removes a connection if it is the life that `incarnation` names, or an earlier one, and not
    /// of a higher epoch. Also one that this node opened: the holder knows better.
    fn delete(&self, key: &Key, incarnation: u64, authority: &Authority) -> Deleted;

    /// Removes the replicas of `group` in `shard` whose generation is below that of `authority`,
    /// except what is this node's own, donated or of a higher epoch. Returns how many.
    fn sweep(&self, group: GroupId, shard: u8, authority: &Authority) -> usize;
}

/// A peer's place in the bit masks; handed out by [`crate::DirtySet::slot`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Slot(pub(crate) u8);

impl Slot {
    /// The peer's bit in `sent_to`.
    #[must_use]
    pub fn bit(self) -> u32 {
        1 << self.0
    }
}
