//! The output tree's files, brought into the staging directory.
//!
//! A file is renamed where that is possible: nothing is read, whatever its size. It is copied when the staging
//! directory is on another file system (or mount, or under another project quota: the kernel says so at the first
//! rename), and when it has more than one name.
//!
//! Invariants of what is filled: directories are 0755 and new, so they carry nothing of the job's (no ACL, no setgid);
//! files are 0644, or 0755 if anyone could execute them; each is the regular file that was listed, looked at again
//! where the job's tree cannot be changed any more under it. A renamed file has the SELinux label of the staging directory,
//! as a copied one has, and not the job's: who may read what is published could not read that.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use bryo_model::Amount;
use rustix::fs::{self, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use crate::collect::{Directory, File};
use crate::copy::{Route, copy};
use crate::source::open_directory;
use crate::watch::go_on;
use crate::{DepotError, OutputTree, Watch, dir};

/// Between two reports of progress.
const REPORT_FILES: u64 = 64;

const DIRECTORY_MODE: Mode = Mode::from_raw_mode(0o755);

/// Brings all files of `tree` to the empty directory `staging`, whose own mode stays.
pub(crate) fn fill(
    tree: &OutputTree,
    staging: &OwnedFd,
    staging_path: &Path,
    watch: &dyn Watch,
) -> Result<(), DepotError> {
    let mut fill = Fill {
        renames: true,
        label: label_of(staging),
        meter: Meter {
            watch,
            files: 0,
            done: 0,
            total: tree.bytes(),
        },
    };
    for directory in tree.directories() {
        go_on(watch)?;
        fill.directory(tree, directory, staging, staging_path)?;
    }
    fill.meter.report();
    Ok(())
}

/// How far it is.
struct Meter<'a> {
    watch: &'a dyn Watch,
    files: u64,
    done: u64,
    total: u64,
}

impl Meter<'_> {
    fn report(&self) {
        self.watch.progress(Amount::Bytes {
            done: self.done,
            total: self.total,
        });
    }

    fn file_done(&mut self) {
        self.files += 1;
        if self.files.is_multiple_of(REPORT_FILES) {
            self.report();
        }
    }
}

struct Fill<'a> {
    /// Whether the two sides are where a rename can connect them, as far as is known.
    renames: bool,
    /// The SELinux label of the staging directory, if it has one.
    label: Option<Vec<u8>>,
    meter: Meter<'a>,
}

impl Fill<'_> {
    fn directory(
        &mut self,
        tree: &OutputTree,
        directory: &Directory,
        staging: &OwnedFd,
        staging_path: &Path,
    ) -> Result<(), DepotError> {
        let path = &*directory.path;
        let to_path = staging_path.join(path);
        let make_failed = |e| DepotError::at("make the directory", &to_path, e);
        let below = !path.as_os_str().is_empty();
        if below {
            fs::mkdirat(staging, path, Mode::RWXU).map_err(make_failed)?;
        }
        let to = dir::open_beneath(staging.as_fd(), path).map_err(make_failed)?;
        if below {
            fs::fchmod(&to, DIRECTORY_MODE).map_err(make_failed)?;
        }
        if directory.files.is_empty() {
            return Ok(());
        }

        let from_path = tree.whole_path(path);
        let from = open_directory(tree, directory)?;
        for file in &tree.all_files()[directory.files.clone()] {
            go_on(self.meter.watch)?;
            let route = Route {
                from: from.as_fd(),
                from_path: &from_path,
                to: to.as_fd(),
                to_path: &to_path,
                name: &file.name,
            };
            self.file(&route, file)?;
            self.meter.file_done();
        }
        Ok(())
    }

    fn file(&mut self, route: &Route<'_>, file: &File) -> Result<(), DepotError> {
        if self.renames && !file.shared {
            match fs::renameat(route.from, route.name, route.to, route.name) {
                Ok(()) => {
                    settle(route, file, self.label.as_deref())?;
                    self.meter.done += file.size;
                    return Ok(());
                }
                Err(Errno::XDEV) => self.renames = false,
                Err(Errno::NOENT) => return Err(route.changed()),
                Err(e) => return Err(route.write_failed(e)),
            }
        }
        let meter = &mut self.meter;
        let watch = meter.watch;
        copy(route, file, mode_of(file), watch, &mut |bytes| {
            meter.done += bytes;
            meter.report();
        })
    }
}

/// Looks at a file that was moved here, and gives it its mode and its label.
fn settle(route: &Route<'_>, file: &File, label: Option<&[u8]>) -> Result<(), DepotError> {
    let stat = dir::stat(route.to, route.name).map_err(|e| route.write_failed(e))?;
    if dir::kind(&stat) != FileType::RegularFile
        || stat.st_ino != file.inode
        || stat.st_nlink > 1
        || u64::try_from(stat.st_size) != Ok(file.size)
    {
        return Err(route.changed());
    }
    let mode = mode_of(file);
    if Mode::from_raw_mode(stat.st_mode) == mode && label.is_none() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    fs::openat(route.to, route.name, flags, Mode::empty())
        .and_then(|opened| {
            fs::fchmod(&opened, mode)?;
            label.map_or(Ok(()), |label| {
                fs::fsetxattr(&opened, LABEL, label, XattrFlags::empty())
            })
        })
        .map_err(|e| route.write_failed(e))
}

const LABEL: &str = "security.selinux";

/// The kernel's bound on a label that it keeps on a disk is a page.
const LONGEST_LABEL: usize = 4096;

/// None on a host without SELinux, and where the file system keeps no labels.
fn label_of(dir: &OwnedFd) -> Option<Vec<u8>> {
    if !Path::new("/sys/fs/selinux/enforce").exists() {
        return None;
    }
    let mut label = vec![0; LONGEST_LABEL];
    let length = fs::fgetxattr(dir, LABEL, label.as_mut_slice()).ok()?;
    label.truncate(length);
    Some(label)
}

fn mode_of(file: &File) -> Mode {
    Mode::from_raw_mode(if file.mode & 0o111 == 0 { 0o644 } else { 0o755 })
}
