//! A listed file of the output, opened for reading.
//!
//! It refuses to open anything but the regular file that was listed: the kind is asked before opening, so that a device is
//! not touched, and again of the opened file, so that the answer is about what is read.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::collect::{Directory, File};
use crate::{DepotError, OutputTree, dir};

/// The directory of the output, opened beneath its root.
pub(crate) fn open_directory(
    tree: &OutputTree,
    directory: &Directory,
) -> Result<OwnedFd, DepotError> {
    dir::open_beneath(tree.root(), &directory.path).map_err(|e| {
        let path = tree.whole_path(&directory.path);
        match e {
            Errno::LOOP | Errno::NOTDIR | Errno::NOENT | Errno::XDEV => {
                DepotError::Changed { path }
            }
            e => DepotError::at("open the output", path, e),
        }
    })
}

/// The file `file` of the directory `from`, whose path is for messages.
pub(crate) fn open_file(
    from: BorrowedFd<'_>,
    from_path: &Path,
    file: &File,
) -> Result<(OwnedFd, Stat), DepotError> {
    let path = || from_path.join(dir::path_of(&file.name));
    let failed = |errno| match errno {
        // It was listed as a regular file: now it is gone, or a link.
        Errno::NOENT | Errno::LOOP => DepotError::Changed { path: path() },
        _ => DepotError::at("read", path(), errno),
    };
    let before = dir::stat(from, &file.name).map_err(failed)?;
    if dir::kind(&before) != FileType::RegularFile {
        return Err(DepotError::Changed { path: path() });
    }
    let reading = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = fs::openat(from, &file.name, reading, Mode::empty()).map_err(failed)?;
    let stat = fs::fstat(opened.as_fd()).map_err(failed)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    if dir::kind(&stat) != FileType::RegularFile || stat.st_ino != file.inode || size != file.size {
        return Err(DepotError::Changed { path: path() });
    }
    Ok((opened, stat))
}
