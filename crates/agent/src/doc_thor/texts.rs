//! Verdicts in the words of doc-thor: `<stage>: <message>` with a stage of pull, run, collect, upload.

use std::time::Duration;

use bryo_model::{Failure, OutOfMemory, ResourceLimit, Stage, TimeLimit, Verdict};

use super::result::{ResultText, go_duration};

impl ResultText {
    /// The text for a verdict that was reached in this stage; `None` for success. `timeout` is the bound on the run
    /// stage, or on the whole attempt.
    pub(crate) fn of(verdict: &Verdict, stage: Stage, timeout: Duration) -> Option<Self> {
        let (stage, message) = match verdict {
            Verdict::Succeeded => return None,
            Verdict::Failed(failure) => of_failure(failure, stage),
            Verdict::TimedOut(TimeLimit::Attempt | TimeLimit::Stage, Stage::Run) => {
                let time = go_duration(timeout);
                (Stage::Run, format!("container exceeded timeout of {time}"))
            }
            Verdict::TimedOut(_, at) => (*at, reason(verdict)),
            Verdict::OutOfMemory(OutOfMemory::Job | OutOfMemory::Host)
            | Verdict::LimitReached(
                ResourceLimit::Pids | ResourceLimit::Disk | ResourceLimit::DiskFiles,
            ) => (Stage::Run, reason(verdict)),
            Verdict::Cancelled(at) => (
                *at,
                "the agent was stopped before the build had ended; trigger it again".to_owned(),
            ),
            Verdict::Infrastructure(why) => (stage, why.clone()),
        };
        Some(Self(format!("{}: {message}", word(stage))))
    }

    /// The text for a build that no attempt was made for.
    pub(crate) fn refused(stage: Stage, why: &str) -> Self {
        Self(format!("{}: {why}", word(stage)))
    }
}

fn of_failure(failure: &Failure, stage: Stage) -> (Stage, String) {
    match failure {
        Failure::ExitCode(code) => (Stage::Run, format!("container exited with code {code}")),
        Failure::OutputEmpty => (
            Stage::Collect,
            format!("output directory is empty: {failure}"),
        ),
        Failure::SourceMissing(why) | Failure::RefMissing(why) => (Stage::Fetch, why.clone()),
        Failure::Signal(_)
        | Failure::NotStarted(_)
        | Failure::ImageMissing(_)
        | Failure::ImageUnusable(_) => (Stage::Run, failure.to_string()),
        Failure::OutputUnusable(why) => (stage.max(Stage::Collect), why.clone()),
    }
}

fn reason(verdict: &Verdict) -> String {
    verdict.reason().unwrap_or_default()
}

/// doc-thor has no stage of its own for making an image ready; it is a part of running.
const fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Fetch => "pull",
        Stage::Prepare | Stage::Run => "run",
        Stage::Collect => "collect",
        Stage::Publish => "upload",
    }
}
