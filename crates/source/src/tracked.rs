//! Whether a directory holds what somebody keeps under version control.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use git2::Repository;

/// The number of files at or below `path` that the git repository around it tracks; 0 where there is no repository, or
/// one that libgit2 does not want to open. Replacing such a directory would remove somebody's sources.
#[must_use]
pub fn tracked_files(path: &Path) -> usize {
    let found = || {
        let path = path.canonicalize().ok()?;
        let repository = Repository::discover(&path).ok()?;
        let top = repository.workdir()?.canonicalize().ok()?;
        let below = path.strip_prefix(top).ok()?;
        let index = repository.index().ok()?;
        let tracked = index
            .iter()
            .filter(|entry| Path::new(OsStr::from_bytes(&entry.path)).starts_with(below));
        Some(tracked.count())
    };
    found().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_index_counts() {
        let dir = tempfile::tempdir().unwrap();
        let repository = Repository::init(dir.path()).unwrap();
        for name in ["docs/a", "docs/deep/b", "docsx", "site/page"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        let mut index = repository.index().unwrap();
        for name in ["docs/a", "docs/deep/b", "docsx"] {
            index.add_path(Path::new(name)).unwrap();
        }
        index.write().unwrap();
        let count = |name: &str| tracked_files(&dir.path().join(name));
        assert_eq!(count("docs"), 2);
        assert_eq!(count("docs/deep"), 1);
        assert_eq!(count("site"), 0);
        assert_eq!(count("missing"), 0);
    }
}
