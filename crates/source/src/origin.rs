//! Where a mirror gets its objects from, in the form that git takes.

use std::ffi::OsString;

use bryo_model::GitUrl;

use crate::{Absence, RepositoryKey, SourceError, git_failure};
use git_failure::GitFailure;

/// One repository to mirror. Its mirror is named after it, so that two origins never share one.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) key: RepositoryKey,
    /// The address for people.
    pub(crate) location: String,
    /// The address for git.
    pub(crate) address: OsString,
    /// What git may speak to get there, as `GIT_ALLOW_PROTOCOL`.
    pub(crate) protocols: &'static str,
    pub(crate) ownership: Ownership,
    /// Local repositories: the state of its tags, see [`crate::local`].
    pub(crate) stamp: Option<String>,
}

/// Whose a local repository is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// Ours, or git is to judge by itself.
    Checked,
    /// Another user's, and our user has declared it safe in their own configuration.
    DeclaredSafe,
}

impl Origin {
    pub(crate) fn remote(url: &GitUrl) -> Self {
        let text = url.as_str();
        // A redirect from http to https is an improvement, the other way round is not.
        let protocols = match text.split_once("://") {
            Some(("https", _)) => "https",
            Some(("http", _)) => "http:https",
            Some(("file", _)) => "file",
            _ => "ssh",
        };
        Self {
            key: RepositoryKey::of_url(url),
            location: text.to_owned(),
            address: text.into(),
            protocols,
            ownership: Ownership::Checked,
            stamp: None,
        }
    }

    /// What git's failure at this address is for the caller.
    pub(crate) fn failure(&self, stderr: &str) -> SourceError {
        let location = self.location.clone();
        let missing = |why| SourceError::RepositoryMissing {
            location: self.location.clone(),
            why,
        };
        let detail = || git_failure::detail(stderr);
        match git_failure::classify(stderr) {
            GitFailure::DiskFull => SourceError::DiskFull {
                path: self.location.clone().into(),
            },
            GitFailure::Sha256 => SourceError::Sha256 { location },
            GitFailure::Foreign => SourceError::Foreign { location },
            GitFailure::Corrupt => SourceError::Corrupt {
                location,
                detail: detail(),
            },
            GitFailure::UnknownHost => missing(Absence::UnknownHost),
            GitFailure::AccessDenied => missing(Absence::AccessDenied),
            GitFailure::NotFound => missing(Absence::NotFound),
            GitFailure::NotARepository => missing(Absence::NotARepository),
            GitFailure::RefMissing => self.ref_missing("such reference".to_owned(), String::new()),
            GitFailure::Unreachable => SourceError::Unreachable {
                location,
                detail: detail(),
            },
            GitFailure::Other => SourceError::Git {
                location,
                detail: detail(),
            },
        }
    }

    pub(crate) fn ref_missing(&self, wanted: String, existing: String) -> SourceError {
        SourceError::RefMissing {
            location: self.location.clone(),
            wanted,
            existing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_may_speak_what_the_address_says_and_nothing_else() {
        let protocols = |url: &str| Origin::remote(&url.parse().unwrap()).protocols;
        assert_eq!(protocols("https://h/x"), "https");
        assert_eq!(protocols("http://h/x"), "http:https");
        assert_eq!(protocols("ssh://git@h/x"), "ssh");
        assert_eq!(protocols("git@h:x"), "ssh");
        assert_eq!(protocols("file:///x"), "file");
    }
}
