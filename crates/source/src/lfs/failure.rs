//! Why a server did not give what it was asked for, and what that is for the caller.

use std::time::Duration;

use super::Pointer;
use super::secrets::Secrets;
use crate::SourceError;

/// Why a server did not give what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It ends everything.
    Source(SourceError),
    /// In words.
    Told(String),
    /// It wants to know who asks, or knows and does not want to answer.
    Denied(String),
    /// Another attempt may succeed, after so long.
    Passing {
        why: String,
        after: Option<Duration>,
    },
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

impl Failure {
    /// Without what nobody may read.
    pub(crate) fn masked(self, secrets: &Secrets) -> Self {
        match self {
            Self::Told(why) => Self::Told(secrets.told(&why)),
            Self::Denied(why) => Self::Denied(secrets.told(&why)),
            Self::Passing { why, after } => Self::Passing {
                why: secrets.told(&why),
                after,
            },
            Self::Source(error) => Self::Source(error),
        }
    }

    /// What it is for the caller, about an object and a file that points to it.
    pub(crate) fn told(self, location: &str, path: &str, pointer: &Pointer) -> SourceError {
        let of = |why, denied| SourceError::Lfs {
            location: location.to_owned(),
            path: path.to_owned(),
            oid: pointer.oid().to_owned(),
            server: true,
            denied,
            why,
        };
        match self {
            Self::Source(error) => error,
            Self::Told(why) => of(why, false),
            Self::Denied(why) => of(why, true),
            Self::Passing { why, .. } => SourceError::Unreachable {
                location: location.to_owned(),
                detail: format!("{path} in Git LFS: {why}"),
            },
        }
    }
}

/// An error's causes, without the address: it may be a password.
pub(crate) fn chain(error: &reqwest::Error) -> String {
    std::error::Error::source(error)
        .map_or_else(|| "the connection broke".to_owned(), bryo_http::chain)
}
