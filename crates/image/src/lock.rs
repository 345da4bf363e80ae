//! One worker per object, across processes.
//!
//! - *Why flock?* It ends with its holder, however that ends.
//! - *Why ask again and again?* A thread that waits inside `flock` cannot be called back when nobody wants the lock any
//!   more, and would keep the program from ending. Whoever holds one of these locks works for seconds.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{ImageError, io};

const ASK_AGAIN: Duration = Duration::from_millis(25);

/// A held lock. Dropping it lets go.
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    /// Waits until nobody else holds it.
    pub(crate) async fn wait(path: &Path) -> Result<Self, ImageError> {
        loop {
            if let Some(lock) = Self::try_now(path)? {
                return Ok(lock);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The lock, if nobody else holds it.
    pub(crate) fn try_now(path: &Path) -> Result<Option<Self>, ImageError> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io("open the lock", path))?;
        Self::try_on(file, path)
    }

    /// A lock on an open file or directory, if nobody else holds it.
    pub(crate) fn try_on(file: File, path: &Path) -> Result<Option<Self>, ImageError> {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Some(Self { _file: file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(io("lock", path)(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lock_has_one_holder_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = Lock::wait(&path).await.unwrap();
        assert!(Lock::try_now(&path).unwrap().is_none());
        let next = tokio::spawn({
            let path = path.clone();
            async move { Lock::wait(&path).await.map(|_| ()) }
        });
        drop(held);
        next.await.unwrap().unwrap();
    }
}
