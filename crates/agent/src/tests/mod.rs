//! Telling results, told with virtual time where hours pass.

pub(crate) mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bryo_depot::{S3Credentials, S3Depot, S3Settings, S3Tuning};
use bryo_engine::{Engine, NetworkSettings, Settings};
use bryo_image::PullOptions;
use bryo_model::{ByteSize, Ceiling, Egress, JobId, LimitPolicy, Limits, NetworkMode, Secret};
use bryo_sandbox::{RuntimePlaces, Selinux};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};

use crate::deliver::{self, Until};
use crate::feed::Feed;
use crate::shared::{FeedState, Parts, Shared, Trouble};
use crate::store::{Durability, Store};
use crate::{
    AgentSettings, CacheBudget, DocThorSettings, FeedSettings, JobPolicy, Recovery, Watermarks,
};

use server::Server;

const ANYWHERE: &str = "127.0.0.1:0";

/// An agent without its tasks.
pub(crate) struct Bed {
    _dir: TempDir,
    pub(crate) shared: Arc<Shared>,
}

impl Bed {
    pub(crate) fn new(server: SocketAddr) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = settings(dir.path(), server);
        let (store, _keeper) = Store::open(&dir.path().join("agent.db")).unwrap();
        let of_feed = &settings.feeds[0];
        let feed = Arc::new(FeedState::new(of_feed, Feed::of(of_feed).unwrap()));
        let (orders, _) = mpsc::channel(1);
        let shared = Arc::new(Shared::new(Parts {
            store,
            engine: Engine::new(engine_settings(dir.path())),
            depot: S3Depot::new(settings.depot.clone()).unwrap(),
            settings,
            feeds: vec![feed],
            quota: None,
            orders,
        }));
        Self { _dir: dir, shared }
    }

    /// Records jobs that have ended, numbered from 1, in one transaction.
    pub(crate) async fn ended(&self, jobs: u64) {
        Self::ended_in(&self.shared, jobs).await;
    }

    /// The same for any agent.
    pub(crate) async fn ended_in(shared: &Shared, jobs: u64) {
        let feed = shared.feeds[0].name.clone();
        let add = move |tx: &rusqlite::Transaction<'_>| {
            for n in 1..=jobs {
                let job = JobId::from_parts(n, u128::from(n)).to_string();
                // No decision depends on a time that is stored: the clock may have been anywhere.
                let ended_ms = if n % 2 == 0 { i64::MAX } else { 0 };
                tx.execute(
                    "INSERT INTO jobs (job, attempt, feed, feed_job, claim, state, taken_ms, ended_ms, verdict)
                     VALUES (?1, ?1, ?2, ?3, '{}', 'ended', 0, ?4, 'succeeded')",
                    rusqlite::params![job, feed.as_str(), n.to_string(), ended_ms],
                )?;
                tx.execute(
                    "INSERT INTO outbox (job, feed, feed_job, body) VALUES (?1, ?2, ?3, ?4)",
                    rusqlite::params![job, feed.as_str(), n.to_string(), format!("{{\"n\":{n}}}")],
                )?;
            }
            Ok(())
        };
        shared.store.change(Durability::Disk, add).await.unwrap();
    }

    pub(crate) fn feed(&self) -> &Arc<FeedState> {
        &self.shared.feeds[0]
    }

    fn deliver(&self) -> tokio::task::JoinHandle<()> {
        tokio::spawn(deliver::run(
            Arc::clone(&self.shared),
            Arc::clone(self.feed()),
            tokio::sync::watch::channel(Until::Cancelled).1,
        ))
    }

    /// Has the store refuse every change, or take them again.
    pub(crate) async fn set_writable(&self, writable: bool) {
        let pragma =
            move |db: &rusqlite::Connection| db.pragma_update(None, "query_only", !writable);
        self.shared.store.look(pragma).await.unwrap();
    }

    pub(crate) async fn depth(&self) -> u64 {
        self.shared.store.outbox_depth().await.unwrap()
    }

    pub(crate) async fn until_empty(&self) {
        while self.depth().await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub(crate) fn settings(dir: &Path, server: SocketAddr) -> AgentSettings {
    AgentSettings {
        state: dir.to_owned(),
        control: dir.join("agent.sock"),
        feeds: vec![FeedSettings::DocThor(DocThorSettings {
            name: "docs".parse().unwrap(),
            server: format!("http://{server}"),
            token: Secret::new("token".to_owned()),
            poll: Duration::from_secs(5),
            slots: 1,
            ca_bundle: None,
        })],
        slots: 1,
        depot: S3Settings {
            endpoint: "http://127.0.0.1:1".to_owned(),
            region: "test".to_owned(),
            bucket: "docs".to_owned(),
            path_style: true,
            credentials: S3Credentials {
                access_key: "key".to_owned(),
                secret_key: Secret::new("secret".to_owned()),
                session_token: None,
            },
            ca_bundle: None,
            parallel: 1,
        },
        depot_tuning: S3Tuning::default(),
        jobs: JobPolicy {
            limits: Limits::default(),
            limit_policy: LimitPolicy::Enforce,
            network: NetworkMode::None,
            egress: Egress::default(),
            read_only_root: false,
            env: Vec::new(),
            secrets: Vec::new(),
            images: BTreeMap::new(),
            default_image: None,
            default_registry: None,
            allowed_images: Vec::new(),
            allowed_hosts: Vec::new(),
            local_sources: false,
            log: ByteSize::new(1 << 20),
        },
        recovery: Recovery::Report,
        drain: Duration::from_secs(1),
        watermarks: Watermarks {
            free_bytes: ByteSize::new(1),
            free_inodes: 0,
        },
        cache: CacheBudget::default(),
        listen: None,
        history: Duration::from_secs(3600),
    }
}

pub(crate) fn engine_settings(dir: &Path) -> Settings {
    Settings {
        cache: dir.join("cache"),
        work: dir.join("work"),
        pull: PullOptions {
            authfile: None,
            plain_http: false,
        },
        runtime: None,
        places: RuntimePlaces {
            state: dir.join("runtime"),
            container_host: None,
            runtime_dir: None,
        },
        ceiling: Ceiling::default(),
        network: NetworkSettings::default(),
        own_ids: false,
        apparmor: None,
        selinux: Selinux::Off,
        source: Arc::default(),
    }
}

/// The answer, unless somebody rings first: then a panic, as a mistake in it would be one.
pub(crate) async fn unless_broken<T>(bell: &Notify, attempt: impl Future<Output = T>) -> T {
    tokio::select! {
        biased;
        () = bell.notified() => panic!("a mistake, on purpose"),
        answer = attempt => answer,
    }
}

/// Virtual time that passes in steps, each with as much real time as store and server need for what it brings about. Of
/// itself tokio's paused clock would run ahead of the store, which is a thread that it does not know.
pub(crate) struct Clock {
    _held: std::sync::mpsc::Sender<()>,
}

impl Clock {
    pub(crate) fn hold() -> Self {
        let (held, released) = std::sync::mpsc::channel::<()>();
        tokio::task::spawn_blocking(move || released.recv());
        Self { _held: held }
    }

    pub(crate) async fn pass(&self, bed: &Bed, time: Duration) {
        let step = Duration::from_secs(5);
        let mut passed = Duration::ZERO;
        while passed < time {
            passed += step;
            self.jump(bed, step).await;
        }
    }

    /// The same in one step.
    pub(crate) async fn jump(&self, bed: &Bed, time: Duration) {
        tokio::time::advance(time).await;
        self.settle(bed).await;
    }

    pub(crate) async fn settle(&self, bed: &Bed) {
        for _ in 0..3 {
            bed.depth().await;
            tokio::task::spawn_blocking(|| std::thread::sleep(Duration::from_micros(500)))
                .await
                .unwrap();
        }
    }
}

pub(crate) fn anywhere() -> SocketAddr {
    ANYWHERE.parse().unwrap()
}

/// An address at which nobody listens.
async fn nobody() -> SocketAddr {
    Server::start(anywhere(), Box::new(|_| (200, String::new())))
        .await
        .address
}

#[tokio::test]
async fn ten_thousand_results_are_told_once_each() {
    let server = Server::start(anywhere(), Box::new(server::known)).await;
    let bed = Bed::new(server.address);
    bed.ended(10_000).await;
    let task = bed.deliver();
    bed.until_empty().await;
    task.abort();
    let asked = server.asked();
    let paths: BTreeSet<_> = asked.iter().map(|asked| &asked.path).collect();
    assert_eq!((asked.len(), paths.len()), (10_000, 10_000));
    assert!(paths.contains(&"/api/v1/builds/10000/result".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_an_hour_is_told_when_it_is_back() {
    let address = nobody().await;
    let bed = Bed::new(address);
    bed.ended(20).await;
    let task = bed.deliver();
    let clock = Clock::hold();
    clock.pass(&bed, Duration::from_secs(3600)).await;
    assert_eq!(bed.depth().await, 20);
    let trouble = Trouble::Outbox(bed.feed().name.clone());
    assert!(bed.shared.has(&trouble));
    // It was asked with one result, seldom, and not with all of them.
    let waiting = bed.shared.store.waiting(&bed.feed().name, 0).await.unwrap();
    let mut tries = Vec::new();
    for seq in &waiting {
        let parcel = bed.shared.store.send_off(*seq).await.unwrap().unwrap();
        tries.push(parcel.tries);
    }
    let all: u32 = tries.iter().sum();
    assert!((5..200).contains(&all), "{tries:?}");
    let server = Server::start(address, Box::new(server::known)).await;
    while bed.depth().await > 0 {
        clock.pass(&bed, Duration::from_secs(5)).await;
    }
    task.abort();
    assert_eq!(server.asked().len(), 20);
    assert!(!bed.shared.has(&trouble));
}

#[tokio::test(start_paused = true)]
async fn a_result_that_was_stored_with_an_error_is_not_told_for_ever() {
    // A version that exists: stored, answered with 500, and with 409 from then on.
    let times = AtomicU32::new(0);
    let answering = move |_: &server::Asked| match times.fetch_add(1, Ordering::SeqCst) {
        0 => (500, r#"{"error":"database error"}"#.to_owned()),
        _ => (
            409,
            r#"{"error":"build is not in running state"}"#.to_owned(),
        ),
    };
    let server = Server::start(anywhere(), Box::new(answering)).await;
    let bed = Bed::new(server.address);
    bed.ended(1).await;
    let task = bed.deliver();
    bed.until_empty().await;
    task.abort();
    assert_eq!(server.asked().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refused_token_loses_nothing() {
    let times = AtomicU32::new(0);
    let answering = move |asked: &server::Asked| match times.fetch_add(1, Ordering::SeqCst) {
        0..5 => (401, r#"{"error":"unauthorized"}"#.to_owned()),
        _ => server::known(asked),
    };
    let server = Server::start(anywhere(), Box::new(answering)).await;
    let bed = Bed::new(server.address);
    bed.ended(3).await;
    let task = bed.deliver();
    bed.until_empty().await;
    task.abort();
    assert_eq!(server.asked().len(), 8);
}

#[tokio::test(start_paused = true)]
async fn one_result_that_cannot_be_told_does_not_hold_up_the_others() {
    let answering = |asked: &server::Asked| {
        if asked.path == "/api/v1/builds/1/result" {
            (500, r#"{"error":"database error"}"#.to_owned())
        } else {
            server::known(asked)
        }
    };
    let server = Server::start(anywhere(), Box::new(answering)).await;
    let bed = Bed::new(server.address);
    bed.ended(50).await;
    let task = bed.deliver();
    while bed.depth().await > 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It is kept, and tried seldom.
    let clock = Clock::hold();
    clock.pass(&bed, Duration::from_secs(3600)).await;
    task.abort();
    assert_eq!(bed.depth().await, 1);
    let of_it = server.asked();
    let of_it = of_it.iter().filter(|a| a.path.contains("/1/")).count();
    assert!((3..40).contains(&of_it), "{of_it}");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_too_large_is_told_shorter() {
    let answering = |asked: &server::Asked| {
        if asked.body.len() > 5000 {
            (413, String::new())
        } else {
            server::known(asked)
        }
    };
    let server = Server::start(anywhere(), Box::new(answering)).await;
    let bed = Bed::new(server.address);
    bed.ended(1).await;
    let log = "x".repeat(100_000);
    let body = format!(r#"{{"job_id":"1","status":"failed","duration":"1s","logs":"{log}"}}"#);
    bed.shared.store.replace_body(1, body).await.unwrap();
    let task = bed.deliver();
    bed.until_empty().await;
    task.abort();
    let last = server.asked().pop().unwrap().body;
    assert!(last.contains(r#""status":"failed""#) && last.contains("the server refused"));
}

#[tokio::test(start_paused = true)]
async fn a_proxy_that_does_not_know_the_way_is_not_believed() {
    let times = AtomicU32::new(0);
    let answering = move |_: &server::Asked| match times.fetch_add(1, Ordering::SeqCst) {
        0 => (404, "<html>no such page</html>".to_owned()),
        1 => (302, String::new()),
        _ => (404, r#"{"error":"build not found"}"#.to_owned()),
    };
    let server = Server::start(anywhere(), Box::new(answering)).await;
    let bed = Bed::new(server.address);
    bed.ended(1).await;
    let task = bed.deliver();
    bed.until_empty().await;
    task.abort();
    assert_eq!(server.asked().len(), 3);
}
