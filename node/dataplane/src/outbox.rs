//! Frames that leave beside the one at hand: its pieces, and fragments that waited for their first.
//!
//! Guarantees: memory is bounded and kept for the next ones; nothing here costs a packet that
//! leaves alone.

use steadfast_packet::{FRAME_LEN_MIN, TAG_LEN, tag};

use crate::{NextHops, Tagged};

/// Frames, and octets of all of them, that wait to be sent at once; the driver sends them after each
/// frame that it hands in.
pub const OUTBOX_FRAMES_MAX: usize = 128;
/// See [`OUTBOX_FRAMES_MAX`].
pub const OUTBOX_BYTES_MAX: usize = 256 << 10;

/// Frames to be sent.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    frames: Vec<Queued>,
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    port: u16,
    start: usize,
    end: usize,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Frames that wait so far.
    pub(crate) fn len(&self) -> usize {
        self.frames.len()
    }

    /// Lets the last frame leave before those that came after the first `before`.
    pub(crate) fn put_last_after(&mut self, before: usize) {
        if let Some(since) = self.frames.get_mut(before..)
            && !since.is_empty()
        {
            since.rotate_right(1);
        }
    }

    /// So many frames that need so much memory each have room.
    pub(crate) fn has_room(&self, frames: usize, each: usize) -> bool {
        self.frames.len() + frames <= OUTBOX_FRAMES_MAX
            && self.bytes.len() + frames * (TAG_LEN + each) <= OUTBOX_BYTES_MAX
    }

    /// Adds the frame that `write` makes in a buffer of `size` octets, of which it says the port, start
    /// and length, if it makes one. The port may be that of a VLAN.
    pub(crate) fn put(
        &mut self,
        hops: &NextHops,
        size: usize,
        write: impl FnOnce(&mut [u8]) -> Option<(u16, usize, usize)>,
    ) {
        if !self.has_room(1, size) {
            return;
        }
        let before = self.bytes.len();
        self.bytes.resize(before + TAG_LEN + size.max(FRAME_LEN_MIN), 0);
        let written = write(&mut self.bytes[before + TAG_LEN..]);
        let queued = written.and_then(|(port, start, len)| {
            let buffer = self.bytes.get_mut(before..)?;
            let (port, start, len) = match hops.tagged(port) {
                Some(Tagged { trunk, vlan }) => {
                    let (start, len) = tag(buffer, TAG_LEN + start, len, vlan).ok()?;
                    (trunk, start, len)
                }
                None => (port, TAG_LEN + start, len),
            };
            let end = start + len;
            let padded = end.max((start + FRAME_LEN_MIN).min(buffer.len()));
            buffer.get_mut(end..padded)?.fill(0);
            Some(Queued { port, start: before + start, end: before + padded })
        });
        match queued {
            Some(queued) => self.frames.push(queued),
            None => self.bytes.truncate(before),
        }
    }

    /// Gives all frames, in order, each with the port it leaves by, and forgets them.
    pub(crate) fn send(&mut self, mut send: impl FnMut(u16, &[u8])) {
        for Queued { port, start, end } in self.frames.drain(..) {
            send(port, self.bytes.get(start..end).unwrap_or_default());
        }
        self.bytes.clear();
    }
}
