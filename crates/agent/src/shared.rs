//! What all tasks of an agent share: the store, the engine, and the state that people ask for.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bryo_depot::S3Depot;
use bryo_engine::{Control, Engine};
use bryo_model::{JobId, Stage, Verdict};
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::task::TaskTracker;

use crate::agent::Order;
use crate::collector::Collector;
use crate::feed::Feed;
use crate::host::Streak;
use crate::metrics::Metrics;
use crate::slots::{Slots, Turns};
use crate::store::Store;
use crate::{AgentSettings, FeedName, FeedSettings};

/// What the agent is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It takes jobs.
    Open,
    /// It takes none until it is told to; what runs goes on.
    Paused,
    /// It takes none any more; what runs goes on for a while.
    Draining,
    /// It takes none any more, and ends what runs.
    Stopping,
}

impl Phase {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }

    /// Whether it will never take a job again.
    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::Draining | Self::Stopping)
    }
}

/// A job that has been taken and has not ended.
#[derive(Clone, Debug)]
pub(crate) struct Running {
    pub(crate) control: Control,
    pub(crate) feed: FeedName,
    pub(crate) feed_job: String,
    pub(crate) title: String,
    /// `None` while it waits for its turn.
    pub(crate) stage: Option<Stage>,
    pub(crate) since: Instant,
}

/// A feed with what the agent knows of it.
#[derive(Debug)]
pub(crate) struct FeedState {
    pub(crate) name: FeedName,
    feed: Mutex<Feed>,
    settings: Mutex<FeedSettings>,
    pub(crate) slots: Slots,
    /// Rung when something new is in its outbox, or when it may have become reachable.
    pub(crate) outbox_bell: Notify,
    /// Rung when its settings have changed, so that nobody waits for what no longer holds.
    pub(crate) changed: Notify,
    /// When it was last asked for a job, and what came of it.
    pub(crate) last: Mutex<Option<(Instant, String)>>,
    pub(crate) lost: Mutex<Lost>,
}

/// Claims whose answers were lost, since the last day without one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lost {
    pub(crate) count: u64,
    pub(crate) last: Option<tokio::time::Instant>,
}

impl FeedState {
    pub(crate) fn new(settings: &FeedSettings, feed: Feed) -> Self {
        Self {
            name: settings.name().clone(),
            slots: Slots::new(settings.slots()),
            feed: Mutex::new(feed),
            settings: Mutex::new(settings.clone()),
            outbox_bell: Notify::new(),
            changed: Notify::new(),
            last: Mutex::new(None),
            lost: Mutex::default(),
        }
    }

    pub(crate) fn feed(&self) -> Feed {
        lock(&self.feed).clone()
    }

    pub(crate) fn poll(&self) -> Duration {
        lock(&self.settings).poll()
    }

    /// A client that would be the same stays, and so do its connections.
    pub(crate) fn change(&self, settings: &FeedSettings, feed: Feed) {
        self.slots.set(settings.slots());
        if !lock(&self.settings).speaks_like(settings) {
            *lock(&self.feed) = feed;
        }
        *lock(&self.settings) = settings.clone();
        self.changed.notify_waiters();
        self.outbox_bell.notify_one();
    }

    pub(crate) fn asked(&self, came_of_it: impl Into<String>) {
        *lock(&self.last) = Some((Instant::now(), came_of_it.into()));
    }
}

/// Something that an operator should look at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Trouble {
    /// The host cannot run jobs.
    Host,
    /// One job after the other ended because of the host or the bucket.
    Failures,
    /// Not enough room for another job.
    Space,
    /// Something of the cache cannot be removed.
    Cache,
    /// The database cannot be written to.
    Store,
    /// Not all of it could be removed.
    Leftovers,
    /// The last settings could not be used.
    Reload,
    /// A feed cannot be asked for jobs.
    Feed(FeedName),
    /// A feed cannot be told results.
    Outbox(FeedName),
    /// Jobs may have been given away in answers that could not be read.
    LostClaim(FeedName),
    /// There are jobs or results of a feed that is not configured.
    UnknownFeed(String),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Failures => f.write_str("failures"),
            Self::Space => f.write_str("space"),
            Self::Cache => f.write_str("cache"),
            Self::Store => f.write_str("store"),
            Self::Leftovers => f.write_str("leftovers"),
            Self::Reload => f.write_str("reload"),
            Self::Feed(name) => write!(f, "feed {name}"),
            Self::Outbox(name) => write!(f, "outbox {name}"),
            Self::LostClaim(name) => write!(f, "lost claim {name}"),
            Self::UnknownFeed(name) => write!(f, "unknown feed {name}"),
        }
    }
}

/// One agent.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    settings: Mutex<Arc<AgentSettings>>,
    depot: Mutex<S3Depot>,
    /// Where the engine keeps things; looked at for free space.
    pub(crate) places: Vec<PathBuf>,
    pub(crate) feeds: Vec<Arc<FeedState>>,
    pub(crate) slots: Slots,
    pub(crate) turns: Turns,
    pub(crate) phase: watch::Sender<Phase>,
    /// Whether the host was found fit for jobs.
    pub(crate) host: watch::Sender<bool>,
    /// The last attempts that ended because of the host or the bucket, one after the other.
    pub(crate) streak: watch::Sender<Streak>,
    /// Held by the one job that may run while there is a streak.
    pub(crate) trial: Arc<tokio::sync::Mutex<()>>,
    /// Whether the jobs of an earlier process have their slots.
    pub(crate) recovered: watch::Sender<bool>,
    /// Rung when what the host was found unfit for may have changed.
    pub(crate) host_bell: Notify,
    pub(crate) running: Mutex<BTreeMap<JobId, Running>>,
    /// Tasks that see to jobs; they end well before the agent does.
    pub(crate) workers: TaskTracker,
    pub(crate) troubles: watch::Sender<BTreeMap<Trouble, String>>,
    pub(crate) metrics: Metrics,
    pub(crate) collector: Collector,
    /// How many jobs may still be taken, where that is bounded.
    pub(crate) quota: Mutex<Option<usize>>,
    /// The verdict of the job that ended last.
    pub(crate) last_verdict: Mutex<Option<Verdict>>,
    pub(crate) orders: mpsc::Sender<Order>,
    /// Rung by tests, so that an attempt panics where it stands.
    #[cfg(test)]
    pub(crate) breaking: Notify,
}

/// What [`Shared`] is made from.
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) engine: Engine,
    pub(crate) settings: AgentSettings,
    pub(crate) depot: S3Depot,
    pub(crate) feeds: Vec<Arc<FeedState>>,
    pub(crate) quota: Option<usize>,
    pub(crate) orders: mpsc::Sender<Order>,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Self {
        let mut places = parts.engine.places();
        places.push(parts.settings.state.clone());
        let names = parts.feeds.iter().map(|feed| feed.name.clone());
        Self {
            metrics: Metrics::new(names),
            collector: Collector::default(),
            places,
            slots: Slots::new(parts.settings.slots),
            turns: Turns::default(),
            phase: watch::Sender::new(Phase::Open),
            host: watch::Sender::new(false),
            streak: watch::Sender::default(),
            trial: Arc::default(),
            recovered: watch::Sender::new(false),
            host_bell: Notify::new(),
            running: Mutex::default(),
            workers: TaskTracker::new(),
            troubles: watch::Sender::new(BTreeMap::new()),
            quota: Mutex::new(parts.quota),
            last_verdict: Mutex::new(None),
            store: parts.store,
            engine: parts.engine,
            settings: Mutex::new(Arc::new(parts.settings)),
            depot: Mutex::new(parts.depot),
            feeds: parts.feeds,
            orders: parts.orders,
            #[cfg(test)]
            breaking: Notify::new(),
        }
    }

    pub(crate) fn settings(&self) -> Arc<AgentSettings> {
        Arc::clone(&lock(&self.settings))
    }

    pub(crate) fn depot(&self) -> S3Depot {
        lock(&self.depot).clone()
    }

    pub(crate) fn replace(&self, settings: AgentSettings, depot: S3Depot) {
        self.slots.set(settings.slots);
        *lock(&self.depot) = depot;
        *lock(&self.settings) = Arc::new(settings);
        self.host_bell.notify_one();
    }

    pub(crate) fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    pub(crate) fn feed(&self, name: &str) -> Option<&Arc<FeedState>> {
        self.feeds.iter().find(|feed| feed.name.as_str() == name)
    }

    /// Tells that something is wrong, once for as long as it is wrong in the same way.
    pub(crate) fn trouble(&self, what: Trouble, text: impl Into<String>) {
        let text = text.into();
        self.troubles.send_if_modified(|troubles| {
            if troubles.get(&what) == Some(&text) {
                return false;
            }
            tracing::warn!(trouble = %what, "{text}");
            troubles.insert(what, text);
            true
        });
    }

    /// Whether this is wrong.
    pub(crate) fn has(&self, what: &Trouble) -> bool {
        self.troubles.borrow().contains_key(what)
    }

    /// Tells that it is right again.
    pub(crate) fn mended(&self, what: &Trouble) {
        self.troubles.send_if_modified(|troubles| {
            let was = troubles.remove(what).is_some();
            if was {
                tracing::info!(trouble = %what, "it is over");
            }
            was
        });
    }

    /// Every job that has been taken is asked to end.
    pub(crate) fn cancel_all(&self) {
        for running in lock(&self.running).values() {
            running.control.cancel();
        }
    }

    /// Every job that has been taken is ended by force.
    pub(crate) fn kill_all(&self) {
        for running in lock(&self.running).values() {
            running.control.kill();
        }
    }
}

/// A panic elsewhere has not made the data wrong: each change is one assignment.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Wall clock, in milliseconds since 1970: for people, no decision depends on it.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// An id that is new.
pub(crate) fn new_id() -> JobId {
    let ms = u64::try_from(now_ms()).unwrap_or(0);
    JobId::from_parts(ms, fastrand::u128(..))
}
