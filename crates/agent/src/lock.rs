//! The state directory belongs to one agent at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::AgentError;

/// Held as long as the agent lives; the kernel gives it back whatever becomes of it.
#[derive(Debug)]
pub(crate) struct StateLock {
    _lock: Flock<File>,
}

impl StateLock {
    /// Makes the directory where there is none, and takes it.
    pub(crate) fn take(state: &Path) -> Result<Self, AgentError> {
        let failed = |source: io::Error| AgentError::State {
            path: state.to_owned(),
            source,
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(failed)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(state.join("lock"))
            .map_err(failed)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Self { _lock: lock }),
            Err((_, Errno::EWOULDBLOCK)) => Err(AgentError::Taken(state.to_owned())),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}
