//! The driver of questions: asks the peers for connections that packets speak of and nobody here
//! knows, after a take-over.
//!
//! Guarantees: a worker is never waited for; a peer that is heard and does not answer in time leaves
//! the question open, and the next packet asks again. What the bounds are is with
//! [`steadfast_dataplane::Unknown`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use steadfast_dataplane::{Shared, Wanted};
use steadfast_model::{GroupId, NodeId};
use steadfast_peer::Links;
use steadfast_replication::{
    DirtySet, Key,
    adapter::key_of,
    take_answer,
    wire::{ASK_KEYS_MAX, Ask},
};
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::{AbortHandle, JoinSet},
};
use tracing::debug;

use crate::{clock, owner::News};

/// The call on the replication endpoint that asks.
pub(crate) const CALL_WHO_HAS: u8 = 1;
/// How long a peer may take to answer. Below the shortest time-out of TCP's retransmission (RFC 6298
/// as Linux has it: 200 ms), so that the next packet finds an answer.
const ANSWER_WITHIN: Duration = Duration::from_millis(150);
/// Questions wait so long for others of their group.
const GATHER: Duration = Duration::from_millis(1);
/// Questions to all peers under way at once.
const ASKING_MAX: usize = 8;

/// What the questions have led to.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    asked: AtomicU64,
    found: AtomicU64,
    unknown: AtomicU64,
}

impl Figures {
    /// Connections that were asked for, those that a peer had, those that no peer had.
    pub(crate) fn all(&self) -> [(&'static str, u64); 3] {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("asked_for", count(&self.asked)),
            ("found_at_peers", count(&self.found)),
            ("known_to_nobody", count(&self.unknown)),
        ]
    }
}

/// What asking works on.
pub(crate) struct Asker {
    pub(crate) node: NodeId,
    pub(crate) shared: Arc<Shared>,
    pub(crate) dirty: Arc<DirtySet>,
    pub(crate) links: Links,
    /// Who is silent needs not be asked.
    pub(crate) news: watch::Receiver<News>,
    /// The members to ask; this node among them or not.
    pub(crate) members: watch::Receiver<BTreeSet<NodeId>>,
    pub(crate) figures: Arc<Figures>,
}

impl Asker {
    /// Starts to ask whenever a worker wants to know something.
    pub(crate) fn start(self) -> AbortHandle {
        let wake = Arc::new(Notify::new());
        let waker = Arc::clone(&wake);
        self.shared.unknown.set_waker(move || waker.notify_one());
        let (asker, under_way) = (Arc::new(self), Arc::new(Semaphore::new(ASKING_MAX)));
        let run = async move {
            // Ends what is under way when it ends itself.
            let mut tasks = JoinSet::new();
            loop {
                wake.notified().await;
                tokio::time::sleep(GATHER).await;
                while tasks.try_join_next().is_some() {}
                for wanted in by_group(asker.shared.unknown.take()) {
                    let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
                    let asker = Arc::clone(&asker);
                    tasks.spawn(async move {
                        asker.ask(&wanted).await;
                        drop(permit);
                    });
                }
            }
        };
        tokio::spawn(run).abort_handle()
    }

    /// Asks all live peers for connections of one group.
    async fn ask(&self, wanted: &[Wanted]) {
        let Some(first) = wanted.first() else { return };
        let keys: Vec<Key> = wanted.iter().map(|wanted| key_of(&wanted.key)).collect();
        let ask = Ask { group: GroupId(first.group.0), keys };
        let silent = self.news.borrow().silent.clone();
        let peers: Vec<NodeId> = {
            let members = self.members.borrow();
            let live = members.iter().filter(|peer| **peer != self.node && !silent.contains(peer));
            live.copied().collect()
        };
        let mut answers = JoinSet::new();
        let frame: Arc<[u8]> = ask.encode().into();
        for peer in &peers {
            let (links, frame, peer) = (self.links.clone(), Arc::clone(&frame), *peer);
            answers.spawn(async move {
                (peer, links.call(peer, CALL_WHO_HAS, &frame, ANSWER_WITHIN).await)
            });
        }
        let (mut known, mut answered) = (BTreeSet::new(), 0);
        while let Some(answer) = answers.join_next().await {
            let Ok((peer, answer)) = answer else { continue };
            let now_ns = clock::now_ns();
            let taken = answer.map_err(anyhow::Error::from).and_then(|frame| {
                Ok(take_answer(&frame, &ask, &*self.shared, &self.dirty, now_ns)?)
            });
            match taken {
                Ok(keys) => {
                    answered += 1;
                    known.extend(keys);
                }
                Err(error) => debug!(%peer, "no answer about unknown connections: {error:#}"),
            }
        }
        let all = answered == peers.len();
        let mut nobody = 0;
        for wanted in wanted.iter().filter(|wanted| !known.contains(&key_of(&wanted.key))) {
            if all {
                self.shared.unknown.nobody_knows(clock::now_ns(), wanted);
                nobody += 1;
            }
        }
        let Figures { asked, found, unknown } = &*self.figures;
        asked.fetch_add(wanted.len() as u64, Ordering::Relaxed);
        found.fetch_add(known.len() as u64, Ordering::Relaxed);
        unknown.fetch_add(nobody, Ordering::Relaxed);
        let (group, found) = (ask.group, known.len());
        debug!(%group, asked = wanted.len(), peers = answered, found, nobody, "unknown connections");
    }
}

/// Questions in parts, each of one group and no longer than one frame may be.
fn by_group(wanted: Vec<Wanted>) -> Vec<Vec<Wanted>> {
    let mut groups: BTreeMap<u32, Vec<Wanted>> = BTreeMap::new();
    for wanted in wanted {
        groups.entry(wanted.group.0).or_default().push(wanted);
    }
    let parts = groups.values().flat_map(|wanted| wanted.chunks(ASK_KEYS_MAX));
    parts.map(<[Wanted]>::to_vec).collect()
}
