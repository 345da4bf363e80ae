//! Where a mirror gets its objects from, in the form that git takes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use bryo_model::{GitUrl, Scheme};

use crate::budget::Budget;
use crate::credentials::Identity;
use crate::limits::{ReachedLimit, SourceLimits};
use crate::policy::SourcePolicy;
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
    /// Where it is behind an address; `None` for a path on this host, which needs no policy.
    pub(crate) remote: Option<Remote>,
    /// Local repositories: the directory with everything of it.
    pub(crate) local: Option<PathBuf>,
}

/// An address, and what holds for it.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    pub(crate) url: GitUrl,
    pub(crate) policy: Arc<SourcePolicy>,
    pub(crate) budget: Arc<Budget>,
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
    /// The address must have passed [`SourcePolicy::check`].
    pub(crate) fn remote(url: &GitUrl, policy: &Arc<SourcePolicy>, budget: &Arc<Budget>) -> Self {
        // A redirect from http to https is an improvement, the other way round is not.
        let protocols = match url.scheme() {
            Scheme::Https => "https",
            Scheme::Http => "http:https",
            Scheme::File => "file",
            Scheme::Ssh => "ssh",
        };
        let mut origin = Self {
            key: RepositoryKey::of_url(url, &policy.identity(url), None),
            location: url.to_string(),
            address: url.as_str().into(),
            protocols,
            ownership: Ownership::Checked,
            stamp: None,
            local: None,
            remote: Some(Remote {
                url: url.clone(),
                policy: Arc::clone(policy),
                budget: Arc::clone(budget),
            }),
        };
        origin.key = RepositoryKey::of_url(url, &policy.identity(url), origin.depth());
        origin
    }

    /// As whom it is fetched.
    pub(crate) fn identity(&self) -> Identity {
        self.remote.as_ref().map_or(Identity::Anonymous, |remote| {
            remote.policy.identity(&remote.url)
        })
    }

    /// Whether somebody else's words come from there.
    pub(crate) fn is_elsewhere(&self) -> bool {
        self.scheme().is_some_and(|scheme| scheme != Scheme::File)
    }

    fn scheme(&self) -> Option<Scheme> {
        self.remote.as_ref().map(|remote| remote.url.scheme())
    }

    /// What is left for fetches from there.
    pub(crate) fn budget(&self) -> Option<&Arc<Budget>> {
        self.remote.as_ref().map(|remote| &remote.budget)
    }

    /// How many commits of history are fetched, where it is not all.
    pub(crate) fn depth(&self) -> Option<u32> {
        self.remote.as_ref()?.policy.depth
    }

    /// What git's failure at this address is for the caller.
    pub(crate) fn failure(&self, stderr: &str) -> SourceError {
        let location = self.location.clone();
        let missing = |why| SourceError::RepositoryMissing {
            location: self.location.clone(),
            why,
        };
        let detail = || git_failure::detail(stderr);
        let limit = |of: fn(&SourceLimits) -> ReachedLimit| match self.budget() {
            Some(budget) => SourceError::Limit {
                location: self.location.clone(),
                limit: of(budget.limits()),
            },
            None => SourceError::Git {
                location: self.location.clone(),
                detail: detail(),
            },
        };
        match git_failure::classify(stderr) {
            // Ssh passes on what the server's programs write, without a mark: it may be the server's disk.
            GitFailure::DiskFull if self.scheme() == Some(Scheme::Ssh) => SourceError::Git {
                location,
                detail: detail(),
            },
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
            GitFailure::FileTooLarge => limit(|limits| ReachedLimit::Bytes(limits.bytes)),
            GitFailure::NoMemory => limit(|limits| ReachedLimit::Memory(limits.memory)),
            GitFailure::NoRoom | GitFailure::Other => SourceError::Git {
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
        let (policy, budget) = (Arc::default(), Budget::new(SourceLimits::default()));
        let protocols =
            |url: &str| Origin::remote(&url.parse().unwrap(), &policy, &budget).protocols;
        assert_eq!(protocols("https://h/x"), "https");
        assert_eq!(protocols("http://h/x"), "http:https");
        assert_eq!(protocols("ssh://git@h/x"), "ssh");
        assert_eq!(protocols("git@h:x"), "ssh");
        assert_eq!(protocols("file:///x"), "file");
    }
}
