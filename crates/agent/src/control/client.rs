//! The side that asks.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::wire::{Request, Response};

/// An agent that lives answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// The agent could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no agent listens at {path}; is it running, and is agent.control the same for it?")]
    NoAgent {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The conversation broke off.
    #[error("the agent at {path} did not answer")]
    Broken {
        /// The socket.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It speaks otherwise.
    #[error("the agent at {path} answers in words that this version does not know")]
    Strange {
        /// The socket.
        path: PathBuf,
        /// What was not understood.
        source: serde_json::Error,
    },
}

/// Asks the agent whose control socket this is.
///
/// # Errors
///
/// When there is none, or it does not answer within ten seconds.
pub async fn ask(path: &Path, request: Request) -> Result<Response, ControlError> {
    let broken = |source| ControlError::Broken {
        path: path.to_owned(),
        source,
    };
    let mut stream = UnixStream::connect(path)
        .await
        .map_err(|source| ControlError::NoAgent {
            path: path.to_owned(),
            source,
        })?;
    let talk = async {
        let mut line = serde_json::to_vec(&request).map_err(io::Error::from)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, talk)
        .await
        .map_err(|_| broken(io::ErrorKind::TimedOut.into()))?
        .map_err(broken)?;
    if answer.is_empty() {
        return Err(broken(io::ErrorKind::UnexpectedEof.into()));
    }
    serde_json::from_slice(&answer).map_err(|source| ControlError::Strange {
        path: path.to_owned(),
        source,
    })
}
