//! Jobs that are cut short by a mistake of ours, and jobs on a disk that is full.

use tokio::task::JoinHandle;

use super::*;
use crate::store::{JobRow, Record};
use crate::tests::server::{self, Server};
use crate::tests::{Bed, Clock, anywhere};
use crate::{AgentSettings, JobPolicy, Recovery};

const LONG: Duration = Duration::from_secs(60);

/// Longer than the longest wait for a disk.
const VIRTUAL: Duration = Duration::from_secs(120);

/// A server that takes every result, and an agent that would run what it says.
async fn bed() -> (Server, Bed) {
    let server = Server::start(anywhere(), Box::new(server::known)).await;
    let bed = Bed::new(server.address);
    let settings = AgentSettings::clone(&bed.shared.settings());
    let image = Some("oci-archive:/nowhere.tar".parse().unwrap());
    let jobs = JobPolicy {
        local_sources: true,
        default_image: image,
        ..settings.jobs.clone()
    };
    let depot = bed.shared.depot();
    bed.shared
        .replace(AgentSettings { jobs, ..settings }, depot);
    bed.shared.host.send_replace(true);
    (server, bed)
}

/// A job that is recorded.
async fn taken(bed: &Bed, feed_job: &str) -> Taken {
    let job = crate::shared::new_id();
    let claim = r#"{"project_slug":"p","version":"1","source_url":"file:///nowhere"}"#;
    let offer = Offer {
        feed_job: feed_job.to_owned(),
        claim: claim.to_owned(),
    };
    let new = NewJob {
        job,
        feed: bed.feed().name.clone(),
        feed_job: offer.feed_job.clone(),
        claim: offer.claim.clone(),
        taken_ms: 1,
    };
    assert_eq!(bed.shared.store.take(new).await.unwrap(), Took::Recorded);
    Taken {
        job,
        attempt: job,
        offer,
    }
}

async fn room(bed: &Bed) -> Room {
    let slots = [bed.feed().slots.take().await, bed.shared.slots.take().await];
    Room::new(slots, None)
}

async fn row(bed: &Bed, job: JobId) -> JobRow {
    bed.shared.store.job(job).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_task_that_panics_ends_its_job_all_the_same() {
    let (_server, bed) = bed().await;
    let shared = &bed.shared;
    for n in 1..=3 {
        let taken = taken(&bed, &n.to_string()).await;
        let job = taken.job;
        shared.host.send_replace(true);
        shared.breaking.notify_one();
        let room = timeout(LONG, room(&bed))
            .await
            .expect("the last one gave its slots back");
        start(shared, bed.feed(), taken, room);
        shared.workers.close();
        timeout(LONG, shared.workers.wait()).await.unwrap();
        assert!(lock(&shared.running).is_empty());
        // The host is looked at before there is another one.
        assert!(!*shared.host.borrow());
        let row = row(&bed, job).await;
        assert_eq!((row.record, row.in_outbox), (Record::Ended, true));
        assert_eq!(row.verdict.as_deref(), Some("infrastructure"));
        assert_eq!(
            *lock(&shared.last_verdict),
            Some(Verdict::Infrastructure(row.reason.unwrap()))
        );
        let parcel = shared.store.parcel(n).await.unwrap().unwrap();
        assert!(
            parcel.body.contains(r#""status":"failed""#)
                && parcel
                    .body
                    .contains("a part of the agent broke before the build had ended"),
            "{}",
            parcel.body
        );
    }
    assert!(
        shared.is_on_trial(),
        "a mistake that is made again and again burns no queue"
    );
}

/// It was never begun, so it is neither told nor ended, and the next start runs it.
#[tokio::test(start_paused = true)]
async fn a_job_whose_beginning_cannot_be_recorded_is_left_to_the_next_start() {
    let (server, bed) = bed().await;
    let shared = &bed.shared;
    let taken = taken(&bed, "17").await;
    let job = taken.job;
    bed.set_writable(false).await;
    let room = room(&bed).await;
    let clock = Clock::hold();
    start(shared, bed.feed(), taken, room);
    clock.pass(&bed, VIRTUAL).await;
    assert!(shared.has(&Trouble::Store));
    shared.cancel_all();
    clock.pass(&bed, VIRTUAL).await;
    assert!(lock(&shared.running).is_empty());
    assert_eq!(server.asked().len(), 0);
    let row = row(&bed, job).await;
    assert_eq!(row.record, Record::Taken);
    assert!(crate::recover::is_run(shared, &row));
    let verdict = lock(&shared.last_verdict).clone();
    assert_eq!(verdict, Some(Verdict::Cancelled(Stage::Fetch)));
}

fn end_of(bed: &Bed, taken: Taken) -> JoinHandle<()> {
    let (shared, feed) = (Arc::clone(&bed.shared), Arc::clone(bed.feed()));
    tokio::spawn(async move {
        let verdict = Verdict::Cancelled(Stage::Run);
        let why = "it was cancelled";
        let ended = Ended::Without {
            stage: Stage::Run,
            why,
        };
        let body = feed.feed().body(&taken.offer.feed_job, ended);
        end(&shared, &feed, &taken, &verdict, None, body).await;
    })
}

/// What a feed has as failed must not be published afterwards.
#[tokio::test(start_paused = true)]
async fn from_memory_only_that_is_told_which_no_start_runs_again() {
    for (begun, recovery, told) in [
        (true, Recovery::Report, 1),
        (true, Recovery::RetryOnce, 0),
        (false, Recovery::Report, 0),
    ] {
        let (server, bed) = bed().await;
        let settings = AgentSettings::clone(&bed.shared.settings());
        let depot = bed.shared.depot();
        bed.shared.replace(
            AgentSettings {
                recovery,
                ..settings
            },
            depot,
        );
        let taken = taken(&bed, "17").await;
        let job = taken.job;
        if begun {
            bed.shared.store.begin(job).await.unwrap();
        }
        bed.set_writable(false).await;
        let clock = Clock::hold();
        let ending = end_of(&bed, taken);
        clock.pass(&bed, VIRTUAL).await;
        assert_eq!(server.asked().len(), told, "{begun} {recovery:?}");
        bed.set_writable(true).await;
        clock.pass(&bed, VIRTUAL).await;
        ending.await.unwrap();
        assert_eq!(row(&bed, job).await.record, Record::Ended);
        assert_eq!(bed.depth().await, 1);
    }
}
