//! The one moment at which the new tree becomes the target.
//!
//! ```text
//! no target   rename, not replacing ──────────────► New
//! a target    exchange the two names ─────────────► Exchanged: the previous tree is at the staging name
//!             exchange not known here:
//!               target aside, staging in ─────────► Aside(name); back again if the second fails
//! ```
//!
//! Each step states what it expects and fails if it is otherwise, so that another publish at the same time makes this
//! one look again and never merge or overwrite.

use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

use rustix::fs::{self, RenameFlags};
use rustix::io::Errno;

use crate::dir;
use crate::staging::Names;

/// Others may switch the same target at the same moment; so often it is looked at again.
const ATTEMPTS: usize = 16;

/// What the file system can do. Found out by trying; a test may begin at the lesser one.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renames {
    /// renameat2 with its flags.
    Flags,
    /// Only plain renames. A directory is still never renamed over one that has something in it.
    Plain,
}

/// Where the previous tree is now.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Switched {
    /// There was none.
    New,
    /// At the staging name.
    Exchanged,
    /// At this name.
    Aside(CString),
}

/// Makes `staging` the `target`; both are names in `parent`. `may_replace` is asked right before a target is replaced.
///
/// On an error both are what they were.
pub(crate) fn switch<E: From<Errno>>(
    parent: BorrowedFd<'_>,
    staging: &CStr,
    target: &CStr,
    names: &Names,
    mut renames: Renames,
    may_replace: &dyn Fn() -> Result<(), E>,
) -> Result<Switched, E> {
    for _ in 0..ATTEMPTS {
        let exists = match dir::stat(parent, target) {
            Ok(_) => true,
            Err(Errno::NOENT) => false,
            Err(e) => return Err(e.into()),
        };
        if exists {
            may_replace()?;
        }
        let done = match (renames, exists) {
            (Renames::Flags, false) => {
                fs::renameat_with(parent, staging, parent, target, RenameFlags::NOREPLACE)
                    .map(|()| Switched::New)
            }
            (Renames::Flags, true) => {
                fs::renameat_with(parent, staging, parent, target, RenameFlags::EXCHANGE)
                    .map(|()| Switched::Exchanged)
            }
            (Renames::Plain, false) => {
                fs::renameat(parent, staging, parent, target).map(|()| Switched::New)
            }
            (Renames::Plain, true) => by_two_renames(parent, staging, target, names),
        };
        match done {
            Ok(switched) => return Ok(switched),
            Err(Errno::INVAL | Errno::NOSYS) if renames == Renames::Flags => {
                renames = Renames::Plain;
            }
            // It came, or went, since it was looked at.
            Err(Errno::EXIST | Errno::NOTEMPTY | Errno::NOENT) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Errno::BUSY.into())
}

fn by_two_renames(
    parent: BorrowedFd<'_>,
    staging: &CStr,
    target: &CStr,
    names: &Names,
) -> Result<Switched, Errno> {
    let aside = names.aside()?;
    fs::renameat(parent, target, parent, &aside)?;
    match fs::renameat(parent, staging, parent, target) {
        Ok(()) => Ok(Switched::Aside(aside)),
        Err(why) => {
            // If this fails too then another publish has put its own tree there, which is as good.
            let _ = fs::renameat(parent, &aside, parent, target);
            Err(why)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::fd::AsFd;
    use std::path::Path;

    use super::*;

    fn try_switch(top: &Path, renames: Renames) -> Result<Switched, Errno> {
        let parent = dir::open(top).unwrap();
        let names = Names::of(OsStr::new("site"));
        switch(parent.as_fd(), c"new", c"site", &names, renames, &|| Ok(()))
    }

    fn make(top: &Path, name: &str) {
        std::fs::create_dir(top.join(name)).unwrap();
        std::fs::write(top.join(name).join("from"), name).unwrap();
    }

    fn site(top: &Path) -> String {
        std::fs::read_to_string(top.join("site/from")).unwrap()
    }

    #[test]
    fn with_and_without_flags() {
        for renames in [Renames::Flags, Renames::Plain] {
            let top = tempfile::tempdir().unwrap();
            make(top.path(), "new");
            assert_eq!(try_switch(top.path(), renames), Ok(Switched::New));
            assert_eq!(site(top.path()), "new");
            std::fs::write(top.path().join("site/from"), "earlier").unwrap();
            make(top.path(), "new");
            let old = match try_switch(top.path(), renames).unwrap() {
                Switched::New => panic!("there was one"),
                Switched::Exchanged => "new".to_owned(),
                Switched::Aside(name) => name.into_string().unwrap(),
            };
            assert_eq!(site(top.path()), "new");
            let kept = std::fs::read_to_string(top.path().join(old).join("from")).unwrap();
            assert_eq!(kept, "earlier");
        }
    }

    #[test]
    fn a_second_rename_that_fails_is_undone() {
        let top = tempfile::tempdir().unwrap();
        make(top.path(), "site");
        let parent = dir::open(top.path()).unwrap();
        let names = Names::of(OsStr::new("site"));
        let failed = by_two_renames(parent.as_fd(), c"not-there", c"site", &names);
        assert_eq!(failed, Err(Errno::NOENT));
        assert_eq!(site(top.path()), "site");
        assert_eq!(std::fs::read_dir(top.path()).unwrap().count(), 1);
    }
}
