//! What all fetches of one job may take together: the repository's, and those of its submodules.
//!
//! Time passes while git runs for the job, and once however many of them run beside each other. Waiting for a mirror that
//! another job fetches is not this one's download; the job's own bounds hold there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::SourceLimits;

/// Shared by all origins of a job.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: SourceLimits,
    received: AtomicU64,
    clock: Mutex<Clock>,
}

#[derive(Debug, Default)]
struct Clock {
    running: usize,
    /// When the first of them began.
    since: Option<Instant>,
    /// Before that.
    spent: Duration,
}

impl Clock {
    fn spent(&self) -> Duration {
        self.spent + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// One run of git: until it is dropped, time passes.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    budget: &'a Budget,
    /// What is left of both.
    pub(crate) time: Duration,
    pub(crate) bytes: u64,
}

impl Budget {
    pub(crate) fn new(limits: SourceLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            received: AtomicU64::new(0),
            clock: Mutex::default(),
        })
    }

    pub(crate) fn limits(&self) -> &SourceLimits {
        &self.limits
    }

    /// Counts; `false` when it is too much.
    pub(crate) fn receive(&self, bytes: u64) -> bool {
        let before = self.received.fetch_add(bytes, Ordering::Relaxed);
        before.saturating_add(bytes) <= self.limits.bytes
    }

    /// Git begins to run.
    pub(crate) fn begin(&self) -> Turn<'_> {
        let mut clock = self.clock();
        clock.running += 1;
        clock.since.get_or_insert_with(Instant::now);
        Turn {
            budget: self,
            time: self.limits.timeout.saturating_sub(clock.spent()),
            bytes: self
                .limits
                .bytes
                .saturating_sub(self.received.load(Ordering::Relaxed)),
        }
    }

    fn clock(&self) -> MutexGuard<'_, Clock> {
        self.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    pub(crate) fn limits(&self) -> &SourceLimits {
        self.budget.limits()
    }

    /// Counts what arrived where nobody did while it came; `false` when it is too much, with what others brought beside.
    pub(crate) fn received(&self, bytes: u64) -> bool {
        self.budget.receive(bytes)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut clock = self.budget.clock();
        clock.running = clock.running.saturating_sub(1);
        if clock.running == 0 {
            clock.spent = clock.spent();
            clock.since = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_once_for_all_that_run_and_not_in_between() {
        let budget = Budget::new(SourceLimits {
            timeout: Duration::from_secs(1000),
            ..SourceLimits::default()
        });
        let begun = |ago: u64| {
            let mut clock = budget.clock();
            clock.since = Instant::now().checked_sub(Duration::from_secs(ago));
        };
        let left = |turn: &Turn<'_>| turn.time.as_secs_f64().round();
        let first = budget.begin();
        assert!(left(&first) > 999.0);
        begun(100);
        let second = budget.begin();
        assert!((left(&second) - 900.0).abs() < 2.0, "{second:?}");
        drop(first);
        begun(300);
        drop(second);
        // Nobody ran, however long.
        assert!(budget.clock().since.is_none());
        assert!((left(&budget.begin()) - 700.0).abs() < 2.0);
    }

    #[test]
    fn bytes_are_everybodys() {
        let budget = Budget::new(SourceLimits {
            bytes: 10,
            ..SourceLimits::default()
        });
        assert!(budget.receive(10));
        assert_eq!(budget.begin().bytes, 0);
        assert!(!budget.receive(1));
        assert_eq!(budget.begin().bytes, 0);
    }
}
