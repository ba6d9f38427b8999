//! What an operator can see of replication. Plain counters: the daemon turns them into metrics.

/// Sending to one peer, one shard. Add shards up with [`SenderMetrics::add`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct SenderMetrics {
    /// The stream is up.
    pub connected: bool,
    /// Batches written, heartbeats included.
    pub batches: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Records written, donations included.
    pub records: u64,
    /// Records written as donations.
    pub donated: u64,
    /// Deletes written.
    pub deletes: u64,
    /// Snapshots begun, per group.
    pub snapshots_begun: u64,
    /// Snapshots whose end was acknowledged.
    pub snapshots_done: u64,
    /// Groups whose snapshot is not acknowledged yet.
    pub snapshots_pending: u64,
    /// Entries that the present walk over the table has sent.
    pub walk_records: u64,
    /// Bytes of snapshots and of donations of everything.
    pub walk_bytes: u64,
    /// For how long snapshots waited for the budget.
    pub held_up_ns: u64,
    /// Keys that wait to be sent.
    pub waiting: u64,
    /// Batches that were sent and not acknowledged.
    pub unacked_batches: u64,
    /// Records and deletes in them: the exposure.
    pub unacked_records: u64,
    /// From sending a batch to its acknowledgement, the latest.
    pub lag_ns: u64,
    /// The greatest since the stream came up.
    pub lag_max_ns: u64,
    /// Streams that broke.
    pub breaks: u64,
    /// Records and deletes that were marked again because a stream broke.
    pub remarked: u64,
    /// Keys that were dropped because this node no longer sends their group to the peer.
    pub dropped: u64,
    /// Digests sent.
    pub digests: u64,
}

/// Receiving from one peer, one shard.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ReceiverMetrics {
    /// Batches applied, heartbeats included.
    pub batches: u64,
    /// Records that changed the table.
    pub applied: u64,
    /// Among them donations.
    pub donated: u64,
    /// Records for which the table had something better.
    pub kept: u64,
    /// Connections that a delete ended.
    pub deleted: u64,
    /// Deletes that named nothing the table has.
    pub deletes_kept: u64,
    /// Connections that a sweep ended.
    pub swept: u64,
    /// Snapshots applied to their end.
    pub snapshots: u64,
    /// Items fenced: of a lower epoch than the group's.
    pub rejected_epoch: u64,
    /// Items of an epoch that names another node than the sender.
    pub rejected_holder: u64,
    /// Records that found the table full.
    pub rejected_full: u64,
    /// Records that the table cannot hold.
    pub rejected_unfit: u64,
    /// Records and deletes whose key does not belong to the stream's shard.
    pub rejected_shard: u64,
    /// Digests compared with what is here to their end.
    pub digests: u64,
    /// Those of them that differed in some range, be it for a moment.
    pub digests_differed: u64,
    /// Those for which a snapshot was asked, because the same range differed twice.
    pub digests_refused: u64,
}

impl SenderMetrics {
    /// Adds another shard of the same peer: counts are summed, of times the greater stands.
    pub fn add(&mut self, other: &Self) {
        self.connected &= other.connected;
        self.batches += other.batches;
        self.bytes += other.bytes;
        self.records += other.records;
        self.donated += other.donated;
        self.deletes += other.deletes;
        self.snapshots_begun += other.snapshots_begun;
        self.snapshots_done += other.snapshots_done;
        self.snapshots_pending += other.snapshots_pending;
        self.walk_records += other.walk_records;
        self.walk_bytes += other.walk_bytes;
        self.held_up_ns += other.held_up_ns;
        self.waiting += other.waiting;
        self.unacked_batches += other.unacked_batches;
        self.unacked_records += other.unacked_records;
        self.lag_ns = self.lag_ns.max(other.lag_ns);
        self.lag_max_ns = self.lag_max_ns.max(other.lag_max_ns);
        self.breaks += other.breaks;
        self.remarked += other.remarked;
        self.dropped += other.dropped;
        self.digests += other.digests;
    }
}

impl ReceiverMetrics {
    /// Adds another shard, or an earlier stream, of the same peer.
    pub fn add(&mut self, other: &Self) {
        self.batches += other.batches;
        self.applied += other.applied;
        self.donated += other.donated;
        self.kept += other.kept;
        self.deleted += other.deleted;
        self.deletes_kept += other.deletes_kept;
        self.swept += other.swept;
        self.snapshots += other.snapshots;
        self.rejected_epoch += other.rejected_epoch;
        self.rejected_holder += other.rejected_holder;
        self.rejected_full += other.rejected_full;
        self.rejected_unfit += other.rejected_unfit;
        self.rejected_shard += other.rejected_shard;
        self.digests += other.digests;
        self.digests_differed += other.digests_differed;
        self.digests_refused += other.digests_refused;
    }
}
