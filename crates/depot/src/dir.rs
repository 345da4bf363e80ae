//! Directories as descriptors: opened beneath another one without following a link, and listed.
//!
//! Invariant: no function here follows a symbolic link in what it is asked to open, at any component.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

const BENEATH: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS);

/// Opens a directory that the caller names; its last component may not be a link.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    fs::open(path, DIRECTORY, Mode::empty())
}

/// Opens the directory `path` (relative, no `..`; empty for `base` itself) beneath `base`.
pub(crate) fn open_beneath(base: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let whole = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    match fs::openat2(base, whole, DIRECTORY, Mode::empty(), BENEATH) {
        // Old container profiles answer EPERM to system calls that they do not know.
        Err(Errno::NOSYS | Errno::PERM) => step_down(base, whole),
        done => done,
    }
}

/// The same for a kernel without openat2: one component at a time.
fn step_down(base: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    for component in path {
        if component == ".." {
            return Err(Errno::XDEV);
        }
        let from = at.as_ref().map_or(base, AsFd::as_fd);
        at = Some(fs::openat(from, component, DIRECTORY, Mode::empty())?);
    }
    at.ok_or(Errno::NOENT)
}

/// Opens the sub-directory `name`, unless something is mounted on it.
pub(crate) fn open_same_mount(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let resolve = BENEATH.union(ResolveFlags::NO_XDEV);
    match fs::openat2(parent, name, DIRECTORY, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => {
            let dir = fs::openat(parent, name, DIRECTORY, Mode::empty())?;
            if fs::fstat(&dir)?.st_dev == fs::fstat(parent)?.st_dev {
                Ok(dir)
            } else {
                Err(Errno::XDEV)
            }
        }
        done => done,
    }
}

/// What `name` is, itself: a link is a link.
pub(crate) fn stat(parent: BorrowedFd<'_>, name: &CStr) -> Result<Stat, Errno> {
    fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The kind of what was asked about.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// One entry of a directory.
pub(crate) struct Entry {
    pub(crate) name: CString,
    /// As the directory tells it; `Unknown` on file systems that do not.
    pub(crate) kind: FileType,
}

/// The entries of a directory but `.` and `..`, as they are read.
pub(crate) struct Entries(Dir);

impl Entries {
    /// Lists `dir`; the position of `dir` itself is not moved.
    pub(crate) fn of(dir: BorrowedFd<'_>) -> Result<Self, Errno> {
        Dir::read_from(dir).map(Self)
    }
}

impl Iterator for Entries {
    type Item = Result<Entry, Errno>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let entry = match self.0.read()? {
                Ok(entry) => entry,
                Err(errno) => return Some(Err(errno)),
            };
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                return Some(Ok(Entry {
                    name: entry.file_name().to_owned(),
                    kind: entry.file_type(),
                }));
            }
        }
    }
}

/// A name as a path, bytes for bytes.
pub(crate) fn path_of(name: &CStr) -> &Path {
    Path::new(OsStr::from_bytes(name.to_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Both ways of opening refuse the same things.
    #[test]
    fn opens_beneath_only() {
        let top = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(top.path().join("root/a/b")).unwrap();
        std::fs::create_dir_all(top.path().join("outside")).unwrap();
        symlink("../outside", top.path().join("root/out")).unwrap();
        symlink("a", top.path().join("root/in")).unwrap();
        let root = open(&top.path().join("root")).unwrap();
        for way in [open_beneath, step_down] {
            assert!(way(root.as_fd(), Path::new("a/b")).is_ok());
            for bad in ["out", "in", "in/b", "..", "a/../../outside"] {
                assert!(way(root.as_fd(), Path::new(bad)).is_err(), "{bad}");
            }
        }
        assert!(open(&top.path().join("root/in")).is_err());
    }
}
