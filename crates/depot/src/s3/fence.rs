//! When a publication may change objects: while its last word in the record is young.
//!
//! Another one takes a silent version over after a time that is longer (`hold`). So whatever keeps the holder from saying
//! that it goes on also keeps it from changing anything: what is under way is dropped, and what waits is not sent, until a
//! word gets through. Times are of the monotonic clock, from before a word was sent.

use std::pin::pin;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Open as long as nothing was said yet: nothing is changed before that.
#[derive(Debug)]
pub(crate) struct Fence {
    word: watch::Sender<Option<Instant>>,
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
    pub(crate) fn said(&self, sent: Instant) {
        self.word.send_replace(Some(sent));
    }

    /// For how long nothing was said.
    pub(crate) fn silent_for(&self) -> Duration {
        self.word
            .borrow()
            .map_or(Duration::ZERO, |sent| sent.elapsed())
    }

    pub(crate) fn is_open(&self) -> bool {
        self.silent_for() < self.open_for
    }

    /// Waits until it is open, and does `request` for as long as it is; `None`: it was dropped.
    pub(crate) async fn within<T>(&self, request: impl Future<Output = T>) -> Option<T> {
        let mut word = self.word.subscribe();
        let is_open =
            |word: &Option<Instant>| word.is_none_or(|sent| sent.elapsed() < self.open_for);
        // The sender is here.
        let _ = word.wait_for(is_open).await;
        let mut request = pin!(request);
        loop {
            let sent = *word.borrow_and_update();
            let closes = async {
                match sent {
                    Some(sent) => sleep_until(sent + self.open_for).await,
                    None => std::future::pending().await,
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
