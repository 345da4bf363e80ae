//! Whether the host can run jobs: looked at before the first is taken, and again after one failed for our own reasons.
//!
//! *Why a gate?* On a host that has lost something every job would be taken, fail at once and be reported as failed: one
//! broken agent would burn the whole queue. What a look cannot find, jobs do: after a few that failed one after the other
//! for our own reasons, none is taken for a while, and then one at a time until one does not.

use std::sync::Arc;
use std::time::Duration;

use bryo_engine::Needs;
use bryo_model::{Blame, Verdict};

use crate::backoff::{Backoff, after};
use crate::error::chain;
use crate::shared::{Shared, Trouble};

/// Between two looks at a host that is not fit.
const UNFIT: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// So many jobs that end one after the other because of the host are no bad luck.
const STREAK: u32 = 3;

/// Between two tries of a host that was found fit and is not.
const TRIALS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));

/// Attempts that ended one after the other because of the host or the bucket.
#[derive(Clone, Debug, Default)]
pub(crate) struct Streak {
    length: u32,
    /// Why the last one did.
    why: String,
}

impl Streak {
    /// How many in excess of what may be bad luck.
    fn beyond(&self) -> u32 {
        self.length.saturating_sub(STREAK - 1)
    }

    pub(crate) fn is_beyond_bad_luck(&self) -> bool {
        self.beyond() > 0
    }
}

impl Shared {
    /// An attempt has ended so.
    pub(crate) fn count(&self, verdict: &Verdict, blame: Option<Blame>) {
        match verdict {
            Verdict::Infrastructure(why) if blame == Some(Blame::Host) => {
                self.streak.send_modify(|streak| {
                    streak.length = streak.length.saturating_add(1);
                    streak.why.clone_from(why);
                });
            }
            // They say nothing of the host.
            Verdict::Infrastructure(_) | Verdict::Cancelled(_) => {}
            Verdict::Succeeded
            | Verdict::Failed(_)
            | Verdict::TimedOut(..)
            | Verdict::OutOfMemory(_)
            | Verdict::LimitReached(_) => {
                self.streak.send_replace(Streak::default());
                self.mended(&Trouble::Failures);
            }
        }
    }

    /// How many attempts in excess of what may be bad luck, from 1; `None` when it may be.
    fn beyond_bad_luck(&self) -> Option<(u32, Streak)> {
        let streak = self.streak.borrow().clone();
        let beyond = streak.beyond();
        (beyond > 0).then_some((beyond, streak))
    }

    /// Whether one job at a time may run.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.streak.borrow().is_beyond_bad_luck()
    }
}

/// Looks for as long as the agent lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    run_with(&shared, look).await;
}

async fn run_with<F>(shared: &Arc<Shared>, look: impl Fn(Arc<Shared>) -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let mut backoff = Backoff::new(UNFIT.0, UNFIT.1);
    let mut fit = shared.host.subscribe();
    loop {
        match look(Arc::clone(shared)).await {
            Ok(()) => {
                shared.mended(&Trouble::Host);
                shared.host.send_replace(true);
            }
            Err(why) => {
                shared.trouble(Trouble::Host, format!("no jobs are taken: {why}"));
                pause(shared, backoff.next()).await;
                continue;
            }
        }
        if fit.wait_for(|fit| !*fit).await.is_err() {
            return;
        }
        let failed = shared.streak.borrow().length > 0;
        if let Some((beyond, streak)) = shared.beyond_bad_luck() {
            let wait = after(beyond - 1, TRIALS.0, TRIALS.1);
            shared.trouble(Trouble::Failures, told(&streak, wait));
            pause(shared, wait).await;
        } else if failed {
            pause(shared, backoff.next()).await;
        } else {
            backoff.reset();
        }
    }
}

fn told(streak: &Streak, wait: Duration) -> String {
    format!(
        "no jobs are taken: the last {} ended because of this host or the bucket, the last one with: {}; one is tried in {} s, \
         or at once when the settings are read anew (SIGHUP)",
        streak.length,
        streak.why,
        wait.as_secs()
    )
}

/// Waits for the next look; not at all when there are new settings, which may be what was missing.
async fn pause(shared: &Shared, wait: Duration) {
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = shared.host_bell.notified() => {}
    }
}

async fn look(shared: Arc<Shared>) -> Result<(), String> {
    sweep(&shared).await?;
    shared.depot().check().await.map_err(|e| chain(&e))
}

/// Makes the host ready for jobs, and removes what attempts have left that nobody sees to any more.
pub(crate) async fn sweep(shared: &Shared) -> Result<(), String> {
    let settings = shared.settings();
    let needs = Needs {
        network: settings.jobs.network,
        limits: settings.jobs.limits.clone(),
        limit_policy: settings.jobs.limit_policy,
    };
    let prepared = shared.engine.prepare(&needs).await.map_err(|e| chain(&e))?;
    if prepared.swept > 0 {
        tracing::info!(
            "removed what {} attempts left that were killed",
            prepared.swept
        );
    }
    match prepared.left {
        Some(left) => shared.trouble(Trouble::Leftovers, left),
        None => shared.mended(&Trouble::Leftovers),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::tests::Bed;

    /// How long it takes until jobs are taken again after one that ended so.
    async fn closed_for(shared: &Shared, verdict: Verdict) -> Duration {
        let since = Instant::now();
        shared.count(&verdict, Some(Blame::Host));
        shared.host.send_replace(false);
        let mut host = shared.host.subscribe();
        drop(host.wait_for(|fit| *fit).await.unwrap());
        since.elapsed()
    }

    fn our_failure() -> Verdict {
        Verdict::Infrastructure("could not put \"p/1/a\"".to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_streak_of_failures_the_host_is_tried_seldom() {
        let bed = Bed::new(([127, 0, 0, 1], 1).into());
        let shared = Arc::clone(&bed.shared);
        tokio::spawn(async move { run_with(&shared, |_| std::future::ready(Ok(()))).await });
        let shared = &bed.shared;
        drop(shared.host.subscribe().wait_for(|fit| *fit).await.unwrap());
        for _ in 0..STREAK - 1 {
            assert!(closed_for(shared, our_failure()).await < Duration::from_secs(6));
            assert!(!shared.has(&Trouble::Failures) && !shared.is_on_trial());
        }
        let mut least = Duration::from_secs(20);
        for _ in 0..3 {
            let closed = closed_for(shared, our_failure()).await;
            assert!(closed > least && closed < least * 2, "{closed:?}");
            least *= 2;
            assert!(shared.is_on_trial());
            let told = shared.troubles.borrow()[&Trouble::Failures].clone();
            assert!(
                told.contains("no jobs are taken") && told.contains("p/1/a"),
                "{told}"
            );
        }
        for _ in 0..20 {
            assert!(closed_for(shared, our_failure()).await <= TRIALS.1.mul_f64(1.25));
        }
        // Who cancels a job says nothing of the host.
        shared.count(&Verdict::Cancelled(bryo_model::Stage::Run), None);
        assert!(shared.is_on_trial());
        shared.count(&Verdict::Succeeded, None);
        assert!(!shared.is_on_trial() && !shared.has(&Trouble::Failures));
        assert!(closed_for(shared, our_failure()).await < Duration::from_secs(76));
        assert!(!shared.has(&Trouble::Failures));
    }

    #[tokio::test(start_paused = true)]
    async fn what_others_have_failed_says_nothing_of_the_host() {
        let bed = Bed::new(([127, 0, 0, 1], 1).into());
        let shared = &bed.shared;
        for _ in 0..STREAK {
            shared.count(&our_failure(), Some(Blame::Elsewhere));
        }
        assert!(!shared.is_on_trial());
        for _ in 0..STREAK {
            shared.count(&our_failure(), Some(Blame::Host));
        }
        shared.count(&our_failure(), Some(Blame::Elsewhere));
        assert!(
            shared.is_on_trial(),
            "a server that is away proves nothing good"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn new_settings_are_tried_at_once() {
        let bed = Bed::new(([127, 0, 0, 1], 1).into());
        let shared = Arc::clone(&bed.shared);
        tokio::spawn(async move { run_with(&shared, |_| std::future::ready(Ok(()))).await });
        let shared = &bed.shared;
        drop(shared.host.subscribe().wait_for(|fit| *fit).await.unwrap());
        for _ in 0..10 {
            shared.count(&our_failure(), Some(Blame::Host));
        }
        shared.host_bell.notify_one();
        assert!(closed_for(shared, our_failure()).await < Duration::from_secs(1));
        assert!(shared.is_on_trial(), "new settings alone prove nothing");
    }
}
