//! A program that lives.

use std::io;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::{ProcessError, Program};

/// A killed program is gone after this, unless the kernel holds it.
const DYING: Duration = Duration::from_millis(200);

/// How often that is looked at.
const LOOK: Duration = Duration::from_micros(100);

/// What a started program's standard streams are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stdio {
    /// All three are pipes, to be taken with [`Running::take_pipes`].
    Piped,
    /// Standard input is empty, the other two are pipes.
    OutputPiped,
}

/// A program that was started. Dropping it kills its process group.
#[derive(Debug)]
pub struct Running {
    pub(crate) name: String,
    child: Child,
    group: Option<Pid>,
}

impl Running {
    pub(crate) fn start(program: &Program, stdio: Stdio) -> Result<Self, ProcessError> {
        let mut command = Command::new(&program.path);
        command
            .args(&program.args)
            .env_clear()
            .envs(&program.env)
            .stdin(match stdio {
                Stdio::Piped => std::process::Stdio::piped(),
                Stdio::OutputPiped => std::process::Stdio::null(),
            })
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .process_group(0);
        if let Some(dir) = &program.dir {
            command.current_dir(dir);
        }
        let name = program.name();
        let child = command.spawn().map_err(|source| {
            let program = name.clone();
            match source.kind() {
                io::ErrorKind::NotFound => ProcessError::NotInstalled { program },
                _ => ProcessError::Start { program, source },
            }
        })?;
        let group = child
            .id()
            .and_then(|id| i32::try_from(id).ok())
            .map(Pid::from_raw);
        Ok(Self { name, child, group })
    }

    /// Its process id, until it was waited for.
    #[must_use]
    pub fn id(&self) -> Option<i32> {
        self.group.map(Pid::as_raw)
    }

    /// Its pipes, each once.
    pub fn take_pipes(&mut self) -> (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>) {
        (
            self.child.stdin.take(),
            self.child.stdout.take(),
            self.child.stderr.take(),
        )
    }

    /// Whether it has not ended yet.
    pub fn is_alive(&mut self) -> bool {
        let alive = matches!(self.child.try_wait(), Ok(None));
        if !alive {
            self.end_group();
        }
        alive
    }

    /// Waits for its end. Safe to call again, and to drop while waiting.
    ///
    /// # Errors
    ///
    /// When the kernel refuses to tell.
    pub async fn wait(&mut self) -> Result<ExitStatus, ProcessError> {
        let status = self
            .child
            .wait()
            .await
            .map_err(|source| ProcessError::Exchange {
                program: self.name.clone(),
                source,
            })?;
        // What the program left in its group has no one to end it but us; after this the id may belong to another.
        self.end_group();
        Ok(status)
    }

    /// Sends a signal to its process group. A group that is gone is no error.
    pub fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            let _ = killpg(group, signal);
        }
    }

    /// Kills its process group and waits for its end.
    pub async fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait().await;
        self.group = None;
    }

    fn end_group(&mut self) {
        self.signal(Signal::SIGKILL);
        self.group = None;
    }
}

impl Drop for Running {
    /// Kills, and looks for a moment whether the program is gone: whoever drops it may go on to remove what it used.
    fn drop(&mut self) {
        if self.group.is_none() {
            return;
        }
        self.end_group();
        let since = Instant::now();
        // A program in a system call that cannot be interrupted is left to tokio, which reaps it when it ends.
        while matches!(self.child.try_wait(), Ok(None)) && since.elapsed() < DYING {
            std::thread::sleep(LOOK);
        }
    }
}
