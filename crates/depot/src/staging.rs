//! The directory beside the target in which a publish is prepared.
//!
//! ```text
//! parent/
//!   site                         the target
//!   .site.bryo-0f3a…             a staging directory; after the switch, the previous target on its way out
//!   .site.bryo-old-0f3a…         the previous target, where the file system cannot exchange two names
//! ```
//!
//! Whoever works in a staging directory holds a lock (flock) on it; the kernel drops the lock with the process. A name
//! of this form that is nobody's is a leftover of a publish that was killed, and is removed by the next one.
//!
//! Why flock and not age or a process id: it is right after a reboot, in containers, and for a publish that takes
//! long. The instant between making and locking is covered: who finds its new directory locked or gone takes another.

use std::ffi::{CString, OsStr};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode};
use rustix::io::Errno;

use crate::DepotError;
use crate::dir::{self, Entries};
use crate::remove::remove_tree;

/// Of the target's name in a staging name, so that it is never longer than a file system allows (255 bytes).
const LONGEST_PART: usize = 200;
const RANDOM_DIGITS: usize = 16;
const ATTEMPTS: usize = 64;

/// How names beside a target begin.
pub(crate) struct Names {
    prefix: Vec<u8>,
}

impl Names {
    pub(crate) fn of(target: &OsStr) -> Self {
        let name = target.as_bytes();
        let part = &name[..name.len().min(LONGEST_PART)];
        Self {
            prefix: [b".", part, b".bryo-"].concat(),
        }
    }

    fn random(&self, word: &str) -> Result<CString, Errno> {
        let random = RandomState::new().build_hasher().finish();
        let mut name = self.prefix.clone();
        name.extend_from_slice(format!("{word}{random:016x}").as_bytes());
        CString::new(name).map_err(|_| Errno::INVAL)
    }

    /// A name for the previous target while it stands aside.
    pub(crate) fn aside(&self) -> Result<CString, Errno> {
        self.random("old-")
    }

    fn is_ours(&self, name: &[u8], word: &str) -> bool {
        name.strip_prefix(self.prefix.as_slice())
            .and_then(|rest| rest.strip_prefix(word.as_bytes()))
            .is_some_and(|digits| {
                digits.len() == RANDOM_DIGITS && digits.iter().all(u8::is_ascii_hexdigit)
            })
    }
}

/// A staging directory. Unless it is released it is removed with everything in it.
pub(crate) struct Staging<'a> {
    parent: BorrowedFd<'a>,
    name: CString,
    path: PathBuf,
    /// Holds the lock.
    dir: OwnedFd,
    live: bool,
}

impl<'a> Staging<'a> {
    /// Makes an empty one, which only this user may enter.
    pub(crate) fn make(
        parent: BorrowedFd<'a>,
        parent_path: &Path,
        names: &Names,
    ) -> Result<Self, DepotError> {
        let failed = |e| DepotError::at("make a staging directory in", parent_path, e);
        for _ in 0..ATTEMPTS {
            let name = names.random("").map_err(failed)?;
            match fs::mkdirat(parent, &name, Mode::RWXU) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(failed(e)),
            }
            let dir = match dir::open_same_mount(parent, &name) {
                Ok(dir) => dir,
                // A publish beside this one took it for a leftover before it was locked.
                Err(Errno::NOENT) => continue,
                Err(e) => {
                    let _ = fs::unlinkat(parent, &name, AtFlags::REMOVEDIR);
                    return Err(failed(e));
                }
            };
            // A file system without locks has no leftovers removed either: only "somebody has it" counts.
            let locked = fs::flock(&dir, FlockOperation::NonBlockingLockExclusive);
            if locked == Err(Errno::WOULDBLOCK) {
                continue;
            }
            match dir::stat(parent, &name) {
                Ok(stat) if Ok(stat.st_ino) == fs::fstat(&dir).map(|s| s.st_ino) => {}
                _ => continue,
            }
            return Ok(Self {
                parent,
                path: parent_path.join(dir::path_of(&name)),
                name,
                dir,
                live: true,
            });
        }
        Err(failed(Errno::EXIST))
    }

    pub(crate) fn dir(&self) -> &OwnedFd {
        &self.dir
    }

    pub(crate) fn name(&self) -> &CString {
        &self.name
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It is the target now. The caller keeps its lock until the previous target is gone.
    pub(crate) fn release(mut self) {
        self.live = false;
    }

    /// Removes it and gives `error` back, which was the reason.
    pub(crate) fn discard(mut self, error: DepotError) -> DepotError {
        self.live = false;
        match remove_tree(self.parent, &self.name) {
            Ok(()) => error,
            Err(e) => DepotError::StagingLeft {
                path: self.path.clone(),
                left: Box::new(DepotError::at("remove", &self.path, e)),
                source: Box::new(error),
            },
        }
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.live {
            // Only on a panic; the next publish tries again.
            let _ = remove_tree(self.parent, &self.name);
        }
    }
}

/// Which leftovers.
#[derive(Clone, Copy)]
pub(crate) enum Sweep {
    /// Staging directories.
    Staging,
    /// Previous targets that stood aside. Only after a switch: until then one of them may be the only site there is.
    Aside,
}

/// Removes leftovers of earlier publishes, and gives those that could not be removed.
pub(crate) fn sweep(parent: BorrowedFd<'_>, names: &Names, which: Sweep) -> Vec<(CString, Errno)> {
    let word = match which {
        Sweep::Staging => "",
        Sweep::Aside => "old-",
    };
    let Ok(entries) = Entries::of(parent) else {
        return Vec::new();
    };
    let ours: Vec<CString> = entries
        .flatten()
        .filter(|entry| matches!(entry.kind, FileType::Directory | FileType::Unknown))
        .filter(|entry| names.is_ours(entry.name.to_bytes(), word))
        .map(|entry| entry.name)
        .collect();
    ours.into_iter()
        .filter_map(|name| match sweep_one(parent, &name) {
            Ok(()) => None,
            Err(e) => Some((name, e)),
        })
        .collect()
}

/// Removes one, unless it is somebody's: another user's, or locked.
fn sweep_one(parent: BorrowedFd<'_>, name: &CString) -> Result<(), Errno> {
    let dir = match dir::open_same_mount(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    if fs::fstat(&dir)?.st_uid != nix::unistd::geteuid().as_raw()
        || fs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_err()
    {
        return Ok(());
    }
    remove_tree(parent, name)
}
