//! Where the source of a job is: address, reference, sub-directory.
//!
//! Nothing that could be taken for an option, a transport helper or a way out of the tree gets past these types.

mod url;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::CommitId;

pub use url::{GitUrl, Scheme};

/// A part of the source cannot be used as it was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSource {
    /// The address has a scheme that Bryo does not fetch from.
    #[error(
        "{0:?} is not a supported source (use a path, https://, http://, ssh://, file:// or git@host:path)"
    )]
    Scheme(String),
    /// The address contains a password or token.
    #[error(
        "the source address contains a password; remove it and say it in [source.credentials.NAME] (docs/source.md) or ~/.netrc"
    )]
    PasswordInUrl,
    /// The address is malformed.
    #[error("{0:?} is not a usable source address: {1}")]
    Url(String, &'static str),
    /// The reference does not obey the rules of `git check-ref-format`.
    #[error("{0:?} is not a branch, a tag or a full commit id")]
    Ref(String),
    /// The sub-directory is absolute or leaves the tree.
    #[error("{0:?} is not a sub-directory of the source (use a relative path without '..')")]
    SubDir(String),
}

/// A branch, a tag or a full commit id, in a form that git accepts and that no option can hide in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GitRef {
    /// Exactly this commit.
    Commit(CommitId),
    /// A branch or tag name, or a full reference (`refs/...`).
    Name(String),
}

impl fmt::Display for GitRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commit(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl FromStr for GitRef {
    type Err = InvalidSource;

    /// The rules are those of git-check-ref-format(1).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Commit(id));
        }
        let part = |p: &str| !p.is_empty() && !p.starts_with('.') && !p.ends_with(".lock");
        let forbidden =
            |c: char| c.is_control() || matches!(c, ' ' | '~' | '^' | ':' | '?' | '*' | '[' | '\\');
        let ok = !text.starts_with('-')
            && !text.ends_with('.')
            && text != "@"
            && !text.contains("..")
            && !text.contains("@{")
            && !text.contains(forbidden)
            && text.split('/').all(part);
        if ok {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(InvalidSource::Ref(text.to_owned()))
        }
    }
}

/// A directory inside the source, relative to its root, without `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SubDir(String);

impl SubDir {
    /// The path, relative, with `/` between its parts.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl fmt::Display for SubDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for SubDir {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let trimmed = text.trim_end_matches('/');
        let part = |p: &str| !matches!(p, "" | "." | ".." | ".git");
        if trimmed.split('/').all(part) && !trimmed.contains('\0') {
            Ok(Self(trimmed.to_owned()))
        } else {
            Err(InvalidSource::SubDir(text.to_owned()))
        }
    }
}

/// Where to fetch from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceLocation {
    /// A repository on this machine: its HEAD is the default, its uncommitted changes are told.
    Local(PathBuf),
    /// A repository behind an address.
    Remote(GitUrl),
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::Remote(url) => url.fmt(f),
        }
    }
}

impl FromStr for SourceLocation {
    type Err = InvalidSource;

    /// What looks like an address is one; everything else is a path.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(InvalidSource::Url(String::new(), "it is empty"));
        }
        let before_slash = text.split('/').next().unwrap_or_default();
        if text.contains("://") || before_slash.contains(':') {
            return text.parse().map(Self::Remote);
        }
        Ok(Self::Local(PathBuf::from(text)))
    }
}

/// The source of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSpec {
    /// Where it is.
    pub location: SourceLocation,
    /// What to build; without it the remote's default branch, or HEAD of a local repository.
    pub reference: Option<GitRef>,
    /// Where in the tree the job starts.
    pub subdir: Option<SubDir>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        for good in ["main", "v1.2", "feature/x", "refs/heads/main"] {
            assert!(matches!(good.parse(), Ok(GitRef::Name(_))), "{good:?}");
        }
        for bad in [
            "",
            "-x",
            "--upload-pack=id",
            "a..b",
            "a b",
            "a:b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a.lock",
            "a@{1}",
            "@",
            "a~1",
            "a^",
            "a*",
            "a\\b",
            "a.",
        ] {
            assert!(bad.parse::<GitRef>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn sub_directories_stay_inside() {
        assert_eq!("docs/".parse::<SubDir>().unwrap().to_string(), "docs");
        for bad in [
            "", "/", "/etc", "..", "a/../b", "a//b", "./a", ".git", "a/.git",
        ] {
            assert!(bad.parse::<SubDir>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn paths_and_addresses_are_told_apart() {
        let local = |s: &str| matches!(s.parse(), Ok(SourceLocation::Local(_)));
        let remote = |s: &str| matches!(s.parse(), Ok(SourceLocation::Remote(_)));
        assert!(local(".") && local("/srv/x") && local("a/b") && local("./git@host:x"));
        assert!(remote("https://h/x") && remote("git@h:x"));
        assert!("ext::id".parse::<SourceLocation>().is_err());
    }
}
