//! The packet memory of one worker and the frames it is cut into.
//!
//! Guarantees: at any time a frame has one owner: the free list, one [`Frame`] token, or the
//! kernel (between [`crate::Socket::send`] or [`crate::Socket::refill`] and its way back). Bytes
//! are reached through the token, so safe code never sees memory the kernel writes to, nor the
//! same frame twice. Not guaranteed: that a dropped token finds its way back; give every frame
//! to [`crate::Socket::send`] or [`Umem::free`]. [`Umem::missing`] tells when one got lost.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Weak,
        atomic::{AtomicU32, Ordering},
    },
};

use crate::{
    abi::{Desc, PACKET_HEADROOM},
    ring::Mapping,
    socket::Mode,
};

/// The most bytes one UMEM may have: offsets in it are 32 bits wide.
pub const UMEM_BYTES_MAX: u64 = 1 << 31;

/// The most entries a ring may have.
pub const RING_SIZE_MAX: u32 = 1 << 16;

/// Why a UMEM could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UmemError {
    /// A frame size the kernel has no use for.
    #[error("frames of {size} bytes are not possible: choose 2048 or 4096")]
    FrameSize {
        /// What was asked for.
        size: u32,
    },
    /// A ring size that is no power of two or too large.
    #[error("a ring of {size} entries is not possible: choose a power of two up to 65536")]
    RingSize {
        /// What was asked for.
        size: u32,
    },
    /// More memory than an UMEM may have, or none at all.
    #[error("{frames} frames of {size} bytes are not possible: at least 1, at most 2 GiB")]
    Size {
        /// How many frames were asked for.
        frames: u32,
        /// Of which size.
        size: u32,
    },
    /// The memory could not be had.
    #[error("cannot allocate {bytes} bytes of packet memory: lower the number of frames")]
    Map {
        /// How much was asked for.
        bytes: usize,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// How large the parts of a UMEM are.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UmemConfig {
    /// Frames in all. Have at least `fill_size + tx_size` per socket, or some socket starves.
    pub frames: u32,
    /// 2048 or 4096 bytes; [`PACKET_HEADROOM`] of them stay free in front of the packet.
    pub frame_size: u32,
    /// Entries of each socket's RX ring, a power of two.
    pub rx_size: u32,
    /// Entries of each socket's TX ring, a power of two.
    pub tx_size: u32,
    /// Entries of each socket's fill ring, a power of two.
    pub fill_size: u32,
    /// Entries of each socket's completion ring, a power of two.
    pub completion_size: u32,
}

impl UmemConfig {
    /// The default rings, and frames enough for `sockets` sockets that are all full, plus as many
    /// again as one socket holds for packets being worked on.
    pub fn for_sockets(sockets: u32) -> Self {
        let rings = Self::default();
        let per_socket = rings.fill_size + rings.tx_size;
        Self { frames: per_socket.saturating_mul(sockets.saturating_add(1)), ..rings }
    }
}

/// Enough for one socket, with 2048-byte frames.
impl Default for UmemConfig {
    fn default() -> Self {
        Self {
            frames: 8192,
            frame_size: 2048,
            rx_size: 2048,
            tx_size: 2048,
            fill_size: 2048,
            completion_size: 2048,
        }
    }
}

/// The registered memory, shared by the pool and its sockets.
#[derive(Debug)]
pub(crate) struct Region {
    memory: Mapping,
    frame_size: u32,
    id: u32,
}

impl Region {
    pub(crate) fn start(&self) -> u64 {
        self.memory.start().as_ptr() as u64
    }

    pub(crate) fn len(&self) -> u64 {
        self.memory.len() as u64
    }

    pub(crate) fn frame_size(&self) -> u32 {
        self.frame_size
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Whether the frame is of this memory.
    pub(crate) fn owns(&self, frame: &Frame) -> bool {
        frame.umem == self.id
    }

    /// The token for a frame the kernel handed over, `None` when its descriptor leaves a frame.
    pub(crate) fn adopt(&self, desc: Desc) -> Option<Frame> {
        let offset = desc.addr & u64::from(self.frame_size - 1);
        let fits =
            desc.addr < self.len() && offset + u64::from(desc.len) <= u64::from(self.frame_size);
        fits.then_some(Frame {
            umem: self.id,
            addr: desc.addr as u32,
            len: desc.len as u16,
            frame_size: self.frame_size as u16,
        })
    }

    /// The token for a whole frame, given any address inside it.
    fn whole(&self, addr: u32) -> Frame {
        let base = addr & !(self.frame_size - 1);
        Frame {
            umem: self.id,
            addr: base + PACKET_HEADROOM,
            len: 0,
            frame_size: self.frame_size as u16,
        }
    }
}

/// One frame, owned: a packet in the UMEM it came from.
///
/// No `Copy`, no `Clone`: two tokens for one frame would be two mutable views of it. Dropping it
/// loses the frame to the pool.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "a dropped frame is lost to the pool: send it or free it"]
pub struct Frame {
    umem: u32,
    addr: u32,
    len: u16,
    frame_size: u16,
}

/// A change of a frame's bounds that would leave the frame.
#[derive(Debug, Eq, PartialEq, thiserror::Error)]
#[error("{asked} bytes do not fit: {room} are there")]
pub struct OutOfFrame {
    /// What was asked for.
    pub asked: usize,
    /// What there is.
    pub room: usize,
}

impl Frame {
    /// The packet's length in bytes.
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether there is no packet in the frame.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where the packet starts in the UMEM.
    pub fn addr(&self) -> u64 {
        u64::from(self.addr)
    }

    /// The longest packet that fits from where this one starts.
    pub fn capacity(&self) -> usize {
        usize::from(self.frame_size) - self.headroom()
    }

    /// Free bytes in front of the packet.
    pub fn headroom(&self) -> usize {
        self.addr as usize & (usize::from(self.frame_size) - 1)
    }

    /// Grows or shrinks the packet at its end. New bytes hold whatever was there: write them.
    ///
    /// # Errors
    ///
    /// When the frame would end before the packet.
    pub fn set_len(&mut self, len: usize) -> Result<(), OutOfFrame> {
        if len > self.capacity() {
            return Err(OutOfFrame { asked: len, room: self.capacity() });
        }
        self.len = len as u16;
        Ok(())
    }

    /// Grows the packet at its front, for a header in front of it. New bytes hold whatever was
    /// there: write them.
    ///
    /// # Errors
    ///
    /// When the headroom does not suffice.
    pub fn grow_front(&mut self, count: usize) -> Result<(), OutOfFrame> {
        if count > self.headroom() {
            return Err(OutOfFrame { asked: count, room: self.headroom() });
        }
        self.addr -= count as u32;
        self.len += count as u16;
        Ok(())
    }

    /// Takes `count` bytes off the packet's front.
    ///
    /// # Errors
    ///
    /// When the packet is shorter.
    pub fn shrink_front(&mut self, count: usize) -> Result<(), OutOfFrame> {
        // Equality stays legal except at the frame's very end, where the next frame begins.
        if count > self.len() || count >= self.capacity() {
            return Err(OutOfFrame { asked: count, room: self.len() });
        }
        self.addr += count as u32;
        self.len -= count as u16;
        Ok(())
    }

    pub(crate) fn desc(&self) -> Desc {
        Desc { addr: u64::from(self.addr), len: u32::from(self.len), options: 0 }
    }
}

/// The packet memory of one worker, with its pool of free frames.
#[derive(Debug)]
pub struct Umem {
    region: Arc<Region>,
    config: UmemConfig,
    /// First bytes of the frames nobody owns.
    free: Vec<u32>,
    /// Frames the kernel has, by the sockets' own count.
    in_kernel: u32,
    /// Sockets that were bound to this memory: any that lives can lend it to the next one.
    pub(crate) bound: Vec<Weak<OwnedFd>>,
    /// The mode of the first socket: the kernel gives the same to all others.
    pub(crate) mode: Option<(Mode, Option<String>)>,
}

impl Umem {
    /// Allocates the memory; it is registered with the kernel by the first socket.
    ///
    /// # Errors
    ///
    /// When the configuration is out of bounds or the memory cannot be had.
    pub fn new(config: UmemConfig) -> Result<Self, UmemError> {
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        let UmemConfig { frames, frame_size, .. } = config;
        if !matches!(frame_size, 2048 | 4096) {
            return Err(UmemError::FrameSize { size: frame_size });
        }
        for size in [config.rx_size, config.tx_size, config.fill_size, config.completion_size] {
            if !size.is_power_of_two() || size > RING_SIZE_MAX {
                return Err(UmemError::RingSize { size });
            }
        }
        let bytes = u64::from(frames) * u64::from(frame_size);
        if frames == 0 || bytes > UMEM_BYTES_MAX {
            return Err(UmemError::Size { frames, size: frame_size });
        }
        let bytes = bytes as usize;
        let memory =
            Mapping::anonymous(bytes).map_err(|source| UmemError::Map { bytes, source })?;
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        Ok(Self {
            region: Arc::new(Region { memory, frame_size, id }),
            config,
            free: (0..frames).rev().map(|index| index * frame_size).collect(),
            in_kernel: 0,
            bound: Vec::new(),
            mode: None,
        })
    }

    /// A fresh, empty frame with [`PACKET_HEADROOM`] in front, `None` when none is free.
    pub fn alloc(&mut self) -> Option<Frame> {
        self.free.pop().map(|addr| self.region.whole(addr))
    }

    /// A fresh frame that holds a copy of `packet`, `None` when none is free or it does not fit.
    pub fn alloc_with(&mut self, packet: &[u8]) -> Option<Frame> {
        let mut frame = self.alloc()?;
        if frame.set_len(packet.len()).is_err() {
            self.free(frame);
            return None;
        }
        self.bytes_mut(&mut frame).copy_from_slice(packet);
        Some(frame)
    }

    /// Takes a frame back into the pool.
    ///
    /// # Panics
    ///
    /// When the frame is of another UMEM: a mistake in the program, no packet can cause it.
    pub fn free(&mut self, frame: Frame) {
        self.check(&frame);
        self.free.push(frame.addr & !(self.region.frame_size - 1));
    }

    /// The packet in the frame, to change it.
    ///
    /// # Panics
    ///
    /// When the frame is of another UMEM: a mistake in the program, no packet can cause it.
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.check(frame);
        // SAFETY: the token lies inside one frame of this region (kept by every constructor and
        // by the checked setters of `Frame`; `check` compared the region), the region lives as
        // long as `self`, its memory is initialised (zeroed by the kernel), and the token is the
        // only one of its frame and borrowed mutably, so nothing else reads or writes it.
        unsafe {
            let start = self.region.memory.start().add(frame.addr as usize);
            std::slice::from_raw_parts_mut(start.as_ptr(), frame.len())
        }
    }

    /// The packet in the frame.
    ///
    /// # Panics
    ///
    /// When the frame is of another UMEM: a mistake in the program, no packet can cause it.
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.check(frame);
        // SAFETY: as in `bytes_mut`; a shared borrow of the only token excludes a writer.
        unsafe {
            let start = self.region.memory.start().add(frame.addr as usize);
            std::slice::from_raw_parts(start.as_ptr(), frame.len())
        }
    }

    /// Frames nobody owns.
    pub fn available(&self) -> usize {
        self.free.len()
    }

    /// Frames that are neither free nor with the kernel: tokens in use, or lost.
    pub fn missing(&self) -> usize {
        (self.config.frames as usize).saturating_sub(self.free.len() + self.in_kernel as usize)
    }

    /// The configuration it was made with.
    pub fn config(&self) -> &UmemConfig {
        &self.config
    }

    /// The mode the first socket got: all sockets of one UMEM share it.
    pub fn mode(&self) -> Option<Mode> {
        self.mode.as_ref().map(|(mode, _)| *mode)
    }

    pub(crate) fn region(&self) -> &Arc<Region> {
        &self.region
    }

    pub(crate) fn id(&self) -> u32 {
        self.region.id
    }

    /// The address of a free frame for a fill ring; the kernel owns it afterwards.
    pub(crate) fn lend(&mut self) -> Option<u64> {
        let addr = self.free.pop()?;
        self.in_kernel += 1;
        Some(u64::from(addr))
    }

    /// The kernel has sent this frame: it is free again.
    pub(crate) fn reclaim(&mut self, addr: u64) {
        if addr < self.region.len() {
            self.in_kernel = self.in_kernel.saturating_sub(1);
            self.free.push(addr as u32 & !(self.region.frame_size - 1));
        }
    }

    /// Corrects the count of frames with the kernel by what a socket sent and received.
    pub(crate) fn settle(&mut self, sent: u32, received: u32) {
        self.in_kernel = (self.in_kernel + sent).saturating_sub(received);
    }

    fn check(&self, frame: &Frame) {
        assert!(frame.umem == self.region.id, "a frame of another UMEM");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Umem {
        Umem::new(UmemConfig { frames: 4, ..UmemConfig::default() }).unwrap()
    }

    #[test]
    fn every_frame_is_given_out_once_and_can_come_back() {
        let mut umem = small();
        let mut frames: Vec<Frame> = std::iter::from_fn(|| umem.alloc()).collect();
        assert_eq!(frames.len(), 4);
        assert_eq!(umem.missing(), 4);
        for (number, frame) in frames.iter_mut().enumerate() {
            frame.set_len(frame.capacity()).unwrap();
            umem.bytes_mut(frame).fill(number as u8);
        }
        for (number, frame) in frames.iter().enumerate() {
            assert!(umem.bytes(frame).iter().all(|byte| *byte == number as u8));
            assert_eq!(umem.bytes(frame).len(), 2048 - 256);
        }
        for frame in frames {
            umem.free(frame);
        }
        assert_eq!((umem.available(), umem.missing()), (4, 0));
    }

    #[test]
    fn bounds_stay_inside_the_frame() {
        let mut umem = small();
        let mut frame = umem.alloc_with(&[7; 100]).unwrap();
        assert_eq!(frame.set_len(1793), Err(OutOfFrame { asked: 1793, room: 1792 }));
        frame.grow_front(256).unwrap();
        assert!(frame.grow_front(1).is_err());
        assert_eq!((frame.len(), frame.headroom(), frame.capacity()), (356, 0, 2048));
        frame.shrink_front(256).unwrap();
        assert!(frame.shrink_front(101).is_err());
        assert_eq!(umem.bytes(&frame), [7; 100]);
        frame.set_len(frame.capacity()).unwrap();
        assert!(frame.shrink_front(1792).is_err(), "the start would be the next frame's");
        umem.free(frame);
        assert!(umem.alloc_with(&[0; 1793]).is_none());
        assert_eq!(umem.available(), 4);
    }

    #[test]
    fn descriptors_that_leave_their_frame_are_refused() {
        let umem = small();
        let adopt = |addr, len| umem.region().adopt(Desc { addr, len, options: 0 });
        assert!(adopt(256, 1792).is_some());
        assert!(adopt(256, 1793).is_none());
        assert!(adopt(4 * 2048, 1).is_none());
        assert!(adopt(2048, u32::MAX).is_none());
    }

    #[test]
    #[should_panic(expected = "another UMEM")]
    fn a_frame_of_another_umem_opens_nothing() {
        let (mut one, two) = (small(), small());
        let mut frame = one.alloc().unwrap();
        two.bytes_mut(&mut frame);
    }

    #[test]
    fn impossible_sizes_are_refused() {
        let refused = |config| Umem::new(config).is_err();
        let base = UmemConfig::default();
        assert!(refused(UmemConfig { frame_size: 1024, ..base }));
        assert!(refused(UmemConfig { frames: 0, ..base }));
        assert!(refused(UmemConfig { frames: u32::MAX, ..base }));
        assert!(refused(UmemConfig { rx_size: 1000, ..base }));
        assert!(refused(UmemConfig { tx_size: RING_SIZE_MAX * 2, ..base }));
    }
}
