//! Small questions to a repository through libgit2, and what its errors mean.

use std::path::Path;

use bryo_model::{CommitId, SubDir};
use git2::{ErrorClass, ErrorCode, ObjectType, Oid, Repository};

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

/// Refuses a sub-directory that the commit does not have.
pub(crate) fn require_subdir(
    repository: &Repository,
    commit: &CommitId,
    subdir: Option<&SubDir>,
    location: &str,
) -> Result<(), SourceError> {
    let Some(subdir) = subdir else {
        return Ok(());
    };
    let damaged = |e: git2::Error| damaged(&e, location);
    let missing = || SourceError::SubDirMissing {
        subdir: subdir.clone(),
        commit: commit.clone(),
    };
    let oid = Oid::from_str(commit.as_str()).map_err(damaged)?;
    let tree = repository
        .find_commit(oid)
        .and_then(|c| c.tree())
        .map_err(damaged)?;
    match tree.get_path(subdir.as_path()) {
        Ok(entry) if entry.kind() == Some(ObjectType::Tree) => Ok(()),
        Ok(_) => Err(missing()),
        Err(e) if e.code() == ErrorCode::NotFound && e.class() != ErrorClass::Odb => Err(missing()),
        Err(e) => Err(damaged(e)),
    }
}
