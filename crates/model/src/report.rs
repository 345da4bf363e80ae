//! The record of an attempt, as `--json` prints it. The format carries a version from the first day.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{ByteSize, CommitId, Cpus, JobId, RuntimeKind, Stage, Verdict, Weight};

/// How long a stage took.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct StageTime {
    /// Which.
    pub stage: Stage,
    /// Milliseconds.
    pub ms: f64,
}

/// Time in which processes of the job waited for something that was short (PSI), in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pressure {
    /// Some waited for a processor.
    pub cpu_some_us: Option<u64>,
    /// Some waited for memory.
    pub memory_some_us: Option<u64>,
    /// All waited for memory at once.
    pub memory_full_us: Option<u64>,
    /// Some waited for a disk.
    pub io_some_us: Option<u64>,
    /// All waited for a disk at once.
    pub io_full_us: Option<u64>,
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
    /// How often the job's own memory limit was the reason for a kill.
    pub oom_events: Option<u64>,
    /// How often the job was refused a process for its limit.
    pub pids_refused: Option<u64>,
    /// Most that the job was seen to have on disk, in bytes, where it is watched.
    pub disk_peak_bytes: Option<u64>,
    /// Most files that it was seen to have there.
    pub disk_peak_files: Option<u64>,
    /// Bytes that the job received from its network.
    pub network_received_bytes: Option<u64>,
    /// Bytes that it sent there.
    pub network_sent_bytes: Option<u64>,
    /// What it waited for.
    pub pressure: Pressure,
    /// Bytes that the job wrote to its standard output and standard error.
    pub log_bytes: u64,
    /// Bytes of these that were left out, for the bound on the log.
    pub log_bytes_left_out: u64,
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
    /// Bytes of swap.
    pub swap: Option<ByteSize>,
    /// Bytes above which the job is slowed down.
    pub memory_high: Option<ByteSize>,
    /// Processors.
    pub cpus: Option<Cpus>,
    /// Share under contention.
    pub cpu_weight: Option<Weight>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Bytes per second from the job's disks.
    pub io_read: Option<ByteSize>,
    /// Bytes per second to the job's disks.
    pub io_write: Option<ByteSize>,
    /// Bytes on disk.
    pub disk: Option<ByteSize>,
    /// Files on disk.
    pub disk_files: Option<u64>,
    /// Bytes of the result.
    pub output: Option<ByteSize>,
    /// Files of the result.
    pub output_files: Option<u64>,
    /// Bytes of the log that are kept.
    pub log: Option<ByteSize>,
    /// Seconds for the whole attempt.
    pub timeout_s: f64,
    /// Seconds for single stages.
    pub stage_timeouts_s: BTreeMap<Stage, f64>,
    /// Seconds without output.
    pub silence_s: Option<f64>,
    /// Limits that were asked for and are not in force, by explicit choice.
    pub unlimited: Vec<String>,
}

/// Whose an infrastructure failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// This host's, or that of the place where results go: the next job may meet it as well.
    Host,
    /// That of a server which this job alone may need, or of somebody who published the same version.
    Elsewhere,
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
    /// Who can mend it, where the verdict is [`Verdict::Infrastructure`].
    pub blame: Option<Blame>,
    /// Which bound was reached, where one was: [`Verdict::limit`].
    pub limit_reached: Option<&'static str>,
    /// The code the job's command ended with, where it ended by itself.
    pub exit_code: Option<i32>,
    /// The signal that ended the job's command, where one did that was not ours.
    pub signal: Option<i32>,
    /// The commit that was built, once known.
    pub commit: Option<CommitId>,
    /// Whether the source was there already, and nothing was fetched; once known.
    pub source_cached: Option<bool>,
    /// Whether the image was there already, and nothing of it was brought in; once known.
    pub image_cached: Option<bool>,
    /// Digest of the image's manifest, once known.
    pub image_digest: Option<String>,
    /// How the sandbox was made, once chosen.
    pub runtime: Option<RuntimeKind>,
    /// The SELinux label that the job was seen to have before its first instruction, where the host has SELinux.
    pub selinux_label: Option<String>,
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
            blame: None,
            limit_reached: verdict.limit(),
            exit_code: None,
            signal: None,
            commit: None,
            source_cached: None,
            image_cached: None,
            image_digest: None,
            runtime: None,
            selinux_label: None,
            stages: Vec::new(),
            total_ms: 0.0,
            resources: ResourceUse::default(),
            limits: LimitsInForce::default(),
            leftovers: Vec::new(),
        }
    }
}
