//! What the leader keeps in order: the Raft members follow the cluster's nodes, and slots of SYN
//! cookies follow each other while a service gives some.
//!
//! Level-triggered: whatever was interrupted is found again at the next look.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rustix::rand::{GetRandomFlags, getrandom};
use steadfast_model::{Command, CookieSecret, Service, document::SynProxy};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::member::Member;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// One change of the membership may take so long.
const CHANGE_WITHIN: Duration = Duration::from_secs(5);

/// A cookie is good in its slot and the next: from one to two minutes, as long as clients try.
const COOKIE_SLOT: Duration = Duration::from_secs(60);

/// A young cluster makes its nodes voters by itself up to this number; later ones are promoted by
/// an operator.
const FIRST_VOTERS: usize = 3;

/// Runs until the daemon ends.
pub(crate) async fn run(member: Arc<Member>) {
    let mut slot = SlotWatch::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        slot.see(member.raft.state().0.cookies.map(|cookies| cookies.slot));
        if member.raft.is_leader() {
            look(&member).await;
            if slot.is_over() {
                rotate(&member).await;
            }
        }
    }
}

/// Since when this node has seen the present slot of cookies.
#[derive(Default)]
struct SlotWatch {
    slot: Option<u64>,
    since: Option<Instant>,
}

impl SlotWatch {
    fn see(&mut self, slot: Option<u64>) {
        if self.slot != slot {
            (self.slot, self.since) = (slot, slot.map(|_| Instant::now()));
        }
    }

    /// There is no key, or the present one has had its time.
    fn is_over(&self) -> bool {
        self.since.is_none_or(|since| since.elapsed() >= COOKIE_SLOT)
    }
}

/// Begins the next slot of cookies, if a service gives any. Who was late is told so.
async fn rotate(member: &Member) {
    let state = member.raft.state();
    let gives = |service: &Service| service.spec.syn_proxy != SynProxy::Off;
    if !state.0.services.values().any(gives) {
        return;
    }
    let mut octets = [0; size_of::<[u64; 2]>()];
    if let Err(error) = getrandom(&mut octets[..], GetRandomFlags::empty()) {
        warn!("no new key for SYN cookies, the present one stays: {error}");
        return;
    }
    let halves = u128::from_ne_bytes(octets);
    let secret = CookieSecret([(halves >> 64) as u64, halves as u64]);
    let slot = state.0.cookies.map_or(1, |cookies| cookies.slot.saturating_add(1));
    match member.raft.propose(Command::RotateCookieKey { slot, secret }, CHANGE_WITHIN).await {
        Ok(_) => debug!(slot, "a new slot of SYN cookies"),
        Err(error) => debug!(slot, "no new slot of SYN cookies: {error}"),
    }
}

async fn look(member: &Member) {
    let state = member.raft.state();
    let nodes: BTreeSet<u32> = state.0.nodes.keys().map(|n| n.0).collect();
    let raft = member.raft.membership();
    if raft.changing || nodes.is_empty() {
        return;
    }
    let known: BTreeSet<u32> = raft.voters.union(&raft.learners).copied().collect();
    for id in nodes.difference(&known) {
        let name = state.0.nodes.get(&steadfast_model::NodeId(*id)).map_or("", |n| &n.name);
        match member.raft.add_learner(*id, name, CHANGE_WITHIN).await {
            Ok(()) => info!(id, name, "follows the log now"),
            Err(error) => debug!(id, "not added: {error}"),
        }
    }
    for id in known.difference(&nodes) {
        match member.raft.remove(*id, CHANGE_WITHIN).await {
            Ok(()) => info!(id, "no longer follows the log"),
            Err(error) => warn!(id, "not removed: {error}"),
        }
    }
    // One voter and two learners become three voters, in one step: two voters would be worse
    // than one.
    if raft.voters.len() == 1 && nodes.len() >= FIRST_VOTERS && nodes.is_superset(&known) {
        let learners: Vec<u32> =
            raft.learners.intersection(&nodes).take(FIRST_VOTERS - 1).copied().collect();
        if learners.len() == FIRST_VOTERS - 1 {
            match member.raft.promote(&learners, CHANGE_WITHIN).await {
                Ok(()) => info!(?learners, "vote now"),
                Err(error) => debug!(?learners, "do not vote yet: {error}"),
            }
        }
    }
}
