//! What can go wrong with a source: one cause per thing that somebody can do something about.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use bryo_model::{CommitId, SubDir};
use bryo_process::ProcessError;

use crate::limits::ReachedLimit;
use crate::policy::Refusal;

/// Why a repository cannot be read at its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// There is nothing.
    NotFound,
    /// There is something, but no repository.
    NotARepository,
    /// It is not for us, or hidden from us.
    AccessDenied,
    /// The ssh server is not one that this user has accepted.
    UnknownHost,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such repository",
            Self::NotARepository => "this is not a git repository",
            Self::AccessDenied => "access to the repository was denied",
            Self::UnknownHost => "the ssh host key is not known or has changed",
        })
    }
}

/// A source could not be fetched or checked out.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such repository, or it may not be read.
    #[error("{location}: {why}")]
    RepositoryMissing {
        /// Its address.
        location: String,
        /// Why.
        why: Absence,
    },
    /// A path inside a work tree was given for a repository.
    #[error("{} is inside the repository {}, not its top", path.display(), top.display())]
    NotTheTop {
        /// What was given.
        path: PathBuf,
        /// The repository around it.
        top: PathBuf,
    },
    /// A local repository belongs to another user, who could have prepared it.
    #[error("the repository {location} belongs to another user")]
    Foreign {
        /// Its path.
        location: String,
    },
    /// The repository has no such branch, tag or commit.
    #[error("{location} has no {wanted}")]
    RefMissing {
        /// Its address.
        location: String,
        /// What was asked for, in words.
        wanted: String,
        /// A few names that exist, or other advice; empty if there is none.
        existing: String,
    },
    /// The commit has no such directory.
    #[error("commit {} has no directory {subdir}", commit.short())]
    SubDirMissing {
        /// What was asked for.
        subdir: SubDir,
        /// In which commit.
        commit: CommitId,
    },
    /// The policy does not allow to fetch from there.
    #[error("{location}: {why}")]
    Refused {
        /// The address.
        location: String,
        /// Why; it names the key that decides.
        why: Refusal,
    },
    /// A bound of the policy was reached.
    #[error("{location}: {limit}")]
    Limit {
        /// The address.
        location: String,
        /// Which; it names the key that changes it.
        limit: ReachedLimit,
    },
    /// The configured credential cannot be used.
    #[error("the credential {name} for {location} cannot be used: {why}")]
    Credential {
        /// Its name in the configuration.
        name: String,
        /// The address.
        location: String,
        /// Why, without a word of it.
        why: String,
    },
    /// The other side cannot be reached, or the connection broke. Another attempt may succeed.
    #[error("{location} could not be reached: {detail}")]
    Unreachable {
        /// The address.
        location: String,
        /// What git said.
        detail: String,
    },
    /// Objects are missing or damaged, even in a mirror that was just made again.
    #[error("the objects of {location} are damaged: {detail}")]
    Corrupt {
        /// The address.
        location: String,
        /// What was found.
        detail: String,
    },
    /// The disk or the quota is full.
    #[error("no space left in {}", path.display())]
    DiskFull {
        /// The cache's root.
        path: PathBuf,
    },
    /// The repository has SHA-256 object names.
    #[error("{location} is a SHA-256 repository, which Bryo cannot read yet")]
    Sha256 {
        /// The address.
        location: String,
    },
    /// The tree contains what must not be written to a disk.
    #[error("commit {} cannot be checked out: {detail}", commit.short())]
    RefusedTree {
        /// Which commit.
        commit: CommitId,
        /// Which entry, and why.
        detail: String,
    },
    /// An object in Git LFS cannot be had, or is another one.
    #[error("{path} of {location} is not to be had from Git LFS, object {oid}: {why}")]
    Lfs {
        /// The address.
        location: String,
        /// A file that points to it.
        path: String,
        /// Its SHA-256.
        oid: String,
        /// A server was asked for it.
        server: bool,
        /// It wants to know who asks, or knows and does not want to answer.
        denied: bool,
        /// Why.
        why: String,
    },
    /// A submodule cannot be had.
    #[error("submodule {path} ({url}) could not be fetched")]
    Submodule {
        /// Where it is in the tree.
        path: String,
        /// Its address as `.gitmodules` has it, without credentials.
        url: String,
        /// There is a credential for its address, which it did not get.
        withheld: bool,
        /// Why.
        source: Box<SourceError>,
    },
    /// What stands in `.gitmodules` for an address is none that Bryo follows.
    #[error("its address cannot be used: {0}")]
    BadAddress(String),
    /// Git failed in a way that has no name here.
    #[error("git could not fetch from {location}: {detail}")]
    Git {
        /// The address.
        location: String,
        /// What git said.
        detail: String,
    },
    /// The git program could not be run.
    #[error("the git program could not be run")]
    Program(#[source] ProcessError),
    /// A file of the cache or of the source could not be read or written.
    #[error("could not use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A repository on this machine could not be read.
    #[error("could not read the repository {location}")]
    Library {
        /// Which.
        location: String,
        /// Why.
        source: git2::Error,
    },
    /// A thread of ours ended without an answer.
    #[error("an internal task ended without an answer")]
    Task(#[source] tokio::task::JoinError),
}

impl SourceError {
    /// What the user could do, if there is something to say beyond the error itself.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::RepositoryMissing { why, .. } => match why {
                Absence::NotFound => Some(
                    "check the address; a private repository can look as if it did not exist"
                        .into(),
                ),
                Absence::NotARepository => Some(
                    "run 'git init' and commit, or give the path or address of a repository".into(),
                ),
                Absence::AccessDenied => Some(
                    "check the credential for this address ([source.credentials.NAME]); with own credentials (--own-credentials) also the ssh agent, ~/.netrc or GIT_ASKPASS".into(),
                ),
                Absence::UnknownHost => {
                    Some("put its key into the file known-hosts of [source.credentials.NAME]; with own credentials connect to the host once with 'ssh' and accept its key".into())
                }
            },
            Self::NotTheTop { path, top } => {
                let inside = path.strip_prefix(top).unwrap_or(path);
                Some(format!(
                    "use '{}' with '--subdir {}'",
                    top.display(),
                    inside.display()
                ))
            }
            Self::Foreign { location } => Some(format!(
                "if you trust it: git config --global --add safe.directory '{location}' (a file:// address cannot be trusted this way: give the path)"
            )),
            Self::RefMissing { existing, .. } => (!existing.is_empty()).then(|| existing.clone()),
            Self::SubDirMissing { .. } => Some(
                "a sub-directory is relative to the top of the repository and must be committed"
                    .into(),
            ),
            Self::DiskFull { .. } => Some("free space or choose another cache directory".into()),
            Self::Corrupt { .. } => {
                Some("the repository itself may be damaged: run 'git fsck' in it".into())
            }
            Self::Program(ProcessError::NotInstalled { .. }) => {
                Some("install git, and util-linux for prlimit".into())
            }
            Self::Program(_) => None,
            Self::Submodule { withheld: true, source, .. } if matches!(**source, Self::RepositoryMissing { .. } | Self::Lfs { denied: true, .. }) => Some("a submodule on another server than its repository gets no credential: if you trust it, name the server in source.submodule-credentials".into()),
            Self::Submodule { source, .. } => source.hint(),
            Self::Lfs { server: true, .. } => Some(
                "see whether 'git lfs fetch' in a clone of it gets the object, or leave --lfs (source.lfs) away"
                    .into(),
            ),
            Self::Lfs { server: false, .. } => Some(
                "run 'git lfs fetch --all' in the repository that it comes from, or leave --lfs (source.lfs) away"
                    .into(),
            ),
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::Limit { .. }
            | Self::Credential { .. }
            | Self::Sha256 { .. }
            | Self::RefusedTree { .. }
            | Self::BadAddress(_)
            | Self::Git { .. }
            | Self::Io { .. }
            | Self::Library { .. }
            | Self::Task(_) => None,
        }
    }

    /// An error of the file system, with the path that it is about.
    pub(crate) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                path: path.to_owned(),
            },
            _ => Self::Io {
                path: path.to_owned(),
                source,
            },
        }
    }

    /// The same, where a full disk names the whole cache: that is what its owner can move or empty.
    pub(crate) fn in_cache(self, root: &Path) -> Self {
        match self {
            Self::DiskFull { .. } => Self::DiskFull {
                path: root.to_owned(),
            },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_names_the_cache() {
        let full = io::Error::from_raw_os_error(28);
        let error = SourceError::io(Path::new("/c/mirrors/x"))(full).in_cache(Path::new("/c"));
        assert_eq!(error.to_string(), "no space left in /c");
        assert_eq!(
            error.hint().unwrap(),
            "free space or choose another cache directory"
        );
        let quota = SourceError::io(Path::new("/c/x"))(io::Error::from_raw_os_error(122));
        assert!(matches!(quota, SourceError::DiskFull { .. }));
    }

    #[test]
    fn a_path_inside_a_repository_is_answered_with_the_way_to_say_it() {
        let error = SourceError::NotTheTop {
            path: "/r/docs/en".into(),
            top: "/r".into(),
        };
        assert_eq!(error.hint().unwrap(), "use '/r' with '--subdir docs/en'");
    }
}
