//! How often this node fell mute by its own pauses lately: the counters only grow, and a number
//! since the start says nothing about today.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use steadfast_ownership::Counters;

use crate::member::Member;

/// What counts as lately.
pub(crate) const WINDOW: Duration = Duration::from_secs(600);

/// Between two samples.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// Samples kept: those of the window, and one before it.
const SAMPLES_MAX: usize = (WINDOW.as_secs() / SAMPLE_EVERY.as_secs()) as usize + 1;

/// What is counted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Pauses {
    /// Times a holder stopped to announce because it was not sure of itself.
    pub(crate) mutes: u64,
    /// Pauses of the ownership thread that were too long for its timers.
    pub(crate) gaps: u64,
}

impl Pauses {
    /// Those since the start of the daemon.
    pub(crate) fn of(counters: &Counters) -> Self {
        Self { mutes: counters.mutes, gaps: counters.gaps }
    }

    fn since(self, before: Self) -> Self {
        Self {
            mutes: self.mutes.saturating_sub(before.mutes),
            gaps: self.gaps.saturating_sub(before.gaps),
        }
    }
}

/// Samples of the last ten minutes.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: Mutex<VecDeque<(Instant, Pauses)>>,
}

impl History {
    /// Remembers how far the counters are.
    fn note(&self, now: Instant, total: Pauses) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        while samples.len() >= SAMPLES_MAX {
            samples.pop_front();
        }
        samples.push_back((now, total));
    }

    /// What was counted in the window that ends now.
    pub(crate) fn recent(&self, now: Instant, total: Pauses) -> Pauses {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let old = samples.iter().rev().find(|(at, _)| now.saturating_duration_since(*at) >= WINDOW);
        // A daemon that is younger counted all of it in the window.
        total.since(old.map(|(_, pauses)| *pauses).unwrap_or_default())
    }
}

/// Samples until the daemon ends.
pub(crate) async fn sample(member: Arc<Member>) {
    loop {
        tokio::time::sleep(SAMPLE_EVERY).await;
        let Some(view) = member.owner.status().await else { return };
        member.pauses.note(Instant::now(), Pauses::of(&view.counters));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_ten_minutes_count() {
        let (history, start) = (History::default(), Instant::now());
        let at = |s: u64| start + Duration::from_secs(s);
        let pauses = |mutes| Pauses { mutes, gaps: 2 * mutes };
        assert_eq!(history.recent(at(5), pauses(3)), pauses(3), "a young daemon");
        // One mute a minute, for an hour.
        for n in 1..=360 {
            history.note(at(n * 10), pauses(n / 6));
        }
        assert_eq!(history.recent(at(3_600), pauses(60)), pauses(10));
        assert_eq!(history.recent(at(4_200), pauses(60)), pauses(0), "quiet since");
        assert_eq!(history.samples.lock().unwrap().len(), SAMPLES_MAX);
    }
}
