//! Senders that missed the gratuitous ARP: who sees them tells the holder, which tells them.

use std::collections::{BTreeMap, BTreeSet};

use crate::ownership::Ownership;
use crate::{Action, Message, Role, STALE_SENDERS_MAX, StaleSender, Time};

impl Ownership {
    /// A frame for an address of a group came in here although another node holds it. Repeat it
    /// while such frames come in; call it with what came in lately, not more often than once in a
    /// second.
    ///
    /// Nothing happens in the first time after a change of the holder: gratuitous ARP, which the
    /// holder sends anyway, has its chance.
    pub fn handle_stale_senders(&mut self, now: Time, senders: &BTreeSet<StaleSender>) {
        self.observe(now);
        let after = self.settings.stale_sender_after;
        let mut by_holder = BTreeMap::<_, Vec<StaleSender>>::new();
        for sender in senders {
            let Some(group) = self.groups.get(&sender.group) else { continue };
            let Role::Other { node } = group.role(self.node) else { continue };
            if now.since(group.since.max(group.known_at)) < after {
                continue;
            }
            let told = by_holder.entry(node).or_default();
            if told.len() < STALE_SENDERS_MAX {
                told.push(*sender);
            }
        }
        for (holder, senders) in by_holder {
            self.send_to(now, holder, Message::StaleSenders(senders));
        }
    }

    /// Only about what this node announces now: a peer may know less than this node.
    pub(crate) fn tell_stale_senders(&mut self, senders: &[StaleSender]) {
        for sender in senders {
            if self.groups.get(&sender.group).is_some_and(|group| group.announcing) {
                self.actions.push_back(Action::AnnounceTo { sender: *sender });
            }
        }
    }
}
