//! One worker per object, across processes.
//!
//! - *Why flock?* It ends with its holder, however that ends.
//! - *Why ask again and again?* A thread that waits inside `flock` cannot be called back when nobody wants the lock any
//!   more, and would keep the program from ending. Whoever holds one of these locks works for seconds.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use crate::error::{ImageError, io};

const ASK_AGAIN: Duration = Duration::from_millis(25);

/// A held lock. Dropping it lets go.
#[derive(Debug)]
pub(crate) struct Lock {
    file: Flock<File>,
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

    /// Waits until nobody holds it alone, and holds it with others.
    pub(crate) async fn share(path: &Path) -> Result<Self, ImageError> {
        loop {
            let file = opened(path)?;
            if let Some(lock) = Self::take(file, path, FlockArg::LockSharedNonblock)? {
                return Ok(lock);
            }
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    /// The lock, if nobody else holds it.
    pub(crate) fn try_now(path: &Path) -> Result<Option<Self>, ImageError> {
        Self::try_on(opened(path)?, path)
    }

    /// Dates its file with this moment: somebody uses what it is for. Without it, that is only collected too early.
    pub(crate) fn touch(&self) {
        let _ = self.file.set_modified(SystemTime::now());
    }

    /// Writes into its file what people call what it is for, unless that stands there already.
    pub(crate) fn call(&self, name: &str) {
        if self.file.metadata().is_ok_and(|meta| meta.len() == 0) {
            // In one piece. It is for people alone.
            let _ = (&*self.file).write_all(name.as_bytes());
        }
    }

    /// A lock on an open file or directory, if nobody else holds it.
    pub(crate) fn try_on(file: File, path: &Path) -> Result<Option<Self>, ImageError> {
        Self::take(file, path, FlockArg::LockExclusiveNonblock)
    }

    fn take(file: File, path: &Path, how: FlockArg) -> Result<Option<Self>, ImageError> {
        match Flock::lock(file, how) {
            Ok(file) => Ok(Some(Self { file })),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(io("lock", path)(errno)),
        }
    }
}

fn opened(path: &Path) -> Result<File, ImageError> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(io("open the lock", path))
}

/// What keeps something in the store as long as one of its clones lives. It is no part of what is compared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hold(Vec<Arc<Lock>>);

impl Hold {
    pub(crate) fn on(locks: Vec<Lock>) -> Self {
        Self(locks.into_iter().map(Arc::new).collect())
    }

    /// What it holds is used now.
    pub(crate) fn touch(&self) {
        self.0.iter().for_each(|lock| lock.touch());
    }
}

impl PartialEq for Hold {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Hold {}

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
