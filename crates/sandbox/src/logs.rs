//! The job's output as it comes, from either runtime.

use bryo_model::LogStream;
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, ChildStdout};

use crate::{Piece, SandboxError};

/// How much is taken from a pipe at once: what a pipe holds by default.
const PIECE: usize = 65_536;

/// The job's output. Whoever does not ask for the next piece makes the job wait: nothing is dropped, nothing piles up.
#[derive(Debug)]
pub struct Logs(Source);

#[derive(Debug)]
enum Source {
    Pipes {
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
    },
    Podman(Box<crate::podman::PodmanLogs>),
}

impl Logs {
    pub(crate) fn of_pipes(stdout: ChildStdout, stderr: ChildStderr) -> Self {
        Self(Source::Pipes {
            stdout: Some(stdout),
            stderr: Some(stderr),
        })
    }

    pub(crate) fn of_podman(logs: crate::podman::PodmanLogs) -> Self {
        Self(Source::Podman(Box::new(logs)))
    }

    /// Of a job that never ran.
    pub(crate) fn empty() -> Self {
        Self(Source::Pipes {
            stdout: None,
            stderr: None,
        })
    }

    /// The next piece; `None` when both streams ended. Nothing is lost if the future is dropped.
    ///
    /// # Errors
    ///
    /// When the connection to the job's output breaks.
    pub async fn next(&mut self) -> Option<Result<Piece, SandboxError>> {
        match &mut self.0 {
            Source::Pipes { stdout, stderr } => next_of_pipes(stdout, stderr).await,
            Source::Podman(logs) => logs.next().await,
        }
    }
}

async fn next_of_pipes(
    stdout: &mut Option<ChildStdout>,
    stderr: &mut Option<ChildStderr>,
) -> Option<Result<Piece, SandboxError>> {
    loop {
        let mut out = Vec::new();
        let mut err = Vec::new();
        let (stream, read, bytes) = match (stdout.as_mut(), stderr.as_mut()) {
            (None, None) => return None,
            (Some(o), None) => (LogStream::Stdout, read(o, &mut out).await, out),
            (None, Some(e)) => (LogStream::Stderr, read(e, &mut err).await, err),
            (Some(o), Some(e)) => tokio::select! {
                r = read(o, &mut out) => (LogStream::Stdout, r, out),
                r = read(e, &mut err) => (LogStream::Stderr, r, err),
            },
        };
        match read {
            Ok(n) if n > 0 => return Some(Ok(Piece { stream, bytes })),
            Ok(_) => match stream {
                LogStream::Stdout => *stdout = None,
                LogStream::Stderr => *stderr = None,
            },
            Err(source) => {
                return Some(Err(SandboxError::System {
                    what: "read the job's output",
                    source,
                }));
            }
        }
    }
}

/// Reading into a vector is cancel-safe: what was not returned was not taken from the pipe.
async fn read(
    pipe: &mut (impl tokio::io::AsyncRead + Unpin),
    into: &mut Vec<u8>,
) -> std::io::Result<usize> {
    into.reserve(PIECE);
    pipe.read_buf(into).await
}
