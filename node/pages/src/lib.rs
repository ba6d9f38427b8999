//! Memory for tables that are made at start and stay: straight from the kernel.
//!
//! Guarantees: zeros, on a page boundary, given by the kernel when first touched; in huge pages
//! (2 MiB on x86-64) where the kernel has them to give, so that packets which go to places all over a
//! table of a hundred megabytes do not wait for the page tables at each of them. Not here: growing.
#![cfg_attr(test, allow(clippy::unwrap_used))]

use std::{
    alloc::{Layout, handle_alloc_error},
    fmt,
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull,
    slice,
};

use zerocopy::FromZeros;

/// From this size on the kernel is asked for huge pages.
const HUGE: usize = 2 << 20;

/// Elements that begin as zeros. Dropping it gives the memory back; elements are not dropped.
pub struct Pages<T> {
    start: NonNull<T>,
    count: usize,
    /// Bytes mapped; 0: nothing is.
    len: usize,
    owns: PhantomData<T>,
}

// SAFETY: it owns its elements, as a Box<[T]> does.
unsafe impl<T> Send for Pages<T> where T: Send {}
// SAFETY: as above; it gives out nothing but shared references.
unsafe impl<T> Sync for Pages<T> where T: Sync {}

impl<T> Pages<T>
where
    T: FromZeros,
{
    /// `count` elements. Ends the process when there is no memory for them, as a Box does.
    #[must_use]
    pub fn new(count: usize) -> Self {
        const {
            assert!(!std::mem::needs_drop::<T>());
            assert!(align_of::<T>() <= 4096);
        }
        let Ok(layout) = Layout::array::<T>(count) else {
            handle_alloc_error(Layout::new::<T>());
        };
        let len = layout.size();
        if len == 0 {
            return Self { start: NonNull::dangling(), count, len, owns: PhantomData };
        }
        let (protection, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, of nothing that exists.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            handle_alloc_error(layout);
        }
        if len >= HUGE {
            // Without huge pages it is slower, nothing else: what the kernel answers does not matter.
            // SAFETY: the mapping just made; the advice does not change what is in it.
            let _ = unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
        }
        match NonNull::new(start.cast::<T>()) {
            Some(start) => Self { start, count, len, owns: PhantomData },
            None => handle_alloc_error(layout),
        }
    }
}

impl<T> Pages<T> {
    /// As [`prefetch`] of an element; one that is not there is left out.
    #[inline]
    pub fn prefetch(&self, index: usize) {
        if let Some(element) = self.get(index) {
            prefetch(element);
        }
    }
}

/// Has the processor fetch the cache line where an element begins, if it knows how to without waiting
/// for it (x86-64).
#[inline]
pub fn prefetch<T>(element: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has SSE; the instruction changes no memory.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(element).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = element;
}

impl<T> Deref for Pages<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: `start` is that of `count` elements on a page boundary (or of none, and dangling),
        // all valid from the beginning because zeros are; they live as long as the mapping, which
        // ends with `self`; nobody has a unique reference to them.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.count) }
    }
}

impl<T> Drop for Pages<T> {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the mapping made in `new`, to which no reference outlives `self`.
            let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }
}

impl<T> fmt::Debug for Pages<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages").field("count", &self.count).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn elements_are_zeros_apart_from_each_other_and_on_a_page() {
        for count in [0, 1, 7, 1024, 300_000, 1_000_000] {
            let pages = Pages::<AtomicU64>::new(count);
            assert_eq!(pages.len(), count);
            assert!(count == 0 || pages.as_ptr().addr().is_multiple_of(4096));
            assert!(pages.iter().all(|word| word.load(Ordering::Relaxed) == 0));
            for (number, word) in pages.iter().enumerate() {
                word.store(number as u64, Ordering::Relaxed);
            }
            for (number, word) in pages.iter().enumerate() {
                assert_eq!(word.load(Ordering::Relaxed), number as u64);
            }
        }
    }

    #[test]
    fn fetching_changes_nothing_wherever_it_is() {
        let pages = Pages::<AtomicU64>::new(7);
        (0..10).chain([usize::MAX]).for_each(|index| pages.prefetch(index));
        Pages::<AtomicU64>::new(0).prefetch(0);
        assert!(pages.iter().all(|word| word.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap();
            text.split_whitespace().next().unwrap().parse::<u64>().unwrap()
        };
        let before = resident();
        for _ in 0..100 {
            drop(Pages::<AtomicU64>::new(64 << 20));
        }
        assert!(resident() < before + (128 << 20) / 4096 * 8, "mapped pages: {before} before");
    }

    #[test]
    fn other_threads_may_use_it() {
        let pages = Pages::<AtomicU64>::new(4096);
        std::thread::scope(|scope| {
            for first in 0..4 {
                let words = &pages;
                scope.spawn(move || {
                    words.iter().skip(first).step_by(4).for_each(|word| {
                        word.fetch_add(first as u64, Ordering::Relaxed);
                    });
                });
            }
        });
        assert_eq!(
            pages.iter().map(|w| w.load(Ordering::Relaxed)).sum::<u64>(),
            1024 * (1 + 2 + 3)
        );
    }
}
