//! One job, from its record to the record of its end.
//!
//! Invariant: whatever happens here, a panic included, the task ends with the job's end in the store, or with the process;
//! but for a job that is cancelled before it could be recorded that it begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bryo_depot::Depot;
use bryo_engine::{Control, run_attempt};
use bryo_model::{Blame, Event, Failure, JobId, Stage, Verdict};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::timeout;

use crate::backoff::Backoff;
use crate::error::chain;
use crate::feed::{Answer, Ended, Offer};
use crate::host;
use crate::job_log::JobLog;
use crate::policy::{Accepted, Granting, Refusal, run_timeout};
use crate::shared::{FeedState, Phase, Running, Shared, Trouble, lock, now_ms};
use crate::slots::Slot;
use crate::store::{Ending, NewJob, StoreError, Took};

/// Events in flight between the engine and the log: pieces of output of at most 64 KiB each.
const EVENTS: usize = 16;

/// Between two tries to write to a disk that is full.
const DISK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// For removing what is left of a job whose task panicked. What takes longer goes on without being waited for.
const SWEEPING: Duration = Duration::from_secs(30);

/// A job that is recorded.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) job: JobId,
    /// The id of its next attempt.
    pub(crate) attempt: JobId,
    pub(crate) offer: Offer,
}

/// What a job has and others wait for; free again when its end is recorded.
#[derive(Debug)]
pub(crate) struct Room {
    _slots: [Slot; 2],
    /// Where one job at a time may run.
    alone: Option<OwnedMutexGuard<()>>,
}

impl Room {
    pub(crate) const fn new(slots: [Slot; 2], alone: Option<OwnedMutexGuard<()>>) -> Self {
        Self {
            _slots: slots,
            alone,
        }
    }

    /// Whether no other job runs beside this one that was taken after it was seen that something is wrong.
    pub(crate) const fn is_alone(&self) -> bool {
        self.alone.is_some()
    }
}

/// Sees to a recorded job in a task of its own, and stays to bring it to an end should that task panic.
pub(crate) fn start(shared: &Arc<Shared>, feed: &Arc<FeedState>, taken: Taken, room: Room) {
    let (shared, feed) = (Arc::clone(shared), Arc::clone(feed));
    let taken = Arc::new(taken);
    let tracker = shared.workers.clone();
    tracker.spawn(async move {
        let control = register(&shared, &feed, &taken);
        let seen_to = tokio::spawn({
            let (shared, feed, taken) =
                (Arc::clone(&shared), Arc::clone(&feed), Arc::clone(&taken));
            async move { Box::pin(see_to(&shared, &feed, &taken, &control)).await }
        });
        if seen_to.await.is_err() {
            broke_off(&shared, &feed, &taken).await;
        }
        lock(&shared.running).remove(&taken.job);
        drop(room);
    });
}

/// A mistake of ours has cut the job short. What is left of it is removed before anybody is told, so that nothing of it is
/// published afterwards.
async fn broke_off(shared: &Arc<Shared>, feed: &Arc<FeedState>, taken: &Taken) {
    let stage = lock(&shared.running)
        .get(&taken.job)
        .and_then(|running| running.stage)
        .unwrap_or(Stage::Fetch);
    let why = cut_short("a part of the agent broke", stage);
    tracing::error!(job = %taken.job, feed = %feed.name, build = taken.offer.feed_job, "{why}");
    let verdict = Verdict::Infrastructure(why.clone());
    shared.count(&verdict, Some(Blame::Host));
    shared.host.send_replace(false);
    match timeout(SWEEPING, host::sweep(shared)).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => {
            tracing::warn!(job = %taken.job, "what is left of it is not removed yet: {why}");
        }
        Err(_) => tracing::warn!(job = %taken.job, "what is left of it takes long to be removed"),
    }
    let ended = Ended::Without { stage, why: &why };
    let body = feed.feed().body(&taken.offer.feed_job, ended);
    end(shared, feed, taken, &verdict, None, body).await;
    *lock(&shared.last_verdict) = Some(verdict);
}

/// The reason of a job that was in this stage when its agent came to grief.
pub(crate) fn cut_short(grief: &str, stage: Stage) -> String {
    match stage {
        Stage::Publish => format!(
            "{grief} while the output was being published: readers may see old and new files mixed until the next build \
             of this version; trigger it again"
        ),
        Stage::Fetch | Stage::Prepare | Stage::Run | Stage::Collect => {
            format!("{grief} before the build had ended; trigger it again")
        }
    }
}

fn register(shared: &Shared, feed: &FeedState, taken: &Taken) -> Control {
    let control = Control::new();
    let running = Running {
        control: control.clone(),
        feed: feed.name.clone(),
        feed_job: taken.offer.feed_job.clone(),
        title: feed.feed().title(&taken.offer),
        stage: None,
        since: Instant::now(),
    };
    tracing::info!(job = %taken.job, feed = %feed.name, build = running.feed_job, "taken: {}", running.title);
    lock(&shared.running).insert(taken.job, running);
    if shared.phase() == Phase::Stopping {
        control.cancel();
    }
    control
}

async fn see_to(shared: &Arc<Shared>, feed: &Arc<FeedState>, taken: &Taken, control: &Control) {
    let settings = shared.settings();
    let granting = Granting {
        policy: &settings.jobs,
        attempt: taken.attempt,
    };
    match feed.feed().job(&granting, &taken.offer) {
        Ok(accepted) => attempt(shared, feed, taken, accepted, control).await,
        Err(Refusal { stage, why }) => {
            let verdict = Verdict::Failed(Failure::SourceMissing(why.clone()));
            let body = feed
                .feed()
                .body(&taken.offer.feed_job, Ended::Without { stage, why: &why });
            end(shared, feed, taken, &verdict, None, body).await;
            *lock(&shared.last_verdict) = Some(verdict);
        }
    }
}

async fn attempt(
    shared: &Arc<Shared>,
    feed: &Arc<FeedState>,
    taken: &Taken,
    accepted: Accepted,
    control: &Control,
) {
    let Accepted { spec, prefix } = accepted;
    // Two builds of one version are published in the order in which they were taken, and never mixed.
    let _turn = shared.turns.turn(&prefix.to_string()).await;
    if !begin(shared, taken.job, control).await {
        tracing::warn!(job = %taken.job, feed = %feed.name, build = taken.offer.feed_job, "not begun, for that could not be recorded; the next start runs it");
        *lock(&shared.last_verdict) = Some(Verdict::Cancelled(Stage::Fetch));
        return;
    }
    let since = lock(&shared.running).get(&taken.job).map(|job| job.since);
    shared
        .metrics
        .waited(since.map_or(Duration::ZERO, |since| since.elapsed()));
    let (sender, events) = mpsc::channel(EVENTS);
    let listener = tokio::spawn(listen(Arc::clone(shared), taken.job, events));
    let depot = Depot::S3(shared.depot().target(prefix));
    let attempt = run_attempt(&spec, depot, &shared.engine, control, sender);
    #[cfg(test)]
    let attempt = crate::tests::unless_broken(&shared.breaking, attempt);
    let (verdict, report) = Box::pin(attempt).await;
    let log = listener
        .await
        .unwrap_or_else(|_| "bryo: a part of the agent broke, and the log is lost\n".to_owned());
    for left in &report.leftovers {
        shared.trouble(Trouble::Leftovers, left.clone());
    }
    shared.metrics.used(&report);
    shared.count(&verdict, report.blame);
    let ended = Ended::Attempt {
        verdict: &verdict,
        report: &report,
        log,
        run_timeout: run_timeout(&spec.limits),
    };
    let body = feed.feed().body(&taken.offer.feed_job, ended);
    let blame = report.blame;
    let report = serde_json::to_string(&report).ok();
    end(shared, feed, taken, &verdict, report, body).await;
    if blame == Some(Blame::Host) {
        // It may not have been the job's bad luck alone: the next one is taken when the host was looked at again.
        shared.host.send_replace(false);
    }
    *lock(&shared.last_verdict) = Some(verdict);
}

/// Records that an attempt begins, however long that takes: a job that is begun and not known to be would be begun again
/// after every crash, and its end might have been told. Whether it may: a job that is cancelled meanwhile may not, and is
/// the next start's, which will find that nothing was begun for it.
async fn begin(shared: &Shared, job: JobId, control: &Control) -> bool {
    let mut backoff = Backoff::new(DISK.0, DISK.1);
    while let Err(error) = shared.store.begin(job).await {
        shared.trouble(Trouble::Store, chain(&error));
        if control.is_cancelled() {
            return false;
        }
        tokio::time::sleep(backoff.next()).await;
    }
    true
}

/// Collects the log, and keeps up to date what people see.
async fn listen(shared: Arc<Shared>, job: JobId, mut events: mpsc::Receiver<Event>) -> String {
    let mut log = JobLog::default();
    while let Some(event) = events.recv().await {
        match &event {
            Event::StageBegan(stage) => {
                if let Some(running) = lock(&shared.running).get_mut(&job) {
                    running.stage = Some(*stage);
                }
                shared.store.note_progress(job, stage.to_string());
                tracing::debug!(%job, %stage, "stage began");
            }
            Event::StageEnded { stage, took, .. } => shared.metrics.stage(*stage, *took),
            Event::Notice(notice) => tracing::debug!(%job, "{}", notice.0),
            Event::Progress(..) | Event::Log(_) => {}
        }
        log.take(&event);
    }
    log.into_text()
}

/// Records the end, however long that takes, and has the feed told.
pub(crate) async fn end(
    shared: &Arc<Shared>,
    feed: &Arc<FeedState>,
    taken: &Taken,
    verdict: &Verdict,
    report: Option<String>,
    body: String,
) {
    shared.metrics.ended(&feed.name, verdict);
    let reason = verdict.reason();
    let why = reason.as_deref().unwrap_or_default();
    tracing::info!(job = %taken.job, feed = %feed.name, build = taken.offer.feed_job, verdict = verdict.word(), "ended: {} {why}", verdict.word());
    let ending = Ending {
        job: taken.job,
        ended_ms: now_ms(),
        verdict: verdict.word().to_owned(),
        reason,
        report,
        body,
    };
    record_end(shared, feed, &taken.offer.feed_job, ending).await;
}

/// While the disk is full the feed is told from memory: what it knows cannot be lost any more. It is not told of a job that
/// the next start would run: that would publish what the feed has as failed.
async fn record_end(
    shared: &Arc<Shared>,
    feed: &Arc<FeedState>,
    feed_job: &str,
    mut ending: Ending,
) {
    let mut backoff = Backoff::new(DISK.0, DISK.1);
    let mut told = false;
    loop {
        match shared.store.end(ending.clone()).await {
            Ok(()) => break,
            Err(StoreError::Gone) => return,
            Err(error) => shared.trouble(Trouble::Store, chain(&error)),
        }
        if !told && is_for_good(shared, ending.job).await {
            told = tell(feed, feed_job, &mut ending.body).await;
        }
        tokio::time::sleep(backoff.next()).await;
    }
    shared.mended(&Trouble::Store);
    feed.outbox_bell.notify_one();
}

/// Whether no start after this one runs the job.
async fn is_for_good(shared: &Shared, job: JobId) -> bool {
    match shared.store.job(job).await {
        Ok(Some(row)) => !crate::recover::is_run(shared, &row),
        Ok(None) | Err(_) => false,
    }
}

/// Whether the feed knows the result now.
async fn tell(feed: &FeedState, feed_job: &str, body: &mut String) -> bool {
    match feed.feed().report(feed_job, body.clone()).await {
        Answer::Known | Answer::KnownBefore | Answer::Forgotten => true,
        Answer::TooLarge => {
            if let Some(less) = feed.feed().smaller(body) {
                *body = less;
            }
            false
        }
        Answer::Refused | Answer::Away(_) | Answer::Failed(_) | Answer::NotUnderstood(_) => false,
    }
}

/// A job that was given away to us and cannot be recorded: its feed is told that it failed, until it knows, or until the
/// job can be recorded after all.
pub(crate) async fn give_back(
    shared: &Arc<Shared>,
    feed: &Arc<FeedState>,
    new: NewJob,
    why: &StoreError,
) {
    shared.trouble(Trouble::Store, chain(why));
    let why = format!("the agent could not record the build: {}", chain(why));
    let stage = Stage::Fetch;
    let mut body = feed
        .feed()
        .body(&new.feed_job, Ended::Without { stage, why: &why });
    let mut backoff = Backoff::new(DISK.0, DISK.1);
    while !tell(feed, &new.feed_job, &mut body).await {
        tokio::time::sleep(backoff.next()).await;
        match shared.store.take(new.clone()).await {
            Ok(Took::Recorded) => {
                let taken = Taken {
                    job: new.job,
                    attempt: new.job,
                    offer: Offer {
                        feed_job: new.feed_job,
                        claim: new.claim,
                    },
                };
                let verdict = Verdict::Infrastructure(why);
                end(shared, feed, &taken, &verdict, None, body).await;
                return;
            }
            Ok(Took::Already(_)) | Err(StoreError::Gone) => return,
            Err(_) => {}
        }
    }
    // It is known to its feed and stands nowhere here.
    shared
        .metrics
        .ended(&feed.name, &Verdict::Infrastructure(why));
}

#[cfg(test)]
mod tests;
