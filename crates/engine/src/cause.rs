//! From what happened to a verdict: one exhaustive map.

use std::error::Error;

use bryo_depot::DepotError;
use bryo_image::{Fault, ImageError};
use bryo_model::{Failure, Stage, TimeLimit, Verdict};
use bryo_sandbox::SandboxError;
use bryo_source::SourceError;

/// Why an attempt ended before, or without, success.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The caller asked for it, in this stage.
    Cancelled(Stage),
    /// The wall-clock bound was reached, in this stage.
    Deadline(Stage),
    /// The job's command ended with this code.
    Exit(i32),
    /// The job's command could not be started.
    NotStarted(String),
    /// The kernel killed the job, or a part of it, for memory.
    OutOfMemory,
    /// The job ended well and left nothing.
    OutputEmpty,
    /// The image cannot be run as it is.
    Unusable(Failure),
    /// No source.
    Source(SourceError),
    /// No image.
    Image(ImageError),
    /// No sandbox.
    Sandbox(SandboxError),
    /// No result.
    Depot(DepotError),
    /// Our own work directory failed us.
    Work(std::io::Error, String),
    /// A task of ours ended without an answer.
    Task(String),
}

/// The one place where causes become verdicts.
pub(crate) fn verdict(cause: &Cause) -> Verdict {
    match cause {
        Cause::Cancelled(stage) => Verdict::Cancelled(*stage),
        Cause::Deadline(stage) => Verdict::TimedOut(TimeLimit::Attempt, *stage),
        Cause::Exit(code) => Verdict::Failed(Failure::ExitCode(*code)),
        Cause::NotStarted(why) => Verdict::Failed(Failure::NotStarted(why.clone())),
        Cause::OutOfMemory => Verdict::OutOfMemory,
        Cause::OutputEmpty => Verdict::Failed(Failure::OutputEmpty),
        Cause::Unusable(failure) => Verdict::Failed(failure.clone()),
        Cause::Source(error) => of_source(error),
        Cause::Image(error) => of_image(error),
        Cause::Sandbox(error) => Verdict::Infrastructure(chain(error)),
        Cause::Depot(error) => of_depot(error),
        Cause::Work(error, what) => Verdict::Infrastructure(of_work(error, what)),
        Cause::Task(what) => Verdict::Infrastructure(format!("{what} ended without an answer")),
    }
}

fn of_source(error: &SourceError) -> Verdict {
    let text = match error.hint() {
        Some(hint) => format!("{}; {hint}", chain(error)),
        None => chain(error),
    };
    match error {
        SourceError::RepositoryMissing { .. }
        | SourceError::NotTheTop { .. }
        | SourceError::Foreign { .. }
        | SourceError::Sha256 { .. }
        | SourceError::RefusedTree { .. } => Verdict::Failed(Failure::SourceMissing(text)),
        SourceError::RefMissing { .. } | SourceError::SubDirMissing { .. } => {
            Verdict::Failed(Failure::RefMissing(text))
        }
        SourceError::Unreachable { .. }
        | SourceError::Corrupt { .. }
        | SourceError::DiskFull { .. }
        | SourceError::Git { .. }
        | SourceError::Program(_)
        | SourceError::Io { .. }
        | SourceError::Library { .. }
        | SourceError::Task(_) => Verdict::Infrastructure(text),
    }
}

fn of_image(error: &ImageError) -> Verdict {
    match error.fault() {
        Fault::Missing => Verdict::Failed(Failure::ImageMissing(chain(error))),
        Fault::Unusable => Verdict::Failed(Failure::ImageUnusable(chain(error))),
        Fault::Infrastructure => Verdict::Infrastructure(chain(error)),
    }
}

fn of_depot(error: &DepotError) -> Verdict {
    match error.cause() {
        DepotError::TooLarge(_) => Verdict::Failed(Failure::OutputUnusable(chain(error))),
        DepotError::Refused { .. }
        | DepotError::Stopped
        | DepotError::Changed { .. }
        | DepotError::NoSpace { .. }
        | DepotError::Denied { .. }
        | DepotError::Io { .. }
        | DepotError::StagingLeft { .. } => Verdict::Infrastructure(chain(error)),
    }
}

fn of_work(error: &std::io::Error, what: &str) -> String {
    let advice = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            "; free space there or choose another directory with --work-dir"
        }
        _ => "",
    };
    format!("could not {what}: {error}{advice}")
}

/// An error with its causes, each naming its own layer.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_user_can_mend_is_a_failure_and_the_rest_is_ours() {
        let missing = SourceError::RefMissing {
            location: "x".into(),
            wanted: "branch y".into(),
            existing: "branches: main".into(),
        };
        let Verdict::Failed(Failure::RefMissing(text)) = verdict(&Cause::Source(missing)) else {
            unreachable!("a missing reference is the user's");
        };
        assert_eq!(text, "x has no branch y; branches: main");
        let full = SourceError::DiskFull { path: "/c".into() };
        assert!(matches!(
            verdict(&Cause::Source(full)),
            Verdict::Infrastructure(_)
        ));
        assert_eq!(
            verdict(&Cause::Exit(3)),
            Verdict::Failed(Failure::ExitCode(3))
        );
        assert_eq!(
            verdict(&Cause::Deadline(Stage::Run)),
            Verdict::TimedOut(TimeLimit::Attempt, Stage::Run)
        );
    }

    #[test]
    fn a_full_work_directory_says_what_to_do() {
        let full = std::io::Error::from_raw_os_error(28);
        let Verdict::Infrastructure(text) = verdict(&Cause::Work(full, "write /w".into())) else {
            unreachable!("a full disk is ours");
        };
        assert!(text.contains("--work-dir"), "{text}");
    }
}
