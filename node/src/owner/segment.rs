//! Beacons on one segment: a packet socket on its interface.

use std::io;

use af_xdp::PacketSocket;
use steadfast_ownership::SegmentId;
use tokio::io::unix::AsyncFd;

/// EtherType of beacons: IEEE local experimental 1.
pub(crate) const ETHERTYPE: u16 = 0x88b5;

/// The largest frame on a segment.
pub(crate) const FRAME_BYTES_MAX: usize = 1_600;

/// Frames read in one go; the rest waits for the next turn.
const DRAIN_MAX: usize = 512;

const HEADER_BYTES: usize = 14;
const BROADCAST: [u8; 6] = [0xff; 6];

/// One segment.
pub(crate) struct Segment {
    pub(crate) id: SegmentId,
    pub(crate) mac: [u8; 6],
    socket: AsyncFd<PacketSocket>,
}

impl Segment {
    /// Opens a socket on the interface. Call it inside the runtime that will read it.
    ///
    /// # Errors
    /// What the kernel says.
    #[expect(
        deprecated,
        reason = "its unsafe successor wants what PacketSocket gives: one fd, \
        kept open until it is dropped"
    )]
    pub(crate) fn open(id: SegmentId, interface: u32, mac: [u8; 6]) -> io::Result<Self> {
        let socket = AsyncFd::new(PacketSocket::bind(interface, ETHERTYPE)?)?;
        Ok(Self { id, mac, socket })
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
        frame.extend_from_slice(&self.mac);
        frame.extend_from_slice(&ETHERTYPE.to_be_bytes());
        frame.extend_from_slice(payload);
        self.send(&frame)
    }

    /// Sends a whole frame, such as gratuitous ARP.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.get_ref().send(frame)
    }
}
