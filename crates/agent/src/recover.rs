//! Jobs that an earlier process of this agent has taken and not brought to an end.

use std::sync::Arc;

use bryo_model::{Stage, Verdict};

use crate::error::AgentError;
use crate::feed::{Ended, Offer};
use crate::settings::Recovery;
use crate::shared::{FeedState, Shared, Trouble, lock, new_id};
use crate::store::{JobRow, Record, StoreError};
use crate::work::{self, Taken};

/// How many attempts a job gets where interrupted ones are retried.
const ATTEMPTS: u32 = 2;

/// Brings every unfinished record to an end, or has its job run. Those that are to run wait for slots like new ones.
pub(crate) async fn run(shared: &Arc<Shared>) -> Result<(), AgentError> {
    let rows = shared.store.open_jobs().await?;
    for row in rows {
        let Some(feed) = shared.feed(&row.feed).map(Arc::clone) else {
            let text = format!(
                "there are jobs of the feed {:?}, which is not configured; nobody can be told what became of them",
                row.feed
            );
            shared.trouble(Trouble::UnknownFeed(row.feed), text);
            continue;
        };
        one(shared, &feed, row).await?;
    }
    Ok(())
}

async fn one(shared: &Arc<Shared>, feed: &Arc<FeedState>, row: JobRow) -> Result<(), StoreError> {
    let offer = Offer {
        feed_job: row.feed_job.clone(),
        claim: row.claim.clone(),
    };
    let interrupted = match row.record {
        Record::Ended => return Ok(()),
        // Nothing was begun under this id.
        Record::Taken => false,
        Record::Begun => true,
    };
    let retried = shared.settings().recovery == Recovery::RetryOnce && row.attempts < ATTEMPTS;
    if interrupted && !retried {
        close(shared, feed, &row, offer).await;
        return Ok(());
    }
    if !counted(shared) {
        // Somebody wants one job; the others are for the next start.
        return Ok(());
    }
    let attempt = if interrupted {
        let attempt = new_id();
        shared.store.again(row.job, attempt).await?;
        attempt
    } else {
        row.attempt
    };
    tracing::info!(job = %row.job, feed = %feed.name, build = row.feed_job, "taken before the agent was restarted; it is run");
    let taken = Taken {
        job: row.job,
        attempt,
        offer,
    };
    let (shared, feed) = (Arc::clone(shared), Arc::clone(feed));
    let tracker = shared.workers.clone();
    tracker.spawn(async move {
        let mut phase = shared.phase.subscribe();
        let room = async {
            let room = (feed.slots.take().await, shared.slots.take().await);
            let _ = shared.host.subscribe().wait_for(|fit| *fit).await;
            room
        };
        tokio::select! {
            biased;
            // Its record says that nothing was begun: the next start runs it.
            _ = phase.wait_for(|phase| phase.is_over()) => {}
            room = room => work::start(&shared, &feed, taken, room),
        }
    });
    Ok(())
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

async fn close(shared: &Arc<Shared>, feed: &Arc<FeedState>, row: &JobRow, offer: Offer) {
    let stage = Stage::of(&row.progress).unwrap_or(Stage::Fetch);
    let why = match stage {
        Stage::Publish => {
            "agent restarted while the output was being published: readers may see old and new files mixed until the \
             next build of this version; trigger it again"
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
        offer,
    };
    let verdict = Verdict::Infrastructure(why.to_owned());
    work::end(shared, feed, &taken, &verdict, None, body).await;
}
