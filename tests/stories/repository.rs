//! Git repositories for stories.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A repository with a work tree, hermetic: it knows no configuration of the user.
#[derive(Debug)]
pub struct Repository {
    path: PathBuf,
}

impl Repository {
    pub(crate) fn from_fixture(path: PathBuf, fixture: &Path) -> Self {
        copy_tree(fixture, &path);
        let repository = Self { path };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository.commit("the fixture");
        repository
    }

    /// One that is there already.
    #[must_use]
    pub const fn open(path: PathBuf) -> Self {
        Self { path }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits everything and returns the commit.
    pub fn commit(&self, message: &str) -> String {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", message]);
        self.git(&["rev-parse", "HEAD"]).trim().to_owned()
    }

    /// Runs git in it and returns what it printed.
    pub fn git(&self, args: &[&str]) -> String {
        let out = Command::new("git")
            .args(args)
            .current_dir(&self.path)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_AUTHOR_NAME", "Story")
            .env("GIT_AUTHOR_EMAIL", "story@example.org")
            .env("GIT_COMMITTER_NAME", "Story")
            .env("GIT_COMMITTER_EMAIL", "story@example.org")
            .output()
            .expect("git is installed");
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "git {args:?}: {err}");
        String::from_utf8(out.stdout).unwrap()
    }
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())) {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), &target).unwrap();
        }
    }
}
