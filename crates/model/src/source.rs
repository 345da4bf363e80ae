//! Where the source of a job is: address, reference, sub-directory.
//!
//! Nothing that could be taken for an option, a transport helper or a way out of the tree gets past these types.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::CommitId;

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
        "the source address contains a password; remove it and use a git credential helper or an ssh key"
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

/// An address that git can fetch from.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct GitUrl(String);

impl GitUrl {
    /// The address as git takes it. It contains no password.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `host` or `host:port` as it was written, without a user; `None` for a repository on this machine.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        let authority = match self.0.split_once("://") {
            Some(("file", _)) => return None,
            Some((_, rest)) => rest.split('/').next()?,
            None => self.0.split(':').next()?,
        };
        Some(authority.rsplit('@').next().unwrap_or(authority))
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for GitUrl {
    type Err = InvalidSource;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(InvalidSource::Url(
                text.to_owned(),
                "it contains white space or control characters",
            ));
        }
        if let Some((scheme, rest)) = text.split_once("://") {
            if !matches!(scheme, "https" | "http" | "ssh" | "file") {
                return Err(InvalidSource::Scheme(text.to_owned()));
            }
            return check_rest(text, scheme, rest).map(|()| Self(text.to_owned()));
        }
        check_scp_like(text).map(|()| Self(text.to_owned()))
    }
}

fn check_rest(text: &str, scheme: &str, rest: &str) -> Result<(), InvalidSource> {
    let bad = |why| Err(InvalidSource::Url(text.to_owned(), why));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if scheme == "file" {
        return if authority.is_empty() && !path.is_empty() {
            Ok(())
        } else {
            bad("a file address is file:///absolute/path")
        };
    }
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if user.contains(':') || (scheme.starts_with("http") && !user.is_empty()) {
        return Err(InvalidSource::PasswordInUrl);
    }
    if user.starts_with('-') || host.is_empty() || host.starts_with('-') {
        return bad("it has no host name");
    }
    if path.is_empty() {
        return bad("it has no path");
    }
    Ok(())
}

/// `user@host:path`, the form that git hands to ssh.
fn check_scp_like(text: &str) -> Result<(), InvalidSource> {
    let refused = || InvalidSource::Scheme(text.to_owned());
    let (authority, path) = text.split_once(':').ok_or_else(refused)?;
    // "ext::sh -c ..." and its kind are transport helpers: programs, not addresses.
    if path.is_empty() || path.starts_with(':') || path.starts_with('-') {
        return Err(refused());
    }
    let (user, host) = authority.split_once('@').ok_or_else(refused)?;
    let word = |s: &str| {
        !s.is_empty()
            && !s.starts_with('-')
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    if word(user) && word(host) {
        Ok(())
    } else {
        Err(refused())
    }
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
    fn addresses_that_are_accepted() {
        for good in [
            "https://example.org/org/repo.git",
            "http://127.0.0.1:8080/repo",
            "ssh://git@example.org:2222/org/repo",
            "file:///srv/git/repo.git",
            "git@example.org:org/repo.git",
        ] {
            assert_eq!(good.parse::<GitUrl>().unwrap().as_str(), good);
        }
    }

    #[test]
    fn where_an_address_leads() {
        for (url, authority) in [
            ("https://example.org/org/repo.git", Some("example.org")),
            ("http://127.0.0.1:8080/repo", Some("127.0.0.1:8080")),
            ("ssh://git@[::1]:2222/repo", Some("[::1]:2222")),
            ("git@example.org:org/repo.git", Some("example.org")),
            ("file:///srv/git/repo.git", None),
        ] {
            assert_eq!(url.parse::<GitUrl>().unwrap().authority(), authority);
        }
    }

    #[test]
    fn addresses_that_are_refused() {
        for bad in [
            "ext::sh -c id",
            "ext::id",
            "ftp://example.org/x",
            "https://user:secret@example.org/x",
            "https://token@example.org/x",
            "ssh://-oProxyCommand=id/x",
            "-oProxyCommand=id@host:x",
            "git@-oProxyCommand=id:x",
            "git@host:-x",
            "https:///x",
            "https://example.org",
            "file://host/x",
            "https://example.org/a b",
            "https://example.org/a\nb",
        ] {
            assert!(bad.parse::<GitUrl>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_refused_address_does_not_repeat_its_password() {
        let error = "https://user:hunter2@example.org/x"
            .parse::<GitUrl>()
            .unwrap_err();
        assert!(!error.to_string().contains("hunter2"));
    }

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
