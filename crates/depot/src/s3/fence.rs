//! When a publication may change objects: while its last word in the record is young.
//!
//! Another one takes a silent version over after a time that is longer (`hold`). So whatever keeps the holder from saying
//! that it goes on also keeps it from changing anything: what is under way is dropped, and what waits is not sent, until a
//! word gets through. Times are from before a word was sent, and the time in which the host sleeps counts: the other one's
//! does not sleep with it.

use std::pin::pin;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

/// How long what is under way goes on after the host has slept for too long.
const LOOK: Duration = Duration::from_secs(1);

/// A moment on two clocks: that of the timers, which stands still while the host sleeps, and one that does not.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    timers: Instant,
    /// Since the host was started.
    host: Duration,
}

impl Moment {
    pub(crate) fn now() -> Self {
        let host = clock_gettime(ClockId::Boottime);
        Self {
            timers: Instant::now(),
            host: Duration::try_from(host).unwrap_or_default(),
        }
    }

    fn elapsed(self) -> Duration {
        let asleep_too = Self::now().host.saturating_sub(self.host);
        self.timers.elapsed().max(asleep_too)
    }
}

/// Open as long as nothing was said yet: nothing is changed before that.
#[derive(Debug)]
pub(crate) struct Fence {
    word: watch::Sender<Option<Moment>>,
    open_for: Duration,
}

impl Fence {
    /// One that is open for so long after each word.
    pub(crate) fn new(open_for: Duration) -> Self {
        Self {
            word: watch::Sender::new(None),
            open_for,
        }
    }

    /// A word that got through was sent then.
    pub(crate) fn said(&self, sent: Moment) {
        self.word.send_replace(Some(sent));
    }

    /// For how long nothing was said.
    pub(crate) fn silent_for(&self) -> Duration {
        self.word.borrow().map_or(Duration::ZERO, Moment::elapsed)
    }

    pub(crate) fn is_open(&self) -> bool {
        self.silent_for() < self.open_for
    }

    /// Waits until it is open, and does `request` for as long as it is; `None`: it was dropped.
    pub(crate) async fn within<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        let mut word = self.word.subscribe();
        let is_open =
            |word: &Option<Moment>| word.is_none_or(|sent| sent.elapsed() < self.open_for);
        // The sender is here.
        let _ = word.wait_for(is_open).await;
        let mut request = pin!(request);
        loop {
            let sent = *word.borrow_and_update();
            let closes = async {
                let Some(sent) = sent else {
                    return std::future::pending().await;
                };
                // Not one long sleep, whose end the host's own would put off.
                while let Some(left) = self.open_for.checked_sub(sent.elapsed())
                    && !left.is_zero()
                {
                    sleep(left.min(LOOK)).await;
                }
            };
            tokio::select! {
                biased;
                _ = word.changed() => {}
                () = closes => return None,
                done = &mut request => return Some(done),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const OPEN_FOR: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_is_dropped_when_the_word_is_old() {
        let fence = Fence::new(OPEN_FOR);
        assert_eq!(fence.within(ready(1)).await, Some(1), "nothing is said yet");
        let sent = Moment::now();
        fence.said(sent);
        // A word that is said meanwhile keeps it open.
        let again = async {
            sleep(OPEN_FOR / 3).await;
            fence.said(Moment::now());
        };
        let (dropped, ()) = tokio::join!(fence.within(pending::<()>()), again);
        assert_eq!((dropped, fence.is_open()), (None, false));
        assert_eq!(sent.elapsed().as_secs(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_sent_after_the_next_word_and_not_before() {
        let fence = Fence::new(OPEN_FOR);
        let start = Moment::now();
        fence.said(start);
        sleep(OPEN_FOR).await;
        let words = async {
            sleep(Duration::from_secs(1)).await;
            // It was too long on its way.
            fence.said(Moment {
                timers: start.timers + Duration::from_secs(1),
                ..start
            });
            sleep(Duration::from_secs(4)).await;
            fence.said(Moment::now());
        };
        let (sent, ()) = tokio::join!(fence.within(async { start.elapsed().as_secs() }), words);
        assert_eq!(sent, Some(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_slept_is_not_open() {
        let fence = Fence::new(OPEN_FOR);
        let now = Moment::now();
        let before = |slept: Duration| Moment {
            host: now.host.saturating_sub(slept),
            ..now
        };
        fence.said(before(OPEN_FOR / 2));
        assert!(fence.is_open());
        fence.said(before(OPEN_FOR));
        assert!(!fence.is_open());
        let words = async {
            sleep(Duration::from_secs(1)).await;
            fence.said(Moment::now());
        };
        let (sent, ()) = tokio::join!(fence.within(async { now.timers.elapsed() }), words);
        assert_eq!(sent.map(|at| at.as_secs()), Some(1));
    }
}
