//! What a local repository has that is not committed, and therefore will not be built.
//!
//! It reads the whole work tree, which can take a second in a large one. That is why it is not part of a fetch: the
//! engine runs it beside the job and only tells.

use std::path::Path;

use git2::{Status, StatusOptions};

use crate::{SourceError, local, objects};

/// A short text like "3 files changed, 1 untracked"; nothing if all is committed or there is no work tree.
///
/// # Errors
///
/// When the path is not the top of a repository that can be read.
pub async fn uncommitted_changes(path: &Path) -> Result<Option<String>, SourceError> {
    let path = path.to_owned();
    objects::blocking(move || count(&path)).await
}

fn count(path: &Path) -> Result<Option<String>, SourceError> {
    let repository = local::open(path)?;
    if repository.is_bare() {
        return Ok(None);
    }
    let mut options = StatusOptions::new();
    options.include_untracked(true).exclude_submodules(true);
    let statuses =
        repository
            .statuses(Some(&mut options))
            .map_err(|source| SourceError::Library {
                location: path.display().to_string(),
                source,
            })?;
    let untracked = statuses
        .iter()
        .filter(|s| s.status() == Status::WT_NEW)
        .count();
    Ok(sentence(statuses.len() - untracked, untracked))
}

fn sentence(changed: usize, untracked: usize) -> Option<String> {
    let files = if changed == 1 { "file" } else { "files" };
    match (changed, untracked) {
        (0, 0) => None,
        (0, _) => Some(format!("{untracked} untracked")),
        (_, 0) => Some(format!("{changed} {files} changed")),
        _ => Some(format!("{changed} {files} changed, {untracked} untracked")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence() {
        assert_eq!(sentence(0, 0), None);
        assert_eq!(sentence(1, 0).unwrap(), "1 file changed");
        assert_eq!(sentence(3, 1).unwrap(), "3 files changed, 1 untracked");
        assert_eq!(sentence(0, 2).unwrap(), "2 untracked");
    }
}
