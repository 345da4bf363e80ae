//! The cache kept within bounds: when space is short, and regularly while there is nothing to do.
//!
//! One task collects, so that there is one collection at a time; whoever is short of space rings and waits for it, and
//! nobody else does. What jobs use stays, so a collection may come while some run.

use std::sync::Arc;
use std::time::Duration;

use bryo_engine::{Collect, Collected, Engine, Room};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use crate::Watermarks;
use crate::error::chain;
use crate::shared::{Shared, Trouble, lock};

/// Between two collections for space: looking through a cache costs more than looking at the disk.
const PAUSE: Duration = Duration::from_secs(10);

/// From the start to the first regular collection.
const FIRST: Duration = Duration::from_secs(60);

/// Between two of them.
const REGULAR: Duration = Duration::from_secs(3600);

/// How long a regular one waits for a time without jobs.
const BUSY: Duration = Duration::from_secs(3600);

/// How often it looks for that.
const LOOK: Duration = Duration::from_secs(30);

/// Where collections are asked for.
#[derive(Debug)]
pub(crate) struct Collector {
    bell: Notify,
    rounds: watch::Sender<u64>,
}

impl Default for Collector {
    fn default() -> Self {
        Self {
            bell: Notify::new(),
            rounds: watch::Sender::new(0),
        }
    }
}

impl Collector {
    /// Asks for space, and waits until a collection has ended, for so long at most.
    pub(crate) async fn make_room(&self, at_most: Duration) {
        let mut rounds = self.rounds.subscribe();
        self.bell.notify_one();
        let _ = timeout(at_most, rounds.changed()).await;
    }

    fn ended(&self) {
        self.rounds
            .send_modify(|round| *round = round.wrapping_add(1));
    }
}

/// What a collection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Space,
    Budget,
}

/// For what keeps an agent from beginning.
const START: Duration = Duration::from_secs(30);

/// When the next one is due.
struct Schedule {
    ended: Option<Instant>,
    due: Instant,
    look: Instant,
}

impl Schedule {
    fn new() -> Self {
        let due = Instant::now() + FIRST;
        Self {
            ended: None,
            due,
            look: due,
        }
    }

    async fn next(&mut self, bell: &Notify, idle: impl Fn() -> bool) -> Why {
        loop {
            let not_before = self.ended.map(|ended| ended + PAUSE);
            let rung = async {
                if let Some(time) = not_before {
                    sleep_until(time).await;
                }
                bell.notified().await;
            };
            tokio::select! {
                biased;
                () = rung => return Why::Space,
                () = sleep_until(self.look) => {}
            }
            let now = Instant::now();
            if idle() || now >= self.due + BUSY {
                self.due = now + REGULAR;
                self.look = self.due;
                return Why::Budget;
            }
            self.look = now + LOOK;
        }
    }
}

/// Collects for as long as the agent lives.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut schedule = Schedule::new();
    loop {
        let idle = || lock(&shared.running).is_empty();
        let why = schedule.next(&shared.collector.bell, idle).await;
        collect(&shared, why).await;
        schedule.ended = Some(Instant::now());
        shared.collector.ended();
    }
}

/// Collects for space once, before there is an agent. What it could not do shows in what was to be done with the space.
pub(crate) async fn before_the_start(engine: &Engine, marks: &Watermarks) {
    let wish = Collect {
        source: true,
        images: true,
        free: Some(enough(marks)),
        ..Collect::default()
    };
    match timeout(START, engine.collect(wish)).await {
        Ok(Ok(done)) => told(&done),
        Ok(Err(error)) => tracing::warn!("the caches could not be collected: {}", chain(&error)),
        Err(_) => tracing::warn!("collecting the caches takes too long to be waited for"),
    }
}

fn told(done: &Collected) {
    if !done.removed.is_empty() {
        tracing::info!(
            things = done.removed.len(),
            bytes = done.bytes(),
            "removed from the cache what was not used for longest"
        );
    }
}

async fn collect(shared: &Shared, why: Why) {
    let settings = shared.settings();
    let wish = Collect {
        source: true,
        images: true,
        ..Collect::default()
    };
    let wish = match why {
        Why::Space => Collect {
            free: Some(enough(&settings.watermarks)),
            ..wish
        },
        Why::Budget => Collect {
            keep: settings.cache.bytes,
            unused_for: settings.cache.unused_for,
            ..wish
        },
    };
    match shared.engine.collect(wish).await {
        Ok(done) => {
            shared.metrics.collected(&done);
            told(&done);
            match done.failed.first() {
                Some((what, reason)) => shared.trouble(
                    Trouble::Cache,
                    format!("{} {} cannot be removed: {reason}", what.kind, what.name),
                ),
                None => shared.mended(&Trouble::Cache),
            }
        }
        Err(error) => shared.trouble(Trouble::Cache, chain(&error)),
    }
}

/// Half as much again as must be free, so that the next job does not need another collection.
fn enough(marks: &Watermarks) -> Room {
    let more = |n: u64| n.saturating_add(n / 2);
    Room {
        bytes: more(marks.free_bytes.bytes()),
        inodes: more(marks.free_inodes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn collections_for_space_come_at_once_and_not_too_often() {
        let (bell, start) = (Notify::new(), Instant::now());
        let mut schedule = Schedule::new();
        bell.notify_one();
        assert_eq!(schedule.next(&bell, || false).await, Why::Space);
        assert_eq!(start.elapsed(), Duration::ZERO);
        schedule.ended = Some(Instant::now());
        bell.notify_one();
        assert_eq!(schedule.next(&bell, || false).await, Why::Space);
        assert!(start.elapsed() >= PAUSE && start.elapsed() < PAUSE * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn regular_ones_wait_for_a_quiet_time_but_not_for_ever() {
        let (bell, start) = (Notify::new(), Instant::now());
        let mut schedule = Schedule::new();
        assert_eq!(schedule.next(&bell, || true).await, Why::Budget);
        let first = start.elapsed();
        assert!(first >= FIRST && first < FIRST * 2, "{first:?}");
        let quiet = start + FIRST + REGULAR + BUSY / 2;
        let idle = || Instant::now() >= quiet;
        assert_eq!(schedule.next(&bell, idle).await, Why::Budget);
        let second = Instant::now();
        assert!(second >= quiet && second < quiet + LOOK * 2);
        assert_eq!(schedule.next(&bell, || false).await, Why::Budget);
        assert!(Instant::now() >= second + REGULAR + BUSY);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_short_of_space_waits_for_the_collection_and_no_longer_than_it_may() {
        let collector = Arc::new(Collector::default());
        let start = Instant::now();
        collector.make_room(Duration::from_secs(7)).await;
        assert!(start.elapsed() >= Duration::from_secs(7));
        let other = Arc::clone(&collector);
        let one = tokio::spawn(async move {
            // Rung twice before anybody listened is rung once.
            other.bell.notified().await;
            other.ended();
        });
        let start = Instant::now();
        collector.make_room(Duration::from_secs(7)).await;
        let _ = one.await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
