//! One regular file from the output to the staging directory, as an independent file.
//!
//! The kernel copies (sharing blocks where the file system can); where it will not between these two file systems, a
//! buffer does. Holes are filled: a published file is small or counted by its apparent size already.
//!
//! What is read is what `source` opens: the regular file that was listed.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, Mode, OFlags, Timespec, Timestamps};
use rustix::io::{self, Errno};

use crate::collect::File;
use crate::dir;
use crate::source::open_file;
use crate::watch::go_on;
use crate::{DepotError, Watch};

/// Between two questions whether to stop: some 10 ms of a slow disk.
const CHUNK: usize = 2 << 20;

/// Of the fallback.
const BUFFER: usize = 128 << 10;

/// Where a file is and where it goes, with its name for messages on either side.
pub(crate) struct Route<'a> {
    pub(crate) from: BorrowedFd<'a>,
    pub(crate) from_path: &'a Path,
    pub(crate) to: BorrowedFd<'a>,
    pub(crate) to_path: &'a Path,
    pub(crate) name: &'a CStr,
}

impl Route<'_> {
    pub(crate) fn read_failed(&self, errno: Errno) -> DepotError {
        let path = self.from_path.join(dir::path_of(self.name));
        match errno {
            // It was listed as a regular file: now it is gone, or a link.
            Errno::NOENT | Errno::LOOP => DepotError::Changed { path },
            _ => DepotError::at("read", path, errno),
        }
    }

    pub(crate) fn write_failed(&self, errno: Errno) -> DepotError {
        DepotError::at("write", self.to_path.join(dir::path_of(self.name)), errno)
    }

    pub(crate) fn changed(&self) -> DepotError {
        DepotError::Changed {
            path: self.from_path.join(dir::path_of(self.name)),
        }
    }
}

/// Copies `file` with its time and the mode `mode`; `moved` is told of every chunk.
pub(crate) fn copy(
    route: &Route<'_>,
    file: &File,
    mode: Mode,
    watch: &dyn Watch,
    moved: &mut dyn FnMut(u64),
) -> Result<(), DepotError> {
    let (source, stat) = open_file(route.from, route.from_path, file)?;
    let creating =
        OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let sink = fs::openat(route.to, route.name, creating, Mode::RUSR | Mode::WUSR)
        .map_err(|e| route.write_failed(e))?;

    let mut left = file.size;
    let mut by_kernel = true;
    while left > 0 {
        go_on(watch)?;
        let want = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let done = if by_kernel {
            match fs::copy_file_range(&source, None, &sink, None, want) {
                Ok(0)
                | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) =>
                {
                    by_kernel = false;
                    continue;
                }
                Err(Errno::INTR) => continue,
                Err(e) => return Err(route.write_failed(e)),
                Ok(done) => done,
            }
        } else {
            by_buffer(route, &source, &sink, want)?
        };
        if done == 0 {
            return Err(route.changed());
        }
        left -= done as u64;
        moved(done as u64);
    }

    fs::fchmod(&sink, mode).map_err(|e| route.write_failed(e))?;
    let time = Timespec {
        tv_sec: stat.st_mtime,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    fs::futimens(&sink, &times).map_err(|e| route.write_failed(e))
}

/// Up to `want` bytes; fewer at the end of the file.
fn by_buffer(
    route: &Route<'_>,
    source: &OwnedFd,
    sink: &OwnedFd,
    want: usize,
) -> Result<usize, DepotError> {
    let mut buffer = vec![0_u8; BUFFER.min(want)];
    let mut done = 0;
    while done < want {
        let room = buffer.len().min(want - done);
        let got = match io::read(source.as_fd(), &mut buffer[..room]) {
            Ok(0) => break,
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(e) => return Err(route.read_failed(e)),
        };
        let mut rest = &buffer[..got];
        while !rest.is_empty() {
            match io::write(sink.as_fd(), rest) {
                Ok(put) => rest = &rest[put..],
                Err(Errno::INTR) => {}
                Err(e) => return Err(route.write_failed(e)),
            }
        }
        done += got;
    }
    Ok(done)
}
