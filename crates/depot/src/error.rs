//! What can go wrong between a job's output and its readers.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::{BadKey, Bound, Refusal, StoreAnswer, StoreFault, Visible};

/// Output could not be collected or published. A directory is as it was before; what a store's readers see stands in
/// [`DepotError::Unfinished`].
///
/// Paths may hold a job's names and are therefore printed quoted.
#[derive(Debug, thiserror::Error)]
pub enum DepotError {
    /// The output is beyond what a job may leave: the job's fault.
    #[error("the output has {0}")]
    TooLarge(Bound),
    /// The target may not be replaced: the user's to change.
    #[error("cannot publish to {path:?}: {why}")]
    Refused {
        /// The target as it was given.
        path: PathBuf,
        /// Why.
        why: Refusal,
    },
    /// The caller gave up.
    #[error("stopped before the output was published")]
    Stopped,
    /// Something wrote to the output after it was listed.
    #[error("{path:?} changed while the output was being published")]
    Changed {
        /// What changed.
        path: PathBuf,
    },
    /// The disk or the quota is full.
    #[error(
        "no space left to {doing} {path:?}; free some on that file system or raise its quota, or publish elsewhere"
    )]
    NoSpace {
        /// What was being done.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Which of the two it is.
        source: io::Error,
    },
    /// The user running Bryo may not do this.
    #[error("not permitted to {doing} {path:?}")]
    Denied {
        /// What was being done.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system failed otherwise.
    #[error("could not {doing} {path:?}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file of the output has a name that is no key of an object: the job's fault.
    #[error("{path:?} of the output cannot be published: {why}")]
    Key {
        /// Within the output.
        path: PathBuf,
        /// Why.
        why: BadKey,
    },
    /// Two versions of a project would have the same object: the user's to name otherwise.
    #[error(
        "{key:?} belongs to the version {version:?} as well; give the file or one of the versions another name"
    )]
    Overlap {
        /// The object's key.
        key: String,
        /// The other version, which is published already.
        version: String,
    },
    /// The settings of a store cannot be used: the operator's to change.
    #[error("the store cannot be used as it is configured: {why}")]
    Settings {
        /// Why.
        why: String,
    },
    /// The store did not do what it was asked.
    #[error("could not {doing} {what:?}: {fault}")]
    Store {
        /// What was asked.
        doing: &'static str,
        /// A key, a prefix or the bucket.
        what: String,
        /// Who can mend it.
        fault: StoreFault,
        /// What the store said.
        source: Box<StoreAnswer>,
    },
    /// The keys of a store may not do what a publication needs.
    #[error("the keys may not {what}; allow them {right}, or check the keys and this host's clock")]
    Right {
        /// An infinitive.
        what: &'static str,
        /// What policies call it.
        right: &'static str,
        /// What the store said.
        source: Box<StoreAnswer>,
    },
    /// Somebody else publishes the same version at the same time.
    #[error(
        "another publication of {0:?} runs at the same time, so this one gave up; let only one go on at a time"
    )]
    Overtaken(String),
    /// Somebody else wrote below the prefix of the version while it was published.
    #[error(
        "{key:?} is not as it was published; somebody else writes below {version:?} at the same time"
    )]
    Disturbed {
        /// The key of the object that is not as it should be.
        key: String,
        /// The prefix of the version.
        version: String,
    },
    /// Publishing failed half-way. See [`DepotError::cause`].
    #[error("not published: {visible}; the next publication of this version repairs it")]
    Unfinished {
        /// What readers may see.
        visible: Visible,
        /// Why publishing failed.
        source: Box<DepotError>,
    },
    /// The thread that published is gone.
    #[error("the publisher ended without an answer")]
    Lost,
    /// Publishing failed, and its unfinished copy could not be removed either. See [`DepotError::cause`].
    #[error(
        "the unfinished copy {path:?} is left ({left}) and will be removed at the next publish"
    )]
    StagingLeft {
        /// The staging directory.
        path: PathBuf,
        /// Why it could not be removed.
        left: Box<DepotError>,
        /// Why publishing failed.
        source: Box<DepotError>,
    },
}

impl DepotError {
    /// What made publishing fail, without what failed while tidying up after it. Match on this.
    #[must_use]
    pub fn cause(&self) -> &Self {
        match self {
            Self::StagingLeft { source, .. } | Self::Unfinished { source, .. } => source.cause(),
            other => other,
        }
    }

    /// `doing` is an infinitive that stands before a path: "open", "write".
    pub(crate) fn at(doing: &'static str, path: impl AsRef<Path>, errno: Errno) -> Self {
        let path = path.as_ref().to_owned();
        let source = io::Error::from(errno);
        match errno {
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace {
                doing,
                path,
                source,
            },
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::Denied {
                doing,
                path,
                source,
            },
            _ => Self::Io {
                doing,
                path,
                source,
            },
        }
    }

    /// The same from the standard library's error.
    pub(crate) fn io(doing: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        match Errno::from_io_error(&source) {
            Some(errno) => Self::at(doing, path, errno),
            None => Self::Io {
                doing,
                path: path.as_ref().to_owned(),
                source,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error;

    use super::*;

    #[test]
    fn causes_are_told_apart_and_say_where() {
        let full = DepotError::at("write", "/srv/site", Errno::DQUOT);
        assert!(matches!(full, DepotError::NoSpace { .. }));
        assert!(full.to_string().contains("\"/srv/site\""));
        assert!(full.source().is_some());
        let denied = DepotError::at("open", "a\nb", Errno::ACCESS);
        assert_eq!(denied.to_string(), r#"not permitted to open "a\nb""#);
        let both = DepotError::StagingLeft {
            path: "s".into(),
            left: Box::new(denied),
            source: Box::new(full),
        };
        assert!(matches!(both.cause(), DepotError::NoSpace { .. }));
    }
}
