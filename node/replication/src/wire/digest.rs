//! What the receiver of a stream should have after everything before this frame.

use super::{
    BATCH_BYTES_MAX, GROUPS_PER_BATCH_MAX, GroupHeader, TYPE_DIGEST, WireError,
    batch::{GROUP_HEADER_BYTES_MAX, decode_group, encode_group},
    cursor::{Reader, put_varint},
};
use crate::digest::{RANGES, Ranges};

/// Bytes that say which ranges are known.
const KNOWN_BYTES: usize = RANGES / 8;
/// Bytes of the longest digest.
pub(crate) const DIGEST_BYTES_MAX: usize =
    1 + 10 + 2 + GROUPS_PER_BATCH_MAX * GROUP_HEADER_BYTES_MAX + KNOWN_BYTES + RANGES * 8;
const _: () = assert!(DIGEST_BYTES_MAX <= BATCH_BYTES_MAX);

/// Digests over the connections of some groups, one for each range of keys.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Digest {
    /// The batch before it.
    pub seq: u64,
    /// Over whose connections; at most [`GROUPS_PER_BATCH_MAX`], none of them donated.
    pub groups: Vec<GroupHeader>,
    /// What they are; ranges in which something changed meanwhile are not known.
    pub ranges: Ranges,
}

impl Digest {
    /// The frame.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.groups.len() <= GROUPS_PER_BATCH_MAX);
        let mut out = vec![TYPE_DIGEST];
        put_varint(&mut out, self.seq);
        put_varint(&mut out, self.groups.len() as u64);
        for header in &self.groups {
            encode_group(&mut out, header);
        }
        let known: Vec<Option<u64>> = (0..RANGES).map(|range| self.ranges.known(range)).collect();
        for eight in known.chunks(8) {
            let bits = eight.iter().enumerate().map(|(at, known)| u8::from(known.is_some()) << at);
            out.push(bits.fold(0, |all, bit| all | bit));
        }
        for digest in known.into_iter().flatten() {
            out.extend_from_slice(&digest.to_be_bytes());
        }
        out
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let seq = r.varint("seq")?;
        let count = r.count("group headers", GROUPS_PER_BATCH_MAX)?;
        let mut groups = Vec::with_capacity(count.min(r.remaining()));
        for _ in 0..count {
            groups.push(decode_group(r)?);
        }
        let known: [u8; KNOWN_BYTES] = r.array("known ranges")?;
        let mut ranges = Ranges::default();
        for range in 0..RANGES {
            if known[range / 8] & 1 << (range % 8) == 0 {
                ranges.forget(range);
            } else {
                ranges.set(range, u64::from_be_bytes(r.array("digest")?));
            }
        }
        Ok(Self { seq, groups, ranges })
    }
}
