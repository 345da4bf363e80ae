//! What a runtime does for one container, whatever it is made of. The stories are told to every runtime and define it.
//!
//! ```text
//! made ──> start ──────────> wait ──> remove
//! limits   gives the logs    exit     idempotent, right from every state,
//! in force │                          also while the job runs
//!          └── stop, kill: at any time, in any order
//! ```
//!
//! - *made*: whoever makes a container has its limits in force and read back, in a [`JobCgroup`] that the container does
//!   not own; nothing of the job has run.
//! - The status of a job is a matter of its cgroup and not of the runtime: see [`crate::Sandbox::status`].
//! - A third runtime is a third implementation, and a variant where [`crate::Runtime`] chooses.

use std::fmt::Debug;
use std::path::PathBuf;
use std::pin::Pin;

use bryo_model::ResourceUse;
use nix::sys::signal::Signal;

use crate::cgroup::JobCgroup;
use crate::logs::Logs;
use crate::{Exit, Leftover, SandboxError, SandboxSpec};

/// Something that is being done; dropping it stops it.
pub(crate) type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One container of some runtime.
pub(crate) trait Container: Debug + Send + Sync {
    /// Starts the job; its output must be read to the end, or the job waits.
    ///
    /// # Errors
    ///
    /// When the runtime refuses, or the job is less confined than its recipe says. It may run all the same: the caller
    /// removes it.
    fn start(&mut self) -> Doing<'_, Result<Logs, SandboxError>>;

    /// Asks the job's first process to end. Returns whether it can notice: the first process of a pid namespace is met
    /// only by signals that it handles or blocks, and by `SIGKILL`; if it does neither, waiting for it is pointless. Waits
    /// for no service: whoever watches the job goes on watching.
    fn stop(&mut self, signal: Signal) -> bool;

    /// Kills everything of the job, frozen or stopped or not; `wait` then returns. Needs no service to answer.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn kill(&mut self) -> Result<(), SandboxError>;

    /// Waits for the end of the job's first process. Safe to drop and to call again.
    ///
    /// # Errors
    ///
    /// When the runtime could not make the container, or lost it.
    fn wait(&mut self) -> Doing<'_, Result<Exit, SandboxError>>;

    /// Whether the started job has ended, though `wait` may not have said so yet. Needs no service to answer.
    fn has_ended(&self) -> bool;

    /// Waits until the job has ended, where `wait` and the job's output come through a service, which may not answer.
    /// Elsewhere it waits for ever: they tell as much.
    fn ended(&self) -> Doing<'static, ()>;

    /// Removes everything but the work directory: processes, cgroup, mounts, namespaces, network. Never stops early; safe to
    /// repeat.
    fn remove(&mut self) -> Doing<'_, Vec<Leftover>>;

    /// The cgroup with the limits.
    fn cgroup(&self) -> &JobCgroup;

    /// What the runtime itself counted of the job, beyond what its cgroup still knows.
    fn counted(&self) -> ResourceUse {
        ResourceUse::default()
    }

    /// Directories of the host that hold what the job writes.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Limit`] when what the job writes cannot be told from what was there before.
    fn writable<'a>(
        &'a self,
        spec: &'a SandboxSpec,
    ) -> Doing<'a, Result<Vec<PathBuf>, SandboxError>>;

    /// The SELinux label of the job's first process that was read back before it ran, if it has one.
    fn label(&self) -> Option<String>;

    /// The user namespace that the job's own was made from, if that is not the helper's.
    fn user_namespace(&self) -> Option<PathBuf>;
}
