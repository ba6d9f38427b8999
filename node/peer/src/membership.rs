//! Who may talk to us.

use std::{collections::BTreeSet, sync::Arc};

use steadfast_model::NodeId;
use tokio::sync::watch;

/// The current members of the cluster, shared by all endpoints of a node. Cheap to clone.
///
/// A node that is taken out is cut off at once: [`crate::Links`] watch the set and close the
/// connections of who is no longer in it.
#[derive(Clone, Debug)]
pub struct Membership {
    members: Arc<watch::Sender<BTreeSet<NodeId>>>,
}

impl Membership {
    /// A membership of these nodes.
    pub fn new(members: impl IntoIterator<Item = NodeId>) -> Self {
        Self { members: Arc::new(watch::Sender::new(members.into_iter().collect())) }
    }

    /// Replaces the whole set.
    pub fn set(&self, members: impl IntoIterator<Item = NodeId>) {
        let members = members.into_iter().collect();
        self.members.send_if_modified(|old| {
            let changed = *old != members;
            *old = members;
            changed
        });
    }

    /// Whether this node is a member now.
    pub fn contains(&self, node: NodeId) -> bool {
        self.members.borrow().contains(&node)
    }

    pub(crate) fn watch(&self) -> watch::Receiver<BTreeSet<NodeId>> {
        self.members.subscribe()
    }
}
