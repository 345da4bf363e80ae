//! What a job needs, and what becomes of one that cannot be recorded.

use std::fs;
use std::future::Future;
use std::path::Path;
use std::pin::pin;

use bryo_depot::{S3Depot, S3Tuning};
use bryo_engine::Engine;
use bryo_model::{Blame, ByteSize};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::*;
use crate::agent::tidy;
use crate::collector;
use crate::feed::Feed;
use crate::recover;
use crate::shared::Parts;
use crate::store::Store;
use crate::tests::server::{self, Server};
use crate::tests::{Bed, Clock, anywhere};
use crate::{AgentSettings, Watermarks};

fn engine(dir: &Path) -> Engine {
    Engine::new(crate::tests::engine_settings(dir))
}

fn settings(dir: &Path, watermarks: Watermarks) -> AgentSettings {
    AgentSettings {
        watermarks,
        ..crate::tests::settings(dir, ([127, 0, 0, 1], 1).into())
    }
}

#[tokio::test]
async fn the_cache_is_collected_before_no_jobs_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let mirror = dir.path().join("cache/source/mirrors/docs-1");
    let watermarks = |bytes| Watermarks {
        free_bytes: ByteSize::new(bytes),
        free_inodes: 0,
    };
    let settings = |bytes| settings(dir.path(), watermarks(bytes));
    fs::create_dir_all(&mirror).unwrap();
    fs::create_dir_all(dir.path().join("state")).unwrap();
    let full = settings(u64::MAX);
    let feed = Feed::of(&full.feeds[0]).unwrap();
    let depot = || S3Depot::tuned(full.depot.clone(), S3Tuning::default()).unwrap();
    let (store, keeper) = Store::open(&full.state.join("agent.db")).unwrap();
    let shared = Arc::new(Shared::new(Parts {
        store,
        engine: engine(dir.path()),
        feeds: vec![Arc::new(FeedState::new(&full.feeds[0], feed))],
        quota: None,
        depot: depot(),
        orders: mpsc::channel(1).0,
        settings: full.clone(),
    }));
    shared.host.send_replace(true);
    shared.recovered.send_replace(true);
    let collector = tokio::spawn(collector::run(Arc::clone(&shared)));
    let mut troubles = shared.troubles.subscribe();
    let feed = Arc::clone(&shared.feeds[0]);
    {
        // There is never enough, so everything goes, and only then it is told.
        let mut waiting = std::pin::pin!(room(&shared, &feed));
        let told = troubles.wait_for(|all| {
            assert!(!mirror.exists() || !all.contains_key(&Trouble::Space));
            all.contains_key(&Trouble::Space)
        });
        tokio::select! {
            _ = &mut waiting => panic!("there is room"),
            told = told => drop(told.unwrap()),
        }
        assert!(!mirror.exists());
    }
    // With a lower mark there is room at once, and nothing is collected.
    fs::create_dir_all(&mirror).unwrap();
    shared.replace(settings(1), depot());
    drop(room(&shared, &feed).await);
    assert!(!shared.has(&Trouble::Space) && mirror.exists());
    collector.abort();
    let _ = collector.await;
    drop((feed, shared, keeper));
}

/// Longer than anything here takes; where time is virtual it passes as soon as nothing else can happen.
const LONG: Duration = Duration::from_secs(3600);

/// With a host that is fit and no jobs of the past, and a server that answers so.
async fn bed(
    answering: impl Fn(&server::Asked) -> (u16, String) + Send + Sync + 'static,
) -> (Server, Bed) {
    let server = Server::start(anywhere(), Box::new(answering)).await;
    let bed = Bed::new(server.address);
    bed.shared.host.send_replace(true);
    bed.shared.recovered.send_replace(true);
    (server, bed)
}

async fn within<T>(long: Duration, work: impl Future<Output = T>) -> Option<T> {
    timeout(long, work).await.ok()
}

#[tokio::test(start_paused = true)]
async fn new_jobs_wait_until_those_of_the_past_have_their_slots() {
    let (_server, bed) = bed(server::known).await;
    bed.shared.recovered.send_replace(false);
    let mut waiting = pin!(room(&bed.shared, bed.feed()));
    assert!(within(LONG, &mut waiting).await.is_none());
    bed.shared.recovered.send_replace(true);
    assert!(within(LONG, waiting).await.unwrap().is_some());
}

/// There are fewer slots than jobs of the past, and somebody who wants one for a new job.
#[tokio::test]
async fn jobs_of_the_past_get_the_slots_that_those_who_ask_for_new_ones_wait_for() {
    let (_server, bed) = bed(|_| (503, String::new())).await;
    bed.shared.recovered.send_replace(false);
    for feed_job in ["1", "2"] {
        let offer = Offer {
            feed_job: feed_job.to_owned(),
            claim: "{}".to_owned(),
        };
        let new = record_of(bed.feed(), &offer);
        assert_eq!(bed.shared.store.take(new).await.unwrap(), Took::Recorded);
    }
    assert_eq!((bed.shared.slots.most(), bed.feed().slots.most()), (1, 1));
    let task = tokio::spawn(run(Arc::clone(&bed.shared), Arc::clone(bed.feed())));
    tokio::task::yield_now().await;
    let past = tokio::spawn(recover::run(&bed.shared).await.unwrap());
    let mut recovered = bed.shared.recovered.subscribe();
    let all = within(Duration::from_secs(20), recovered.wait_for(|all| *all));
    drop(all.await.expect("they wait for each other").unwrap());
    // Both have ended, and it is asked for a new one.
    let asked = async {
        while lock(&bed.feed().last).is_none() || bed.depth().await < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(Duration::from_secs(20), asked).await.unwrap();
    past.abort();
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn who_wants_no_further_job_waits_for_no_host() {
    let (_server, bed) = bed(server::known).await;
    bed.shared.host.send_replace(false);
    *lock(&bed.shared.quota) = Some(0);
    assert!(
        within(LONG, room(&bed.shared, bed.feed()))
            .await
            .unwrap()
            .is_none()
    );
    *lock(&bed.shared.quota) = Some(1);
    assert!(within(LONG, room(&bed.shared, bed.feed())).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn after_a_streak_of_failures_one_job_at_a_time_is_tried() {
    let (_server, bed) = bed(server::known).await;
    let (shared, feed) = (&bed.shared, bed.feed());
    shared.slots.set(3);
    feed.slots.set(3);
    let before = within(LONG, ready(shared, feed)).await.unwrap().unwrap();
    let full = Verdict::Infrastructure("the bucket is full".to_owned());
    for _ in 0..3 {
        shared.count(&full, Some(Blame::Host));
    }
    let trial = within(LONG, ready(shared, feed)).await.unwrap().unwrap();
    assert!(within(LONG, ready(shared, feed)).await.is_none());
    // It fails too, and another one is tried when the host was looked at.
    shared.count(&full, Some(Blame::Host));
    drop(trial);
    let trial = within(LONG, ready(shared, feed)).await.unwrap().unwrap();
    // Somebody waits for the end of the one that is tried, and another job ends well before it.
    let (waiter, its_feed) = (Arc::clone(shared), Arc::clone(feed));
    let waiting = tokio::spawn(async move { ready(&waiter, &its_feed).await });
    tokio::task::yield_now().await;
    shared.count(&Verdict::Succeeded, None);
    let third = within(LONG, waiting).await.unwrap().unwrap().unwrap();
    drop((before, trial, third));
}

#[tokio::test(start_paused = true)]
async fn who_gives_one_job_away_again_and_again_is_asked_seldom() {
    let claim = r#"{"id":"17","project_slug":"p","version":"1","source_url":"","ref":"","docker_image":""}"#;
    let (server, bed) = bed(move |_| (200, claim.to_owned())).await;
    let offer = Offer {
        feed_job: "17".to_owned(),
        claim: "{}".to_owned(),
    };
    let known = record_of(bed.feed(), &offer);
    assert_eq!(bed.shared.store.take(known).await.unwrap(), Took::Recorded);
    let clock = Clock::hold();
    let task = tokio::spawn(run(Arc::clone(&bed.shared), Arc::clone(bed.feed())));
    clock.pass(&bed, Duration::from_secs(300)).await;
    task.abort();
    let asked = server.asked().len();
    assert!((3..12).contains(&asked), "{asked}");
}

/// Its feed cannot be told either: both are gone for a while.
#[tokio::test]
async fn a_job_that_could_not_be_recorded_is_recorded_later() {
    let (server, bed) = bed(|_| (503, String::new())).await;
    bed.set_writable(false).await;
    let offer = Offer {
        feed_job: "17".to_owned(),
        claim: "{}".to_owned(),
    };
    let (shared, feed) = (Arc::clone(&bed.shared), Arc::clone(bed.feed()));
    let room = ready(&shared, &feed).await.unwrap();
    let task = tokio::spawn(async move { take(&shared, &feed, offer, room).await });
    while server.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(bed.shared.has(&Trouble::Store));
    bed.set_writable(true).await;
    let is_new = within(Duration::from_secs(60), task)
        .await
        .unwrap()
        .unwrap();
    assert!(!is_new, "it is no job to run");
    assert_eq!(bed.depth().await, 1);
    let row = bed.shared.store.newest(1).await.unwrap().remove(0);
    assert_eq!(
        (&*row.feed_job, row.verdict.as_deref()),
        ("17", Some("infrastructure"))
    );
    assert!(row.reason.unwrap().contains("could not record the build"));
}

#[tokio::test(start_paused = true)]
async fn lost_claims_are_counted_and_an_alarm_for_a_day() {
    let (_server, bed) = bed(server::known).await;
    let shared = &bed.shared;
    let clock = Clock::hold();
    let tidy = tokio::spawn(tidy(Arc::clone(shared)));
    clock.settle(&bed).await;
    let alarm = || {
        let troubles = shared.troubles.borrow();
        troubles
            .get(&Trouble::LostClaim(bed.feed().name.clone()))
            .cloned()
    };
    assert_eq!(alarm(), None);
    let mut told = shared.troubles.subscribe();
    for n in 1..=3 {
        lost(shared, bed.feed(), None, "it broke off").await;
        assert!(told.has_changed().unwrap(), "each is told");
        told.mark_unchanged();
        let text = alarm().unwrap();
        let now = Timestamp::from_millisecond(now_ms()).unwrap().to_string();
        assert!(
            text.contains("it broke off") && text.contains(&format!("number {n}")),
            "{text}"
        );
        assert!(
            text.contains(now.split('T').next().unwrap()) && text.contains("trigger"),
            "{text}"
        );
    }
    clock.jump(&bed, LOST - Duration::from_secs(60)).await;
    lost(shared, bed.feed(), None, "it broke off").await;
    clock.jump(&bed, LOST - Duration::from_secs(60)).await;
    assert!(
        alarm().unwrap().contains("number 4"),
        "a day from the last one"
    );
    clock.jump(&bed, Duration::from_secs(2 * 3600)).await;
    assert_eq!(alarm(), None);
    lost(shared, bed.feed(), None, "it broke off").await;
    assert!(alarm().unwrap().contains("number 1"));
    tidy.abort();
}
