//! The kernel's changes, one at a time and not too many.
//!
//! Guarantees: a change that comes alone is told at once; of changes that come closer together than
//! [`AT_MOST_EVERY`] the last picture is told, at the end of that time; the end of the source is
//! told once.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::view::KernelView;

/// The least time between two changes. Neighbours come and go by hundreds in a second, and each
/// picture is compiled as a whole.
pub(crate) const AT_MOST_EVERY: Duration = Duration::from_millis(20);

/// What there is to tell.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum News {
    /// Another picture.
    Changed,
    /// There will be no more.
    Ended,
}

/// Reads the kernel's picture for one reader.
#[derive(Debug)]
pub(crate) struct KernelFeed {
    source: watch::Receiver<KernelView>,
    waiting: bool,
    ended: bool,
    not_before: Instant,
}

impl KernelFeed {
    pub(crate) fn new(source: watch::Receiver<KernelView>) -> Self {
        Self { source, waiting: false, ended: false, not_before: Instant::now() }
    }

    /// The picture now.
    pub(crate) fn view(&mut self) -> Arc<KernelView> {
        Arc::new(self.source.borrow_and_update().clone())
    }

    /// Has the picture told again soon, although it is the same.
    pub(crate) fn nudge(&mut self) {
        self.waiting = true;
    }

    /// Waits for news. Nothing is lost when this is given up and called again.
    pub(crate) async fn next(&mut self) -> News {
        while !self.waiting {
            if self.ended {
                std::future::pending::<()>().await;
            }
            if self.source.changed().await.is_err() {
                self.ended = true;
                return News::Ended;
            }
            self.waiting = true;
        }
        tokio::time::sleep_until(self.not_before).await;
        self.waiting = false;
        self.not_before = Instant::now() + AT_MOST_EVERY;
        News::Changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn within(feed: &mut KernelFeed, time: Duration) -> Option<News> {
        tokio::time::timeout(time, feed.next()).await.ok()
    }

    fn change(source: &watch::Sender<KernelView>) {
        source.send_modify(|_| {});
    }

    #[tokio::test]
    async fn many_changes_are_told_as_few_and_the_last_is_not_missed() {
        let (source, receiver) = watch::channel(KernelView::default());
        let mut feed = KernelFeed::new(receiver);
        let storm = Instant::now() + AT_MOST_EVERY * 10;
        let mut told = 0;
        while Instant::now() < storm {
            change(&source);
            // Given up again and again, as a select would.
            if within(&mut feed, Duration::from_millis(1)).await.is_some() {
                feed.view();
                told += 1;
            }
        }
        assert!((2..=11).contains(&told), "told {told} times in ten times the least pause");
        change(&source);
        assert_eq!(within(&mut feed, Duration::from_secs(5)).await, Some(News::Changed));
        feed.view();
        assert_eq!(within(&mut feed, AT_MOST_EVERY * 3).await, None, "nothing is new");
        feed.nudge();
        assert_eq!(within(&mut feed, Duration::from_secs(5)).await, Some(News::Changed));
    }

    #[tokio::test]
    async fn the_end_is_told_once() {
        let (source, receiver) = watch::channel(KernelView::default());
        let mut feed = KernelFeed::new(receiver);
        drop(source);
        assert_eq!(within(&mut feed, Duration::from_secs(5)).await, Some(News::Ended));
        assert_eq!(within(&mut feed, AT_MOST_EVERY * 3).await, None, "no loop without a pause");
        feed.view();
    }
}
