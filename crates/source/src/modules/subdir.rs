//! A sub-directory that lies in a submodule.

use std::fs;
use std::path::Path;

use bryo_model::{CommitId, SubDir};

use super::Gathered;
use crate::lock::{Access, Lock};
use crate::objects::{Found, blocking, find_dir, open_mirror};
use crate::{Checkout, Progress, SourceCache, SourceError};

impl SourceCache {
    /// Refuses a sub-directory that is in a submodule, or would be, and is not there.
    pub(crate) async fn require_in_modules(
        &self,
        gathered: &Gathered,
        subdir: &SubDir,
        progress: &Progress,
    ) -> Result<(), SourceError> {
        let whole = &gathered.contents.parts[0].1;
        // The innermost that it is in; the whole, if it is in none.
        let parts = gathered.contents.parts.iter().enumerate();
        let within = parts.filter_map(|(number, (_, part))| {
            let rest = subdir.as_path().strip_prefix(&part.prefix).ok()?;
            Some((part.prefix.len(), number, rest))
        });
        let Some((_, number, rest)) = within.max() else {
            return Err(missing(subdir, &whole.commit));
        };
        let commit = &gathered.contents.parts[number].1.commit;
        let origin = &gathered.origins[number];
        let seen = self.mark(origin);
        let found = match self.find_in(gathered, number, rest).await {
            Err(SourceError::Corrupt { .. }) => {
                self.repair(origin, commit, seen.as_deref(), progress)
                    .await?;
                self.find_in(gathered, number, rest).await?
            }
            other => other?,
        };
        match found {
            Found::Directory => Ok(()),
            // One that is left out has nothing that could be entered.
            Found::Submodule | Found::Nothing => Err(missing(subdir, &whole.commit)),
        }
    }

    async fn find_in(
        &self,
        gathered: &Gathered,
        number: usize,
        path: &Path,
    ) -> Result<Found, SourceError> {
        let (key, part) = &gathered.contents.parts[number];
        let steady = Lock::acquire(&self.paths().mirror_lock(key), Access::Shared).await?;
        let (mirror, path) = (self.paths().mirror(key), path.to_owned());
        let (commit, location) = (part.commit.clone(), part.location.clone());
        blocking(move || {
            let repository = open_mirror(&mirror, &location)?;
            let found = find_dir(&repository, &commit, &path, &location);
            drop(steady);
            found
        })
        .await
    }
}

/// The same in a tree that is there.
pub(crate) fn require_in_tree(checkout: &Checkout, subdir: &SubDir) -> Result<(), SourceError> {
    let mut path = checkout.tree().to_owned();
    for name in subdir.as_path() {
        path.push(name);
        if !fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir()) {
            return Err(missing(subdir, checkout.commit()));
        }
    }
    // The directory of a submodule that was left out is there, and empty. Git keeps no other empty one.
    let empty = fs::read_dir(&path).is_ok_and(|mut entries| entries.next().is_none());
    match empty {
        true => Err(missing(subdir, checkout.commit())),
        false => Ok(()),
    }
}

fn missing(subdir: &SubDir, commit: &CommitId) -> SourceError {
    SourceError::SubDirMissing {
        subdir: subdir.clone(),
        commit: commit.clone(),
    }
}
