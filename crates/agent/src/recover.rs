//! Jobs that an earlier process of this agent has taken and not brought to an end.

use std::sync::Arc;

use bryo_model::{Stage, Verdict};

use crate::error::{AgentError, chain};
use crate::feed::{Ended, Offer};
use crate::settings::Recovery;
use crate::shared::{FeedState, Shared, Trouble, lock, new_id};
use crate::store::{JobRow, Record};
use crate::work::{self, Taken};

/// How many attempts a job gets where interrupted ones are retried.
const ATTEMPTS: u32 = 2;

/// Brings every unfinished record to an end, or has its job run. Nothing of this is waited for: the disk may be full, and
/// what frees it must begin.
pub(crate) async fn run(shared: &Arc<Shared>) -> Result<(), AgentError> {
    let rows = shared.store.open_jobs().await?;
    let mut queue = Vec::new();
    for row in rows {
        let Some(feed) = shared.feed(&row.feed).map(Arc::clone) else {
            let text = format!(
                "there are jobs of the feed {:?}, which is not configured; nobody can be told what became of them",
                row.feed
            );
            shared.trouble(Trouble::UnknownFeed(row.feed), text);
            continue;
        };
        if let Some(taken) = one(shared, &feed, row).await {
            queue.push((feed, taken));
        }
    }
    let shared = Arc::clone(shared);
    shared.workers.clone().spawn(async move {
        let mut phase = shared.phase.subscribe();
        tokio::select! {
            biased;
            // Their records say that nothing was begun: the next start runs them.
            _ = phase.wait_for(|phase| phase.is_over()) => {}
            () = start(&shared, queue) => {}
        }
        shared.recovered.send_replace(true);
    });
    Ok(())
}

/// Gives them slots in the order in which they were taken, before any new job gets one.
async fn start(shared: &Arc<Shared>, queue: Vec<(Arc<FeedState>, Taken)>) {
    for (feed, taken) in queue {
        let room = (feed.slots.take().await, shared.slots.take().await);
        let _ = shared.host.subscribe().wait_for(|fit| *fit).await;
        work::start(shared, &feed, taken, room);
    }
}

/// The job, if it is to be run.
async fn one(shared: &Arc<Shared>, feed: &Arc<FeedState>, row: JobRow) -> Option<Taken> {
    let interrupted = match row.record {
        Record::Ended => return None,
        // Nothing was begun under this id.
        Record::Taken => false,
        Record::Begun => true,
    };
    let retried = shared.settings().recovery == Recovery::RetryOnce && row.attempts < ATTEMPTS;
    if interrupted && !retried {
        close(shared, feed, row);
        return None;
    }
    if !counted(shared) {
        // Somebody wants one job; the others are for the next start.
        return None;
    }
    let mut attempt = row.attempt;
    if interrupted {
        attempt = new_id();
        if let Err(error) = shared.store.again(row.job, attempt).await {
            shared.trouble(Trouble::Store, chain(&error));
            close(shared, feed, row);
            return None;
        }
    }
    tracing::info!(job = %row.job, feed = %feed.name, build = row.feed_job, "taken before the agent was restarted; it is run");
    Some(Taken {
        job: row.job,
        attempt,
        offer: Offer {
            feed_job: row.feed_job,
            claim: row.claim,
        },
    })
}

/// Whether another job may be run, where their number is bounded; it then counts.
fn counted(shared: &Shared) -> bool {
    match lock(&shared.quota).as_mut() {
        None => true,
        Some(0) => false,
        Some(left) => {
            *left -= 1;
            true
        }
    }
}

/// Reports it as failed, in a task of its own: its end is recorded when there is room for it.
fn close(shared: &Arc<Shared>, feed: &Arc<FeedState>, row: JobRow) {
    let (shared, feed) = (Arc::clone(shared), Arc::clone(feed));
    let tracker = shared.workers.clone();
    tracker.spawn(async move {
        let stage = Stage::of(&row.progress).unwrap_or(Stage::Fetch);
        let why = match stage {
            Stage::Publish => {
                "agent restarted while the output was being published: readers may see old and new files mixed until \
                 the next build of this version; trigger it again"
            }
            Stage::Fetch | Stage::Prepare | Stage::Run | Stage::Collect => {
                "agent restarted before the build had ended; trigger it again"
            }
        };
        let body = feed
            .feed()
            .body(&row.feed_job, Ended::Without { stage, why });
        let taken = Taken {
            job: row.job,
            attempt: row.attempt,
            offer: Offer {
                feed_job: row.feed_job,
                claim: row.claim,
            },
        };
        let verdict = Verdict::Infrastructure(why.to_owned());
        work::end(&shared, &feed, &taken, &verdict, None, body).await;
    });
}
