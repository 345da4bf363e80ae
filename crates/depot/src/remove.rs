//! A directory and everything below it, removed by descriptors.
//!
//! Used on what Bryo made or replaced: an unfinished staging directory, the previous target. What the previous target
//! holds is anybody's, so no link is followed, nothing mounted below is entered, and depth is no danger: the recursion
//! is bounded, and a directory deeper than that is first moved up to the top.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode};
use rustix::io::Errno;

use crate::dir::{self, Entries};

/// Descriptors open at one time, and levels of recursion.
const DEEPEST: usize = 64;

/// Removes the directory `name` in `parent`. Gone already is as good as removed.
pub(crate) fn remove_tree(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let top = match open_writable(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    let mut removal = Removal {
        top: &top,
        moved_up: 0,
    };
    loop {
        let before = removal.moved_up;
        removal.empty(top.as_fd(), 0)?;
        if removal.moved_up == before {
            break;
        }
    }
    gone(fs::unlinkat(parent, name, AtFlags::REMOVEDIR))
}

struct Removal<'a> {
    top: &'a OwnedFd,
    moved_up: u64,
}

impl Removal<'_> {
    fn empty(&mut self, dir: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
        for entry in Entries::of(dir)? {
            let entry = entry?;
            if entry.kind != FileType::Directory {
                // Never a directory, so never more than one entry. A directory on a file system that does not tell
                // kinds answers EISDIR.
                match gone(fs::unlinkat(dir, &entry.name, AtFlags::empty())) {
                    Err(Errno::ISDIR) => {}
                    done => {
                        done?;
                        continue;
                    }
                }
            }
            if depth >= DEEPEST {
                self.move_up(dir, &entry.name)?;
                continue;
            }
            match open_writable(dir, &entry.name) {
                Ok(below) => self.empty(below.as_fd(), depth + 1)?,
                Err(Errno::NOENT) => continue,
                Err(e) => return Err(e),
            }
            gone(fs::unlinkat(dir, &entry.name, AtFlags::REMOVEDIR))?;
        }
        Ok(())
    }

    /// Moves a deep directory to the top, where the next pass finds it.
    fn move_up(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
        drop(open_writable(dir, name)?);
        loop {
            self.moved_up += 1;
            let new =
                CString::new(format!(".bryo-deep-{}", self.moved_up)).map_err(|_| Errno::INVAL)?;
            match fs::renameat_with(dir, name, self.top, &new, fs::RenameFlags::NOREPLACE) {
                Err(Errno::EXIST) => {}
                done => return done,
            }
        }
    }
}

/// Opens a directory of ours that is to be emptied, and makes it so that it can be.
fn open_writable(parent: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    let opened = match dir::open_same_mount(parent, name) {
        Err(Errno::ACCESS) => {
            let stat = dir::stat(parent, name)?;
            if dir::kind(&stat) != FileType::Directory {
                return Err(Errno::NOTDIR);
            }
            fs::chmodat(parent, name, Mode::RWXU, AtFlags::empty())?;
            dir::open_same_mount(parent, name)?
        }
        opened => opened?,
    };
    let mode = Mode::from_raw_mode(fs::fstat(&opened)?.st_mode);
    if !mode.contains(Mode::RWXU) {
        fs::fchmod(&opened, Mode::RWXU)?;
    }
    Ok(opened)
}

fn gone(result: Result<(), Errno>) -> Result<(), Errno> {
    match result {
        Err(Errno::NOENT) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn remove(top: &Path) -> Result<(), Errno> {
        let parent = dir::open(top).unwrap();
        remove_tree(parent.as_fd(), c"old")
    }

    #[test]
    fn follows_no_link_and_needs_no_permission_bits() {
        let top = tempfile::tempdir().unwrap();
        let old = top.path().join("old");
        std::fs::create_dir_all(old.join("closed/below")).unwrap();
        std::fs::create_dir(top.path().join("kept")).unwrap();
        std::fs::write(top.path().join("kept/file"), "x").unwrap();
        std::fs::write(old.join("closed/below/file"), "x").unwrap();
        symlink("../kept", old.join("link")).unwrap();
        let closed = std::fs::Permissions::from_mode(0o000);
        std::fs::set_permissions(old.join("closed"), closed).unwrap();
        remove(top.path()).unwrap();
        assert!(!old.exists());
        assert!(top.path().join("kept/file").exists());
        remove(top.path()).unwrap();
    }

    #[test]
    fn depth_is_no_danger() {
        let top = tempfile::tempdir().unwrap();
        let mut at = dir::open(top.path()).unwrap();
        for i in 0..3000 {
            let name = if i == 0 {
                c"old"
            } else {
                c"a-long-name-of-a-level"
            };
            fs::mkdirat(&at, name, Mode::RWXU).unwrap();
            fs::mkdirat(&at, c"sibling", Mode::RWXU).unwrap();
            at = dir::open_same_mount(at.as_fd(), name).unwrap();
        }
        remove(top.path()).unwrap();
        assert!(!top.path().join("old").exists());
    }
}
