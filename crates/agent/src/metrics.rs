//! What is counted, in the OpenMetrics text format.

use std::fmt;
use std::time::Duration;

use bryo_engine::Collected;
use bryo_model::{Report, Stage, Verdict};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
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

/// What all names begin with.
const PREFIX: &str = "bryo";

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
    waited: Histogram,
    cached_sources: Counter,
    cached_images: Counter,
    output_bytes: Counter,
    output_files: Counter,
    log_bytes: Counter,
    collections: Counter,
    collected: Counter,
    collected_bytes: Counter,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// What is looked up when it is asked for. What could not be is left out: a number that is not known is not 0.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    pub(crate) running: usize,
    pub(crate) slots: usize,
    pub(crate) outbox: Option<u64>,
    pub(crate) troubles: usize,
    /// Least of the file systems in use.
    pub(crate) free_bytes: Option<u64>,
    /// The same for inodes, where a file system counts them.
    pub(crate) free_inodes: Option<u64>,
    /// Below which no jobs are taken.
    pub(crate) mark_bytes: u64,
    pub(crate) mark_inodes: u64,
}

impl Now {
    fn registry(self) -> Registry {
        let mut registry = Registry::with_prefix(PREFIX);
        let bytes = Some(Unit::Bytes);
        for (name, help, unit, value) in [
            (
                "jobs_running",
                "Jobs at this time",
                None,
                Some(self.running as u64),
            ),
            (
                "slots",
                "Jobs at one time at most",
                None,
                Some(self.slots as u64),
            ),
            (
                "outbox_depth",
                "Results that a feed does not know yet",
                None,
                self.outbox,
            ),
            (
                "troubles",
                "Things that an operator should look at",
                None,
                Some(self.troubles as u64),
            ),
            (
                "disk_free",
                "Least free space of cache, work and state",
                bytes.clone(),
                self.free_bytes,
            ),
            (
                "disk_free_inodes",
                "Least free inodes of cache, work and state",
                None,
                self.free_inodes,
            ),
            (
                "disk_watermark",
                "Free space below which no jobs are taken",
                bytes,
                Some(self.mark_bytes),
            ),
            (
                "disk_watermark_inodes",
                "Free inodes below which no jobs are taken",
                None,
                Some(self.mark_inodes),
            ),
        ] {
            let Some(value) = value else { continue };
            let gauge = Gauge::<i64>::default();
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
            match unit {
                Some(unit) => registry.register_with_unit(name, help, unit, gauge),
                None => registry.register(name, help, gauge),
            }
        }
        registry
    }
}

impl Metrics {
    pub(crate) fn new(feeds: impl Iterator<Item = FeedName>) -> Self {
        let mut registry = Registry::with_prefix(PREFIX);
        let metrics = Self {
            taken: Family::default(),
            lost: Family::default(),
            delivered: Family::default(),
            ended: Family::default(),
            stages: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            waited: Histogram::new(SECONDS),
            cached_sources: Counter::default(),
            cached_images: Counter::default(),
            output_bytes: Counter::default(),
            output_files: Counter::default(),
            log_bytes: Counter::default(),
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
        registry.register("jobs_ended", "Jobs by verdict", m.ended.clone());
        registry.register_with_unit(
            "stage",
            "Time that stages took",
            Unit::Seconds,
            m.stages.clone(),
        );
        registry.register_with_unit(
            "queue_wait",
            "From taking a job to the begin of its attempt",
            Unit::Seconds,
            m.waited.clone(),
        );
        registry.register(
            "images_cached",
            "Attempts whose image was there already",
            m.cached_images.clone(),
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

    /// An attempt begins, so long after its job was taken.
    pub(crate) fn waited(&self, time: Duration) {
        self.waited.observe(time.as_secs_f64());
    }

    /// A job ends, whether or not an attempt was made.
    pub(crate) fn ended(&self, feed: &FeedName, verdict: &Verdict) {
        let label = OfVerdict {
            feed: feed.to_string(),
            verdict: verdict.word().to_owned(),
        };
        self.ended.get_or_create(&label).inc();
    }

    /// What an attempt has used.
    pub(crate) fn used(&self, report: &Report) {
        self.output_bytes.inc_by(report.resources.output_bytes);
        self.output_files.inc_by(report.resources.output_files);
        self.log_bytes.inc_by(report.resources.log_bytes);
        if report.source_cached == Some(true) {
            self.cached_sources.inc();
        }
        if report.image_cached == Some(true) {
            self.cached_images.inc();
        }
    }

    pub(crate) fn collected(&self, done: &Collected) {
        self.collections.inc();
        self.collected.inc_by(done.removed.len() as u64);
        self.collected_bytes.inc_by(done.bytes());
    }

    /// All of it, as text.
    pub(crate) fn text(&self, now: Now) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = encode_registry(&mut text, &self.registry);
        let _ = encode_registry(&mut text, &now.registry());
        let _ = encode_eof(&mut text);
        text
    }
}

fn of_feed(feed: &FeedName) -> OfFeed {
    OfFeed {
        feed: feed.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_told() {
        let metrics = Metrics::new(["docs".parse().unwrap()].into_iter());
        let known = Now {
            outbox: Some(3),
            free_inodes: Some(7),
            mark_bytes: 5,
            ..Now::default()
        };
        let text = metrics.text(known);
        for line in [
            "bryo_outbox_depth 3",
            "bryo_disk_free_inodes 7",
            "bryo_disk_watermark_bytes 5",
            "bryo_jobs_taken_total{feed=\"docs\"} 0",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
        assert_eq!(text.matches("# EOF").count(), 1);
        assert!(text.ends_with("# EOF\n"));
        let text = metrics.text(Now::default());
        assert!(
            !text.contains("outbox_depth") && !text.contains("disk_free"),
            "{text}"
        );
    }
}
