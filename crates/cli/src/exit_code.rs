//! The exit codes of `bryo`: a stable contract, documented in docs/exit-codes.md.

use std::process::ExitCode;

use bryo_model::Verdict;

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The job succeeded and its output is published.
    Succeeded,
    /// The job did not succeed: failed, timed out, out of memory.
    JobFailed,
    /// The command line or a setting cannot be used.
    Usage,
    /// Bryo could not do its part.
    OurFailure,
    /// There was no job for `bryo agent --once` in the time that it was to wait.
    NothingToDo,
    /// Cancelled on request: 128 + SIGINT, as a shell would say it.
    Cancelled,
}

impl Exit {
    pub(crate) const fn code(self) -> u8 {
        match self {
            Self::Succeeded => 0,
            Self::JobFailed => 1,
            Self::Usage => 2,
            Self::OurFailure => 3,
            Self::NothingToDo => 4,
            Self::Cancelled => 130,
        }
    }

    /// The code for an attempt that ended like this.
    pub(crate) const fn of(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Succeeded => Self::Succeeded,
            Verdict::Failed(_)
            | Verdict::TimedOut(..)
            | Verdict::OutOfMemory(_)
            | Verdict::LimitReached(_) => Self::JobFailed,
            Verdict::Cancelled(_) => Self::Cancelled,
            Verdict::Infrastructure(_) => Self::OurFailure,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

#[cfg(test)]
mod tests {
    use bryo_model::{Failure, OutOfMemory, Stage, TimeLimit};

    use super::*;

    #[test]
    fn every_verdict_has_its_code() {
        let code = |verdict: Verdict| Exit::of(&verdict).code();
        assert_eq!(code(Verdict::Succeeded), 0);
        assert_eq!(code(Verdict::Failed(Failure::ExitCode(3))), 1);
        assert_eq!(code(Verdict::TimedOut(TimeLimit::Attempt, Stage::Run)), 1);
        assert_eq!(code(Verdict::OutOfMemory(OutOfMemory::Job)), 1);
        assert_eq!(code(Verdict::Infrastructure(String::new())), 3);
        assert_eq!(code(Verdict::Cancelled(Stage::Run)), 130);
        assert_eq!(Exit::Usage.code(), 2);
        assert_eq!(Exit::NothingToDo.code(), 4);
    }
}
