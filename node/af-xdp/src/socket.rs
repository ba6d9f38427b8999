//! One AF_XDP socket: a queue of an interface, with its four rings.
//!
//! Guarantees: a frame handed to [`Socket::send`] comes back through [`Socket::complete`] (or at
//! once, when the ring is full); a received frame is a token nobody else holds; several sockets
//! share one [`Umem`], so a frame received here can leave through another interface uncopied.
//! Not guaranteed: delivery (Ethernet), nor that frames held by the kernel when a socket is
//! dropped return to the pool: make a new UMEM when an interface is gone.
//!
//! The kernel's side: net/xdp/xsk.c. The order of the steps at bind is the one `xsk_bind` and
//! `xsk_setsockopt` insist on: memory, rings, mappings, bind.

mod error;

use std::{
    fmt, io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    sync::{Arc, Weak},
    thread,
    time::{Duration, Instant},
};

pub use self::error::BindError;
use crate::{
    abi::{self, Desc, MmapOffsets, PACKET_HEADROOM, RingOffset, SockaddrXdp, UmemReg},
    interface::Interface,
    ring::{ConsumerRing, Entry, Mapping, ProducerRing},
    sys,
    umem::{Frame, Region, Umem},
};

/// How long `bind` retries when the queue is busy: the kernel frees a killed process's queue
/// some 30 ms after the process is gone.
pub const BIND_BUSY_MAX: Duration = Duration::from_millis(1000);
const BIND_BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The most frames one [`Socket::receive`] returns.
pub const RECEIVE_BURST_MAX: u32 = 64;

/// Bytes the kernel may hold for us in copies that are not sent yet (copy mode).
const SEND_BUFFER_BYTES: i32 = 8 << 20;

/// Frames the kernel sends per system call in copy mode at least (TX_BATCH_SIZE in xsk.c).
const KERNEL_TX_BATCH: u32 = 32;

/// Bytes of an Ethernet header.
const ETHERNET_HEADER: u32 = 14;

/// What the caller wants of `bind`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum BindMode {
    /// Zero-copy when the driver can, else copy.
    #[default]
    Auto,
    /// Zero-copy or an error.
    ZeroCopy,
    /// Copy.
    Copy,
}

/// What `bind` got.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mode {
    /// The kernel copies between its buffers and the UMEM.
    Copy,
    /// The NIC reads and writes the UMEM.
    ZeroCopy,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Copy => "copy",
            Self::ZeroCopy => "zero-copy",
        })
    }
}

/// The kernel's counters of one socket (XDP_STATISTICS), and ours.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Statistics {
    /// Frames dropped by the kernel: too long for a frame, or no memory.
    pub rx_dropped: u64,
    /// Fill ring entries that were no valid frame.
    pub rx_invalid: u64,
    /// TX ring entries that were no valid frame.
    pub tx_invalid: u64,
    /// Frames dropped because the RX ring was full.
    pub rx_ring_full: u64,
    /// Frames dropped because the fill ring was empty.
    pub fill_ring_empty: u64,
    /// Times the kernel found nothing to send.
    pub tx_ring_empty: u64,
    /// Descriptors from the kernel that lay outside the UMEM, ignored.
    pub foreign_descriptors: u64,
}

/// An AF_XDP socket, bound to one queue of one interface.
#[derive(Debug)]
pub struct Socket {
    rx: ConsumerRing<Desc>,
    tx: ProducerRing<Desc>,
    fill: ProducerRing<u64>,
    completion: ConsumerRing<u64>,
    fd: Arc<OwnedFd>,
    region: Arc<Region>,
    ifindex: u32,
    queue: u32,
    mode: Mode,
    fallback: Option<String>,
    /// Frames sent and received since the pool's count was last settled.
    sent: u32,
    received: u32,
    foreign_descriptors: u64,
}

impl Socket {
    /// Binds a new socket to `queue` of the interface and fills its fill ring.
    ///
    /// The first socket of a UMEM registers the memory and negotiates the mode; later ones share
    /// memory and mode. Retries for [`BIND_BUSY_MAX`] while the queue is busy.
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn bind(
        umem: &mut Umem,
        ifindex: u32,
        queue: u32,
        mode: BindMode,
    ) -> Result<Self, BindError> {
        let started = Instant::now();
        loop {
            match Self::try_bind(umem, ifindex, queue, mode) {
                Err(BindError::Busy { interface, queue, .. }) => {
                    if started.elapsed() >= BIND_BUSY_MAX {
                        let waited_ms = started.elapsed().as_millis();
                        return Err(BindError::Busy { interface, queue, waited_ms });
                    }
                    thread::sleep(BIND_BUSY_PAUSE);
                }
                other => return other,
            }
        }
    }

    /// As [`Socket::bind`], but a busy queue is an error at once, [`BindError::Busy`]: for a
    /// thread that must not wait.
    ///
    /// # Errors
    ///
    /// See [`BindError`].
    pub fn try_bind(
        umem: &mut Umem,
        ifindex: u32,
        queue: u32,
        mode: BindMode,
    ) -> Result<Self, BindError> {
        let interface = Interface::by_index(ifindex)?;
        check_interface(&interface, umem, queue)?;
        match Self::negotiate(umem, &interface, queue, mode) {
            Err(BindError::Step { step: "bind", source, .. })
                if source.raw_os_error() == Some(libc::EBUSY) =>
            {
                Err(BindError::Busy { interface: interface.name, queue, waited_ms: 0 })
            }
            Ok(mut socket) => {
                umem.bound.retain(|fd| fd.strong_count() > 0);
                umem.bound.push(Arc::downgrade(&socket.fd));
                umem.mode = Some((socket.mode, socket.fallback.clone()));
                socket.refill(umem);
                Ok(socket)
            }
            Err(error) => Err(error),
        }
    }

    /// Appends up to [`RECEIVE_BURST_MAX`] received frames; returns how many.
    pub fn receive(&mut self, frames: &mut Vec<Frame>) -> usize {
        let Self { rx, region, foreign_descriptors, .. } = self;
        let before = frames.len();
        let taken = rx.drain(RECEIVE_BURST_MAX, |desc| match region.adopt(desc) {
            Some(frame) => frames.push(frame),
            None => *foreign_descriptors += 1,
        });
        self.received += taken;
        frames.len() - before
    }

    /// Puts a frame into the TX ring; [`Socket::flush`] gets it going.
    ///
    /// # Errors
    ///
    /// The frame comes back when the ring is full, or when it is empty (no packet in it).
    ///
    /// # Panics
    ///
    /// When the frame is of another UMEM: a mistake in the program, no packet can cause it.
    pub fn send(&mut self, frame: Frame) -> Result<(), Frame> {
        assert!(self.region.owns(&frame), "a frame of another UMEM");
        if frame.is_empty() || self.tx.push(frame.desc()).is_err() {
            return Err(frame);
        }
        self.sent += 1;
        Ok(())
    }

    /// Lets the kernel send what is in the TX ring. Does nothing when that is nothing.
    ///
    /// # Errors
    ///
    /// The interface is down or gone. A kernel that is momentarily out of buffers is no error:
    /// what it has not taken goes with the next flush.
    pub fn flush(&mut self) -> io::Result<()> {
        let mut pending = self.tx.pending();
        let rounds = pending / KERNEL_TX_BATCH + 1;
        for _ in 0..rounds {
            if pending == 0 || (self.mode == Mode::ZeroCopy && !self.tx.needs_wakeup()) {
                return Ok(());
            }
            match sys::wake_tx(self.fd.as_fd()).map_err(|error| (error.raw_os_error(), error)) {
                Ok(()) => {}
                Err((Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR), _)) => {}
                Err((_, error)) => return Err(error),
            }
            let left = self.tx.pending();
            if left == pending {
                return Ok(());
            }
            pending = left;
        }
        Ok(())
    }

    /// Returns sent frames to the pool; tells how many.
    pub fn complete(&mut self, umem: &mut Umem) -> usize {
        assert!(umem.id() == self.region.id(), "the pool of another UMEM");
        umem.settle(std::mem::take(&mut self.sent), std::mem::take(&mut self.received));
        let wanted = self.completion.size();
        self.completion.drain(wanted, |addr| umem.reclaim(addr)) as usize
    }

    /// Gives free frames to the kernel to receive into, as many as it has room for; tells how
    /// many. Frames in the pool are shared: leave some for the other sockets by giving the UMEM
    /// enough of them.
    pub fn refill(&mut self, umem: &mut Umem) -> usize {
        assert!(umem.id() == self.region.id(), "the pool of another UMEM");
        umem.settle(std::mem::take(&mut self.sent), std::mem::take(&mut self.received));
        let wanted = self.fill.size();
        let count = self.fill.fill(wanted, || umem.lend());
        if self.mode == Mode::ZeroCopy && self.fill.needs_wakeup() {
            // Nothing to do about a refusal: the next poll wakes the driver as well.
            let _ = sys::wake_rx(self.fd.as_fd());
        }
        count as usize
    }

    /// Frames in the TX ring that the kernel has not taken yet.
    pub fn pending(&mut self) -> usize {
        self.tx.pending() as usize
    }

    /// The kernel's counters for this socket.
    ///
    /// # Errors
    ///
    /// What `getsockopt` says.
    pub fn statistics(&self) -> io::Result<Statistics> {
        let raw: abi::RawStatistics =
            sys::option(self.fd.as_fd(), libc::SOL_XDP, libc::XDP_STATISTICS)?;
        Ok(Statistics {
            rx_dropped: raw.rx_dropped,
            rx_invalid: raw.rx_invalid_descs,
            tx_invalid: raw.tx_invalid_descs,
            rx_ring_full: raw.rx_ring_full,
            fill_ring_empty: raw.rx_fill_ring_empty_descs,
            tx_ring_empty: raw.tx_ring_empty_descs,
            foreign_descriptors: self.foreign_descriptors,
        })
    }

    /// What happened to the socket, told once: `ENETDOWN` when its interface is gone. Such a
    /// socket is deaf, and [`crate::poll`] does not wake for it: ask now and then. The interface
    /// that comes in its place needs a new socket.
    ///
    /// # Errors
    ///
    /// What `getsockopt` says.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        let code: i32 = sys::option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_ERROR)?;
        Ok((code != 0).then(|| io::Error::from_raw_os_error(code)))
    }

    /// The mode in force.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why `auto` fell back to copy mode, when it did.
    pub fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    /// The interface it is bound to.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// The queue it is bound to.
    pub fn queue(&self) -> u32 {
        self.queue
    }

    /// One round of mode negotiation: zero-copy first where allowed, then copy.
    fn negotiate(
        umem: &Umem,
        interface: &Interface,
        queue: u32,
        mode: BindMode,
    ) -> Result<Self, BindError> {
        for lender in umem.bound.iter().filter_map(Weak::upgrade) {
            match Self::share(umem, interface, queue, mode, &lender) {
                // The lender has lost its interface, and with it the memory: ask the next.
                Err(BindError::Step { step: "bind", source, .. })
                    if source.raw_os_error() == Some(libc::EBADF) => {}
                other => return other,
            }
        }
        let wakeup = libc::XDP_USE_NEED_WAKEUP;
        let mut fallback = None;
        if mode != BindMode::Copy {
            match Self::open(umem, interface, queue, libc::XDP_ZEROCOPY | wakeup, None) {
                Err(BindError::Step { step: "bind", source, .. })
                    if matches!(source.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL)) =>
                {
                    if mode == BindMode::ZeroCopy {
                        let interface = interface.name.clone();
                        return Err(BindError::NoZeroCopy { interface, queue, source });
                    }
                    fallback = Some(format!("zero-copy refused by the driver: {source}"));
                }
                other => return other,
            }
        }
        let mut socket = Self::open(umem, interface, queue, libc::XDP_COPY | wakeup, None)?;
        socket.fallback = fallback;
        Ok(socket)
    }

    /// Binds to memory that another socket has registered. Mode and wake-up come with it: the
    /// kernel refuses them beside XDP_SHARED_UMEM.
    fn share(
        umem: &Umem,
        interface: &Interface,
        queue: u32,
        wanted: BindMode,
        lender: &OwnedFd,
    ) -> Result<Self, BindError> {
        let (mode, fallback) = umem.mode.clone().unwrap_or((Mode::Copy, None));
        let mismatch = |source| BindError::ModeMismatch {
            interface: interface.name.clone(),
            queue,
            mode,
            source,
        };
        let fits = match wanted {
            BindMode::Auto => true,
            BindMode::Copy => mode == Mode::Copy,
            BindMode::ZeroCopy => mode == Mode::ZeroCopy,
        };
        if !fits {
            return Err(mismatch(io::ErrorKind::InvalidInput.into()));
        }
        let flags = libc::XDP_SHARED_UMEM;
        let mut socket = match Self::open(umem, interface, queue, flags, Some(lender)) {
            Err(BindError::Step { step: "bind", source, .. })
                if source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                return Err(mismatch(source));
            }
            other => other?,
        };
        socket.fallback = fallback;
        Ok(socket)
    }

    /// One attempt with a socket of its own, so that a refusal leaves nothing behind.
    fn open(
        umem: &Umem,
        interface: &Interface,
        queue: u32,
        flags: u16,
        lender: Option<&OwnedFd>,
    ) -> Result<Self, BindError> {
        let failed = |step, source| BindError::Step {
            interface: interface.name.clone(),
            queue,
            step,
            source,
        };
        let fd = sys::socket(libc::AF_XDP, libc::SOCK_RAW, 0).map_err(socket_error)?;
        if lender.is_none() {
            register(fd.as_fd(), umem.region())?;
        }
        // Best effort: without CAP_NET_ADMIN the default stays, and fewer frames are in flight.
        let _ =
            sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &SEND_BUFFER_BYTES);
        let rings = Rings::make(fd.as_fd(), umem).map_err(|source| failed("rings", source))?;
        let address = SockaddrXdp {
            family: libc::AF_XDP as u16,
            flags,
            ifindex: interface.index,
            queue,
            shared_umem_fd: lender.map_or(0, |lender| lender.as_raw_fd() as u32),
        };
        sys::bind(fd.as_fd(), &address).map_err(|source| failed("bind", source))?;
        let options: u32 = sys::option(fd.as_fd(), libc::SOL_XDP, libc::XDP_OPTIONS)
            .map_err(|source| failed("XDP_OPTIONS", source))?;
        let zero_copy = options & abi::OPTIONS_ZEROCOPY != 0;
        Ok(Self {
            rx: rings.rx,
            tx: rings.tx,
            fill: rings.fill,
            completion: rings.completion,
            fd: Arc::new(fd),
            region: Arc::clone(umem.region()),
            ifindex: interface.index,
            queue,
            mode: if zero_copy { Mode::ZeroCopy } else { Mode::Copy },
            fallback: None,
            sent: 0,
            received: 0,
            foreign_descriptors: 0,
        })
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// The four rings of a socket.
struct Rings {
    rx: ConsumerRing<Desc>,
    tx: ProducerRing<Desc>,
    fill: ProducerRing<u64>,
    completion: ConsumerRing<u64>,
}

impl Rings {
    /// Creates and maps them.
    fn make(fd: BorrowedFd<'_>, umem: &Umem) -> io::Result<Self> {
        let config = umem.config();
        for (name, size) in [
            (libc::XDP_UMEM_FILL_RING, config.fill_size),
            (libc::XDP_UMEM_COMPLETION_RING, config.completion_size),
            (libc::XDP_RX_RING, config.rx_size),
            (libc::XDP_TX_RING, config.tx_size),
        ] {
            sys::set_option(fd, libc::SOL_XDP, name, &size)?;
        }
        let offsets: MmapOffsets = sys::option(fd, libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)?;
        let map = |offsets, size, page| map_ring::<Desc>(fd, offsets, size, page);
        let map_addresses = |offsets, size, page| map_ring::<u64>(fd, offsets, size, page);
        let (rx, tx) = (offsets.rx, offsets.tx);
        let (fill, completion) = (offsets.fill, offsets.completion);
        Ok(Self {
            rx: ConsumerRing::new(map(rx, config.rx_size, abi::PGOFF_RX)?, rx, config.rx_size)?,
            tx: ProducerRing::new(map(tx, config.tx_size, abi::PGOFF_TX)?, tx, config.tx_size)?,
            fill: ProducerRing::new(
                map_addresses(fill, config.fill_size, abi::PGOFF_FILL)?,
                fill,
                config.fill_size,
            )?,
            completion: ConsumerRing::new(
                map_addresses(completion, config.completion_size, abi::PGOFF_COMPLETION)?,
                completion,
                config.completion_size,
            )?,
        })
    }
}

fn map_ring<T: Entry>(
    fd: BorrowedFd<'_>,
    offsets: RingOffset,
    size: u32,
    page_offset: i64,
) -> io::Result<Mapping> {
    let bytes = offsets.desc as usize + size as usize * size_of::<T>();
    Mapping::shared(fd, bytes, page_offset)
}

fn register(fd: BorrowedFd<'_>, region: &Region) -> Result<(), BindError> {
    let registration = UmemReg {
        addr: region.start(),
        len: region.len(),
        chunk_size: region.frame_size(),
        ..UmemReg::default()
    };
    sys::set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &registration)
        .map_err(|source| BindError::Memlock { bytes: region.len(), source })
}

fn socket_error(source: io::Error) -> BindError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => BindError::NotPermitted { source },
        _ => BindError::NotSupported { source },
    }
}

fn check_interface(interface: &Interface, umem: &Umem, queue: u32) -> Result<(), BindError> {
    let queues = interface.rx_queues.max(interface.tx_queues);
    let Interface { name, mtu, .. } = interface.clone();
    if queue >= queues {
        return Err(BindError::NoQueue { interface: name, queue, queues });
    }
    if mtu > abi::MTU_MAX {
        return Err(BindError::Mtu { interface: name, mtu, max: abi::MTU_MAX });
    }
    let frame_size = umem.region().frame_size();
    let room = frame_size - PACKET_HEADROOM;
    if mtu + ETHERNET_HEADER > room {
        return Err(BindError::FrameTooSmall { interface: name, mtu, frame_size, room });
    }
    Ok(())
}
