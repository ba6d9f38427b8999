//! Who holds which VIP group, as the ownership driver tells the workers.
//!
//! Guarantees: reading never blocks. Not here: deciding who holds a group.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use arc_swap::{ArcSwap, Guard};
use steadfast_packet::Mac;

use crate::{GroupId, Origin};

/// This node's part in a group.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Role {
    /// This node holds the group.
    Holder {
        /// Under this epoch.
        epoch: Origin,
        /// Since then; replicated connections get their full time-out from here.
        since_ns: u64,
        /// The copy of the former holder's connections was complete.
        copy_complete: bool,
    },
    /// Another live node holds it.
    Other {
        /// Its MAC address, by index of the port (interface) from which it is reached.
        relay: Vec<Option<Mac>>,
    },
    /// Nobody is known to hold it.
    NoHolder {
        /// Since then.
        since_ns: u64,
    },
}

/// A group as the workers see it.
#[derive(Debug)]
pub struct GroupState {
    role: ArcSwap<Role>,
    announce_until_ns: AtomicU64,
    adopt_until_ns: AtomicU64,
    left_ns: AtomicU64,
}

/// All groups; shared between the ownership driver (writes) and the workers (read).
#[derive(Debug, Default)]
pub struct Groups {
    groups: ArcSwap<HashMap<GroupId, Arc<GroupState>>>,
}

impl Role {
    /// This node holds the group.
    #[must_use]
    pub fn is_holder(&self) -> bool {
        matches!(self, Self::Holder { .. })
    }
}

impl GroupState {
    /// Replaces the role.
    pub fn set_role(&self, role: Role) {
        self.role.store(Arc::new(role));
    }

    /// ARP for the group's addresses is answered only before this time.
    pub fn set_announce_until_ns(&self, until_ns: u64) {
        self.announce_until_ns.store(until_ns, Ordering::Release);
    }

    /// This node has taken the group over from another: connections that nobody knows are adopted
    /// where the hash decides, before this time.
    pub fn set_adopt_until_ns(&self, until_ns: u64) {
        self.adopt_until_ns.store(until_ns, Ordering::Release);
    }

    /// Connections that nobody knows may be adopted now.
    #[must_use]
    pub fn may_adopt(&self, now_ns: u64) -> bool {
        now_ns < self.adopt_until_ns.load(Ordering::Acquire)
    }

    /// Since when this node is told nothing new of the group's connections although another holds it:
    /// what it has of them ages. `None`: it keeps copies.
    pub fn set_left_ns(&self, left_ns: Option<u64>) {
        self.left_ns.store(left_ns.map_or(0, |ns| ns.max(1)), Ordering::Release);
    }

    /// The role now.
    pub fn role(&self) -> Guard<Arc<Role>> {
        self.role.load()
    }

    /// This node holds the group and may answer ARP for it now.
    #[must_use]
    pub fn may_announce(&self, now_ns: u64) -> bool {
        now_ns < self.announce_until_ns.load(Ordering::Acquire) && self.role().is_holder()
    }
}

impl Default for GroupState {
    fn default() -> Self {
        Self {
            role: ArcSwap::from_pointee(Role::NoHolder { since_ns: 0 }),
            announce_until_ns: AtomicU64::new(0),
            adopt_until_ns: AtomicU64::new(0),
            left_ns: AtomicU64::new(0),
        }
    }
}

impl Groups {
    /// No groups.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The state of a group, made when it is not there yet.
    ///
    /// Copies the map of groups when it makes one: for the control side, not for packets.
    pub fn group(&self, id: GroupId) -> Arc<GroupState> {
        if let Some(group) = self.get(id) {
            return group;
        }
        let new = Arc::new(GroupState::default());
        self.groups.rcu(|groups| {
            let mut groups = HashMap::clone(groups);
            groups.entry(id).or_insert_with(|| Arc::clone(&new));
            groups
        });
        self.get(id).unwrap_or(new)
    }

    /// Another view of the same groups.
    pub(crate) fn share(&self) -> Self {
        Self { groups: ArcSwap::new(self.groups.load_full()) }
    }

    /// Forgets a group that left the configuration.
    pub fn remove(&self, id: GroupId) {
        self.groups.rcu(|groups| {
            let mut groups = HashMap::clone(groups);
            groups.remove(&id);
            groups
        });
    }

    /// The state of a group.
    #[must_use]
    pub fn get(&self, id: GroupId) -> Option<Arc<GroupState>> {
        self.groups.load().get(&id).cloned()
    }

    /// Connections of a group that nobody knows may be adopted now.
    pub(crate) fn may_adopt(&self, id: GroupId, now_ns: u64) -> bool {
        self.groups.load().get(&id).is_some_and(|group| group.may_adopt(now_ns))
    }

    /// Since when replicas of a group age although another node holds it.
    pub(crate) fn left_ns(&self, id: GroupId) -> Option<u64> {
        let groups = self.groups.load();
        let left_ns = groups.get(&id)?.left_ns.load(Ordering::Acquire);
        (left_ns > 0).then_some(left_ns)
    }

    /// The role in a group; an unknown group has no holder.
    #[must_use]
    pub fn role(&self, id: GroupId) -> Arc<Role> {
        match self.groups.load().get(&id) {
            Some(group) => group.role.load_full(),
            None => Arc::new(Role::NoHolder { since_ns: 0 }),
        }
    }
}
