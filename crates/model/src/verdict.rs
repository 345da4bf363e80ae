//! How the user's build ended. Never how Bryo fared: that is an error.

use std::fmt;

use crate::Stage;

/// Why a job did not succeed although Bryo did its part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The job's command ended with this code.
    ExitCode(i32),
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

/// Which bound on time was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeLimit {
    /// The wall-clock bound of the whole attempt.
    Attempt,
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
    OutOfMemory,
    /// It was stopped on request, in this stage.
    Cancelled(Stage),
    /// Bryo could not do its part; the text says what to do. Another attempt may succeed.
    Infrastructure(String),
}

impl Verdict {
    /// The word for machines, as it stands in the report.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::TimedOut(..) => "timed_out",
            Self::OutOfMemory => "out_of_memory",
            Self::Cancelled(_) => "cancelled",
            Self::Infrastructure(_) => "infrastructure",
        }
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
            Self::OutOfMemory => Some("the job used more memory than its limit".to_owned()),
            Self::Cancelled(stage) => Some(format!("cancelled in stage {stage}")),
            Self::Infrastructure(why) => Some(why.clone()),
        }
    }
}
