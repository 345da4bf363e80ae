//! How an agent comes to its end, and how long that may take.
//!
//! ```text
//! drain ──> cancel ──CANCELLING──> kill ──KILLING + LAST_CLAIM──> give up ──> LAST_WORDS ──> CLOSING ──> KEEPING
//! ```
//!
//! Invariant: what the service manager is told of the time that the end takes is the sum of these bounds. A shorter one would
//! have it kill an agent that is about to write down what its jobs came to.

use std::time::Duration;

use tokio::time::Instant;

use crate::shared::{Phase, Shared};

/// How long a request for a job that is on its way is waited for.
const LAST_CLAIM: Duration = Duration::from_secs(40);

/// Between cancelling jobs and killing them: their own grace, and ours.
const CANCELLING: Duration = Duration::from_secs(60);

/// After a kill nothing of a job is left but its clean-up.
const KILLING: Duration = Duration::from_secs(30);

/// For telling feeds what ended last.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(15);

/// The same where somebody waits for the one job.
pub(crate) const ONE_RESULT: Duration = Duration::from_secs(120);

/// For what the engine has made ahead, and goes on with beside jobs.
pub(crate) const CLOSING: Duration = Duration::from_secs(15);

/// Until everything that was handed over to the store is written.
pub(crate) const KEEPING: Duration = Duration::from_secs(15);

/// How long it takes at most from the end of the last job to that of the agent.
pub(crate) const AFTER_JOBS: Duration = LAST_WORDS.saturating_add(CLOSING).saturating_add(KEEPING);

/// The same from an order that leaves so much time to the jobs that run.
pub(crate) const fn at_most(drain: Duration) -> Duration {
    drain
        .saturating_add(CANCELLING)
        .saturating_add(KILLING)
        .saturating_add(LAST_CLAIM)
        .saturating_add(AFTER_JOBS)
}

/// When what is next is done to jobs that still run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ends {
    pub(crate) next: Option<Instant>,
    pub(crate) step: Step,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    #[default]
    Cancel,
    Kill,
    GiveUp,
}

impl Ends {
    /// An order only ever makes it sooner.
    pub(crate) fn set(&mut self, at: Instant, step: Step) {
        if self.next.is_none() || step > self.step || self.next.is_some_and(|next| at < next) {
            self.next = Some(at);
            self.step = self.step.max(step);
        }
    }

    /// Does what is due; whether nothing more can be done.
    pub(crate) fn pass(&mut self, shared: &Shared) -> bool {
        let now = Instant::now();
        shared.phase.send_replace(Phase::Stopping);
        match self.step {
            Step::Cancel => {
                shared.cancel_all();
                (self.next, self.step) = (Some(now + CANCELLING), Step::Kill);
                false
            }
            Step::Kill => {
                shared.kill_all();
                (self.next, self.step) = (Some(now + KILLING + LAST_CLAIM), Step::GiveUp);
                false
            }
            Step::GiveUp => true,
        }
    }
}

/// Never, where there is no such time.
pub(crate) async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Bed;

    #[tokio::test(start_paused = true)]
    async fn the_end_takes_no_longer_than_is_told() {
        let bed = Bed::new(([127, 0, 0, 1], 1).into());
        let (drain, start) = (Duration::from_secs(100), Instant::now());
        let mut ends = Ends::default();
        ends.set(start + drain, Step::Cancel);
        loop {
            until(ends.next).await;
            if ends.pass(&bed.shared) {
                break;
            }
        }
        let jobs = start.elapsed();
        assert!(jobs >= drain + CANCELLING + KILLING, "{jobs:?}");
        let after_them = LAST_WORDS + CLOSING + KEEPING;
        assert_eq!(at_most(drain).as_secs(), (jobs + after_them).as_secs());
        assert_eq!(at_most(Duration::MAX), Duration::MAX);
    }
}
