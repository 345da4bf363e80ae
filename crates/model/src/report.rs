//! The record of an attempt, as `--json` prints it. The format carries a version from the first day.

use serde::Serialize;

use crate::{ByteSize, CommitId, Cpus, JobId, RuntimeKind, Stage, Verdict};

/// How long a stage took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageTime {
    /// Which.
    pub stage: Stage,
    /// Milliseconds.
    pub ms: f64,
}

/// What the job used, as the kernel counted it; `None` where this host does not count it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ResourceUse {
    /// Processor time of the job, in microseconds.
    pub cpu_us: Option<u64>,
    /// Highest use of memory, in bytes.
    pub memory_peak_bytes: Option<u64>,
    /// Highest number of processes and threads.
    pub pids_peak: Option<u64>,
    /// Bytes read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub io_written_bytes: Option<u64>,
    /// Processes that the kernel killed for memory.
    pub oom_kills: Option<u64>,
    /// Bytes that the job wrote to its standard output and standard error.
    pub log_bytes: u64,
    /// Regular files published.
    pub output_files: u64,
    /// Bytes published.
    pub output_bytes: u64,
}

/// The limits that were read back from the kernel before the job's first instruction.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LimitsInForce {
    /// Bytes.
    pub memory: Option<ByteSize>,
    /// Processors.
    pub cpus: Option<Cpus>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Seconds for the whole attempt.
    pub timeout_s: f64,
    /// Limits that were asked for and are not in force, by explicit choice.
    pub unlimited: Vec<String>,
}

/// The record of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Version of this format.
    pub format: u32,
    /// The job.
    pub job: JobId,
    /// [`Verdict::word`].
    pub verdict: &'static str,
    /// Why, for people; absent on success.
    pub reason: Option<String>,
    /// The code the job's command ended with, where it ended by itself.
    pub exit_code: Option<i32>,
    /// The commit that was built, once known.
    pub commit: Option<CommitId>,
    /// Digest of the image's manifest, once known.
    pub image_digest: Option<String>,
    /// How the sandbox was made, once chosen.
    pub runtime: Option<RuntimeKind>,
    /// Stages in order, those that began.
    pub stages: Vec<StageTime>,
    /// From the first stage to the end of clean-up, in milliseconds.
    pub total_ms: f64,
    /// What the job used.
    pub resources: ResourceUse,
    /// What bounded it.
    pub limits: LimitsInForce,
    /// What could not be cleaned up; empty is the rule.
    pub leftovers: Vec<String>,
}

impl Report {
    /// The version of the format that this code writes.
    pub const FORMAT: u32 = 1;

    /// A report with this verdict and nothing else known.
    #[must_use]
    pub fn new(job: JobId, verdict: &Verdict) -> Self {
        Self {
            format: Self::FORMAT,
            job,
            verdict: verdict.word(),
            reason: verdict.reason(),
            exit_code: None,
            commit: None,
            image_digest: None,
            runtime: None,
            stages: Vec::new(),
            total_ms: 0.0,
            resources: ResourceUse::default(),
            limits: LimitsInForce::default(),
            leftovers: Vec::new(),
        }
    }
}
