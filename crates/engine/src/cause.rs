//! From what happened to a verdict: one exhaustive map.

use std::error::Error;

use aho_corasick::BuildError;
use bryo_depot::DepotError;
use bryo_image::{Fault, ImageError};
use bryo_model::{
    Blame, Failure, LimitsInForce, OutOfMemory, ResourceLimit, ResourceUse, Stage, TimeLimit,
    Verdict,
};
use bryo_sandbox::{Exit, SandboxError};
use bryo_source::{ReachedLimit, SourceError};

/// Why an attempt ended before, or without, success.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The caller asked for it, in this stage.
    Cancelled(Stage),
    /// A bound on time was reached, in this stage.
    Late(TimeLimit, Stage),
    /// The job's command ended with this code.
    Exit(i32),
    /// The job's command was ended by this signal, and not by ours.
    Signal(i32),
    /// The job's command could not be started.
    NotStarted(String),
    /// The kernel killed the job, or a part of it, for memory.
    OutOfMemory(OutOfMemory),
    /// The job went over another bound, and was ended or failed for it.
    Limit(ResourceLimit),
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
    /// The secrets cannot be looked for in what the job writes.
    Secrets(BuildError),
    /// A task of ours ended without an answer.
    Task(String),
}

/// What the kernel counted of a job that has ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// Processes that were killed for memory.
    oom_kills: u64,
    /// How often its own limit was the reason.
    oom_events: u64,
    /// How often it was refused a process for its limit.
    pids_refused: u64,
}

impl Facts {
    /// A refused process counts only against a limit of the job's: older kernels count those of others with them.
    pub(crate) fn of(used: &ResourceUse, limits: &LimitsInForce) -> Self {
        Self {
            oom_kills: used.oom_kills.unwrap_or(0),
            oom_events: used.oom_events.unwrap_or(0),
            pids_refused: used
                .pids_refused
                .filter(|_| limits.pids.is_some())
                .unwrap_or(0),
        }
    }
}

/// The one place where the end of a job becomes a cause; `None` when it ended well.
///
/// Our own record of having stopped it comes first: the exit is then of our making. A job that ends with 0 has coped with
/// whatever was refused it. After that the strongest fact of the kernel counts, and the exit itself last.
pub(crate) fn end_of(
    stopped: Option<Cause>,
    exit: Result<Exit, SandboxError>,
    facts: Facts,
) -> Option<Cause> {
    if stopped.is_some() {
        return stopped;
    }
    let own = match exit {
        Ok(Exit::Code(0)) => return None,
        Ok(Exit::NotStarted(why)) => return Some(Cause::NotStarted(why)),
        // A runtime whose monitor the kernel ended with the job may not know how that was.
        Err(error) => Cause::Sandbox(error),
        Ok(Exit::Code(code)) => Cause::Exit(code),
        Ok(Exit::Signal(number)) => Cause::Signal(number),
    };
    let ours = matches!(own, Cause::Sandbox(_));
    Some(match facts {
        Facts {
            oom_kills: 1..,
            oom_events: 1..,
            ..
        } => Cause::OutOfMemory(OutOfMemory::Job),
        Facts {
            oom_kills: 1..,
            oom_events: 0,
            ..
        } => Cause::OutOfMemory(OutOfMemory::Host),
        Facts {
            pids_refused: 1.., ..
        } if !ours => Cause::Limit(ResourceLimit::Pids),
        Facts { oom_kills: 0, .. } => own,
    })
}

/// The one place where causes become verdicts.
pub(crate) fn verdict(cause: &Cause) -> Verdict {
    match cause {
        Cause::Cancelled(stage) => Verdict::Cancelled(*stage),
        Cause::Late(limit, stage) => Verdict::TimedOut(*limit, *stage),
        Cause::Exit(code) => Verdict::Failed(Failure::ExitCode(*code)),
        Cause::NotStarted(why) => Verdict::Failed(Failure::NotStarted(why.clone())),
        Cause::Signal(number) => Verdict::Failed(Failure::Signal(*number)),
        Cause::OutOfMemory(whose) => Verdict::OutOfMemory(*whose),
        Cause::Limit(limit) => Verdict::LimitReached(*limit),
        Cause::OutputEmpty => Verdict::Failed(Failure::OutputEmpty),
        Cause::Unusable(failure) => Verdict::Failed(failure.clone()),
        Cause::Source(error) => of_source(error),
        Cause::Image(error) => of_image(error),
        Cause::Sandbox(error) => Verdict::Infrastructure(chain(error)),
        Cause::Depot(error) => of_depot(error),
        Cause::Work(error, what) => Verdict::Infrastructure(of_work(error, what)),
        Cause::Secrets(error) => Verdict::Infrastructure(format!(
            "the secrets are too large to be masked in the output ({error}); give fewer or shorter ones"
        )),
        Cause::Task(what) => Verdict::Infrastructure(format!("{what} ended without an answer")),
    }
}

fn of_source(error: &SourceError) -> Verdict {
    let text = match error.hint() {
        Some(hint) => format!("{}; {hint}", chain(error)),
        None => chain(error),
    };
    source_verdict(error, text)
}

fn source_verdict(error: &SourceError, text: String) -> Verdict {
    match error {
        // Whose fault it is tells the reason; the text names the submodule.
        SourceError::Submodule { source, .. } => source_verdict(source, text),
        SourceError::RepositoryMissing { .. }
        | SourceError::NotTheTop { .. }
        | SourceError::Foreign { .. }
        | SourceError::Sha256 { .. }
        | SourceError::Refused { .. }
        | SourceError::Limit {
            limit: ReachedLimit::Bytes(_) | ReachedLimit::Memory(_) | ReachedLimit::Lfs { .. },
            ..
        }
        | SourceError::RefusedTree { .. }
        | SourceError::Lfs { .. }
        | SourceError::BadAddress(_) => Verdict::Failed(Failure::SourceMissing(text)),
        SourceError::RefMissing { .. } | SourceError::SubDirMissing { .. } => {
            Verdict::Failed(Failure::RefMissing(text))
        }
        SourceError::Unreachable { .. }
        | SourceError::Limit {
            limit: ReachedLimit::Timeout(_) | ReachedLimit::Stall(_),
            ..
        }
        | SourceError::Credential { .. }
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
        DepotError::TooLarge(_) | DepotError::Key { .. } | DepotError::Overlap { .. } => {
            Verdict::Failed(Failure::OutputUnusable(chain(error)))
        }
        DepotError::Refused { .. }
        | DepotError::Stopped
        | DepotError::Changed { .. }
        | DepotError::NoSpace { .. }
        | DepotError::Denied { .. }
        | DepotError::Io { .. }
        | DepotError::Settings { .. }
        | DepotError::Store { .. }
        | DepotError::Right { .. }
        | DepotError::Overtaken(_)
        | DepotError::Disturbed { .. }
        | DepotError::Unfinished { .. }
        | DepotError::Lost
        | DepotError::StagingLeft { .. } => Verdict::Infrastructure(chain(error)),
    }
}

/// Whose a cause is that becomes [`Verdict::Infrastructure`]; `None` for all others.
pub(crate) fn blame(cause: &Cause) -> Option<Blame> {
    let Verdict::Infrastructure(_) = verdict(cause) else {
        return None;
    };
    let elsewhere = match cause {
        Cause::Source(error) => is_of_the_source(error),
        Cause::Image(error) => matches!(error, ImageError::Unreachable { .. }),
        Cause::Depot(error) => is_of_the_publication(error),
        Cause::Sandbox(_) | Cause::Work(..) | Cause::Secrets(_) | Cause::Task(_) => false,
        // No infrastructure failures.
        Cause::Cancelled(_)
        | Cause::Late(..)
        | Cause::Exit(_)
        | Cause::Signal(_)
        | Cause::NotStarted(_)
        | Cause::OutOfMemory(_)
        | Cause::Limit(_)
        | Cause::OutputEmpty
        | Cause::Unusable(_) => return None,
    };
    Some(match elsewhere {
        true => Blame::Elsewhere,
        false => Blame::Host,
    })
}

/// Whether it is that of one repository, its server, or what this host has been told to be there.
fn is_of_the_source(error: &SourceError) -> bool {
    match error {
        SourceError::Submodule { source, .. } => is_of_the_source(source),
        SourceError::Unreachable { .. }
        | SourceError::Limit { .. }
        | SourceError::Credential { .. }
        | SourceError::Corrupt { .. }
        | SourceError::Git { .. }
        | SourceError::RepositoryMissing { .. }
        | SourceError::NotTheTop { .. }
        | SourceError::Foreign { .. }
        | SourceError::Sha256 { .. }
        | SourceError::Refused { .. }
        | SourceError::RefusedTree { .. }
        | SourceError::Lfs { .. }
        | SourceError::BadAddress(_)
        | SourceError::RefMissing { .. }
        | SourceError::SubDirMissing { .. } => true,
        SourceError::DiskFull { .. }
        | SourceError::Program(_)
        | SourceError::Io { .. }
        | SourceError::Library { .. }
        | SourceError::Task(_) => false,
    }
}

/// Whether it is this job's alone: a version that somebody else has meanwhile, or a target that is in the way.
fn is_of_the_publication(error: &DepotError) -> bool {
    match error.cause() {
        DepotError::Overtaken(_)
        | DepotError::Disturbed { .. }
        | DepotError::Refused { .. }
        | DepotError::Changed { .. }
        | DepotError::Stopped
        | DepotError::TooLarge(_)
        | DepotError::Key { .. }
        | DepotError::Overlap { .. } => true,
        DepotError::NoSpace { .. }
        | DepotError::Denied { .. }
        | DepotError::Io { .. }
        | DepotError::Settings { .. }
        | DepotError::Store { .. }
        | DepotError::Right { .. }
        | DepotError::Unfinished { .. }
        | DepotError::Lost
        | DepotError::StagingLeft { .. } => false,
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
            verdict(&Cause::Late(TimeLimit::Attempt, Stage::Run)),
            Verdict::TimedOut(TimeLimit::Attempt, Stage::Run)
        );
    }

    #[test]
    fn names_are_the_jobs_and_the_store_is_ours() {
        use bryo_depot::{BadKey, StoreAnswer, StoreFault, Visible};
        let of = |error| verdict(&Cause::Depot(error));
        let name = DepotError::Key {
            path: "a".into(),
            why: BadKey::NotUtf8,
        };
        assert!(matches!(
            of(name),
            Verdict::Failed(Failure::OutputUnusable(_))
        ));
        let down = DepotError::Store {
            doing: "put",
            what: "p/1/a.css".into(),
            fault: StoreFault::Unavailable,
            source: Box::new(StoreAnswer::Unreadable("x".into())),
        };
        let half = DepotError::Unfinished {
            visible: Visible::Pages { new: false },
            source: Box::new(down),
        };
        let Verdict::Infrastructure(text) = of(half) else {
            unreachable!("a store that is down is ours");
        };
        for part in [
            "a mixture of old and new pages",
            "repairs it",
            "p/1/a.css",
            "not in order",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn what_one_job_alone_meets_is_not_the_hosts() {
        let away = || SourceError::Unreachable {
            location: "x".into(),
            detail: "no route to it".into(),
        };
        let registry = ImageError::Unreachable {
            image: "x".into(),
            detail: String::new(),
        };
        for cause in [
            Cause::Source(away()),
            Cause::Image(registry),
            Cause::Depot(DepotError::Overtaken("p/1".into())),
        ] {
            assert_eq!(blame(&cause), Some(Blame::Elsewhere), "{cause:?}");
        }
        for cause in [
            Cause::Source(SourceError::DiskFull { path: "/c".into() }),
            Cause::Image(ImageError::NoSkopeo),
            Cause::Depot(DepotError::Settings { why: "x".into() }),
            Cause::Sandbox(SandboxError::Unkillable),
            Cause::Task("x".into()),
        ] {
            assert_eq!(blame(&cause), Some(Blame::Host), "{cause:?}");
        }
        for cause in [
            Cause::Exit(3),
            Cause::OutputEmpty,
            Cause::Cancelled(Stage::Run),
        ] {
            assert_eq!(blame(&cause), None, "{cause:?}");
        }
    }

    #[test]
    fn every_end_is_told_apart() {
        let none = Facts::default();
        let facts = |oom_kills, oom_events, pids_refused| Facts {
            oom_kills,
            oom_events,
            pids_refused,
        };
        let code = |n| Ok(Exit::Code(n));
        let word = |stopped, exit, facts| {
            let verdict = end_of(stopped, exit, facts).map_or(Verdict::Succeeded, |c| verdict(&c));
            (verdict.word(), verdict.limit())
        };
        let ours = |cause| Some(cause);
        for (stopped, exit, facts, wanted) in [
            (None, code(0), none, ("succeeded", None)),
            (None, code(3), none, ("failed", None)),
            (None, Ok(Exit::Signal(11)), none, ("failed", None)),
            (
                None,
                Ok(Exit::NotStarted("x".into())),
                facts(1, 1, 1),
                ("failed", None),
            ),
            (
                None,
                Ok(Exit::Signal(9)),
                facts(1, 1, 0),
                ("out_of_memory", Some("memory")),
            ),
            (
                None,
                code(137),
                facts(2, 1, 5),
                ("out_of_memory", Some("memory")),
            ),
            (
                None,
                code(137),
                facts(1, 0, 0),
                ("out_of_memory", Some("host_memory")),
            ),
            (None, code(2), facts(0, 0, 7), ("pids_limit", Some("pids"))),
            // Its limit was reached without a kill: it reclaimed, and failed for a reason of its own.
            (None, code(2), facts(0, 3, 0), ("failed", None)),
            (None, code(0), facts(1, 1, 7), ("succeeded", None)),
            (
                ours(Cause::Late(TimeLimit::Silence, Stage::Run)),
                code(137),
                facts(1, 1, 1),
                ("timed_out", Some("silence")),
            ),
            (
                ours(Cause::Late(TimeLimit::Stage, Stage::Run)),
                code(143),
                none,
                ("timed_out", Some("stage_timeout")),
            ),
            (
                ours(Cause::Late(TimeLimit::Attempt, Stage::Run)),
                code(0),
                none,
                ("timed_out", Some("timeout")),
            ),
            (
                ours(Cause::Limit(ResourceLimit::Disk)),
                code(137),
                none,
                ("disk_limit", Some("disk")),
            ),
            (
                ours(Cause::Limit(ResourceLimit::DiskFiles)),
                code(137),
                none,
                ("disk_limit", Some("disk_files")),
            ),
            (
                ours(Cause::Cancelled(Stage::Run)),
                code(143),
                none,
                ("cancelled", None),
            ),
            (
                None,
                Err(SandboxError::Unkillable),
                facts(0, 0, 5),
                ("infrastructure", None),
            ),
            (
                None,
                Err(SandboxError::Podman("its monitor is gone".into())),
                facts(1, 1, 0),
                ("out_of_memory", Some("memory")),
            ),
        ] {
            let told = format!("{stopped:?} {exit:?} {facts:?}");
            assert_eq!(word(stopped, exit, facts), wanted, "{told}");
        }
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
