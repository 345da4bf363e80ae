//! The writable kind of checkout: a tree of its own, whose repository reads the mirror's objects and writes its own.
//!
//! Nothing is copied but the files. Its repositories name the mirrors' objects as alternates, which git only reads; what
//! is committed goes into its own `objects`. No file of it is linked to one of a shared checkout, or a change here would be
//! one there.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::Fetched;
use crate::checkout::Writing;
use crate::lock::Lock;
use crate::objects::{Waiting, blocking};
use crate::{Progress, RepositoryKey, SourceCache, SourceError};

/// A tree that its owner may change. While it lives, nobody removes the mirrors that its objects are in.
#[derive(Debug)]
pub struct Worktree {
    path: PathBuf,
    objects: Vec<(PathBuf, PathBuf)>,
    notices: Vec<String>,
    _mirrors: Vec<Arc<Lock>>,
}

impl Worktree {
    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The objects of its mirrors, each with the place where its repositories look for them. Where that is another one, they
    /// are to be mounted there, read-only.
    #[must_use]
    pub fn objects(&self) -> &[(PathBuf, PathBuf)] {
        &self.objects
    }

    /// What the user should know: parts that are not there.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }
}

impl SourceCache {
    /// Makes a writable tree of a fetched commit in a directory that is not there yet.
    ///
    /// `seen` is the directory in which whoever works in the tree will find the objects of its mirrors, one directory for
    /// each; without it they are where they are on this host.
    ///
    /// # Errors
    ///
    /// When something is there already, the tree cannot be written, holds what must not be written, or its objects are
    /// damaged.
    pub async fn worktree(
        &self,
        fetched: &Fetched,
        to: &Path,
        seen: Option<&Path>,
        progress: Progress,
    ) -> Result<Worktree, SourceError> {
        let gathered = self.gathered(fetched, &progress).await?;
        let (to, seen) = (to.to_owned(), seen.map(Path::to_owned));
        let steady = self.steady(&gathered).await?;
        let cache = self.clone();
        let holds: Vec<_> = gathered
            .holds
            .iter()
            .cloned()
            .chain([fetched.hold()])
            .collect();
        let waiting = Waiting::default();
        let bounds = self.bounds(&waiting);
        blocking(move || {
            let paths = cache.paths();
            let place = |key: &RepositoryKey| match &seen {
                Some(dir) => dir.join(key.to_string()),
                None => paths.mirror(key).join("objects"),
            };
            let writing = Writing::own(paths, &gathered.contents, &bounds, &place);
            let ready = writing
                .write(&to, "", &progress)
                .map_err(|not| not.error)
                .inspect_err(|e| {
                    // What somebody else has there is not ours to remove.
                    if !matches!(e, SourceError::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists)
                    {
                        let _ = fs::remove_dir_all(&to);
                    }
                })?;
            let mut keys: Vec<_> = gathered.contents.parts.iter().map(|(key, _)| key).collect();
            keys.sort();
            keys.dedup();
            let objects = keys
                .iter()
                .map(|key| (paths.mirror(key).join("objects"), place(key)))
                .collect();
            drop(steady);
            Ok(Worktree {
                path: to,
                objects,
                notices: ready.notices,
                _mirrors: holds,
            })
        })
        .await
        .map_err(|e| e.in_cache(self.paths().root()))
    }
}
