//! Which connections there are: per peer one that we dialed and one that we accepted.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use quinn::{Connection, VarInt};
use steadfast_model::NodeId;
use tokio::task::AbortHandle;

/// Codes a connection is closed with. The reason travels as text beside it.
pub(crate) const CLOSE_SHUTDOWN: VarInt = VarInt::from_u32(0);
pub(crate) const CLOSE_REFUSED: VarInt = VarInt::from_u32(1);
const CLOSE_REPLACED: VarInt = VarInt::from_u32(2);
const CLOSE_REMOVED: VarInt = VarInt::from_u32(3);
/// We do not know the peer as a member: never was, or is not any more.
pub(crate) const CLOSE_NOT_A_MEMBER: VarInt = VarInt::from_u32(4);

/// Who made a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Side {
    Dialed,
    Accepted,
}

/// An admitted connection.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) connection: Connection,
    /// The run of the peer's process.
    pub(crate) instance: u64,
}

/// What is known of one peer.
#[derive(Default)]
pub(crate) struct Slot {
    pub(crate) addr: Option<SocketAddr>,
    pub(crate) dialer: Option<AbortHandle>,
    pub(crate) dialed: Option<Live>,
    pub(crate) accepted: Option<Live>,
    pub(crate) last_error: Option<String>,
    /// It closed a connection with [`CLOSE_NOT_A_MEMBER`], and has taken none since.
    pub(crate) disowns: bool,
}

impl Slot {
    /// The connection to use: ours first, and never one that is known to be closed.
    pub(crate) fn pick(&self) -> Option<&Connection> {
        [&self.dialed, &self.accepted]
            .into_iter()
            .flatten()
            .map(|live| &live.connection)
            .find(|connection| connection.close_reason().is_none())
    }

    fn side(&mut self, side: Side) -> &mut Option<Live> {
        match side {
            Side::Dialed => &mut self.dialed,
            Side::Accepted => &mut self.accepted,
        }
    }

    fn is_up(&self) -> bool {
        self.dialed.is_some() || self.accepted.is_some()
    }

    /// Whether there is anything to remember of this peer.
    pub(crate) fn in_use(&self) -> bool {
        self.addr.is_some() || self.is_up()
    }

    fn close(&self, code: VarInt, reason: &str) {
        for live in [&self.dialed, &self.accepted].into_iter().flatten() {
            live.connection.close(code, reason.as_bytes());
        }
    }

    /// Ends everything that is done for this peer.
    pub(crate) fn stop(&mut self, reason: &str) {
        if let Some(dialer) = self.dialer.take() {
            dialer.abort();
        }
        self.close(CLOSE_REMOVED, reason);
    }
}

/// All peers. At most two connections each, whatever the peers do.
#[derive(Default)]
pub(crate) struct Slots(Mutex<BTreeMap<NodeId, Slot>>);

impl Slots {
    pub(crate) fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Slot>> {
        // A panic while the lock was held cannot leave a slot half written in a way that matters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a connection in. Returns whether the peer was not connected before.
    ///
    /// The newest connection of a side replaces the one before. A connection to another run of
    /// the peer's process is dead, because this one has just been made: it is closed here, long
    /// before its idle timeout, and so dialed anew.
    pub(crate) fn register(&self, peer: NodeId, side: Side, live: Live) -> bool {
        let mut slots = self.lock();
        let slot = slots.entry(peer).or_default();
        let was_up = slot.is_up();
        let old = slot.side(side).replace(live.clone());
        let other = match side {
            Side::Dialed => &slot.accepted,
            Side::Accepted => &slot.dialed,
        };
        let stale = other.as_ref().filter(|other| other.instance != live.instance);
        for old in old.iter().chain(stale) {
            old.connection.close(CLOSE_REPLACED, b"replaced by a newer connection");
        }
        slot.last_error = None;
        slot.disowns = false;
        !was_up
    }

    /// Takes a connection out, unless it has been replaced. Returns whether the peer is not
    /// connected any more because of it.
    pub(crate) fn unregister(&self, peer: NodeId, side: Side, live: &Live, why: &str) -> bool {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(&peer) else { return false };
        let id = live.connection.stable_id();
        if slot.side(side).as_ref().is_none_or(|live| live.connection.stable_id() != id) {
            return false;
        }
        *slot.side(side) = None;
        slot.last_error = Some(why.to_owned());
        let down = !slot.is_up();
        if down && slot.addr.is_none() {
            slots.remove(&peer);
        }
        down
    }

    /// Closes the connections of everybody who is not in the set.
    pub(crate) fn retain_members(&self, members: &BTreeSet<NodeId>) {
        for (_, slot) in self.lock().iter().filter(|(peer, _)| !members.contains(peer)) {
            slot.close(CLOSE_REMOVED, "no longer a member of the cluster");
        }
    }
}
