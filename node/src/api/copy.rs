//! Why a node's copy of a group is not good enough to move the group there.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use steadfast_model::{ClusterState, GroupId, NodeId};
use steadfast_replication::SHARDS;

use super::{groups::role_of, nodes::node_ref};
use crate::{
    clock,
    member::{CALL_COPY, Member},
};

/// What to do about it.
pub(super) const HELP: &str = "wait longer (`--wait 60s`), or `--force`: connections that the copy \
                               has not got break";

/// A peer answers within this, or has not.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// A node's copy of a group, as it says itself: goes between nodes as JSON.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(crate) struct Copy {
    holder: NodeId,
    is_complete: bool,
    /// `None`: nothing ever came.
    lag_ms: Option<u64>,
    lag_max_ms: u64,
    parts_done: u8,
    parts: u8,
    is_full: bool,
}

/// This node's copy; `None` at the holder, and where nobody holds.
pub(crate) async fn own(member: &Member, group: GroupId) -> Option<Copy> {
    let (holder, _) = role_of(member, group).filter(|(holder, _)| *holder != member.id())?;
    let view = member.owner.status().await?;
    let boot = view.peers.iter().find(|peer| peer.node == holder)?.boot?;
    let report = member.replicator.copies().report(group, holder, boot, clock::now_ns());
    Some(Copy {
        holder,
        is_complete: report.completeness.is_complete(),
        lag_ms: report.lag_ns.map(|ns| ns / 1_000_000),
        lag_max_ms: member.state().settings().copies.lag_max_ms.into(),
        parts_done: report.shards_done,
        parts: SHARDS,
        is_full: report.is_full,
    })
}

/// The copy at a node; `None` when it does not say.
pub(super) async fn of(member: &Member, node: NodeId, group: GroupId) -> Option<Copy> {
    if node == member.id() {
        return own(member, group).await;
    }
    let request = serde_json::to_vec(&group).ok()?;
    let answer = member.owner.links.call(node, CALL_COPY, &request, ANSWER_WITHIN).await.ok()?;
    serde_json::from_slice::<Option<Copy>>(&answer).ok()?
}

impl Copy {
    /// What is wrong with it, if anything.
    pub(super) fn trouble(&self, state: &ClusterState) -> Option<String> {
        self.trouble_with(&node_ref(state, self.holder).name)
    }

    fn trouble_with(&self, holder: &str) -> Option<String> {
        let Self { lag_max_ms, parts_done, parts, .. } = self;
        match self.lag_ms {
            _ if self.is_complete => None,
            _ if self.is_full => {
                Some(format!("its table is full: it could not take all connections of {holder}"))
            }
            None => Some(format!("it has no copy of {holder}'s connections")),
            Some(_) if parts_done < parts => Some(format!(
                "its copy of {holder}'s connections is not complete: {parts_done} of {parts} parts \
                 of the snapshot are there"
            )),
            Some(lag_ms) => Some(format!(
                "its copy is {lag_ms} ms behind {holder}, more than the {lag_max_ms} ms of \
                 settings.copies.lag_max_ms"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_refused_hears_what_is_missing() {
        let good = Copy {
            holder: NodeId(1),
            is_complete: true,
            lag_ms: Some(40),
            lag_max_ms: 200,
            parts_done: 4,
            parts: 4,
            is_full: false,
        };
        let told = |copy: Copy| copy.trouble_with("lb1").unwrap_or_default();
        let poor = Copy { is_complete: false, ..good.clone() };
        for (copy, expected) in [
            (good, ""),
            (Copy { lag_ms: None, parts_done: 0, ..poor.clone() }, "it has no copy of lb1's"),
            (Copy { parts_done: 3, ..poor.clone() }, "3 of 4 parts of the snapshot are there"),
            (
                Copy { lag_ms: Some(1240), ..poor.clone() },
                "its copy is 1240 ms behind lb1, more than the 200 ms of settings.copies.lag_max_ms",
            ),
            (Copy { is_full: true, ..poor }, "its table is full"),
        ] {
            let got = told(copy);
            assert!(got.contains(expected) && got.is_empty() == expected.is_empty(), "{got}");
        }
    }
}
