//! Asking the peers for connections that nobody here knows, after a take-over.
//!
//! The new holder sends an [`Ask`] to every live peer, which answers with one batch of donated records:
//! those of the connections that it has. What is not in there, it does not know. It goes by calls
//! beside the streams, for the copy that a stream brings may be long.
//!
//! Guarantees: a peer learns nothing but what it asks for by its whole key; an answer changes nothing
//! but what was asked for, and what it brings is worth as much as any donation.

use std::collections::BTreeSet;

use steadfast_model::{Epoch, GroupId};

use crate::{
    Applied, Authority, DirtySet, Key, Slot, Table,
    wire::{Ask, BATCH_BYTES_MAX, BatchWriter, GroupHeader, Item, Message, WireError},
};

/// What this node has of what a peer asks for: the answer. `epoch` is what this node knew the group by
/// before the peer held it, or knows it by.
///
/// # Errors
///
/// When the question cannot be read.
pub fn answer<T>(
    frame: &[u8],
    table: &T,
    slot: Slot,
    epoch: impl FnOnce(GroupId) -> Option<Epoch>,
) -> Result<Vec<u8>, WireError>
where
    T: Table + ?Sized,
{
    let Message::Ask(Ask { group, keys }) = Message::decode(frame)? else {
        return Err(WireError::Type { got: frame.first().copied().unwrap_or(0) });
    };
    let mut writer = BatchWriter::new(BATCH_BYTES_MAX);
    if let Some(epoch) = epoch(group) {
        let header = GroupHeader { group, epoch, donated: true };
        let known = keys.iter().filter_map(|key| table.get(key, slot));
        for record in known.filter(|record| record.group == group) {
            if writer.has_room() {
                writer.record(header, &record);
            }
        }
    }
    Ok(writer.finish(0, 0, 0))
}

/// Applies a peer's answer to `ask`; returns what it knew.
///
/// # Errors
///
/// When the answer cannot be read: the peer has not answered.
pub fn take_answer<T>(
    frame: &[u8],
    ask: &Ask,
    table: &T,
    dirty: &DirtySet,
    now_ns: u64,
) -> Result<BTreeSet<Key>, WireError>
where
    T: Table + ?Sized,
{
    let Message::Batch(batch) = Message::decode(frame)? else {
        return Err(WireError::Type { got: frame.first().copied().unwrap_or(0) });
    };
    let mut known = BTreeSet::new();
    for item in &batch.items {
        let Item::Record { header, record } = item else { continue };
        let Some(header) = batch.groups.get(usize::from(*header)) else { continue };
        if header.group != ask.group || !ask.keys.contains(&record.key) {
            continue;
        }
        known.insert(record.key);
        let authority = Authority { epoch: header.epoch, donated: true, generation: 0, now_ns };
        if let Applied::Inserted | Applied::Updated | Applied::Replaced =
            table.apply(record, &authority)
        {
            // The other candidates hear of it as of any donation.
            dirty.mark(&record.key, ask.group);
        }
    }
    Ok(known)
}
