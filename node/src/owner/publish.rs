//! What ownership has decided, for the workers, for replication and for the API.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use steadfast_dataplane as dp;
use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_ownership::{CommittedGroup, Role};
use steadfast_replication::Copies;
use tokio::sync::watch;
use tracing::info;

use crate::plane::{DataPlane, compile::origin};

/// This node's part in a group, and what it was under the holder before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct RoleNow {
    pub(crate) role: Role,
    pub(crate) epoch: Epoch,
    /// The role and epoch under another holder than now: under which this node knows the
    /// connections it may donate.
    pub(crate) before: Option<(Role, Epoch)>,
}

/// Roles of this node in all groups; readers look at the newest, and miss nothing they need.
#[derive(Debug)]
pub(crate) struct Roles {
    roles: Mutex<BTreeMap<GroupId, RoleNow>>,
    /// Who keeps copies of which group; what is not here, everybody.
    sync_groups: Mutex<BTreeMap<GroupId, BTreeSet<NodeId>>>,
    changes: watch::Sender<u64>,
}

impl Roles {
    pub(crate) fn new() -> Self {
        let changes = watch::channel(0).0;
        Self { roles: Mutex::default(), sync_groups: Mutex::default(), changes }
    }

    /// All roles now.
    pub(crate) fn all(&self) -> BTreeMap<GroupId, RoleNow> {
        self.lock().clone()
    }

    /// The role in a group now.
    pub(crate) fn now(&self, group: GroupId) -> Option<RoleNow> {
        self.lock().get(&group).copied()
    }

    /// Whether a node keeps copies of a group's connections while another holds it.
    pub(crate) fn keeps_copies(&self, group: GroupId, node: NodeId) -> bool {
        let sync_groups = self.sync_groups.lock().unwrap_or_else(PoisonError::into_inner);
        sync_groups.get(&group).is_none_or(|members| members.contains(&node))
    }

    fn set_sync_groups(&self, new: BTreeMap<GroupId, BTreeSet<NodeId>>) {
        let mut sync_groups = self.sync_groups.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *sync_groups != new;
        *sync_groups = new;
        drop(sync_groups);
        if changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Changes with every change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn set(&self, group: GroupId, role: Role, epoch: Epoch) {
        let mut roles = self.lock();
        let old = roles.get(&group).copied();
        let before = match old {
            // The same holder under a new epoch, or a gap in which nobody held.
            Some(old) if old.role == role || old.role == Role::NoHolder => old.before,
            Some(old) => Some((old.role, old.epoch)),
            None => None,
        };
        roles.insert(group, RoleNow { role, epoch, before });
        drop(roles);
        self.changes.send_modify(|count| *count += 1);
    }

    fn retain(&self, keep: impl Fn(GroupId) -> bool) {
        self.lock().retain(|group, _| keep(*group));
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupId, RoleNow>> {
        self.roles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the workers.
pub(crate) struct Publisher {
    plane: Arc<DataPlane>,
    copies: Arc<Copies>,
    roles: Arc<Roles>,
    /// Who held each group last, other than this node: whose connections our copy is of.
    last_other: HashMap<GroupId, (NodeId, BootId)>,
    /// Since when this node holds a group, and whether its copy was complete then.
    holding: HashMap<GroupId, (u64, bool)>,
    /// Without replication there is no copy to wait for.
    replicated: bool,
}

impl Publisher {
    pub(crate) fn new(plane: Arc<DataPlane>, copies: Arc<Copies>, roles: Arc<Roles>) -> Self {
        Self {
            plane,
            copies,
            roles,
            last_other: HashMap::new(),
            holding: HashMap::new(),
            replicated: true,
        }
    }

    /// Whether connections are replicated at all.
    pub(crate) fn set_replicated(&mut self, replicated: bool) {
        self.replicated = replicated;
    }

    /// Who keeps copies of which group, `own` being this node.
    pub(crate) fn set_sync_groups(&self, own: NodeId, groups: &[CommittedGroup], now_ns: u64) {
        let parted = groups.iter().filter_map(|g| Some((g.id, g.sync_group.clone()?)));
        self.roles.set_sync_groups(parted.collect());
        let left = groups.iter().filter(|group| !group.keeps_copies(own)).map(|group| group.id);
        let left: BTreeSet<GroupId> = left.collect();
        let new = self.copies.set_left(left.clone());
        for group in groups {
            let state = self.plane.shared.groups.group(dp::GroupId(group.id.0));
            if new.contains(&group.id) {
                state.set_left_ns(Some(now_ns));
            } else if !left.contains(&group.id) {
                state.set_left_ns(None);
            }
        }
    }

    /// A peer holds the group in this run of its daemon.
    pub(crate) fn note_holder(&mut self, group: GroupId, node: NodeId, boot: BootId) {
        self.last_other.insert(group, (node, boot));
    }

    /// A role has changed; `silent_since_ns` is when the former holder was heard last.
    pub(crate) fn role_changed(
        &mut self,
        group: GroupId,
        role: Role,
        epoch: Epoch,
        now_ns: u64,
        silent_since_ns: u64,
    ) {
        let state = self.plane.shared.groups.group(dp::GroupId(group.0));
        let published = match role {
            Role::Holder => {
                let known = self.last_other.get(&group).filter(|_| self.replicated);
                let copy_complete = known.is_none_or(|(node, boot)| {
                    self.copies.completeness(group, *node, *boot, silent_since_ns).is_complete()
                });
                if known.is_some() && !self.holding.contains_key(&group) {
                    let until_ns = now_ns.saturating_add(dp::ADOPT_AFTER_TAKE_OVER_NS);
                    state.set_adopt_until_ns(until_ns);
                }
                // A claim that is ratified, or a new grant to the holder, is no take-over.
                let (since_ns, copy_complete) =
                    *self.holding.entry(group).or_insert((now_ns, copy_complete));
                dp::Role::Holder { epoch: origin(epoch), since_ns, copy_complete }
            }
            Role::Other { node } => {
                self.holding.remove(&group);
                dp::Role::Other { relay: self.plane.macs_of(node) }
            }
            Role::NoHolder => {
                self.holding.remove(&group);
                dp::Role::NoHolder { since_ns: now_ns }
            }
        };
        info!(%group, %epoch, ?role, "role");
        state.set_role(published);
        if !matches!(role, Role::Holder) {
            state.set_announce_until_ns(0);
        }
        self.roles.set(group, role, epoch);
    }

    /// A node's MAC address was learned: relaying to it is possible now.
    pub(crate) fn macs_changed(&self, of: NodeId) {
        self.relay_anew(|node| node == of);
    }

    /// Ports have other numbers or other segments: relaying goes another way.
    pub(crate) fn ports_changed(&self) {
        self.relay_anew(|_| true);
    }

    fn relay_anew(&self, concerns: impl Fn(NodeId) -> bool) {
        for (group, now) in self.roles.all() {
            if let Role::Other { node } = now.role
                && concerns(node)
            {
                let state = self.plane.shared.groups.group(dp::GroupId(group.0));
                state.set_role(dp::Role::Other { relay: self.plane.macs_of(node) });
            }
        }
    }

    /// Groups that left the configuration.
    pub(crate) fn retain(&mut self, keep: impl Fn(GroupId) -> bool) {
        for group in self.roles.all().into_keys().filter(|group| !keep(*group)) {
            self.plane.shared.groups.remove(dp::GroupId(group.0));
            self.last_other.remove(&group);
            self.holding.remove(&group);
        }
        self.roles.retain(keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: Role = Role::Other { node: NodeId(2) };
    const THIRD: Role = Role::Other { node: NodeId(3) };

    fn epoch(grant_index: u64, claim: u32) -> Epoch {
        Epoch { generation: 1, grant_index, claim, node: NodeId(2) }
    }

    #[test]
    fn what_a_node_may_donate_is_what_it_knew_under_the_holder_before() {
        let roles = Roles::new();
        let group = GroupId(1);
        let before = |roles: &Roles| roles.all()[&group].before;
        roles.set(group, OTHER, epoch(5, 0));
        assert_eq!(before(&roles), None);
        roles.set(group, Role::NoHolder, epoch(5, 0));
        roles.set(group, THIRD, epoch(5, 1));
        assert_eq!(before(&roles), Some((OTHER, epoch(5, 0))), "the gap does not count");
        roles.set(group, THIRD, epoch(9, 0));
        assert_eq!(before(&roles), Some((OTHER, epoch(5, 0))), "a ratified claim is no change");
        roles.set(group, Role::Holder, epoch(12, 0));
        assert_eq!(before(&roles), Some((THIRD, epoch(9, 0))));
    }
}
