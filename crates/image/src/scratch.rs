//! Work in progress: directories in `tmp/` that exist as long as somebody holds them.
//!
//! A scratch directory is flocked by who works in it. What a crash leaves behind has no lock, and whoever opens the
//! store next removes it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::error::{ImageError, io};
use crate::lock::Lock;
use crate::paths::{Paths, UNPACKING};

static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A locked directory of our own. Dropping it removes it.
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: Lock,
}

impl Scratch {
    pub(crate) fn new(paths: &Paths) -> Result<Self, ImageError> {
        loop {
            let path = paths.tmp().join(unique_name());
            fs::create_dir(&path).map_err(io("create", &path))?;
            // Between making and locking, a sweeper may have taken it for garbage: then try another.
            match lock_existing(&path)? {
                Some(lock) => return Ok(Self { path, _lock: lock }),
                None => continue,
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is swept when the store is opened next.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Removes what nobody works on any more. Best effort: what resists stays and harms nobody.
pub(crate) fn sweep(paths: &Paths) {
    let Ok(entries) = fs::read_dir(paths.tmp()) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // Layers being unpacked belong to subordinate ids; the unpacker removes them.
        if entry.file_name().to_string_lossy().starts_with(UNPACKING) {
            continue;
        }
        if let Ok(Some(_lock)) = lock_existing(&path) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Locks a directory that is still there once it is locked.
fn lock_existing(path: &Path) -> Result<Option<Lock>, ImageError> {
    let Ok(dir) = File::open(path) else {
        return Ok(None);
    };
    let opened = dir.metadata().map_err(io("inspect", path))?;
    let Some(lock) = Lock::try_on(dir, path)? else {
        return Ok(None);
    };
    let same = fs::metadata(path).is_ok_and(|now| now.ino() == opened.ino());
    Ok(same.then_some(lock))
}

fn unique_name() -> String {
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    format!("{}-{count}-{time}", process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_takes_what_a_crash_left_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::create(dir.path()).unwrap();
        let alive = Scratch::new(&paths).unwrap();
        let dead = paths.tmp().join("1-2-3");
        fs::create_dir_all(dead.join("sub")).unwrap();
        let unpacking = paths.tmp().join("unpack-00");
        fs::create_dir(&unpacking).unwrap();
        sweep(&paths);
        assert!(alive.path().exists());
        assert!(!dead.exists());
        assert!(unpacking.exists());
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.exists());
    }
}
