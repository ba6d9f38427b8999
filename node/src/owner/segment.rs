//! Beacons on the segments of one interface: a packet socket on it.

use std::{collections::BTreeSet, io, sync::Arc};

use af_xdp::PacketSocket;
use steadfast_ownership::{Path, SegmentId};
use tokio::io::unix::AsyncFd;

use crate::plane::PortInfo;

/// EtherType of beacons: IEEE local experimental 1.
pub(crate) const ETHERTYPE: u16 = 0x88b5;

/// The largest frame on a segment.
pub(crate) const FRAME_BYTES_MAX: usize = 1_600;

/// Frames read in one go; the rest waits for the next turn.
const DRAIN_MAX: usize = 512;

const HEADER_BYTES: usize = 14;
const BROADCAST: [u8; 6] = [0xff; 6];

/// An interface and the segments on it.
pub(crate) struct Wire {
    pub(crate) port: Arc<PortInfo>,
    pub(crate) segments: BTreeSet<SegmentId>,
    socket: AsyncFd<PacketSocket>,
}

impl Wire {
    /// Opens a socket on the interface. Call it inside the runtime that will read it.
    ///
    /// # Errors
    /// What the kernel says.
    #[expect(
        deprecated,
        reason = "its unsafe successor wants what PacketSocket gives: one fd, \
        kept open until it is dropped"
    )]
    pub(crate) fn open(port: Arc<PortInfo>) -> io::Result<Self> {
        let socket = AsyncFd::new(PacketSocket::bind(port.interface, ETHERTYPE)?)?;
        Ok(Self { port, segments: BTreeSet::new(), socket })
    }

    /// This interface's MAC address.
    pub(crate) fn mac(&self) -> [u8; 6] {
        self.port.mac
    }

    /// On which of its segments a frame has come in that says it was sent on `sent`. With several
    /// segments on one wire only the sender can tell; `None` when none is here.
    pub(crate) fn path(&self, sent: Path) -> Option<Path> {
        came_in_on(&self.segments, sent)
    }

    /// Waits until a frame may be there.
    pub(crate) async fn readable(&self) {
        if let Ok(mut guard) = self.socket.readable().await {
            // Reading until it would block follows, see `drain`.
            guard.clear_ready();
        }
    }

    /// Reads what is there: source MAC and payload of each frame.
    pub(crate) fn drain(&self, mut take: impl FnMut([u8; 6], &[u8])) {
        let mut buffer = [0; FRAME_BYTES_MAX];
        for _ in 0..DRAIN_MAX {
            let Ok(received) = self.socket.get_ref().receive(&mut buffer) else { return };
            let Some(frame) = buffer.get(..received.len) else { continue };
            let Some((header, payload)) = frame.split_at_checked(HEADER_BYTES) else { continue };
            let mut source = [0; 6];
            source.copy_from_slice(&header[6..12]);
            take(source, payload);
        }
    }

    /// Broadcasts a payload under our EtherType.
    pub(crate) fn broadcast(&self, payload: &[u8]) -> io::Result<()> {
        let mut frame = Vec::with_capacity(HEADER_BYTES + payload.len());
        frame.extend_from_slice(&BROADCAST);
        frame.extend_from_slice(&self.port.mac);
        frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
        frame.extend_from_slice(payload);
        self.send(&frame)
    }

    /// Sends a whole frame, such as gratuitous ARP.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame)
    }
}

fn came_in_on(segments: &BTreeSet<SegmentId>, sent: Path) -> Option<Path> {
    match sent {
        Path::Segment(segment) if segments.contains(&segment) => Some(sent),
        // The core refuses and counts it: it was sent on another path.
        _ => segments.first().map(|segment| Path::Segment(*segment)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_came_in_on_the_segment_it_names_if_that_is_here() {
        let segment = |n| Path::Segment(SegmentId(n));
        let two = BTreeSet::from([SegmentId(1), SegmentId(2)]);
        assert_eq!(came_in_on(&two, segment(1)), Some(segment(1)));
        assert_eq!(came_in_on(&two, segment(2)), Some(segment(2)));
        for other in [segment(3), Path::Peer] {
            let path = came_in_on(&two, other);
            assert_ne!(path, Some(other), "a path that is not this wire's is not believed");
            assert!(path.is_some(), "and it is counted");
        }
        assert_eq!(came_in_on(&BTreeSet::new(), segment(1)), None);
    }
}
