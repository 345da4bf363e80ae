//! A directory for what git must be told and nobody else may know, for as long as one fetch.
//!
//! It is 0700 and goes when it is dropped. A process that is killed leaves its own; whoever makes the next one removes
//! it, for its lock is free. The name proves nothing: two containers that share a cache have a process 7 each.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bryo_model::Secret;

use crate::SourceError;
use crate::checkout::is_gone;
use crate::lock::{Access, Lock};

/// Held while a directory is made or leftovers are looked for: in between nobody takes one for the other.
const ALL: &str = "lock";

/// Held as long as a directory is used.
const ONE: &str = "lock";

/// Tells two fetches of one process apart.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// The directory.
#[derive(Debug)]
pub(crate) struct Private {
    path: PathBuf,
    _lock: Lock,
}

impl Private {
    /// Makes one below `root`, which is made if it is not there.
    pub(crate) async fn make(root: &Path) -> Result<Self, SourceError> {
        directory(root, true)?;
        let all = Lock::acquire(&root.join(ALL), Access::Exclusive).await?;
        sweep(root)?;
        let (path, lock) = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = root.join(format!("{}-{number}", std::process::id()));
            match directory(&path, false) {
                // Of another process 7.
                Err(SourceError::Io { source, .. })
                    if source.kind() == ErrorKind::AlreadyExists =>
                {
                    continue;
                }
                other => other?,
            }
            match Lock::acquire(&path.join(ONE), Access::Exclusive).await {
                // The same one, on the way out with a directory of this name.
                Err(error) if is_gone(&error) => {}
                other => break (path, other?),
            }
        };
        drop(all);
        Ok(Self { path, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A file in it that only we can read.
    pub(crate) fn write(&self, name: &str, content: &Secret) -> Result<PathBuf, SourceError> {
        let path = self.path.join(name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(content.expose().as_bytes()))
            .map_err(SourceError::io(&path))?;
        Ok(path)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // What cannot be removed is still in a directory that nobody else can enter, and the next fetch tries again.
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn directory(path: &Path, recursive: bool) -> Result<(), SourceError> {
    fs::DirBuilder::new()
        .recursive(recursive)
        .mode(0o700)
        .create(path)
        .map_err(SourceError::io(path))
}

fn sweep(root: &Path) -> Result<(), SourceError> {
    for entry in fs::read_dir(root).map_err(SourceError::io(root))? {
        let entry = entry.map_err(SourceError::io(root))?;
        let path = entry.path();
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        // Its user may be removing it this moment.
        if let Ok(Some(_alone)) = Lock::try_acquire(&path.join(ONE), Access::Exclusive) {
            let _ = fs::remove_dir_all(&path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[tokio::test]
    async fn it_is_closed_to_others_and_goes_with_its_user() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("private");
        // As a killed process leaves it.
        fs::create_dir_all(root.join("1-0")).unwrap();
        fs::write(root.join("1-0/key"), "x").unwrap();
        let first = Private::make(&root).await.unwrap();
        assert!(!root.join("1-0").exists());
        let second = Private::make(&root).await.unwrap();
        let file = first.write("key", &Secret::new("x".to_owned())).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(first.path()), mode(&file)), (0o700, 0o600));
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.exists() && second.path().exists());
    }

    #[tokio::test]
    async fn the_names_of_another_with_the_same_process_id_are_left_to_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("private");
        fs::create_dir_all(&root).unwrap();
        // More than this process takes meanwhile in other tests; those that it took before are nobody's.
        let next = NEXT.load(Ordering::Relaxed);
        let theirs: Vec<_> = (next..next + 100)
            .map(|number| {
                let path = root.join(format!("{}-{number}", std::process::id()));
                fs::create_dir(&path).unwrap();
                let lock = Lock::try_acquire(&path.join(ONE), Access::Exclusive);
                (path, lock.unwrap().unwrap())
            })
            .collect();
        let ours = Private::make(&root).await.unwrap();
        assert!(theirs.iter().all(|(path, _)| path != ours.path()));
        assert!(theirs.iter().all(|(path, _)| path.join(ONE).exists()));
    }
}
