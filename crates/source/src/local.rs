//! A repository on this machine, read in place.
//!
//! What is asked for is looked up by libgit2 in the repository itself: a commit that is in the cache already costs no
//! git program and no walk through directories. libgit2 is also the judge of ownership, with the `safe.directory` of
//! the user's own configuration; git gets no configuration from us but that one answer.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bryo_model::{CommitId, GitRef, GitUrl};
use git2::{ErrorClass, ErrorCode, Repository, RepositoryOpenFlags};

use crate::objects::{commit_id, find_commit};
use crate::origin::{Origin, Ownership};
use crate::{Absence, RepositoryKey, SourceError, refs};

/// What a local repository has for what was asked.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) origin: Origin,
    pub(crate) commit: CommitId,
    /// The branch, the tag or the short commit id.
    pub(crate) description: String,
}

/// Opens the repository at this path and looks the reference up.
pub(crate) fn find(path: &Path, reference: Option<&GitRef>) -> Result<Found, SourceError> {
    let repository = open(path)?;
    let common = repository.commondir();
    let common = common.canonicalize().map_err(SourceError::io(common))?;
    let shown = path.canonicalize().map_err(SourceError::io(path))?;
    let origin = Origin {
        key: RepositoryKey::of_path(&common),
        location: shown.display().to_string(),
        address: common.clone().into(),
        protocols: "file",
        ownership: ownership(&repository, &common)?,
        stamp: Some(stamp(&common)),
        remote: None,
        local: Some(common.clone()),
    };
    let (commit, description) = resolve(&repository, &origin, reference)?;
    Ok(Found {
        origin,
        commit,
        description,
    })
}

/// A submodule that the user has in a local repository, if it has this commit.
pub(crate) fn initialised(
    parent: &Path,
    name: &str,
    commit: &CommitId,
) -> Result<Option<Origin>, SourceError> {
    let path = parent.join("modules").join(name);
    if !path.join("HEAD").exists() {
        return Ok(None);
    }
    let repository = open(&path)?;
    let common = repository.commondir();
    let common = common.canonicalize().map_err(SourceError::io(common))?;
    let location = common.display().to_string();
    if find_commit(&repository, commit, &location)?.is_none() {
        return Ok(None);
    }
    Ok(Some(Origin {
        key: RepositoryKey::of_path(&common),
        address: common.clone().into(),
        protocols: "file",
        ownership: ownership(&repository, &common)?,
        // Its commit is asked for by id; which tags it has does not matter.
        stamp: None,
        remote: None,
        local: Some(common),
        location,
    }))
}

/// The address of a local repository's origin, if it is one.
pub(crate) fn remote_url(common: &Path) -> Option<GitUrl> {
    let config = Repository::open(common).ok()?.config().ok()?;
    config.get_string("remote.origin.url").ok()?.parse().ok()
}

/// The repository whose top this path is.
pub(crate) fn open(path: &Path) -> Result<Repository, SourceError> {
    let location = || path.display().to_string();
    match Repository::open(path) {
        Ok(repository) => Ok(repository),
        Err(e) if e.code() == ErrorCode::Owner => Err(SourceError::Foreign {
            location: location(),
        }),
        Err(e) if e.code() == ErrorCode::NotFound && e.class() == ErrorClass::Repository => {
            Err(not_a_top(path))
        }
        Err(e) if e.message().contains("object format") || e.message().contains("objectformat") => {
            Err(SourceError::Sha256 {
                location: location(),
            })
        }
        Err(_) if !path.exists() => Err(not_a_top(path)),
        Err(source) => Err(SourceError::Library {
            location: location(),
            source,
        }),
    }
}

fn not_a_top(path: &Path) -> SourceError {
    let missing = |why| SourceError::RepositoryMissing {
        location: path.display().to_string(),
        why,
    };
    let Ok(path) = path.canonicalize() else {
        return missing(Absence::NotFound);
    };
    let none: [&Path; 0] = [];
    let around = Repository::open_ext(&path, RepositoryOpenFlags::empty(), none);
    match around.ok().and_then(|r| r.workdir().map(Path::to_owned)) {
        Some(top) => SourceError::NotTheTop {
            path,
            top: top.components().collect(),
        },
        None => missing(Absence::NotARepository),
    }
}

/// Called when libgit2 has accepted the owner: then a foreign one was declared safe by our user.
fn ownership(repository: &Repository, common: &Path) -> Result<Ownership, SourceError> {
    let us = nix::unistd::geteuid().as_raw();
    for path in [Some(common), repository.workdir()].into_iter().flatten() {
        if fs::metadata(path).map_err(SourceError::io(path))?.uid() != us {
            return Ok(Ownership::DeclaredSafe);
        }
    }
    Ok(Ownership::Checked)
}

/// The state of the repository's tags, by the dates of the directories and of the file that they are in. Tags are what a
/// cached checkout of the same commit could miss, and version numbers are made of them.
fn stamp(common: &Path) -> String {
    let mut stamp = String::new();
    let mut look = |path: &Path| {
        let seen = fs::metadata(path);
        stamp.push_str(&match &seen {
            Ok(m) => format!("{}.{:09}/{} ", m.mtime(), m.mtime_nsec(), m.ino()),
            Err(_) => "none ".to_owned(),
        });
        seen
    };
    let _ = look(&common.join("packed-refs"));
    let mut rest = vec![common.join("refs/tags")];
    while let Some(dir) = rest.pop() {
        // Two links are its name and its own dot: it has no directories. Few repositories have one (`release/2`).
        if look(&dir).is_ok_and(|m| m.nlink() != 2) {
            let inner = fs::read_dir(&dir).into_iter().flatten().flatten();
            rest.extend(
                inner
                    .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
                    .map(|e| e.path()),
            );
        }
    }
    stamp
}

fn resolve(
    repository: &Repository,
    origin: &Origin,
    reference: Option<&GitRef>,
) -> Result<(CommitId, String), SourceError> {
    let location = &origin.location;
    match reference {
        Some(GitRef::Commit(id)) => match find_commit(repository, id, location)? {
            Some(commit) => Ok((commit.clone(), commit.short().to_owned())),
            None => Err(origin.ref_missing(format!("commit {id}"), String::new())),
        },
        Some(GitRef::Name(name)) if name != "HEAD" => {
            match refs::first_commit(repository, &refs::candidates(name), location)? {
                Some(commit) => Ok((commit, name.clone())),
                None => Err(name_missing(repository, origin, name)),
            }
        }
        None | Some(GitRef::Name(_)) => head(repository, origin),
    }
}

fn head(repository: &Repository, origin: &Origin) -> Result<(CommitId, String), SourceError> {
    let location = &origin.location;
    let library = |source| SourceError::Library {
        location: location.clone(),
        source,
    };
    let head = match repository.head() {
        Ok(head) => head,
        Err(e) if matches!(e.code(), ErrorCode::UnbornBranch | ErrorCode::NotFound) => {
            let existing = refs::existing(repository);
            return Err(origin.ref_missing("commit at its HEAD".to_owned(), existing));
        }
        Err(e) => return Err(library(e)),
    };
    let commit = commit_id(head.peel_to_commit().map_err(library)?.id(), location)?;
    let description = match head.shorthand() {
        Ok(name) if head.is_branch() => name.to_owned(),
        _ => commit.short().to_owned(),
    };
    Ok((commit, description))
}

fn name_missing(repository: &Repository, origin: &Origin, name: &str) -> SourceError {
    let tracking = format!("refs/remotes/{name}");
    let existing = if repository.find_reference(&tracking).is_ok() {
        format!("'{name}' is a branch of a remote: use its full name '{tracking}'")
    } else {
        refs::existing(repository)
    };
    origin.ref_missing(format!("branch or tag '{name}'"), existing)
}
