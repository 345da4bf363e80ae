//! The state directory belongs to one agent at a time.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

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
        only_ours(state).map_err(failed)?;
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

/// Whoever may write to the directory could put another database there. To list it is no harm: systemd makes directories
/// for states that way, and what is in it is closed by itself.
fn only_ours(state: &Path) -> io::Result<()> {
    let meta = fs::metadata(state)?;
    let mode = meta.mode() & 0o7777;
    if mode & 0o022 == 0 {
        return Ok(());
    }
    if meta.uid() != Uid::effective().as_raw() {
        let text = format!(
            "others may write to it (mode {mode:o}), and it belongs to somebody else; chown it to the agent's user and chmod 700 it, or choose another"
        );
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
    }
    tracing::warn!(
        "others could write to {} (mode {mode:o}); they cannot any more",
        state.display()
    );
    fs::set_permissions(state, Permissions::from_mode(mode & !0o022))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_can_write_to_the_directory_of_an_agent() {
        let dir = tempfile::tempdir().unwrap();
        for (before, after) in [
            (0o777, 0o755),
            (0o775, 0o755),
            (0o755, 0o755),
            (0o700, 0o700),
        ] {
            fs::set_permissions(dir.path(), Permissions::from_mode(before)).unwrap();
            drop(StateLock::take(dir.path()).unwrap());
            let mode = fs::metadata(dir.path()).unwrap().mode() & 0o777;
            assert_eq!(mode, after, "{before:o}");
        }
        if !Uid::effective().is_root() {
            // The directory for everybody's files is nobody's state.
            let refused = StateLock::take(Path::new("/tmp")).unwrap_err();
            let why = crate::error::chain(&refused);
            assert!(why.contains("chmod 700"), "{why}");
        }
    }
}
