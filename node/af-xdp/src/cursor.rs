//! Cursors of the single-producer single-consumer rings shared with the kernel.
//!
//! Guarantees: a producer never overtakes its consumer, a consumer never reads what was not
//! published, also when the counters wrap at 2^32, and also when the other side writes nonsense
//! (then the ring looks full or empty). The entries themselves live elsewhere (`ring`), so this
//! file is tested over plain memory.
//!
//! Protocol and memory order: net/xdp/xsk_queue.h, "The structure of the shared state of the
//! rings": data before the producer index (release), producer index before data (acquire).

use std::sync::atomic::{AtomicU32, Ordering};

/// Our end of a ring we produce into (fill, TX).
#[derive(Debug)]
pub(crate) struct Producer {
    next: u32,
    peer: u32,
    size: u32,
}

impl Producer {
    /// A cursor for a ring of `size` entries, a power of two, that stands at `start`.
    pub(crate) fn new(size: u32, start: u32) -> Self {
        debug_assert!(size.is_power_of_two());
        Self { next: start, peer: start, size }
    }

    /// How many entries may be written now, at most `wanted`. Looks at the shared consumer
    /// index only when the cached one does not suffice: that cache line belongs to the kernel.
    pub(crate) fn reserve(&mut self, wanted: u32, consumer: &AtomicU32) -> u32 {
        let mut free = self.free();
        if free < wanted {
            self.peer = consumer.load(Ordering::Acquire);
            free = self.free();
        }
        free.min(wanted)
    }

    /// The index in the ring of the `offset`-th reserved entry.
    pub(crate) fn slot(&self, offset: u32) -> usize {
        (self.next.wrapping_add(offset) & (self.size - 1)) as usize
    }

    /// Hands the next `count` entries, already written, to the consumer.
    pub(crate) fn publish(&mut self, count: u32, producer: &AtomicU32) {
        self.next = self.next.wrapping_add(count);
        producer.store(self.next, Ordering::Release);
    }

    /// Entries published and not yet consumed.
    pub(crate) fn pending(&mut self, consumer: &AtomicU32) -> u32 {
        self.peer = consumer.load(Ordering::Acquire);
        self.size - self.free()
    }

    fn free(&self) -> u32 {
        let used = self.next.wrapping_sub(self.peer);
        self.size.saturating_sub(used)
    }
}

/// Our end of a ring we consume from (RX, completion).
#[derive(Debug)]
pub(crate) struct Consumer {
    next: u32,
    peer: u32,
    size: u32,
}

impl Consumer {
    /// A cursor for a ring of `size` entries, a power of two, that stands at `start`.
    pub(crate) fn new(size: u32, start: u32) -> Self {
        debug_assert!(size.is_power_of_two());
        Self { next: start, peer: start, size }
    }

    /// How many entries may be read now, at most `wanted`. Always a fresh look when the cached
    /// index shows nothing.
    pub(crate) fn available(&mut self, wanted: u32, producer: &AtomicU32) -> u32 {
        let mut ready = self.ready();
        if ready < wanted {
            self.peer = producer.load(Ordering::Acquire);
            ready = self.ready();
        }
        ready.min(wanted)
    }

    /// The index in the ring of the `offset`-th available entry.
    pub(crate) fn slot(&self, offset: u32) -> usize {
        (self.next.wrapping_add(offset) & (self.size - 1)) as usize
    }

    /// Gives `count` entries, already read, back to the producer.
    pub(crate) fn release(&mut self, count: u32, consumer: &AtomicU32) {
        self.next = self.next.wrapping_add(count);
        consumer.store(self.next, Ordering::Release);
    }

    fn ready(&self) -> u32 {
        let ready = self.peer.wrapping_sub(self.next);
        if ready > self.size { 0 } else { ready }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u32 = 8;

    /// Where the counters start: at zero, and where they wrap within the test.
    const STARTS: [u32; 4] = [0, u32::MAX - 3, u32::MAX, u32::MAX - SIZE];

    #[test]
    fn a_full_ring_accepts_nothing_until_something_is_consumed() {
        for start in STARTS {
            let (producer_word, consumer_word) = (AtomicU32::new(start), AtomicU32::new(start));
            let mut producer = Producer::new(SIZE, start);
            assert_eq!(producer.reserve(SIZE + 5, &consumer_word), SIZE, "start {start}");
            producer.publish(SIZE, &producer_word);
            assert_eq!(producer_word.load(Ordering::Relaxed), start.wrapping_add(SIZE));
            assert_eq!(producer.reserve(1, &consumer_word), 0, "start {start}");
            assert_eq!(producer.pending(&consumer_word), SIZE);
            consumer_word.store(start.wrapping_add(3), Ordering::Relaxed);
            assert_eq!(producer.reserve(SIZE, &consumer_word), 3, "start {start}");
            assert_eq!(producer.pending(&consumer_word), SIZE - 3);
        }
    }

    #[test]
    fn an_empty_ring_shows_nothing_until_something_is_published() {
        for start in STARTS {
            let (producer_word, consumer_word) = (AtomicU32::new(start), AtomicU32::new(start));
            let mut consumer = Consumer::new(SIZE, start);
            assert_eq!(consumer.available(4, &producer_word), 0, "start {start}");
            producer_word.store(start.wrapping_add(2), Ordering::Relaxed);
            assert_eq!(consumer.available(4, &producer_word), 2, "start {start}");
            consumer.release(2, &consumer_word);
            assert_eq!(consumer_word.load(Ordering::Relaxed), start.wrapping_add(2));
            assert_eq!(consumer.available(4, &producer_word), 0, "start {start}");
        }
    }

    #[test]
    fn every_entry_arrives_once_and_in_order_across_the_wrap() {
        for start in STARTS {
            let (producer_word, consumer_word) = (AtomicU32::new(start), AtomicU32::new(start));
            let mut producer = Producer::new(SIZE, start);
            let mut consumer = Consumer::new(SIZE, start);
            let mut entries = [0u64; SIZE as usize];
            let (mut sent, mut seen) = (0u64, 0u64);
            for round in 0..50u32 {
                let burst = producer.reserve(round % 7 + 1, &consumer_word);
                for offset in 0..burst {
                    entries[producer.slot(offset)] = sent;
                    sent += 1;
                }
                producer.publish(burst, &producer_word);
                let burst = consumer.available(round % 5 + 1, &producer_word);
                for offset in 0..burst {
                    assert_eq!(entries[consumer.slot(offset)], seen, "start {start}");
                    seen += 1;
                }
                consumer.release(burst, &consumer_word);
            }
            assert!(seen > 100 && sent - seen <= u64::from(SIZE), "start {start}");
        }
    }

    #[test]
    fn nonsense_from_the_other_side_looks_full_or_empty() {
        let word = AtomicU32::new(1000);
        assert_eq!(Producer::new(SIZE, 0).reserve(SIZE + 1, &word), 0);
        assert_eq!(Consumer::new(SIZE, 0).available(4, &word), 0);
        assert_eq!(Producer::new(SIZE, 0).pending(&word), SIZE);
    }
}
