//! What is counted, in the OpenMetrics text format.

use std::fmt;
use std::time::Duration;

use bryo_engine::Collected;
use bryo_model::{Report, Stage, Verdict};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::FeedName;

/// Seconds: from a cached checkout to a long build.
const SECONDS: [f64; 12] = [
    0.001, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFeed {
    feed: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfVerdict {
    feed: String,
    verdict: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfStage {
    stage: String,
}

/// Counters of one agent, and what they are registered in.
pub(crate) struct Metrics {
    registry: Registry,
    taken: Family<OfFeed, Counter>,
    lost: Family<OfFeed, Counter>,
    delivered: Family<OfFeed, Counter>,
    ended: Family<OfVerdict, Counter>,
    stages: Family<OfStage, Histogram>,
    cached_sources: Counter,
    output_bytes: Counter,
    output_files: Counter,
    log_bytes: Counter,
    running: Gauge,
    slots: Gauge,
    outbox: Gauge,
    troubles: Gauge,
    free_bytes: Gauge,
    collections: Counter,
    collected: Counter,
    collected_bytes: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// What is looked up when it is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) running: usize,
    pub(crate) slots: usize,
    pub(crate) outbox: u64,
    pub(crate) troubles: usize,
    /// Least of the file systems in use.
    pub(crate) free_bytes: u64,
}

impl Metrics {
    pub(crate) fn new(feeds: impl Iterator<Item = FeedName>) -> Self {
        let mut registry = Registry::with_prefix("bryo");
        let metrics = Self {
            taken: Family::default(),
            lost: Family::default(),
            delivered: Family::default(),
            ended: Family::default(),
            stages: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            cached_sources: Counter::default(),
            output_bytes: Counter::default(),
            output_files: Counter::default(),
            log_bytes: Counter::default(),
            running: Gauge::default(),
            slots: Gauge::default(),
            outbox: Gauge::default(),
            troubles: Gauge::default(),
            free_bytes: Gauge::default(),
            collections: Counter::default(),
            collected: Counter::default(),
            collected_bytes: Counter::default(),
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("jobs_taken", "Jobs taken from a feed", m.taken.clone());
        registry.register(
            "claims_lost",
            "Answers that may have given a job away and could not be read",
            m.lost.clone(),
        );
        registry.register(
            "results_delivered",
            "Results that a feed knows",
            m.delivered.clone(),
        );
        registry.register("jobs_ended", "Attempts by verdict", m.ended.clone());
        registry.register_with_unit(
            "stage",
            "Time that stages took",
            Unit::Seconds,
            m.stages.clone(),
        );
        registry.register(
            "sources_cached",
            "Attempts whose source needed no network",
            m.cached_sources.clone(),
        );
        registry.register_with_unit("output", "Published", Unit::Bytes, m.output_bytes.clone());
        registry.register("output_files", "Files published", m.output_files.clone());
        registry.register_with_unit(
            "log",
            "Written by jobs to their output streams",
            Unit::Bytes,
            m.log_bytes.clone(),
        );
        registry.register("jobs_running", "Jobs at this time", m.running.clone());
        registry.register("slots", "Jobs at one time at most", m.slots.clone());
        registry.register(
            "outbox_depth",
            "Results that a feed does not know yet",
            m.outbox.clone(),
        );
        registry.register(
            "troubles",
            "Things that an operator should look at",
            m.troubles.clone(),
        );
        registry.register_with_unit(
            "disk_free",
            "Least free space of cache, work and state",
            Unit::Bytes,
            m.free_bytes.clone(),
        );
        registry.register(
            "cache_collections",
            "Times that the cache was collected",
            m.collections.clone(),
        );
        registry.register(
            "cache_removed",
            "Things removed from the cache",
            m.collected.clone(),
        );
        registry.register_with_unit(
            "cache_removed",
            "Removed from the cache",
            Unit::Bytes,
            m.collected_bytes.clone(),
        );
        // What has not happened yet is there too, as 0.
        for feed in feeds {
            for family in [&m.taken, &m.lost, &m.delivered] {
                let _ = family.get_or_create(&of_feed(&feed));
            }
        }
        Self {
            registry,
            ..metrics
        }
    }

    pub(crate) fn taken(&self, feed: &FeedName) {
        self.taken.get_or_create(&of_feed(feed)).inc();
    }

    pub(crate) fn lost(&self, feed: &FeedName) {
        self.lost.get_or_create(&of_feed(feed)).inc();
    }

    pub(crate) fn delivered(&self, feed: &FeedName) {
        self.delivered.get_or_create(&of_feed(feed)).inc();
    }

    pub(crate) fn stage(&self, stage: Stage, took: Duration) {
        let label = OfStage {
            stage: stage.to_string(),
        };
        self.stages
            .get_or_create(&label)
            .observe(took.as_secs_f64());
    }

    pub(crate) fn ended(&self, feed: &FeedName, verdict: &Verdict, report: &Report) {
        let label = OfVerdict {
            feed: feed.to_string(),
            verdict: verdict.word().to_owned(),
        };
        self.ended.get_or_create(&label).inc();
        self.output_bytes.inc_by(report.resources.output_bytes);
        self.output_files.inc_by(report.resources.output_files);
        self.log_bytes.inc_by(report.resources.log_bytes);
        if report.source_cached == Some(true) {
            self.cached_sources.inc();
        }
    }

    pub(crate) fn collected(&self, done: &Collected) {
        self.collections.inc();
        self.collected.inc_by(done.removed.len() as u64);
        self.collected_bytes.inc_by(done.bytes());
    }

    /// All of it, as text.
    pub(crate) fn text(&self, now: Now) -> String {
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.running.set(whole(now.running as u64));
        self.slots.set(whole(now.slots as u64));
        self.outbox.set(whole(now.outbox));
        self.troubles.set(whole(now.troubles as u64));
        self.free_bytes.set(whole(now.free_bytes));
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn of_feed(feed: &FeedName) -> OfFeed {
    OfFeed {
        feed: feed.to_string(),
    }
}
