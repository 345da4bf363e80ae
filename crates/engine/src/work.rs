//! The directory of one attempt, and what crashed attempts left.
//!
//! ```text
//! work/<job>.lock      locked as long as the attempt lives; taken before the directory is made
//! work/<job>/output/   the job's /output
//! work/<job>/refs      the source's branches and tags, as the job sees them
//! work/<job>/...       the runtime's own files
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use bryo_model::{ContainerName, JobId};
use bryo_sandbox::{Host, Runtime, SandboxError, UserNamespace};
use nix::fcntl::{Flock, FlockArg};

/// An attempt's own directory.
#[derive(Debug)]
pub(crate) struct Work {
    dir: PathBuf,
    lock_path: PathBuf,
    _lock: Flock<File>,
}

impl Work {
    /// Makes it, private to the agent.
    pub(crate) fn create(root: &Path, job: JobId) -> io::Result<Self> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)?;
        let lock_path = lock_path(root, &job.to_string());
        let lock = take(&lock_path)?;
        let work = Self {
            dir: root.join(job.to_string()),
            lock_path,
            _lock: lock,
        };
        let make = |dir: &Path| fs::DirBuilder::new().mode(0o700).create(dir);
        if let Err(error) = make(&work.dir).and_then(|()| make(&work.output())) {
            let _ = fs::remove_dir_all(&work.dir);
            let _ = fs::remove_file(&work.lock_path);
            return Err(error);
        }
        Ok(work)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn output(&self) -> PathBuf {
        self.dir.join("output")
    }

    /// Removes it. Files that a job wrote need the user namespace they were written in.
    pub(crate) async fn remove(self, userns: Option<&UserNamespace>) -> Result<(), String> {
        match userns {
            Some(userns) => userns.remove(&self.dir).await.map_err(|e| e.to_string())?,
            None => fs::remove_dir_all(&self.dir).map_err(|e| e.to_string())?,
        }
        // The helper has a mount namespace of its own; what counts is what is here.
        if self.dir.exists() {
            return Err("the user namespace helper does not see it".to_owned());
        }
        fs::remove_file(&self.lock_path).map_err(|e| e.to_string())
    }
}

fn lock_path(root: &Path, job: &str) -> PathBuf {
    root.join(format!("{job}.lock"))
}

/// Removes the directories of attempts whose process is gone. Those of living ones are locked.
///
/// # Errors
///
/// The last thing that could not be removed. Everything else is.
pub(crate) async fn sweep(
    root: &Path,
    host: &Host,
    runtime: &Runtime,
) -> Result<u32, SandboxError> {
    let mut swept = 0;
    let mut result = Ok(());
    for (lock, job, dir) in dead(root) {
        let name = ContainerName::of(job);
        // First what may still run, then what it may still write to.
        let one = async {
            runtime.sweep(name.as_str(), &dir).await?;
            host.userns().remove(&dir).await
        };
        match one.await {
            Ok(()) => {
                let _ = fs::remove_file(lock_path(root, &dir_name(&dir)));
                swept += 1;
            }
            Err(error) => result = Err(error),
        }
        drop(lock);
    }
    orphans(root);
    for name in runtime.ours(root).await? {
        let Some(lock) = ContainerName::job(&name).and_then(|job| stray(root, job)) else {
            continue;
        };
        match runtime.remove_stray(&name).await {
            Ok(()) => swept += 1,
            Err(error) => result = Err(error),
        }
        let _ = fs::remove_file(lock_path(root, &lock.1));
        drop(lock);
    }
    result.map(|()| swept)
}

/// Removes locks without a directory: their owner died before it made the one, or after it removed it.
fn orphans(root: &Path) {
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        let name = dir_name(&path);
        let Some(job) = name.strip_suffix(".lock") else {
            continue;
        };
        if job.parse::<JobId>().is_ok()
            && let Some(_lock) = claim(&path)
            && !root.join(job).exists()
        {
            let _ = fs::remove_file(&path);
        }
    }
}

/// The lock of an attempt that has no directory any more, if nobody holds it.
fn stray(root: &Path, job: JobId) -> Option<(Flock<File>, String)> {
    let name = job.to_string();
    let lock = claim(&lock_path(root, &name))?;
    if root.join(&name).is_dir() {
        // It is a dead one's, and the next sweep's matter.
        return None;
    }
    Some((lock, name))
}

/// Directories of attempts that nobody holds, each with its lock taken.
fn dead(root: &Path) -> Vec<(Flock<File>, JobId, PathBuf)> {
    let Ok(entries) = fs::read_dir(root) else {
        return Vec::new();
    };
    entries
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter_map(|dir| {
            let name = dir_name(&dir);
            let job = name.parse::<JobId>().ok()?;
            let lock_path = lock_path(root, &name);
            let lock = claim(&lock_path)?;
            if dir.is_dir() {
                return Some((lock, job, dir));
            }
            // Its owner has just removed it, and `claim` has made the lock again.
            let _ = fs::remove_file(lock_path);
            None
        })
        .collect()
}

fn dir_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// How often a lock file is tried that a sweep removes at the same moment.
const TRIES: u32 = 100;

/// Makes and takes the lock of an attempt that begins. A sweep may remove the file while it is not locked yet; what
/// counts is to hold the lock of the file that is there.
fn take(path: &Path) -> io::Result<Flock<File>> {
    for _ in 0..TRIES {
        if let Some(lock) = claim(path) {
            let held = lock.metadata()?;
            let same = |meta: fs::Metadata| (meta.dev(), meta.ino()) == (held.dev(), held.ino());
            if fs::metadata(path).is_ok_and(same) {
                return Ok(lock);
            }
        }
        std::thread::yield_now();
    }
    let text = format!("{} is locked by another attempt", path.display());
    Err(io::Error::new(io::ErrorKind::WouldBlock, text))
}

/// The lock, if nobody has it. A missing lock file is made: its owner died between removing the one and the other.
fn claim(path: &Path) -> Option<Flock<File>> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> JobId {
        JobId::from_parts(1, n)
    }

    #[test]
    fn the_living_are_not_swept_and_the_dead_are_found() {
        let root = tempfile::tempdir().unwrap();
        let living = Work::create(root.path(), id(1)).unwrap();
        let dead_one = Work::create(root.path(), id(2)).unwrap();
        let dead_dir = dead_one.dir().to_owned();
        drop(dead_one);
        fs::create_dir(root.path().join("something else")).unwrap();
        let found: Vec<_> = dead(root.path())
            .into_iter()
            .map(|(_, _, dir)| dir)
            .collect();
        assert_eq!(found, [dead_dir]);
        assert!(living.output().is_dir());
    }

    #[test]
    fn locks_without_an_attempt_go_and_those_of_the_living_stay() {
        let root = tempfile::tempdir().unwrap();
        let living = Work::create(root.path(), id(1)).unwrap();
        let orphan = root.path().join(format!("{}.lock", id(2)));
        fs::write(&orphan, "").unwrap();
        fs::write(root.path().join("other.lock"), "").unwrap();
        orphans(root.path());
        assert!(!orphan.exists() && living.lock_path.exists());
        assert!(root.path().join("other.lock").exists());
    }

    #[test]
    fn an_attempt_has_its_directory_alone() {
        let root = tempfile::tempdir().unwrap();
        let _first = Work::create(root.path(), id(1)).unwrap();
        assert!(Work::create(root.path(), id(1)).is_err());
    }
}
