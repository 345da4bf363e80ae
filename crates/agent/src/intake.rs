//! Asking a feed for jobs, while there is a slot, room on the disk, and a host that can run them.
//!
//! Invariant: a job that was given away is recorded before anything else happens to it, and a request that may give one
//! away is never given up half-way, whatever the agent is told meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bryo_model::{JobId, Stage, Verdict};
use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::backoff::{Backoff, jittered};
use crate::error::chain;
use crate::feed::{Ended, NoJob, Offer};
use crate::shared::{FeedState, Lost, Phase, Shared, Trouble, lock, new_id, now_ms};
use crate::store::{NewJob, Took};
use crate::watermark::{self, Short};
use crate::work::{self, Room, Taken};

/// The longest wait for a server that is away.
const AWAY: Duration = Duration::from_secs(60);

/// Between two looks at a disk that is full, unless a collection ends sooner: collections have a pause between them.
const SPACE: Duration = Duration::from_secs(10);

/// How long an alarm of a lost claim is kept after the last one. Whether it gave a job away is known to the server alone, so
/// nothing but time ends it; each has its line in the log, and counts in the metrics.
const LOST: Duration = Duration::from_secs(24 * 3600);

/// Asks until the agent takes no more jobs.
pub(crate) async fn run(shared: Arc<Shared>, feed: Arc<FeedState>) {
    let mut backoff = Backoff::new(feed.poll(), AWAY.max(feed.poll()));
    while let Some(room) = ready(&shared, &feed).await {
        let wait = match feed.feed().claim().await {
            Ok(offer) => {
                feed.asked("a job");
                shared.mended(&Trouble::Feed(feed.name.clone()));
                feed.outbox_bell.notify_one();
                if take(&shared, &feed, offer, room).await {
                    backoff.reset();
                } else {
                    // Who gives the same job away again and again is not asked as fast as it answers.
                    pause(&shared, &feed, backoff.next()).await;
                }
                continue;
            }
            Err(NoJob::Nothing) => {
                feed.asked("nothing to do");
                shared.mended(&Trouble::Feed(feed.name.clone()));
                backoff.reset();
                jittered(feed.poll())
            }
            Err(NoJob::Refused) => {
                let text = "the server refuses the token; set a valid one and reload (SIGHUP)";
                feed.asked(text);
                shared.trouble(Trouble::Feed(feed.name.clone()), text);
                backoff.next()
            }
            Err(NoJob::Away(why)) => {
                feed.asked(&*why);
                shared.trouble(Trouble::Feed(feed.name.clone()), why);
                backoff.next()
            }
            Err(NoJob::Lost { feed_job, why }) => {
                lost(&shared, &feed, feed_job, &why).await;
                backoff.next()
            }
        };
        drop(room);
        pause(&shared, &feed, wait).await;
    }
}

/// Waits until a job can be taken; `None` when none will be any more.
async fn ready(shared: &Arc<Shared>, feed: &FeedState) -> Option<Room> {
    loop {
        let mut phase = shared.phase.subscribe();
        let over = async {
            let _ = phase.wait_for(|phase| phase.is_over()).await;
        };
        tokio::select! {
            biased;
            () = over => return None,
            room = room(shared, feed) => {
                let room = room?;
                // What held while one condition was waited for may hold no more.
                let fit = *shared.host.borrow() && (room.is_alone() || !shared.is_on_trial());
                if shared.phase() == Phase::Open && fit && counted(shared) {
                    return Some(room);
                }
            }
        }
    }
}

/// What a job needs, when all of it is there; `None` when no further job is wanted, whatever else is missing.
async fn room(shared: &Arc<Shared>, feed: &FeedState) -> Option<Room> {
    // Jobs of the past come first: a newer build of their version must not be overtaken by them. A slot that is held
    // meanwhile may be the one that they wait for.
    let _ = shared.recovered.subscribe().wait_for(|all| *all).await;
    let of_feed = feed.slots.take().await;
    let of_all = shared.slots.take().await;
    if !counted(shared) {
        return None;
    }
    let _ = shared
        .phase
        .subscribe()
        .wait_for(|phase| *phase == Phase::Open)
        .await;
    let _ = shared.host.subscribe().wait_for(|fit| *fit).await;
    let alone = trial(shared).await;
    let mut collected = false;
    loop {
        let marks = shared.settings().watermarks;
        let Err(Short(text)) = watermark::look(&shared.places, &marks) else {
            shared.mended(&Trouble::Space);
            break;
        };
        // A disk that is full of what can be made again is nobody's trouble.
        if collected {
            shared.trouble(Trouble::Space, format!("no jobs are taken: {text}"));
        }
        shared.collector.make_room(SPACE).await;
        collected = true;
    }
    // Every job writes to the store; only after a failure is it asked whether the next one could.
    while shared.has(&Trouble::Store) {
        match shared.store.probe().await {
            Ok(()) => shared.mended(&Trouble::Store),
            Err(error) => {
                shared.trouble(Trouble::Store, chain(&error));
                tokio::time::sleep(SPACE).await;
            }
        }
    }
    Some(Room::new([of_feed, of_all], alone))
}

/// The only place among jobs that are tried; `None` while nothing is wrong, which may come to be while it is waited for.
async fn trial(shared: &Shared) -> Option<OwnedMutexGuard<()>> {
    let mut streak = shared.streak.subscribe();
    let mended = streak.wait_for(|streak| !streak.is_beyond_bad_luck());
    tokio::select! {
        biased;
        _ = mended => None,
        alone = Arc::clone(&shared.trial).lock_owned() => Some(alone),
    }
}

/// Whether another job may be taken, where their number is bounded.
fn counted(shared: &Shared) -> bool {
    !matches!(*lock(&shared.quota), Some(0))
}

/// Waits for the next time to ask; shorter when there is something new to go by.
async fn pause(shared: &Shared, feed: &FeedState, wait: Duration) {
    let mut phase = shared.phase.subscribe();
    tokio::select! {
        () = tokio::time::sleep(wait) => {}
        () = feed.changed.notified() => {}
        _ = phase.wait_for(|phase| phase.is_over()) => {}
    }
}

/// Whether it is a new job that is recorded.
async fn take(shared: &Arc<Shared>, feed: &Arc<FeedState>, offer: Offer, room: Room) -> bool {
    let new = record_of(feed, &offer);
    match shared.store.take(new.clone()).await {
        Ok(Took::Recorded) => {
            shared.metrics.taken(&feed.name);
            if let Some(left) = lock(&shared.quota).as_mut() {
                *left = left.saturating_sub(1);
            }
            work::start(shared, feed, first_attempt(new.job, offer), room);
            true
        }
        Ok(Took::Already(other)) => {
            tracing::warn!(job = %other, feed = %feed.name, build = offer.feed_job, "given away twice; it is being seen to");
            false
        }
        Err(error) => {
            work::give_back(shared, feed, new, &error).await;
            false
        }
    }
}

fn record_of(feed: &FeedState, offer: &Offer) -> NewJob {
    NewJob {
        job: new_id(),
        feed: feed.name.clone(),
        feed_job: offer.feed_job.clone(),
        claim: offer.claim.clone(),
        taken_ms: now_ms(),
    }
}

fn first_attempt(job: JobId, offer: Offer) -> Taken {
    Taken {
        job,
        attempt: job,
        offer,
    }
}

/// A job may have been given away in an answer that cannot be read. One whose id is known is reported.
async fn lost(shared: &Arc<Shared>, feed: &Arc<FeedState>, feed_job: Option<String>, why: &str) {
    let text = format!("a job may have been given away in an answer that cannot be read: {why}");
    feed.asked(&*text);
    shared.metrics.lost(&feed.name);
    let Some(feed_job) = feed_job else {
        alarm(shared, feed, &text);
        return;
    };
    tracing::warn!(feed = %feed.name, build = feed_job, "{text}; it is reported as failed");
    let offer = Offer {
        feed_job,
        claim: "{}".to_owned(),
    };
    let new = record_of(feed, &offer);
    match shared.store.take(new.clone()).await {
        Ok(Took::Recorded) => {
            let why = format!("the agent could not read what the server said of the build: {why}");
            let stage = Stage::Fetch;
            let ended = Ended::Without { stage, why: &why };
            let body = feed.feed().body(&offer.feed_job, ended);
            let taken = first_attempt(new.job, offer);
            let verdict = Verdict::Infrastructure(why.clone());
            work::end(shared, feed, &taken, &verdict, None, body).await;
        }
        // It runs: the server has said its id in an answer that was no claim.
        Ok(Took::Already(_)) => {}
        Err(error) => work::give_back(shared, feed, new, &error).await,
    }
}

/// The number is another one each time, so each of them is in the log.
fn alarm(shared: &Shared, feed: &FeedState, text: &str) {
    let count = {
        let mut lost = lock(&feed.lost);
        lost.count += 1;
        lost.last = Some(Instant::now());
        lost.count
    };
    let at = Timestamp::from_millisecond(now_ms()).unwrap_or_default();
    let text = format!(
        "{text} (number {count} of late, at {at:.0}); trigger builds again that the server shows as running and no agent runs"
    );
    shared.trouble(Trouble::LostClaim(feed.name.clone()), text);
}

/// Ends the alarms of claims that were lost long ago.
pub(crate) fn forget_lost(shared: &Shared) {
    for feed in &shared.feeds {
        let mut lost = lock(&feed.lost);
        if lost.last.is_some_and(|last| last.elapsed() >= LOST) {
            *lost = Lost::default();
            shared.mended(&Trouble::LostClaim(feed.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
