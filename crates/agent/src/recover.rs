//! Jobs that an earlier process of this agent has taken and not brought to an end.

use std::collections::BTreeMap;
use std::sync::Arc;

use bryo_model::{Stage, Verdict};

use crate::error::{AgentError, chain};
use crate::feed::{Ended, Offer};
use crate::settings::Recovery;
use crate::shared::{FeedState, Shared, Trouble, lock, new_id};
use crate::store::{JobRow, Record};
use crate::work::{self, Room, Taken};

/// How many attempts a job gets where interrupted ones are retried.
const ATTEMPTS: u32 = 2;

/// Brings every unfinished record to an end, or has its job run. Nothing of this is waited for: the disk may be full, and
/// what frees it must begin. The task that is returned has the jobs run, and no new ones are taken before it has; it lasts
/// as long as the agent, so that it is missed if it breaks.
pub(crate) async fn run(
    shared: &Arc<Shared>,
) -> Result<impl Future<Output = ()> + Send + use<>, AgentError> {
    let rows = shared.store.open_jobs().await?;
    let mut queue = Vec::new();
    let mut unknown: BTreeMap<String, Untold> = BTreeMap::new();
    for row in rows {
        let Some(feed) = shared.feed(&row.feed).map(Arc::clone) else {
            unknown.entry(row.feed).or_default().jobs += 1;
            continue;
        };
        if let Some(taken) = one(shared, &feed, row).await {
            queue.push((feed, taken));
        }
    }
    for (feed, results) in shared.store.waiting_by_feed().await? {
        if shared.feed(&feed).is_none() {
            unknown.entry(feed).or_default().results = results;
        }
    }
    for (feed, untold) in unknown {
        shared.trouble(Trouble::UnknownFeed(feed.clone()), untold.of(&feed));
    }
    let shared = Arc::clone(shared);
    Ok(async move {
        let mut phase = shared.phase.subscribe();
        tokio::select! {
            biased;
            // Their records say that nothing was begun: the next start runs them.
            _ = phase.wait_for(|phase| phase.is_over()) => {}
            () = start(&shared, queue) => {}
        }
        shared.recovered.send_replace(true);
        std::future::pending::<()>().await;
    })
}

/// What a feed that is not configured cannot be told.
#[derive(Clone, Copy, Debug, Default)]
struct Untold {
    /// Jobs without an end.
    jobs: i64,
    results: i64,
}

impl Untold {
    fn of(self, feed: &str) -> String {
        let Self { jobs, results } = self;
        format!(
            "the feed {feed:?} is not configured, and its server is to be told of {jobs} jobs that have not ended and \
             {results} results; they are kept: start the agent with this feed once more, until they are told"
        )
    }
}

/// Gives them slots in the order in which they were taken, before any new job gets one.
async fn start(shared: &Arc<Shared>, queue: Vec<(Arc<FeedState>, Taken)>) {
    for (feed, taken) in queue {
        let slots = [feed.slots.take().await, shared.slots.take().await];
        let room = Room::new(slots, None);
        let _ = shared.host.subscribe().wait_for(|fit| *fit).await;
        work::start(shared, &feed, taken, room);
    }
}

/// Whether a start that finds this record runs the job.
pub(crate) fn is_run(shared: &Shared, row: &JobRow) -> bool {
    match row.record {
        Record::Ended => false,
        // Nothing was begun under this id.
        Record::Taken => true,
        Record::Begun => {
            shared.settings().recovery == Recovery::RetryOnce && row.attempts < ATTEMPTS
        }
    }
}

/// The job, if it is to be run.
async fn one(shared: &Arc<Shared>, feed: &Arc<FeedState>, row: JobRow) -> Option<Taken> {
    let interrupted = row.record == Record::Begun;
    if !is_run(shared, &row) {
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
        let why = work::cut_short("agent restarted", stage);
        let body = feed
            .feed()
            .body(&row.feed_job, Ended::Without { stage, why: &why });
        let taken = Taken {
            job: row.job,
            attempt: row.attempt,
            offer: Offer {
                feed_job: row.feed_job,
                claim: row.claim,
            },
        };
        let verdict = Verdict::Infrastructure(why);
        work::end(&shared, &feed, &taken, &verdict, None, body).await;
    });
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::store::{NewJob, Took};
    use crate::tests::Bed;

    const LONG: Duration = Duration::from_secs(60);

    async fn taken(bed: &Bed, feed_job: &str) -> NewJob {
        let new = NewJob {
            job: new_id(),
            feed: bed.feed().name.clone(),
            feed_job: feed_job.to_owned(),
            claim: "{}".to_owned(),
            taken_ms: 1,
        };
        assert_eq!(
            bed.shared.store.take(new.clone()).await.unwrap(),
            Took::Recorded
        );
        new
    }

    /// The end of a job that was cut short cannot be recorded, and the agent must begin all the same: it may be what frees
    /// the disk.
    #[tokio::test]
    async fn a_store_that_takes_nothing_does_not_keep_an_agent_from_beginning() {
        let bed = Bed::new(([127, 0, 0, 1], 1).into());
        let job = taken(&bed, "17").await.job;
        bed.shared.store.begin(job).await.unwrap();
        bed.set_writable(false).await;
        drop(timeout(LONG, run(&bed.shared)).await.unwrap().unwrap());
        let mut troubles = bed.shared.troubles.subscribe();
        let told = troubles.wait_for(|all| all.contains_key(&Trouble::Store));
        drop(timeout(LONG, told).await.unwrap().unwrap());
        assert_eq!(bed.depth().await, 0);
        bed.set_writable(true).await;
        let recorded = async {
            while bed.depth().await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, recorded).await.unwrap();
    }

    /// A feed that was renamed, or taken out of the configuration too early.
    #[tokio::test]
    async fn what_a_feed_that_is_gone_is_to_be_told_is_an_alarm() {
        let bed = Bed::new(([127, 0, 0, 1], 1).into());
        bed.ended(3).await;
        taken(&bed, "17").await;
        drop(run(&bed.shared).await.unwrap());
        assert!(bed.shared.troubles.borrow().is_empty());
        let rename = |db: &rusqlite::Connection| {
            db.execute_batch(
                "UPDATE outbox SET feed = 'old'; UPDATE jobs SET feed = 'older' WHERE feed_job = '17'",
            )
        };
        bed.shared.store.look(rename).await.unwrap();
        drop(run(&bed.shared).await.unwrap());
        let troubles = bed.shared.troubles.borrow().clone();
        for (feed, jobs, results) in [("old", 0, 3), ("older", 1, 0)] {
            let text = &troubles[&Trouble::UnknownFeed(feed.to_owned())];
            for part in [
                format!("{feed:?} is not configured"),
                format!("{jobs} jobs"),
                format!("{results} results"),
                "start the agent with this feed once more".to_owned(),
            ] {
                assert!(text.contains(&part), "{text}");
            }
        }
    }

    /// They are run one after the other here, in the order in which they were taken, and the gate for new ones opens when the
    /// last of them has its slot.
    #[tokio::test]
    async fn jobs_of_the_past_have_slots_in_their_order_before_any_new_one() {
        let bed = Bed::new(([127, 0, 0, 1], 1).into());
        let shared = &bed.shared;
        for feed_job in ["1", "2", "3"] {
            taken(&bed, feed_job).await;
        }
        let past = tokio::spawn(run(shared).await.unwrap());
        // The host is not known to be fit: they wait with the first one holding its slot.
        let mut slots = shared.slots.changes();
        drop(
            timeout(LONG, slots.wait_for(|count| count.used() == 1))
                .await
                .unwrap()
                .unwrap(),
        );
        assert!(!*shared.recovered.borrow());
        shared.host.send_replace(true);
        let mut recovered = shared.recovered.subscribe();
        loop {
            // Each fails for want of a claim that can be read, which closes the gate.
            shared.host.send_replace(true);
            let wait = timeout(Duration::from_millis(5), recovered.wait_for(|all| *all));
            if wait.await.is_ok() {
                break;
            }
        }
        // Whoever is last has its slot, so the others have ended.
        let ended = async {
            while bed.depth().await < 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(LONG, ended).await.unwrap();
        let order: Vec<i64> = shared.store.waiting(&bed.feed().name, 0).await.unwrap();
        let mut told = Vec::new();
        for seq in order {
            told.push(shared.store.send_off(seq).await.unwrap().unwrap().feed_job);
        }
        assert_eq!(told, ["1", "2", "3"]);
        past.abort();
    }
}
