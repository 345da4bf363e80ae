//! A directory tree that nothing leads out of.
//!
//! Parents of entries are opened with `openat2` and `RESOLVE_IN_ROOT`: a symbolic link in a layer leads where it would
//! lead inside a container, never to the host, not even between a check and its use. The last part of a name is only
//! ever given to system calls that do not follow links.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// How often a resolution that the kernel could not finish safely, because something was renamed meanwhile anywhere on
/// the host, is tried again.
const TRIES: usize = 128;

/// The root, and the directory that was used last: neighbours come together in a layer.
pub(super) struct Tree {
    root: OwnedFd,
    last: Option<(PathBuf, OwnedFd)>,
}

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Self> {
        let dir = File::open(root)?;
        Ok(Self {
            root: dir.into(),
            last: None,
        })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The directory at a path, made with all above it where it is missing; `made` is told of each that was made.
    pub(super) fn dir(
        &mut self,
        path: &Path,
        made: impl FnMut(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<&OwnedFd> {
        if path.as_os_str().is_empty() {
            return Ok(&self.root);
        }
        let dir = match self.last.take() {
            Some((known, dir)) if known == path => dir,
            _ => match self.resolve(path, OFlag::empty()) {
                Err(Errno::ENOENT) => self.make(path, made)?,
                other => other?,
            },
        };
        Ok(&self.last.insert((path.to_owned(), dir)).1)
    }

    /// The directory at a path, if there is one.
    pub(super) fn existing(&self, path: &Path) -> io::Result<OwnedFd> {
        if path.as_os_str().is_empty() {
            return self.root.try_clone();
        }
        Ok(self.resolve(path, OFlag::empty())?)
    }

    /// The directory at a path, if that is one and not a link to one.
    pub(super) fn own(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.resolve(path, OFlag::O_NOFOLLOW)?)
    }

    /// Forgets the last directory: something was removed, and its path may mean something else now.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    fn resolve(&self, path: &Path, more: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(more | OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut tries = TRIES;
        loop {
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN) if tries > 0 => tries -= 1,
                other => return other,
            }
        }
    }

    fn make(
        &self,
        path: &Path,
        mut made: impl FnMut(&OwnedFd) -> io::Result<()>,
    ) -> io::Result<OwnedFd> {
        let mut dir = self.root.try_clone()?;
        let mut so_far = PathBuf::new();
        for part in path {
            so_far.push(part);
            dir = match self.resolve(&so_far, OFlag::empty()) {
                Err(Errno::ENOENT) => {
                    // EEXIST would mean a link that leads nowhere; it is no place for a file.
                    mkdirat(&dir, part, Mode::S_IRWXU)?;
                    let new = self.resolve(&so_far, OFlag::empty())?;
                    made(&new)?;
                    new
                }
                other => other?,
            };
        }
        Ok(dir)
    }
}

/// What is at a name, if anything.
pub(super) fn look(dir: &OwnedFd, name: &OsStr) -> io::Result<Option<FileStat>> {
    match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether it is a file of this type.
pub(super) fn is(stat: &FileStat, kind: SFlag) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == kind
}

/// Whether it is overlay's mark for a name that is not there.
pub(super) fn is_whiteout(stat: &FileStat) -> bool {
    is(stat, SFlag::S_IFCHR) && stat.st_rdev == 0
}

/// Opens a directory by its name, never through a link.
pub(super) fn open_dir(dir: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, Mode::empty())
}

/// Removes what is at a name, with all that is beneath it.
pub(super) fn remove_at(dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        // Which of the two a directory gives depends on the file system.
        Err(Errno::EISDIR | Errno::EPERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let inner = open_dir(dir, name)?;
    let mut listing = Dir::from_fd(inner.try_clone()?)?;
    let mut names: Vec<CString> = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    drop(listing);
    for name in names {
        remove_at(&inner, OsStr::from_bytes(name.to_bytes()))?;
    }
    Ok(unlinkat(dir, name, UnlinkatFlags::RemoveDir)?)
}

/// Removes a whole tree, if it is there.
pub(super) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    match File::open(parent) {
        Ok(parent) => remove_at(&parent.into(), name),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}
