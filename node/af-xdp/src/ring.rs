//! Rings in memory shared with the kernel: a cursor plus the entries.
//!
//! Guarantees: entries are read and written only where the cursor allows it, so that neither
//! side sees a half-written entry. Not here: what the entries mean.

use std::{
    io,
    marker::PhantomData,
    os::fd::BorrowedFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    abi::{self, RingOffset},
    cursor::{Consumer, Producer},
};

/// A plain entry of a ring.
///
/// # Safety
///
/// Implementors must be valid for every bit pattern: the kernel writes them.
pub(crate) unsafe trait Entry: Copy {}
// SAFETY: three integers without padding, any bit pattern is valid.
unsafe impl Entry for abi::Desc {}
// SAFETY: an integer.
unsafe impl Entry for u64 {}

/// A mapping of a file or of anonymous memory, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; access is regulated by its users.
unsafe impl Send for Mapping {}
// SAFETY: sharing the handle gives only the address and length; access is regulated by its users.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Fresh zeroed memory, page-aligned.
    pub(crate) fn anonymous(len: usize) -> io::Result<Self> {
        Self::map(len, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE, -1, 0)
    }

    /// The part of `fd` at `offset`, shared and populated.
    pub(crate) fn shared(fd: BorrowedFd<'_>, len: usize, offset: i64) -> io::Result<Self> {
        use std::os::fd::AsRawFd as _;
        Self::map(len, libc::MAP_SHARED | libc::MAP_POPULATE, fd.as_raw_fd(), offset)
    }

    /// Where it starts.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Its length in bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    fn map(len: usize, flags: i32, fd: i32, offset: i64) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd,
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(io::Error::last_os_error)?;
        Ok(Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and nothing that points into it outlives this value (its
        // users keep it beside their pointers).
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// The shared words and entries of one ring.
#[derive(Debug)]
struct Shared<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    /// Keeps the memory behind the pointers alive.
    _memory: Mapping,
    _entries: PhantomData<T>,
}

// SAFETY: the pointers lead into `_memory`, which moves along; the type is used by one thread at
// a time because every access but the flag word takes `&mut self` of the ring around it.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: through a shared reference only atomics are read.
unsafe impl<T: Sync> Sync for Shared<T> {}

impl<T: Entry> Shared<T> {
    /// Lays a ring of `size` entries over `memory` as `offsets` says.
    ///
    /// # Errors
    ///
    /// When the ring does not fit into the memory or is not aligned.
    fn new(memory: Mapping, offsets: RingOffset, size: u32) -> io::Result<Self> {
        let end = offsets.desc + u64::from(size) * size_of::<T>() as u64;
        let words = [offsets.producer, offsets.consumer, offsets.flags];
        let fits = end <= memory.len() as u64
            && words.iter().all(|at| at % 4 == 0 && at + 4 <= memory.len() as u64)
            && offsets.desc.is_multiple_of(align_of::<T>() as u64);
        if !fits || !size.is_power_of_two() {
            return Err(io::Error::other("the kernel's ring offsets do not fit the mapping"));
        }
        let start = memory.start();
        // SAFETY: all four offsets are inside the mapping and aligned, checked just above.
        unsafe {
            Ok(Self {
                producer: start.add(offsets.producer as usize).cast(),
                consumer: start.add(offsets.consumer as usize).cast(),
                flags: start.add(offsets.flags as usize).cast(),
                entries: start.add(offsets.desc as usize).cast(),
                size,
                _memory: memory,
                _entries: PhantomData,
            })
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned, inside the mapping that `self` owns, only ever accessed atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for the producer word.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for the producer word.
        unsafe { self.flags.as_ref() }
    }
}

/// A ring we produce into.
#[derive(Debug)]
pub(crate) struct ProducerRing<T> {
    shared: Shared<T>,
    cursor: Producer,
}

impl<T: Entry> ProducerRing<T> {
    /// A ring of `size` entries over `memory`.
    pub(crate) fn new(memory: Mapping, offsets: RingOffset, size: u32) -> io::Result<Self> {
        let shared = Shared::new(memory, offsets, size)?;
        let start = shared.producer().load(Ordering::Relaxed);
        Ok(Self { cursor: Producer::new(size, start), shared })
    }

    /// Appends one entry; gives it back when the ring is full.
    pub(crate) fn push(&mut self, entry: T) -> Result<(), T> {
        if self.cursor.reserve(1, self.shared.consumer()) == 0 {
            return Err(entry);
        }
        self.write(0, entry);
        self.cursor.publish(1, self.shared.producer());
        Ok(())
    }

    /// Appends up to `wanted` entries, one publication for all; returns how many.
    pub(crate) fn fill(&mut self, wanted: u32, mut next: impl FnMut() -> Option<T>) -> u32 {
        let room = self.cursor.reserve(wanted, self.shared.consumer());
        let mut count = 0;
        while count < room {
            let Some(entry) = next() else { break };
            self.write(count, entry);
            count += 1;
        }
        if count > 0 {
            self.cursor.publish(count, self.shared.producer());
        }
        count
    }

    /// Entries the kernel has not taken yet.
    pub(crate) fn pending(&mut self) -> u32 {
        self.cursor.pending(self.shared.consumer())
    }

    /// Whether the kernel asked to be woken.
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.shared.flags().load(Ordering::Relaxed) & abi::RING_NEED_WAKEUP != 0
    }

    /// The number of entries the ring has.
    pub(crate) fn size(&self) -> u32 {
        self.shared.size
    }

    fn write(&mut self, offset: u32, entry: T) {
        let slot = self.cursor.slot(offset);
        // SAFETY: `slot` is below the ring's size (the cursor masks it), the entries are inside
        // the mapping, and the cursor reserved this one: the kernel reads it after `publish`.
        unsafe { self.shared.entries.add(slot).write(entry) };
    }
}

/// A ring we consume from.
#[derive(Debug)]
pub(crate) struct ConsumerRing<T> {
    shared: Shared<T>,
    cursor: Consumer,
}

impl<T: Entry> ConsumerRing<T> {
    /// A ring of `size` entries over `memory`.
    pub(crate) fn new(memory: Mapping, offsets: RingOffset, size: u32) -> io::Result<Self> {
        let shared = Shared::new(memory, offsets, size)?;
        let start = shared.consumer().load(Ordering::Relaxed);
        Ok(Self { cursor: Consumer::new(size, start), shared })
    }

    /// Takes up to `wanted` entries, one release for all; returns how many.
    pub(crate) fn drain(&mut self, wanted: u32, mut take: impl FnMut(T)) -> u32 {
        let count = self.cursor.available(wanted, self.shared.producer());
        for offset in 0..count {
            let slot = self.cursor.slot(offset);
            // SAFETY: `slot` is below the ring's size, the entries are inside the mapping, the
            // cursor showed this one as published and the kernel leaves it alone until
            // `release`; any bit pattern is a valid entry (`Entry`).
            take(unsafe { self.shared.entries.add(slot).read() });
        }
        if count > 0 {
            self.cursor.release(count, self.shared.consumer());
        }
        count
    }

    /// The number of entries the ring has.
    pub(crate) fn size(&self) -> u32 {
        self.shared.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFSETS: RingOffset = RingOffset { producer: 0, consumer: 64, flags: 128, desc: 192 };

    #[test]
    fn a_ring_that_does_not_fit_its_memory_is_refused() {
        let memory = Mapping::anonymous(4096).unwrap();
        assert!(ProducerRing::<u64>::new(memory, OFFSETS, 512).is_err());
        let memory = Mapping::anonymous(4096).unwrap();
        assert!(ProducerRing::<u64>::new(memory, OFFSETS, 7).is_err());
        let memory = Mapping::anonymous(4096).unwrap();
        let skewed = RingOffset { desc: 190, ..OFFSETS };
        assert!(ConsumerRing::<u64>::new(memory, skewed, 8).is_err());
    }

    #[test]
    fn a_producer_writes_what_the_kernel_side_reads() {
        let memory = Mapping::anonymous(4096).unwrap();
        let words = memory.start();
        let mut ring = ProducerRing::<u64>::new(memory, OFFSETS, 4).unwrap();
        let mut next = 10..;
        assert_eq!(ring.fill(9, || next.next()), 4);
        assert_eq!(ring.push(99), Err(99), "full: the entry comes back");
        assert_eq!(ring.pending(), 4);
        // SAFETY: inside the ring's memory, which `ring` keeps mapped; nobody writes it now.
        let seen: [u64; 4] = unsafe { words.add(192).cast().read() };
        assert_eq!(seen, [10, 11, 12, 13]);
    }
}
