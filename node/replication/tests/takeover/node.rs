//! Packet paths with the senders and receivers between them.

use std::sync::Arc;

use steadfast_dataplane::Role;
use steadfast_model::{BootId, Epoch, GroupId, NodeId};
use steadfast_replication::{
    Copies, DirtySet, GroupRole, Local, Receiver, ReplicationHook, SHARDS, Sender,
    adapter::origin_of, check_hello, wire::BATCH_BYTES_MAX,
};

use crate::{
    kinds::Kind,
    lab::{GROUP, Lab},
};

const CLUSTER: u64 = 0xc1;
const MS: u64 = 1_000_000;
/// Turns of a millisecond within which all that waits has gone over.
const TURNS_MAX: usize = 2_000;

pub(crate) const G: GroupId = GroupId(GROUP.0);

/// A node of the cluster.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) lab: Lab,
    dirty: Arc<DirtySet>,
    copies: Arc<Copies>,
}

/// The streams from one node to another.
pub(crate) struct Streams(Vec<(Sender, Receiver)>);

pub(crate) fn epoch(claim: u32, node: u32) -> Epoch {
    Epoch { generation: 1, grant_index: 7, claim, node: NodeId(node) }
}

impl Node {
    /// A node that knows of no holder.
    pub(crate) fn new(id: u32, kind: &Kind) -> Self {
        let lab = kind.lab();
        let dirty = Arc::new(DirtySet::new());
        lab.log.pass_on(ReplicationHook::new(Arc::clone(&lab.shared), Arc::clone(&dirty)));
        lab.set_role(Role::NoHolder { since_ns: 1 });
        Self { id: NodeId(id), lab, dirty, copies: Arc::default() }
    }

    fn local(&self) -> Local {
        Local { cluster: CLUSTER, node: self.id, boot: BootId(u64::from(self.id.0) + 100) }
    }

    /// It holds the group from now on; `copy_complete` as the daemon would say.
    pub(crate) fn hold(&mut self, epoch: Epoch, copy_complete: bool) {
        self.copies.handle_epoch(G, epoch);
        let since_ns = self.lab.now;
        self.lab.set_role(Role::Holder { epoch: origin_of(epoch), since_ns, copy_complete });
    }

    /// Another node holds it.
    pub(crate) fn follow(&self, epoch: Epoch) {
        self.copies.handle_epoch(G, epoch);
        self.lab.set_role(Role::Other { relay: vec![] });
    }
}

impl Streams {
    /// Streams that are up.
    pub(crate) fn new(from: &Node, to: &Node, role: GroupRole) -> Self {
        let slot = from.dirty.slot(to.id).unwrap();
        let of_shard = |shard| {
            let mut sender = Sender::new(from.local(), slot, shard, Arc::clone(&from.dirty));
            sender.handle_role(from.lab.now, G, role);
            let (copies, dirty) = (Arc::clone(&to.copies), Arc::clone(&to.dirty));
            let first = sender.hello();
            let receiver = Receiver::new(to.local(), from.id, &first, copies, dirty).unwrap();
            let hello = check_hello(from.local(), to.id, &receiver.hello()).unwrap();
            sender.handle_stream_up(from.lab.now, &hello);
            (sender, receiver)
        };
        Self((0..SHARDS).map(of_shard).collect())
    }

    /// Until nothing waits. Returns how many records changed something there.
    pub(crate) fn carry(&mut self, from: &mut Node, to: &mut Node) -> u64 {
        let applied = |streams: &Self| streams.0.iter().map(|(_, r)| r.metrics().applied).sum();
        let before: u64 = applied(self);
        for _ in 0..TURNS_MAX {
            from.lab.now += MS;
            to.lab.now = from.lab.now;
            for (sender, receiver) in &mut self.0 {
                let now = from.lab.now;
                while let Some(frame) =
                    sender.poll_transmit(now, &*from.lab.shared, BATCH_BYTES_MAX)
                {
                    let reply = receiver.handle_frame(now, &*to.lab.shared, &frame).unwrap();
                    sender.handle_ack(now, &reply.ack).unwrap();
                }
            }
            let rests = self.0.iter().all(|(sender, _)| {
                let m = sender.metrics();
                m.waiting + m.unacked_records + m.snapshots_pending == 0
            });
            if rests {
                return applied(self) - before;
            }
        }
        panic!("no rest within {TURNS_MAX} ms");
    }
}
