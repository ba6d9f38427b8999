//! How often something that anybody can cause is logged.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many lines may follow each other at once,
pub(super) const LOG_BURST: u32 = 10;
/// and one more for each of these.
const LINE_EVERY: Duration = Duration::from_secs(1);

/// A bucket of log lines.
pub(super) struct LogLimit(Mutex<Bucket>);

struct Bucket {
    lines: u32,
    filled: Instant,
    left_out: u64,
}

impl LogLimit {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Bucket { lines: LOG_BURST, filled: Instant::now(), left_out: 0 }))
    }

    /// Calls `log` with the number of lines left out before, unless this one is left out too.
    pub(super) fn pass(&self, log: impl FnOnce(u64)) {
        if let Some(left_out) = self.take(Instant::now()) {
            log(left_out);
        }
    }

    fn take(&self, now: Instant) -> Option<u64> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = now.saturating_duration_since(bucket.filled);
        let more = (since.as_millis() / LINE_EVERY.as_millis()) as u32;
        if more > 0 {
            bucket.lines = bucket.lines.saturating_add(more).min(LOG_BURST);
            bucket.filled += LINE_EVERY * more;
        }
        if bucket.lines == 0 {
            bucket.left_out += 1;
            return None;
        }
        bucket.lines -= 1;
        Some(std::mem::take(&mut bucket.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_and_then_one_a_second() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        let passed = |at: Duration| (0..1_000).filter_map(|_| limit.take(start + at)).collect();
        let first: Vec<u64> = passed(Duration::from_millis(100));
        assert_eq!(first, [0; LOG_BURST as usize]);
        let later: Vec<u64> = passed(Duration::from_millis(1_900));
        assert_eq!(later, [1_000 - u64::from(LOG_BURST)]);
        let much_later: Vec<u64> = passed(Duration::from_secs(3_600));
        assert_eq!(much_later.len(), LOG_BURST as usize);
    }
}
