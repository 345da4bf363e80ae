//! Many packs become one.
//!
//! Each fetch that brings something leaves a pack, and looking an object up means looking into each. Git would repack by
//! itself, beside whoever reads; here that is switched off, and done when nobody uses the mirror: its `.use` and its lock
//! are held alone. Git writes the new pack whole before it removes the old ones, so a kill at any moment costs nothing but
//! a file that the next fetch clears away.
//!
//! Nothing is dropped: what no reference leads to may be the commit of a checkout.

use std::fs;
use std::path::Path;
use std::time::Duration;

use bryo_process::Program;

use crate::lock::{Access, Lock};
use crate::mirror::FETCHING;
use crate::objects::blocking;
use crate::{RepositoryKey, SourceCache, SourceError, git};

/// From so many packs on, a mirror is worth it.
const MANY: usize = 50;

/// Whoever wants the mirror waits for this.
const LONGEST: Duration = Duration::from_secs(600);

const MOST_OUTPUT: usize = 1 << 16;

/// Memory is the host's; time is nobody's.
const FRUGAL: [(&str, &str); 4] = [
    ("repack.writeBitmaps", "false"),
    ("pack.threads", "1"),
    ("pack.windowMemory", "64m"),
    ("core.bigFileThreshold", "32m"),
];

impl SourceCache {
    /// Repacks mirrors that have many packs and that nobody uses. Returns their names.
    ///
    /// # Errors
    ///
    /// When the cache cannot be read, or git fails. The mirror is as good as before then.
    pub async fn repack(&self) -> Result<Vec<String>, SourceError> {
        let cache = self.clone();
        let worth = blocking(move || {
            let keys = cache.keys()?.into_iter();
            Ok(keys
                .filter(|key| packs(&cache.paths().mirror(key)) >= MANY)
                .collect::<Vec<_>>())
        })
        .await?;
        let mut done = Vec::new();
        for key in worth {
            if self.repack_one(&key).await? {
                done.push(key.to_string());
            }
        }
        Ok(done)
    }

    async fn repack_one(&self, key: &RepositoryKey) -> Result<bool, SourceError> {
        let (used, lock) = (self.paths().mirror_use(key), self.paths().mirror_lock(key));
        let Some(_alone) = Lock::try_acquire(&used, Access::Exclusive)? else {
            return Ok(false);
        };
        let Some(_steady) = Lock::try_acquire(&lock, Access::Exclusive)? else {
            return Ok(false);
        };
        let mirror = self.paths().mirror(key);
        let marker = mirror.join(FETCHING);
        // What is there was left by a kill, and may be in the way: the next fetch sees to it first.
        if marker.exists() || packs(&mirror) < MANY {
            return Ok(false);
        }
        fs::write(&marker, b"").map_err(SourceError::io(&marker))?;
        let done = program(&mirror)
            .finish(b"", MOST_OUTPUT, LONGEST)
            .await
            .map_err(SourceError::Program)?;
        if !done.status.success() {
            return Err(SourceError::Git {
                location: key.to_string(),
                detail: done.stderr,
            });
        }
        fs::remove_file(&marker).map_err(SourceError::io(&marker))?;
        Ok(true)
    }
}

fn program(mirror: &Path) -> Program {
    let mut git = git::alone(mirror);
    for (name, value) in FRUGAL {
        git = git.arg("-c").arg(format!("{name}={value}"));
    }
    git.arg("--git-dir=.")
        .args(["repack", "-a", "-d", "--keep-unreachable", "--quiet"])
}

fn packs(mirror: &Path) -> usize {
    let entries = fs::read_dir(mirror.join("objects/pack"));
    let names = entries.into_iter().flatten().flatten();
    names
        .filter(|entry| entry.path().extension().is_some_and(|e| e == "pack"))
        .count()
}
