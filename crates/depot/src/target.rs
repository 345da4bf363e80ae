//! A place that may be replaced.
//!
//! Replacing a directory removes everything that was in it, so a mistyped `--output` must not cost anybody their home
//! or their repository. What must be safe whatever is typed is given by the caller (the source, the working directory,
//! the home directory); the rest is refused on sight.
//!
//! The check is made before a job runs, and again at the switch, because a job runs for long.
//!
//! Nothing is changed by a check: missing parents are made when there is something to publish.

use std::ffi::{CStr, CString, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{self, Access, AtFlags, FileType, Stat};
use rustix::io::Errno;

use crate::DepotError;
use crate::dir;
use crate::staging::Names;

/// Why a target may not be replaced; the text says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is `/`.
    Root,
    /// It is this protected path, or above it.
    Holds(PathBuf),
    /// It is a git repository or a work tree of one.
    Repository,
    /// It exists and is neither a directory nor a link.
    NotADirectory,
    /// It is a symbolic link.
    Symlink,
    /// A file system is mounted there.
    MountPoint,
    /// Another user owns it.
    OthersOwn(u32),
    /// This part of the way to it is no directory.
    WayBlocked(PathBuf),
    /// This directory, which it would stand in, may not be written to.
    ParentNotWritable(PathBuf),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const HINT: &str = "name a directory that may be replaced, such as one called \"site\"";
        match self {
            Self::Root => write!(f, "it is the root of the file system; {HINT}"),
            Self::Holds(what) => write!(f, "replacing it would remove {what:?}; {HINT}"),
            Self::Repository => write!(f, "it is a git repository; {HINT}"),
            Self::NotADirectory => write!(f, "it is a file; remove it, or {HINT}"),
            Self::Symlink => f.write_str(
                "it is a symbolic link; name the directory that it points to, or remove the link",
            ),
            Self::MountPoint => f.write_str(
                "a file system is mounted there, which cannot be replaced; name a directory inside it",
            ),
            Self::OthersOwn(uid) => write!(f, "it belongs to user {uid}; remove it, or {HINT}"),
            Self::WayBlocked(what) => write!(f, "{what:?} is not a directory; {HINT}"),
            Self::ParentNotWritable(what) => write!(
                f,
                "{what:?} is not writable; make it so, or name a directory elsewhere"
            ),
        }
    }
}

/// A directory that exists and may be replaced, or does not exist and can be made.
#[derive(Clone, Debug)]
pub struct Target {
    /// As it was given, for messages.
    given: PathBuf,
    /// Canonical as far as it exists.
    parent: PathBuf,
    name: OsString,
    c_name: CString,
    protected: Vec<PathBuf>,
}

impl Target {
    /// Checks that `path` may be replaced. `protected` is what must survive: neither it nor anything above it is
    /// accepted. A protected path that does not exist is compared by its name.
    ///
    /// # Errors
    ///
    /// [`DepotError::Refused`] with what to do, or what the file system answered.
    pub fn check(path: &Path, protected: &[PathBuf]) -> Result<Self, DepotError> {
        let refuse = |why| DepotError::Refused {
            path: path.to_owned(),
            why,
        };
        let failed = |source| DepotError::io("look at the target", path, source);
        let absolute = std::path::absolute(path).map_err(failed)?;
        // A path that ends in `..` has no name of its own.
        let absolute = match absolute.components().next_back() {
            Some(Component::Normal(_)) => absolute,
            _ => absolute.canonicalize().map_err(failed)?,
        };
        let (Some(above), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            return Err(refuse(Refusal::Root));
        };
        let (standing, missing) = nearest(above).map_err(failed)?;
        if missing
            .components()
            .any(|c| !matches!(c, Component::Normal(_)))
        {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(failed(source));
        }
        if !standing.is_dir() {
            return Err(refuse(Refusal::WayBlocked(standing)));
        }
        let writable = fs::accessat(
            fs::CWD,
            &standing,
            Access::WRITE_OK | Access::EXEC_OK,
            AtFlags::EACCESS,
        );
        if writable.is_err() {
            return Err(refuse(Refusal::ParentNotWritable(standing)));
        }
        let target = Self {
            given: path.to_owned(),
            parent: standing.join(&missing),
            name: name.to_owned(),
            c_name: CString::new(name.as_bytes()).map_err(|e| failed(e.into()))?,
            protected: protected.to_vec(),
        };
        if missing.as_os_str().is_empty() {
            let parent = target.open_parent()?;
            target.check_existing(parent.as_fd())?;
        } else {
            target.check_names()?;
        }
        Ok(target)
    }

    /// Where it is or will be.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    /// The directory it stands in, made if it is missing.
    pub(crate) fn make_parent(&self) -> Result<OwnedFd, DepotError> {
        std::fs::create_dir_all(&self.parent)
            .map_err(|e| DepotError::io("make the directory", &self.parent, e))?;
        self.open_parent()
    }

    fn open_parent(&self) -> Result<OwnedFd, DepotError> {
        dir::open(&self.parent).map_err(|e| DepotError::at("open", &self.parent, e))
    }

    pub(crate) fn parent_path(&self) -> &Path {
        &self.parent
    }

    pub(crate) fn c_name(&self) -> &CStr {
        &self.c_name
    }

    pub(crate) fn names(&self) -> Names {
        Names::of(&self.name)
    }

    /// Whether what stands there now, if anything, may be replaced.
    pub(crate) fn check_existing(&self, parent: BorrowedFd<'_>) -> Result<(), DepotError> {
        self.check_names()?;
        let failed = |e| DepotError::at("look at the target", self.path(), e);
        let stat = match dir::stat(parent, &self.c_name) {
            Err(Errno::NOENT) => return Ok(()),
            stat => stat.map_err(failed)?,
        };
        match dir::kind(&stat) {
            FileType::Directory => {}
            FileType::Symlink => return Err(self.refused(Refusal::Symlink)),
            _ => return Err(self.refused(Refusal::NotADirectory)),
        }
        if stat.st_dev != fs::fstat(parent).map_err(failed)?.st_dev {
            return Err(self.refused(Refusal::MountPoint));
        }
        self.check_inodes(&stat)?;
        let me = nix::unistd::geteuid();
        if stat.st_uid != me.as_raw() && !me.is_root() {
            return Err(self.refused(Refusal::OthersOwn(stat.st_uid)));
        }
        let path = self.path();
        let has = |name: &str| path.join(name).symlink_metadata().is_ok();
        if has(".git") || (has("HEAD") && has("objects") && has("refs")) {
            return Err(self.refused(Refusal::Repository));
        }
        Ok(())
    }

    /// By name: for what does not exist.
    fn check_names(&self) -> Result<(), DepotError> {
        let own = self.path();
        for protected in &self.protected {
            let whole = protected
                .canonicalize()
                .or_else(|_| std::path::absolute(protected))
                .map_err(|e| DepotError::io("look at", protected, e))?;
            if whole.starts_with(&own) {
                return Err(self.refused(Refusal::Holds(protected.clone())));
            }
        }
        Ok(())
    }

    /// By what it is: the same directory may have two names (a bind mount, a file system that folds case).
    fn check_inodes(&self, own: &Stat) -> Result<(), DepotError> {
        for protected in &self.protected {
            let Ok(whole) = protected.canonicalize() else {
                continue;
            };
            let same = |path: &Path| {
                path.metadata()
                    .is_ok_and(|m| m.dev() == own.st_dev && m.ino() == own.st_ino)
            };
            if whole.ancestors().any(same) {
                return Err(self.refused(Refusal::Holds(protected.clone())));
            }
        }
        Ok(())
    }

    fn refused(&self, why: Refusal) -> DepotError {
        DepotError::Refused {
            path: self.given.clone(),
            why,
        }
    }
}

/// The longest existing beginning of `path`, canonical, and what is missing after it.
fn nearest(path: &Path) -> io::Result<(PathBuf, PathBuf)> {
    let mut at = path;
    loop {
        match at.canonicalize() {
            Ok(standing) => {
                let missing = path.strip_prefix(at).unwrap_or(Path::new(""));
                return Ok((standing, missing.to_owned()));
            }
            // A link to nowhere exists, and is in the way.
            Err(e) if e.kind() == io::ErrorKind::NotFound && at.symlink_metadata().is_err() => {
                at = at.parent().ok_or(e)?;
            }
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => at = at.parent().ok_or(e)?,
            Err(e) => return Err(e),
        }
    }
}
