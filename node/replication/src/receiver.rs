//! Receiving: one [`Receiver`] per incoming stream.
//!
//! The driver calls, in this order: [`Receiver::new`] with the sender's first frame,
//! [`Receiver::hello`] (written back), then [`Receiver::handle_frame`] for each frame, writing
//! back the frame it returns. On an error it closes the stream; the sender starts over.
//!
//! Guarantees: a frame is decoded whole before anything of it is applied; a record of a lower
//! epoch changes nothing unless it is a donation; only the node that the epoch names is believed.
//! Does not guarantee anything about a peer that lies within its own groups: peers are trusted
//! members, authenticated below.

mod check;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use steadfast_known_bugs::{Bug, is_on};
use steadfast_model::{BootId, GroupId, NodeId};
use thiserror::Error;

use crate::{
    Applied, Authority, Copies, Deleted, DirtySet, Key, ReceiverMetrics, Record, Table,
    copies::Stream,
    receiver::check::Check,
    shard_of,
    transit::Transit,
    wire::{ACK_GROUPS_MAX, Ack, Batch, GroupHeader, Hello, Item, Message, WireError},
};

/// Who this node is, as its streams introduce it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Local {
    /// The cluster's random number.
    pub cluster: u64,
    /// This node.
    pub node: NodeId,
    /// Its run.
    pub boot: BootId,
}

/// Why a stream is refused or closed.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
pub enum ReceiveError {
    /// The frame cannot be read.
    #[error("unreadable frame from node {node}: {source}")]
    Wire {
        /// Of whom.
        node: NodeId,
        /// What is wrong.
        #[source]
        source: WireError,
    },
    /// It is not the frame that belongs here.
    #[error("node {node} sent a frame that does not belong here, {want} was due")]
    Unexpected {
        /// Who.
        node: NodeId,
        /// What was due.
        want: &'static str,
    },
    /// It names another cluster.
    #[error("node {node} belongs to cluster {got:016x}, this node to {want:016x}")]
    Cluster {
        /// Who.
        node: NodeId,
        /// Theirs.
        got: u64,
        /// Ours.
        want: u64,
    },
    /// It names another node than its certificate.
    #[error("the peer is node {want} by its certificate and calls itself {got}")]
    Identity {
        /// In the frame.
        got: NodeId,
        /// By the certificate.
        want: NodeId,
    },
    /// A batch is missing or came twice.
    #[error("node {node} sent batch {got}, {want} was due")]
    Sequence {
        /// Who.
        node: NodeId,
        /// Its number.
        got: u64,
        /// The next in order.
        want: u64,
    },
}

/// What a frame has led to.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reply {
    /// The acknowledgement to write back.
    pub ack: Vec<u8>,
    /// Groups for which this peer has donated all it had in this shard.
    pub donations_ended: Vec<GroupId>,
}

/// Applies what one peer sends in one shard.
#[derive(Debug)]
pub struct Receiver {
    local: Local,
    from: Stream,
    copies: Arc<Copies>,
    dirty: Arc<DirtySet>,
    last_seq: u64,
    transit: Transit,
    check: Check,
    metrics: ReceiverMetrics,
}

impl Receiver {
    /// A receiver for a stream that `peer` (by its certificate) opened with `first_frame`.
    ///
    /// # Errors
    ///
    /// When the frame is no hello of that peer, this cluster and this version.
    pub fn new(
        local: Local,
        peer: NodeId,
        first_frame: &[u8],
        copies: Arc<Copies>,
        dirty: Arc<DirtySet>,
    ) -> Result<Self, ReceiveError> {
        let hello = check_hello(local, peer, first_frame)?;
        let from = Stream { node: peer, boot: hello.boot, shard: hello.shard };
        copies.note_boot(from.node, from.boot);
        let (transit, metrics) = Default::default();
        let check = Check::new(local.cluster);
        Ok(Self { local, from, copies, dirty, last_seq: 0, transit, check, metrics })
    }

    /// Applies a frame and returns what to write back; nothing for a digest.
    ///
    /// # Errors
    ///
    /// When the stream is to be closed.
    pub fn handle_frame<T>(
        &mut self,
        now_ns: u64,
        table: &T,
        frame: &[u8],
    ) -> Result<Reply, ReceiveError>
    where
        T: Table + ?Sized,
    {
        let node = self.from.node;
        let batch = match Message::decode(frame) {
            Ok(Message::Batch(batch)) => batch,
            Ok(Message::Digest(digest)) if digest.seq == self.last_seq => {
                self.begin_check(digest);
                return Ok(Reply::default());
            }
            Ok(Message::Digest(digest)) => {
                let (got, want) = (digest.seq, self.last_seq);
                return Err(ReceiveError::Sequence { node, got, want });
            }
            Ok(_) => return Err(ReceiveError::Unexpected { node, want: "a batch" }),
            Err(source) => return Err(ReceiveError::Wire { node, source }),
        };
        if batch.seq != self.last_seq + 1 {
            return Err(ReceiveError::Sequence { node, got: batch.seq, want: self.last_seq + 1 });
        }
        self.last_seq = batch.seq;
        self.metrics.batches += 1;
        let mut reply = Reply::default();
        let mut ack = Ack { seq: batch.seq, ..Ack::default() };
        self.apply(now_ns, table, &batch, &mut ack, &mut reply);
        self.step_check(table);
        self.copies.note_batch(self.from, self.transit.fresh_ns(now_ns, &batch));
        ack.resync = self.copies.due_resyncs(self.from, now_ns, ACK_GROUPS_MAX);
        reply.ack = ack.encode();
        Ok(reply)
    }

    /// The frame that answers the sender's hello.
    #[must_use]
    pub fn hello(&self) -> Vec<u8> {
        let Local { cluster, node, boot } = self.local;
        Hello::new(cluster, node, boot, self.from.shard).encode()
    }

    /// The shard of the stream.
    #[must_use]
    pub fn shard(&self) -> u8 {
        self.from.shard
    }

    /// The peer.
    #[must_use]
    pub fn peer(&self) -> NodeId {
        self.from.node
    }

    /// The peer's run.
    #[must_use]
    pub fn peer_boot(&self) -> BootId {
        self.from.boot
    }

    /// Counters.
    #[must_use]
    pub fn metrics(&self) -> ReceiverMetrics {
        self.metrics
    }

    fn apply<T>(&mut self, now_ns: u64, table: &T, batch: &Batch, ack: &mut Ack, reply: &mut Reply)
    where
        T: Table + ?Sized,
    {
        // Judged once per batch and header: the epoch may rise between two batches, and then the
        // rest of the older holder's records is fenced.
        let mut authorities: Vec<Option<Authority>> =
            batch.groups.iter().map(|header| self.admit(header, now_ns)).collect();
        for item in &batch.items {
            let index = usize::from(item.header());
            let Some(header) = batch.groups.get(index) else { continue };
            let Some(authority) = authorities.get(index).copied().flatten() else {
                self.count_fenced(header);
                if !ack.fenced.contains(&header.group) {
                    ack.fenced.push(header.group);
                }
                continue;
            };
            match item {
                Item::Record { record, .. } => self.record(table, header, record, &authority),
                Item::Delete { key, incarnation, .. } => {
                    self.delete(table, header, key, *incarnation, &authority);
                }
                Item::DonationEnd { .. } => reply.donations_ended.push(header.group),
                // Only a holder's snapshot says what does *not* exist.
                _ if header.donated => {}
                Item::Begin { snapshot, .. } => {
                    self.check.abort();
                    self.copies.begin(header.group, self.from, *snapshot);
                    // What follows in this very batch belongs to the new snapshot.
                    let generation = self.generation(header);
                    for (other, authority) in batch.groups.iter().zip(&mut authorities) {
                        if let Some(authority) = authority
                            && (other.group, other.donated) == (header.group, false)
                        {
                            authority.generation = generation;
                        }
                    }
                }
                Item::End { snapshot, .. } => {
                    let ended = self.copies.end(header.group, self.from, *snapshot, now_ns);
                    self.metrics.snapshots += u64::from(ended);
                }
                Item::Sweep { snapshot, .. } => {
                    if self.copies.may_sweep(header.group, self.from, *snapshot) {
                        self.check.abort();
                        let swept = table.sweep(header.group, self.from.shard, &authority);
                        self.metrics.swept += swept as u64;
                    }
                }
            }
        }
    }

    fn admit(&self, header: &GroupHeader, now_ns: u64) -> Option<Authority> {
        let GroupHeader { group, epoch, donated } = *header;
        let heard = donated
            || (epoch.node == self.from.node
                && epoch.node != self.local.node
                && self.copies.admit(group, epoch));
        heard.then(|| Authority { epoch, donated, generation: self.generation(header), now_ns })
    }

    fn count_fenced(&mut self, header: &GroupHeader) {
        if header.epoch.node == self.from.node {
            self.metrics.rejected_epoch += 1;
        } else {
            self.metrics.rejected_holder += 1;
        }
    }

    fn generation(&self, header: &GroupHeader) -> u64 {
        // A donation belongs to no snapshot; a sweep leaves it alone by its mark.
        if header.donated { 0 } else { self.copies.generation(header.group, self.from) }
    }

    fn record<T>(&mut self, table: &T, header: &GroupHeader, record: &Record, authority: &Authority)
    where
        T: Table + ?Sized,
    {
        if shard_of(&record.key) != self.from.shard {
            self.metrics.rejected_shard += 1;
            return;
        }
        if header.donated && is_on(Bug::DonationDropped) {
            return;
        }
        self.check.touch(&record.key);
        match table.apply(record, authority) {
            Applied::Inserted | Applied::Updated | Applied::Replaced => {
                self.metrics.applied += 1;
                if header.donated {
                    self.metrics.donated += 1;
                    // Whoever holds the group passes it on to the other candidates.
                    self.dirty.mark(&record.key, header.group);
                } else {
                    self.copies.note_applied(header.group, self.from);
                }
            }
            Applied::Kept => self.metrics.kept += 1,
            Applied::Unfit => self.metrics.rejected_unfit += 1,
            Applied::Full => {
                self.metrics.rejected_full += 1;
                if !header.donated {
                    self.copies.note_hole(header.group, self.from);
                }
            }
        }
    }

    fn delete<T>(
        &mut self,
        table: &T,
        header: &GroupHeader,
        key: &Key,
        incarnation: u64,
        authority: &Authority,
    ) where
        T: Table + ?Sized,
    {
        if shard_of(key) != self.from.shard {
            self.metrics.rejected_shard += 1;
            return;
        }
        // A donor has no say in what has ended.
        if header.donated {
            self.metrics.deletes_kept += 1;
            return;
        }
        self.check.touch(key);
        match table.delete(key, incarnation, authority) {
            Deleted::Removed => self.metrics.deleted += 1,
            Deleted::Kept => self.metrics.deletes_kept += 1,
        }
    }
}

/// Reads the first frame of a stream, in either direction.
///
/// # Errors
///
/// When it is no hello of that peer, this cluster and this version.
pub fn check_hello(local: Local, peer: NodeId, frame: &[u8]) -> Result<Hello, ReceiveError> {
    let hello = match Message::decode(frame) {
        Ok(Message::Hello(hello)) => hello,
        Ok(_) => return Err(ReceiveError::Unexpected { node: peer, want: "a hello" }),
        Err(source) => return Err(ReceiveError::Wire { node: peer, source }),
    };
    if hello.cluster != local.cluster {
        let (got, want) = (hello.cluster, local.cluster);
        return Err(ReceiveError::Cluster { node: peer, got, want });
    }
    if hello.node != peer {
        return Err(ReceiveError::Identity { got: hello.node, want: peer });
    }
    Ok(hello)
}
