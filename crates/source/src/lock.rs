//! Locks between tasks and between processes.
//!
//! A lock is an flock(2) on a file: the kernel releases it when its holder ends, however it ends, so there are no stale
//! ones. Each acquisition opens the file anew, hence two tasks of one process exclude each other too. Waiting is a
//! short sleep and another try, never a blocked thread: flock has no descriptor to wait on.
//!
//! Why is it released and not only closed? A child between its fork and its exec has every descriptor of its parent, and
//! closing ours would leave the lock with it for that while.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::SourceError;

/// How often a lock that somebody else holds is tried again.
pub(crate) const TRY_AGAIN: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Shared,
    Exclusive,
}

/// A lock that is held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// The lock, if nobody is in the way. The file is made when it is not there; its directory is not.
    pub(crate) fn try_acquire(path: &Path, access: Access) -> Result<Option<Self>, SourceError> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(SourceError::io(path))?;
            let taken = match access {
                Access::Shared => file.try_lock_shared(),
                Access::Exclusive => file.try_lock(),
            };
            match taken {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(source)) => return Err(SourceError::io(path)(source)),
            }
            // Whoever held it before may have removed the file: then this lock is on a name that nobody else finds.
            if is_still(&file, path)? {
                return Ok(Some(Self { file }));
            }
        }
    }

    /// Dates the file with this moment: somebody uses what it is for. Without it, that is only collected too early.
    pub(crate) fn touch(&self) {
        let _ = self.file.set_modified(SystemTime::now());
    }

    /// The lock, when it is free. Dropping the future stops waiting.
    pub(crate) async fn acquire(path: &Path, access: Access) -> Result<Self, SourceError> {
        loop {
            if let Some(lock) = Self::try_acquire(path, access)? {
                return Ok(lock);
            }
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The close that follows releases it too, only later.
        let _ = self.file.unlock();
    }
}

fn is_still(file: &File, path: &Path) -> Result<bool, SourceError> {
    let ours = file.metadata().map_err(SourceError::io(path))?;
    Ok(fs::metadata(path).is_ok_and(|now| now.ino() == ours.ino() && now.dev() == ours.dev()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_and_exclusive_exclude_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let take = |access| Lock::try_acquire(&path, access).unwrap();
        let first = take(Access::Shared).unwrap();
        let second = take(Access::Shared).unwrap();
        assert!(take(Access::Exclusive).is_none());
        drop((first, second));
        let alone = take(Access::Exclusive).unwrap();
        assert!(take(Access::Shared).is_none());
        drop(alone);
        assert!(take(Access::Shared).is_some());
    }

    #[test]
    fn a_dropped_lock_is_free_whoever_has_its_descriptor() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let lock = Lock::try_acquire(&path, Access::Exclusive)
            .unwrap()
            .unwrap();
        let child = lock.file.try_clone().unwrap();
        drop(lock);
        assert!(
            Lock::try_acquire(&path, Access::Exclusive)
                .unwrap()
                .is_some()
        );
        drop(child);
    }

    #[test]
    fn a_lock_on_a_removed_file_is_not_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let file = File::create(&path).unwrap();
        assert!(is_still(&file, &path).unwrap());
        fs::remove_file(&path).unwrap();
        assert!(!is_still(&file, &path).unwrap());
        File::create(&path).unwrap();
        assert!(!is_still(&file, &path).unwrap());
    }
}
