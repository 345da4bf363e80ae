//! Small questions to a repository through libgit2, and what its errors mean.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bryo_model::{CommitId, SubDir};
use git2::{ErrorCode, ObjectType, Oid, Repository};

use crate::SourceError;

/// Runs what reads or writes many files away from the threads that must not wait.
pub(crate) async fn blocking<T, F>(work: F) -> Result<T, SourceError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, SourceError> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .map_err(SourceError::Task)?
}

/// Tells work away from the threads that must not wait that nobody wants it any more: it is dropped with its future.
#[derive(Debug, Default)]
pub(crate) struct Waiting(GivenUp);

/// The other end of [`Waiting`].
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenUp(Arc<AtomicBool>);

impl Waiting {
    pub(crate) fn given_up(&self) -> GivenUp {
        self.0.clone()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

impl GivenUp {
    /// # Errors
    ///
    /// When nobody is there to learn it.
    pub(crate) fn check(&self, place: &Path) -> Result<(), SourceError> {
        match self.0.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(SourceError::io(place)(ErrorKind::Interrupted.into())),
        }
    }
}

/// A mirror of ours. That it cannot be opened means that it is damaged.
pub(crate) fn open_mirror(path: &Path, location: &str) -> Result<Repository, SourceError> {
    Repository::open_bare(path).map_err(|e| damaged(&e, location))
}

/// An error of libgit2 about a repository of ours, where only a full disk and damage are possible.
pub(crate) fn damaged(error: &git2::Error, location: &str) -> SourceError {
    if is_full(error) {
        return SourceError::DiskFull {
            path: location.into(),
        };
    }
    SourceError::Corrupt {
        location: location.to_owned(),
        detail: error.message().to_owned(),
    }
}

/// libgit2 keeps the system's reason only in its text.
pub(crate) fn is_full(error: &git2::Error) -> bool {
    ["No space left on device", "Disk quota exceeded"]
        .iter()
        .any(|text| error.message().contains(text))
}

/// The commit that an id names, through an annotated tag if need be; none if the repository does not have it.
pub(crate) fn find_commit(
    repository: &Repository,
    id: &CommitId,
    location: &str,
) -> Result<Option<CommitId>, SourceError> {
    let Ok(oid) = Oid::from_str(id.as_str()) else {
        return Err(SourceError::Sha256 {
            location: location.to_owned(),
        });
    };
    match repository.find_object(oid, None) {
        Ok(object) => match object.peel(ObjectType::Commit) {
            Ok(commit) => commit_id(commit.id(), location).map(Some),
            Err(_) => Ok(None),
        },
        Err(e) if e.code() == ErrorCode::NotFound => Ok(None),
        Err(e) => Err(damaged(&e, location)),
    }
}

/// A commit id from libgit2's form of it.
pub(crate) fn commit_id(oid: Oid, location: &str) -> Result<CommitId, SourceError> {
    oid.to_string().parse().map_err(|_| SourceError::Sha256 {
        location: location.to_owned(),
    })
}

/// Refuses a sub-directory that the commit does not have. Where a submodule is on the way, its own commit decides: see
/// [`crate::modules`].
pub(crate) fn require_subdir(
    repository: &Repository,
    commit: &CommitId,
    subdir: Option<&SubDir>,
    location: &str,
) -> Result<(), SourceError> {
    let Some(subdir) = subdir else {
        return Ok(());
    };
    match find_dir(repository, commit, subdir.as_path(), location)? {
        Found::Directory | Found::Submodule => Ok(()),
        Found::Nothing => Err(SourceError::SubDirMissing {
            subdir: subdir.clone(),
            commit: commit.clone(),
        }),
    }
}

/// What a commit has at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Directory,
    /// There, or on the way.
    Submodule,
    /// Or something else.
    Nothing,
}

/// Looks for a directory in a commit; links are not followed.
pub(crate) fn find_dir(
    repository: &Repository,
    commit: &CommitId,
    path: &Path,
    location: &str,
) -> Result<Found, SourceError> {
    let damaged = |e: git2::Error| damaged(&e, location);
    let oid = Oid::from_str(commit.as_str()).map_err(damaged)?;
    let mut tree = repository
        .find_commit(oid)
        .and_then(|c| c.tree())
        .map_err(damaged)?;
    for name in path {
        let found = tree.get_name_bytes(name.as_bytes());
        let Some((kind, id)) = found.map(|entry| (entry.kind(), entry.id())) else {
            return Ok(Found::Nothing);
        };
        match kind {
            Some(ObjectType::Tree) => tree = repository.find_tree(id).map_err(damaged)?,
            Some(ObjectType::Commit) => return Ok(Found::Submodule),
            _ => return Ok(Found::Nothing),
        }
    }
    Ok(Found::Directory)
}
