//! Later fragments that overtook their first one: they wait for it a short time.
//!
//! Only the first fragment shows ports, so before it nobody can tell where the others go. A NIC that
//! spreads packets by their ports gives the first to another worker than the rest, and links of a
//! bundle do not keep the order of such parts: they come late by what a queue holds, not by seconds.
//! A frame waits as it came, and is decided after the first one like any other.
//!
//! Guarantees: bounded memory ([`EARLY_MAX`] frames and [`EARLY_BYTES_MAX`] octets of a set, of them
//! [`EARLY_OF_PACKET_MAX`] and [`EARLY_BYTES_OF_PACKET_MAX`] of one packet; none is taken before there
//! is need); the oldest gives way; after [`EARLY_TIMEOUT_NS`] a frame is forgotten.

use steadfast_packet::{ANSWER_LEN_MAX, OUTER_LEN_MAX, TAG_LEN};

use crate::{
    Actions, Reason, SyncHook, Verdict,
    fragments::Key,
    frame::Frame,
    worker::{Desk, View},
};

/// Frames of a set that wait at once, and their octets: 16 MiB in all sets of a node.
pub const EARLY_MAX: usize = 16;
/// See [`EARLY_MAX`].
pub const EARLY_BYTES_MAX: usize = 32 << 10;
/// The same for one packet.
pub const EARLY_OF_PACKET_MAX: usize = 8;
/// See [`EARLY_OF_PACKET_MAX`].
pub const EARLY_BYTES_OF_PACKET_MAX: usize = 24 << 10;

/// How long the first fragment is waited for.
pub const EARLY_TIMEOUT_NS: u64 = 200_000_000;

/// Room in front of a frame: for the outer headers of a tunnel, and the tag of a VLAN.
const HEADROOM: usize = OUTER_LEN_MAX + TAG_LEN;

/// A frame that came before the first fragment of its packet.
#[derive(Debug)]
pub(crate) struct Early {
    key: Key,
    until_ns: u64,
    port: u16,
    /// With room for what may become of it.
    buffer: Vec<u8>,
    len: usize,
}

/// Frames of a set, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Vec<Early>);

impl Waiting {
    /// Lets a copy of a frame wait; says whether it does.
    pub(crate) fn add(&mut self, frame: &Frame<'_>, key: Key) -> bool {
        self.forget(frame.now_ns);
        let (received, waiting) = (frame.received(), &mut self.0);
        let size = HEADROOM + received.len().max(ANSWER_LEN_MAX);
        let of_packet = || waiting.iter().filter(|early| early.key == key);
        let bytes: usize = of_packet().map(|early| early.buffer.len()).sum();
        if of_packet().count() >= EARLY_OF_PACKET_MAX || bytes + size > EARLY_BYTES_OF_PACKET_MAX {
            return false;
        }
        let octets = |early: &Early| early.buffer.len();
        while waiting.len() >= EARLY_MAX
            || waiting.iter().map(octets).sum::<usize>() + size > EARLY_BYTES_MAX
        {
            // Never empty here: one frame is not longer than those of one packet may be.
            waiting.remove(0);
        }
        let mut buffer = vec![0; size];
        if let Some(copy) = buffer.get_mut(HEADROOM..HEADROOM + received.len()) {
            copy.copy_from_slice(received);
        }
        let until_ns = frame.now_ns.saturating_add(EARLY_TIMEOUT_NS);
        waiting.push(Early { key, until_ns, port: frame.port, buffer, len: received.len() });
        true
    }

    /// Takes out what waits for the first fragment of this packet.
    pub(crate) fn take(&mut self, now_ns: u64, key: &Key) -> Vec<Early> {
        self.forget(now_ns);
        self.0.extract_if(.., |early| early.key == *key).collect()
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets what has waited for too long, and the memory if nothing is left.
    pub(crate) fn forget(&mut self, now_ns: u64) {
        self.0.retain(|early| now_ns < early.until_ns);
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}

impl<H> Desk<H>
where
    H: SyncHook,
{
    /// Decides the frames that waited for the one at hand, and queues what is to be sent of them.
    #[cold]
    pub(crate) fn release(&mut self, now_ns: u64, view: View<'_>, actions: &mut Actions) {
        for early in std::mem::take(&mut self.core.released) {
            let Early { port, mut buffer, len, .. } = early;
            // What one frame is cut into takes room for all of its pieces, this one among them.
            if !actions.outbox.has_room(1, buffer.len()) {
                self.core.counters.count_dropped(Reason::NoSpace);
                continue;
            }
            let mut frame = Frame::new(now_ns, port, &mut buffer, HEADROOM, len);
            let before = actions.outbox.len();
            match self.decide(&mut frame, view, actions) {
                Verdict::Transmit { port, start, len } => {
                    self.core.counters.count_released();
                    actions.outbox.put(view.hops, len, |to| {
                        to.get_mut(..len)?.copy_from_slice(buffer.get(start..start + len)?);
                        Some((port, 0, len))
                    });
                    // What it was cut into beside the first piece is queued by now.
                    actions.outbox.put_last_after(before);
                }
                Verdict::Drop(reason) => self.core.counters.count_dropped(reason),
            }
        }
    }
}
