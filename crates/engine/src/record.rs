//! What is known of an attempt so far; becomes the report.

use std::time::{Duration, Instant};

use bryo_model::{
    Blame, CommitId, Event, JobId, Limits, LimitsInForce, Report, ResourceUse, RuntimeKind, Stage,
    StageTime, Verdict,
};

use crate::events::Events;

/// The record of an attempt that goes on.
#[derive(Debug)]
pub(crate) struct Record {
    began: Instant,
    stages: Vec<StageTime>,
    current: Option<(Stage, Instant)>,
    pub(crate) commit: Option<CommitId>,
    pub(crate) source_cached: Option<bool>,
    pub(crate) image_cached: Option<bool>,
    pub(crate) image_digest: Option<String>,
    pub(crate) runtime: Option<RuntimeKind>,
    pub(crate) exit_code: Option<i32>,
    pub(crate) signal: Option<i32>,
    pub(crate) selinux_label: Option<String>,
    pub(crate) resources: ResourceUse,
    pub(crate) limits: LimitsInForce,
    pub(crate) leftovers: Vec<String>,
}

impl Record {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            began: Instant::now(),
            stages: Vec::new(),
            current: None,
            commit: None,
            source_cached: None,
            image_cached: None,
            image_digest: None,
            runtime: None,
            exit_code: None,
            signal: None,
            selinux_label: None,
            resources: ResourceUse::default(),
            limits: of_the_engine(limits),
            leftovers: Vec::new(),
        }
    }

    /// The stage that goes on.
    pub(crate) fn stage(&self) -> Stage {
        self.current.map_or(Stage::Fetch, |(stage, _)| stage)
    }

    pub(crate) async fn begin(&mut self, events: &Events, stage: Stage) {
        self.current = Some((stage, Instant::now()));
        events.emit(Event::StageBegan(stage)).await;
    }

    /// Ends the stage that goes on, if one does.
    pub(crate) async fn end(&mut self, events: &Events, summary: impl Into<String>) {
        let Some((stage, since)) = self.current.take() else {
            return;
        };
        let took = since.elapsed();
        self.stages.push(StageTime {
            stage,
            ms: milliseconds(took),
        });
        events
            .emit(Event::StageEnded {
                stage,
                took,
                summary: summary.into(),
            })
            .await;
    }

    pub(crate) fn into_report(self, job: JobId, verdict: &Verdict, blame: Option<Blame>) -> Report {
        Report {
            blame,
            exit_code: self.exit_code,
            signal: self.signal,
            commit: self.commit,
            source_cached: self.source_cached,
            image_cached: self.image_cached,
            image_digest: self.image_digest,
            runtime: self.runtime,
            selinux_label: self.selinux_label,
            stages: self.stages,
            total_ms: milliseconds(self.began.elapsed()),
            resources: self.resources,
            limits: self.limits,
            leftovers: self.leftovers,
            ..Report::new(job, verdict)
        }
    }
}

/// The bounds that the engine itself keeps.
fn of_the_engine(limits: &Limits) -> LimitsInForce {
    with_the_engines(LimitsInForce::default(), limits)
}

/// The bounds of the sandbox, and those that the engine itself keeps.
pub(crate) fn with_the_engines(sandbox: LimitsInForce, limits: &Limits) -> LimitsInForce {
    LimitsInForce {
        log: limits.log,
        timeout_s: limits.timeout.as_secs_f64(),
        stage_timeouts_s: Stage::ALL
            .into_iter()
            .filter_map(|stage| Some((stage, limits.of_stage(stage)?.as_secs_f64())))
            .collect(),
        silence_s: limits.silence.map(|d| d.as_secs_f64()),
        ..sandbox
    }
}

/// With the precision of a microsecond: more would only be noise in a report.
fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}
