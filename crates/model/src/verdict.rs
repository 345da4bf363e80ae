//! How the user's build ended. Never how Bryo fared: that is an error.

use std::fmt;

use crate::Stage;

/// Why a job did not succeed although Bryo did its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The job's command ended with this code.
    ExitCode(i32),
    /// The job's command was ended by this signal.
    Signal(i32),
    /// The job's command could not be started (not in the image, not executable).
    NotStarted(String),
    /// There is no such repository, or it may not be read.
    SourceMissing(String),
    /// The repository has no such branch, tag, commit or sub-directory.
    RefMissing(String),
    /// There is no such image, or it may not be read.
    ImageMissing(String),
    /// The image is not one that can be run.
    ImageUnusable(String),
    /// The job exited with 0 but left no regular file.
    OutputEmpty,
    /// The output cannot be published as it is.
    OutputUnusable(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ExitCode(code) => write!(f, "the job exited with code {code}"),
            Self::Signal(number) => match signal_name(*number) {
                Some(name) => write!(f, "the job was ended by signal {number} ({name})"),
                None => write!(f, "the job was ended by signal {number}"),
            },
            Self::NotStarted(why)
            | Self::SourceMissing(why)
            | Self::RefMissing(why)
            | Self::ImageMissing(why)
            | Self::ImageUnusable(why)
            | Self::OutputUnusable(why) => f.write_str(why),
            Self::OutputEmpty => {
                f.write_str("the job left no regular file in /output; write the result there")
            }
        }
    }
}

/// Signals that end programs, with the numbers of most architectures.
fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        11 => "SIGSEGV",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        31 => "SIGSYS",
        _ => return None,
    })
}

/// Which bound on time was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLimit {
    /// The wall-clock bound of the whole attempt.
    Attempt,
    /// The wall-clock bound of one stage.
    Stage,
    /// The job wrote nothing for too long.
    Silence,
}

/// Whose memory there was not enough of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfMemory {
    /// The job's own limit was reached.
    Job,
    /// The host had none left, and chose the job.
    Host,
}

/// Which bound other than time and memory ended the job, or made it fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResourceLimit {
    /// It was refused more processes and threads, and failed.
    Pids,
    /// It had more on disk than it may; it was killed.
    Disk,
    /// It had more files than it may; it was killed.
    DiskFiles,
}

/// The state of the user's build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It exited with 0 and its output is published.
    Succeeded,
    /// It did not succeed, for this reason.
    Failed(Failure),
    /// It was stopped at a bound on time, in this stage.
    TimedOut(TimeLimit, Stage),
    /// The kernel killed it for memory.
    OutOfMemory(OutOfMemory),
    /// It went over another bound.
    LimitReached(ResourceLimit),
    /// It was stopped on request, in this stage.
    Cancelled(Stage),
    /// Bryo could not do its part; the text says what to do. Another attempt may succeed.
    Infrastructure(String),
}

impl Verdict {
    /// The same verdict with another text, where it has one that is not Bryo's alone.
    #[must_use]
    pub fn map_text(self, change: impl FnOnce(&str) -> String) -> Self {
        match self {
            Self::Failed(failure) => Self::Failed(match failure {
                Failure::NotStarted(why) => Failure::NotStarted(change(&why)),
                Failure::SourceMissing(why) => Failure::SourceMissing(change(&why)),
                Failure::RefMissing(why) => Failure::RefMissing(change(&why)),
                Failure::ImageMissing(why) => Failure::ImageMissing(change(&why)),
                Failure::ImageUnusable(why) => Failure::ImageUnusable(change(&why)),
                Failure::OutputUnusable(why) => Failure::OutputUnusable(change(&why)),
                other @ (Failure::ExitCode(_) | Failure::Signal(_) | Failure::OutputEmpty) => other,
            }),
            Self::Infrastructure(why) => Self::Infrastructure(change(&why)),
            other @ (Self::Succeeded
            | Self::TimedOut(..)
            | Self::OutOfMemory(_)
            | Self::LimitReached(_)
            | Self::Cancelled(_)) => other,
        }
    }

    /// The word for machines, as it stands in the report.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::TimedOut(..) => "timed_out",
            Self::OutOfMemory(_) => "out_of_memory",
            Self::LimitReached(ResourceLimit::Pids) => "pids_limit",
            Self::LimitReached(ResourceLimit::Disk | ResourceLimit::DiskFiles) => "disk_limit",
            Self::Cancelled(_) => "cancelled",
            Self::Infrastructure(_) => "infrastructure",
        }
    }

    /// Which bound was reached, for machines, where one was.
    #[must_use]
    pub const fn limit(&self) -> Option<&'static str> {
        Some(match self {
            Self::TimedOut(TimeLimit::Attempt, _) => "timeout",
            Self::TimedOut(TimeLimit::Stage, _) => "stage_timeout",
            Self::TimedOut(TimeLimit::Silence, _) => "silence",
            Self::OutOfMemory(OutOfMemory::Job) => "memory",
            Self::OutOfMemory(OutOfMemory::Host) => "host_memory",
            Self::LimitReached(ResourceLimit::Pids) => "pids",
            Self::LimitReached(ResourceLimit::Disk) => "disk",
            Self::LimitReached(ResourceLimit::DiskFiles) => "disk_files",
            Self::Succeeded | Self::Failed(_) | Self::Cancelled(_) | Self::Infrastructure(_) => {
                return None;
            }
        })
    }

    /// The sentence for people; none is needed for success.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Succeeded => None,
            Self::Failed(failure) => Some(failure.to_string()),
            Self::TimedOut(TimeLimit::Attempt, stage) => {
                Some(format!("the time limit was reached in stage {stage}"))
            }
            Self::TimedOut(TimeLimit::Stage, stage) => {
                Some(format!("stage {stage} took longer than its time limit"))
            }
            Self::TimedOut(TimeLimit::Silence, _) => {
                Some("the job wrote nothing for longer than its silence limit".to_owned())
            }
            Self::OutOfMemory(OutOfMemory::Job) => {
                Some("the job used more memory than its limit".to_owned())
            }
            Self::OutOfMemory(OutOfMemory::Host) => Some(
                "the host ran out of memory and ended the job; give jobs a memory limit, or run fewer at once"
                    .to_owned(),
            ),
            Self::LimitReached(ResourceLimit::Pids) => {
                Some("the job failed after it was refused more processes than its limit".to_owned())
            }
            Self::LimitReached(ResourceLimit::Disk) => {
                Some("the job had more on disk than its limit".to_owned())
            }
            Self::LimitReached(ResourceLimit::DiskFiles) => {
                Some("the job had more files on disk than its limit".to_owned())
            }
            Self::Cancelled(stage) => Some(format!("cancelled in stage {stage}")),
            Self::Infrastructure(why) => Some(why.clone()),
        }
    }
}
