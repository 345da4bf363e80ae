//! Names of commits: looking them up, and telling which exist.

use std::collections::BTreeMap;

use bryo_model::CommitId;
use git2::{ErrorCode, ObjectType, Reference, Repository};

use crate::SourceError;
use crate::objects::{commit_id, damaged};

/// Where the mirror keeps what it fetched beside branches and tags: the remote's HEAD, commits by id, other refs.
pub(crate) const OWN: &str = "refs/bryo/";

/// How many names a hint shows.
const SHOWN: usize = 5;

/// The references that a name may mean, the most likely first.
pub(crate) fn candidates(name: &str) -> Vec<String> {
    let mut list = vec![format!("refs/heads/{name}"), format!("refs/tags/{name}")];
    if name.starts_with("refs/") {
        list.insert(0, name.to_owned());
    }
    list
}

/// The commit of the first of these references that exists and leads to one.
pub(crate) fn first_commit(
    repository: &Repository,
    references: &[String],
    location: &str,
) -> Result<Option<CommitId>, SourceError> {
    for name in references {
        match repository.find_reference(name) {
            Ok(reference) => match reference.peel_to_commit() {
                Ok(commit) => return commit_id(commit.id(), location).map(Some),
                // A tag may name a tree or a file: nothing that can be built.
                Err(e) if e.code() == ErrorCode::InvalidSpec || e.code() == ErrorCode::Peel => {}
                Err(e) => return Err(damaged(&e, location)),
            },
            Err(e) if matches!(e.code(), ErrorCode::NotFound | ErrorCode::InvalidSpec) => {}
            Err(e) => return Err(damaged(&e, location)),
        }
    }
    Ok(None)
}

/// Looks whether every reference can be read and leads to an object that is there. Git repairs some of this in passing, but
/// what else the same accident took it does not see.
///
/// # Errors
///
/// When one does not.
pub(crate) fn check(repository: &Repository, location: &str) -> Result<(), SourceError> {
    let damaged = |e: git2::Error| damaged(&e, location);
    let odb = repository.odb().map_err(damaged)?;
    for reference in repository.references().map_err(damaged)? {
        let reference = reference.map_err(damaged)?;
        if let Some(id) = reference.target()
            && !odb.exists(id)
        {
            return Err(SourceError::Corrupt {
                location: location.to_owned(),
                detail: format!(
                    "{} leads to an object that is missing",
                    String::from_utf8_lossy(reference.name_bytes())
                ),
            });
        }
    }
    Ok(())
}

/// The references of a mirror that begin so, each with the object that it names itself.
///
/// # Errors
///
/// When the references cannot be read.
pub(crate) fn below(
    repository: &Repository,
    prefix: &str,
    location: &str,
) -> Result<Vec<(Vec<u8>, String)>, SourceError> {
    let damaged = |e: git2::Error| damaged(&e, location);
    let mut found = Vec::new();
    let all = repository.references_glob(&format!("{prefix}*"));
    for reference in all.map_err(damaged)? {
        let reference = reference.map_err(damaged)?;
        if let Some(id) = reference.target() {
            found.push((reference.name_bytes().to_vec(), id.to_string()));
        }
    }
    Ok(found)
}

/// "branches: main, dev; tags: v1", or that there is nothing.
pub(crate) fn existing(repository: &Repository) -> String {
    let of_kind = |label: &str, prefix: &str| {
        let names: Vec<String> = repository
            .references_glob(&format!("{prefix}*"))
            .into_iter()
            .flatten()
            .flatten()
            .take(SHOWN + 1)
            .filter_map(|r| r.name().ok()?.strip_prefix(prefix).map(str::to_owned))
            .collect();
        let more = if names.len() > SHOWN { ", …" } else { "" };
        let shown = names[..names.len().min(SHOWN)].join(", ");
        (!shown.is_empty()).then(|| format!("{label}: {shown}{more}"))
    };
    let parts: Vec<String> = [
        of_kind("branches", "refs/heads/"),
        of_kind("tags", "refs/tags/"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if parts.is_empty() {
        "the repository has no commits yet".to_owned()
    } else {
        parts.join("; ")
    }
}

/// The only branch at a commit. Several are no answer: git's protocol tells which one HEAD means, `git fetch` does not.
pub(crate) fn only_branch_at(repository: &Repository, commit: &CommitId) -> Option<String> {
    let mut found = None;
    for branch in repository.references_glob("refs/heads/*").ok()?.flatten() {
        let here = branch
            .target()
            .is_some_and(|t| t.to_string() == commit.as_str());
        if here {
            let name = branch.name().ok()?.strip_prefix("refs/heads/")?.to_owned();
            if found.replace(name).is_some() {
                return None;
            }
        }
    }
    found
}

/// A mirror's branches and tags as the `packed-refs` of a checkout: branches become those of a remote called origin.
///
/// # Errors
///
/// When the mirror's references cannot be read.
pub(crate) fn as_packed_refs(
    repository: &Repository,
    location: &str,
) -> Result<Vec<u8>, SourceError> {
    let damaged = |e: git2::Error| damaged(&e, location);
    let mut lines: BTreeMap<Vec<u8>, String> = BTreeMap::new();
    for reference in repository.references().map_err(damaged)? {
        let reference = reference.map_err(damaged)?;
        if let Some(name) = name_in_checkout(reference.name_bytes())
            && let Some(line) = packed(&reference)
        {
            lines.insert(name, line);
        }
    }
    let mut text = b"# pack-refs with: peeled fully-peeled sorted \n".to_vec();
    for (name, line) in lines {
        let (id, peeled) = line.split_once(' ').unwrap_or((&line, ""));
        text.extend_from_slice(id.as_bytes());
        text.push(b' ');
        text.extend_from_slice(&name);
        text.push(b'\n');
        if !peeled.is_empty() {
            text.extend_from_slice(format!("^{peeled}\n").as_bytes());
        }
    }
    Ok(text)
}

fn name_in_checkout(name: &[u8]) -> Option<Vec<u8>> {
    if name.starts_with(b"refs/tags/") {
        return Some(name.to_vec());
    }
    let branch = name.strip_prefix(b"refs/heads/")?;
    // A branch of this name would take the place of the symbolic origin/HEAD.
    (branch != b"HEAD").then(|| [b"refs/remotes/origin/", branch].concat())
}

/// The object of a reference and, of an annotated tag, what it leads to.
fn packed(reference: &Reference<'_>) -> Option<String> {
    let target = reference.target()?;
    let peeled = reference.peel(ObjectType::Any).ok()?.id();
    if peeled == target {
        Some(target.to_string())
    } else {
        Some(format!("{target} {peeled}"))
    }
}
