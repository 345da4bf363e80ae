//! Jobs that an earlier process of this agent has taken and not brought to an end.

use std::sync::Arc;

use bryo_model::{Stage, Verdict};

use crate::error::AgentError;
use crate::feed::{Ended, Offer};
use crate::settings::Recovery;
use crate::shared::{FeedState, Shared, Trouble, new_id};
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
    let attempt = match (row.record, shared.settings().recovery) {
        // Nothing was begun under this id.
        (Record::Taken, _) => row.attempt,
        (Record::Begun, Recovery::RetryOnce) if row.attempts < ATTEMPTS => {
            let attempt = new_id();
            shared.store.again(row.job, attempt).await?;
            attempt
        }
        (Record::Begun, Recovery::Report | Recovery::RetryOnce) => {
            close(shared, feed, &row, offer).await;
            return Ok(());
        }
        (Record::Ended, _) => return Ok(()),
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
        let room = (feed.slots.take().await, shared.slots.take().await);
        work::start(&shared, &feed, taken, room);
    });
    Ok(())
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
