//! The wire format: what travels in one frame of a replication stream.
//!
//! The stream below (one per peer and shard, ordered, reliable, authenticated) delimits frames;
//! each frame is one [`Message`]. Sender to receiver: [`Hello`], then batches. Receiver to sender:
//! [`Hello`], then acknowledgements.
//!
//! ```text
//! hello   01 version:u8 oldest:u8 cluster:u64 node:u32 boot:u64 shard:u8 shards:u8 (big-endian)
//! batch   02 seq sent_ms age_ms base count { group generation grant claim node flags }*  item*
//! ack     03 seq count { group }* count { group }*     (to be sent again; fenced)
//! digest  04 seq count { group header as above }* { known:u8 }*32 { digest:u64 }*     (big-endian)
//! ask     05 group count { families:u8 protocol:u8 client port vip port }*
//! item    head:u8 [header_index]
//!           0 record   place state|flags<<4 client port vip port service server  incarnation
//!           1 delete   client port vip port incarnation
//!           2 begin    snapshot          3 end      snapshot
//!           4 sweep    snapshot          5 donation end
//!           6 record   as 0, then more:u8 (1: local address and port, of the VIP's family;
//!                      2: to_client:u32 to_server:u32 timestamps:u32 windows:i8 and i8)
//! head    bits 0-2 kind, 3 client is IPv6, 4 VIP is IPv6, 5-6 TCP|UDP|SCTP|other (one more byte),
//!         7 the header is that of the item before
//! ```
//!
//! Numbers without a width are LEB128 varints; an incarnation is the zigzag difference to the
//! batch's `base`. A typical IPv4 record takes 24 bytes or less.
//!
//! # Versions
//!
//! A hello says the version its sender speaks and the oldest one that it still speaks. Both sides
//! then speak the lower of the two versions, so nodes of two releases work together as long as
//! [`OLDEST_VERSION`] of the newer one is not above the version of the older one. A hello of a newer
//! version may be longer: what is not known of it is not read.
//!
//! | version | more than the one before |
//! |---|---|
//! | 1 | |
//! | 2 | digests, questions |
//!
//! Guarantees: decoding never panics and allocates no more than a constant times its input, which
//! is bounded by [`BATCH_BYTES_MAX`]; what is encoded decodes to the same. Does not guarantee that
//! a record makes sense: that is for the table to judge.

mod ask;
mod batch;
mod cursor;
mod digest;
mod error;
#[cfg(test)]
mod tests;

pub use ask::{ASK_KEYS_MAX, Ask};
pub use batch::{Batch, BatchWriter, GroupHeader, Item};
use cursor::{Reader, put_varint};
pub(crate) use digest::DIGEST_BYTES_MAX;
pub use digest::Digest;
pub use error::WireError;
use steadfast_model::{BootId, GroupId, NodeId};

use crate::SHARDS;

/// Raised with every change that an older decoder would misread.
pub const VERSION: u8 = 2;
/// The oldest version that this release speaks.
pub const OLDEST_VERSION: u8 = 1;
/// From this version on, digests are sent.
pub(crate) const DIGEST_VERSION: u8 = 2;
/// A batch is never larger; a longer frame is refused unread.
pub const BATCH_BYTES_MAX: usize = 32 << 10;
/// Group headers of one batch.
pub const GROUPS_PER_BATCH_MAX: usize = 128;
/// Groups of each kind in one acknowledgement. No batch refers to more.
pub const ACK_GROUPS_MAX: usize = GROUPS_PER_BATCH_MAX;

const TYPE_HELLO: u8 = 1;
const TYPE_BATCH: u8 = 2;
const TYPE_ACK: u8 = 3;
const TYPE_DIGEST: u8 = 4;
const TYPE_ASK: u8 = 5;

/// The first frame in each direction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Hello {
    /// The version the sender would like to speak.
    pub version: u8,
    /// The oldest version it speaks.
    pub oldest: u8,
    /// The cluster's random number.
    pub cluster: u64,
    /// Who is speaking.
    pub node: NodeId,
    /// Its run.
    pub boot: BootId,
    /// Which shard the stream carries.
    pub shard: u8,
}

impl Hello {
    /// What this release says.
    #[must_use]
    pub fn new(cluster: u64, node: NodeId, boot: BootId, shard: u8) -> Self {
        Self { version: VERSION, oldest: OLDEST_VERSION, cluster, node, boot, shard }
    }

    /// The version that is spoken on the stream.
    #[must_use]
    pub fn agreed(&self) -> u8 {
        self.version.min(VERSION)
    }

    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(25);
        out.extend_from_slice(&[TYPE_HELLO, self.version, self.oldest]);
        out.extend_from_slice(&self.cluster.to_be_bytes());
        out.extend_from_slice(&self.node.0.to_be_bytes());
        out.extend_from_slice(&self.boot.0.to_be_bytes());
        out.extend_from_slice(&[self.shard, SHARDS]);
        out
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let (version, oldest) = (r.u8("version")?, r.u8("oldest version")?);
        if version < OLDEST_VERSION || oldest > VERSION {
            return Err(WireError::Version { theirs: (oldest, version) });
        }
        let cluster = u64::from_be_bytes(r.array("cluster")?);
        let node = NodeId(u32::from_be_bytes(r.array("node")?));
        let boot = BootId(u64::from_be_bytes(r.array("boot")?));
        let (shard, shards) = (r.u8("shard")?, r.u8("shards")?);
        if shards != SHARDS || shard >= SHARDS {
            return Err(WireError::Shard { shard, shards, want: SHARDS });
        }
        if version > VERSION {
            r.skip_rest();
        }
        Ok(Self { version, oldest, cluster, node, boot, shard })
    }
}

/// The receiver has applied everything up to a sequence number.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Ack {
    /// The last batch applied.
    pub seq: u64,
    /// Groups whose copy has a hole (the table was full): a new snapshot, please.
    pub resync: Vec<GroupId>,
    /// Groups of this batch whose records were refused: the receiver knows of a higher epoch.
    pub fenced: Vec<GroupId>,
}

impl Ack {
    /// The frame. At most [`ACK_GROUPS_MAX`] groups of each kind are written.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![TYPE_ACK];
        put_varint(&mut out, self.seq);
        for groups in [&self.resync, &self.fenced] {
            let groups = &groups[..groups.len().min(ACK_GROUPS_MAX)];
            put_varint(&mut out, groups.len() as u64);
            for group in groups {
                put_varint(&mut out, u64::from(group.0));
            }
        }
        out
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let seq = r.varint("seq")?;
        let [mut resync, mut fenced] = [Vec::new(), Vec::new()];
        for groups in [&mut resync, &mut fenced] {
            for _ in 0..r.count("groups", ACK_GROUPS_MAX)? {
                groups.push(GroupId(r.varint_u32("group")?));
            }
        }
        Ok(Self { seq, resync, fenced })
    }
}

/// One frame.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Message {
    /// Who is speaking.
    Hello(Hello),
    /// Records.
    Batch(Batch),
    /// How far they were applied.
    Ack(Ack),
    /// What the receiver should have now.
    Digest(Digest),
    /// What do you have of these? Not on a stream: by a call, which a batch answers.
    Ask(Ask),
}

impl Message {
    /// Reads one whole frame.
    ///
    /// # Errors
    ///
    /// When the frame is not exactly one well-formed message of this version.
    pub fn decode(frame: &[u8]) -> Result<Self, WireError> {
        if frame.len() > BATCH_BYTES_MAX {
            return Err(WireError::TooLong { bytes: frame.len(), max: BATCH_BYTES_MAX });
        }
        let mut r = Reader::new(frame);
        let message = match r.u8("message type")? {
            TYPE_HELLO => Self::Hello(Hello::decode(&mut r)?),
            TYPE_BATCH => return Ok(Self::Batch(Batch::decode(r)?)),
            TYPE_ACK => Self::Ack(Ack::decode(&mut r)?),
            TYPE_DIGEST => Self::Digest(Digest::decode(&mut r)?),
            TYPE_ASK => Self::Ask(Ask::decode(&mut r)?),
            got => return Err(WireError::Type { got }),
        };
        if !r.is_empty() {
            return Err(WireError::Trailing { bytes: r.remaining() });
        }
        Ok(message)
    }
}
