//! What goes wrong with sandboxes, and what a host lacks.

use std::fmt;
use std::io;
use std::path::PathBuf;

use bryo_process::ProcessError;

/// Something a host needs before a runtime can work on it, and how to get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is not there.
    pub what: String,
    /// What to do about it.
    pub fix: String,
}

impl Missing {
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            fix: fix.into(),
        }
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.fix)
    }
}

/// A sandbox could not be made, watched or removed. Never the verdict on a job.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The host lacks something.
    #[error("this host cannot run the job: {}", list(.0))]
    Host(Vec<Missing>),
    /// A limit cannot be enforced here.
    #[error(
        "the {limit} limit cannot be enforced: {why}; {fix}, or run without it by --allow-unlimited"
    )]
    Limit {
        /// Which: memory, cpu or pids.
        limit: &'static str,
        /// What was found.
        why: String,
        /// What to do.
        fix: String,
    },
    /// A file or directory of ours could not be used.
    #[error("could not {what} {}", path.display())]
    File {
        /// The verb.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A system call failed.
    #[error("could not {what}")]
    System {
        /// What was to be done.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A program failed.
    #[error("could not {what}")]
    Program {
        /// What was to be done.
        what: &'static str,
        /// Why.
        source: ProcessError,
    },
    /// The helper that holds the user namespace failed or died.
    #[error("the user namespace helper failed: {0}")]
    Helper(String),
    /// The rules of the job's network are not in force.
    #[error(
        "could not set the rules of the job's network: {0}; without them --network isolated would be open to the host"
    )]
    Network(String),
    /// A process of the job is still there after it was killed.
    #[error(
        "a process of the job cannot be killed: the kernel holds it, as a file system that does not answer does"
    )]
    Unkillable,
    /// `crun` could not make the container.
    #[error("crun could not make the container: {0}")]
    Crun(String),
    /// Podman could not be reached or did not do what it was asked.
    #[error("podman: {0}")]
    Podman(String),
    /// The seccomp profile of the host cannot be used.
    #[error("the seccomp profile {} cannot be used: {why}", path.display())]
    Seccomp {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A cgroup file does not say what was written to it.
    #[error("the kernel did not take the {limit} limit: wrote {wrote}, read back {read}")]
    ReadBack {
        /// Which.
        limit: &'static str,
        /// What was written.
        wrote: String,
        /// What is in force.
        read: String,
    },
    /// The user's systemd did not give a delegated scope.
    #[error("the user's systemd did not give a delegated cgroup: {0}")]
    Systemd(String),
}

fn list(missing: &[Missing]) -> String {
    let lines: Vec<_> = missing.iter().map(ToString::to_string).collect();
    lines.join("; ")
}

impl SandboxError {
    pub(crate) fn file(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { what, path, source }
    }

    pub(crate) fn program(what: &'static str) -> impl FnOnce(ProcessError) -> Self {
        move |source| Self::Program { what, source }
    }
}
