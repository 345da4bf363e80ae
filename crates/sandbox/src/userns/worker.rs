//! A worker of the helper, seen from the agent.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::process::{ChildStderr, ChildStdout};
use tokio::sync::watch;

use super::connection::{Connection, End, lost};
use super::protocol::{Done, Wish};
use crate::SandboxError;

/// A process that waits for its instructions and follows them, and the job that it makes. Dropping it kills both.
#[derive(Debug)]
pub(crate) struct Worker {
    number: u64,
    pid: Option<i32>,
    /// What crun is to be given as the file for the job's number, so that it hands the job over.
    pid_file: Option<PathBuf>,
    connection: Arc<Connection>,
    /// Until it has begun.
    instructions: Option<File>,
    output: Option<(ChildStdout, ChildStderr)>,
    /// The same as the first of them: it tells when nobody is left who could write to it.
    silence: Option<OwnedFd>,
    ended: watch::Receiver<End>,
}

impl Worker {
    /// Has the helper make one that starts this crun.
    pub(super) async fn make(
        connection: &Arc<Connection>,
        helper: i32,
        crun: &Path,
    ) -> Result<Self, SandboxError> {
        let asked = connection.ask_for_worker(crun)?;
        // From here on it is killed if nobody wants it any more.
        let mut worker = Self {
            number: asked.number,
            pid: None,
            pid_file: None,
            connection: Arc::clone(connection),
            instructions: None,
            output: None,
            silence: None,
            ended: asked.end.clone(),
        };
        let Done::Working {
            pid,
            instructions,
            stdout,
            stderr,
            pid_file,
        } = asked.answer().await?
        else {
            return Err(lost("it made no worker"));
        };
        worker.pid = Some(pid);
        worker.pid_file = pid_file.map(|fd| PathBuf::from(format!("/proc/{helper}/fd/{fd}")));
        let failed = |source| SandboxError::System {
            what: "open the pipes of a job",
            source,
        };
        let read = |end| open(helper, end, OpenOptions::new().read(true)).map(OwnedFd::from);
        let out = read(stdout).map_err(failed)?;
        worker.silence = Some(out.try_clone().map_err(failed)?);
        let err = read(stderr).map_err(failed)?;
        worker.output = Some((
            ChildStdout::from_std(out.into()).map_err(failed)?,
            ChildStderr::from_std(err.into()).map_err(failed)?,
        ));
        let write = open(helper, instructions, OpenOptions::new().write(true));
        worker.instructions = Some(write.map_err(failed)?);
        Ok(worker)
    }

    /// Its output, once.
    pub(crate) fn take_output(&mut self) -> Option<(ChildStdout, ChildStderr)> {
        self.output.take()
    }

    /// The file for the job's number with which a crun in the foreground hands its job over to the helper, where this host can
    /// do that.
    pub(crate) fn pid_file(&self) -> Option<&Path> {
        self.pid_file.as_deref()
    }

    /// Tells it the file with its instructions; the end of a job that is handed over goes into `end`. One that has ended tells
    /// by its end.
    pub(crate) fn begin(&mut self, instructions: &Path, end: &Path) {
        if let Some(mut pipe) = self.instructions.take() {
            // A path is shorter than what an empty pipe holds.
            let _ = pipe.write_all(instructions.as_os_str().as_bytes());
            let _ = pipe.write_all(crate::crun::END_OF_PATH);
        }
        self.connection.tell(Wish::Begun {
            worker: self.number,
            end: end.to_owned(),
        });
    }

    /// Whether it has not ended yet.
    pub(crate) fn is_alive(&self) -> bool {
        self.ended.borrow().is_none()
    }

    /// Waits for its end, and says how it ended. Safe to call again, and to drop while waiting.
    pub(crate) async fn wait(&mut self) -> String {
        let ended = self.ended.wait_for(Option::is_some).await;
        let how = ended.ok().and_then(|how| how.clone());
        if !self.connection.is_alive()
            && let Some(pid) = self.pid
        {
            // Unless it has handed its job over, the kernel kills it with the helper; nobody but the kernel tells when.
            let _ = tokio::time::timeout(DYING, gone(pid)).await;
        }
        how.unwrap_or_else(|| "the end of the helper".to_owned())
    }

    /// Whether neither it nor anything that it has started is left.
    pub(crate) fn is_silent(&self) -> bool {
        let Some(silence) = &self.silence else {
            return true;
        };
        let mut watched = [PollFd::new(silence.as_fd(), PollFlags::empty())];
        poll(&mut watched, PollTimeout::ZERO).is_ok()
            && watched[0]
                .revents()
                .is_some_and(|seen| seen.contains(PollFlags::POLLHUP))
    }

    /// Kills it with what it has started, and then everything in this cgroup. Does not wait.
    pub(crate) fn end(&self, cgroup: Option<&Path>) {
        self.connection.tell(Wish::Kill {
            worker: self.number,
            cgroup: cgroup.map(Path::to_owned),
        });
    }

    /// Kills it and waits for its end.
    pub(crate) async fn kill(&mut self) {
        self.end(None);
        self.wait().await;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if self.is_alive() {
            self.end(None);
        }
        self.connection.forget(self.number);
    }
}

/// How long the kernel may take for that.
const DYING: Duration = Duration::from_secs(2);

/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(1);

async fn gone(pid: i32) {
    while is_running(pid) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether there is such a process, and it is not one that only waits to be waited for (proc(5), `stat`).
fn is_running(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(") ")
        .and_then(|(_, rest)| rest.chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// The helper is this user's, in a namespace that this user made: its descriptors can be opened.
fn open(helper: i32, descriptor: i32, how: &mut OpenOptions) -> std::io::Result<File> {
    how.custom_flags(OFlag::O_NONBLOCK.bits())
        .open(format!("/proc/{helper}/fd/{descriptor}"))
}
