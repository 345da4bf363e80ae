//! What a job left, listed and counted.
//!
//! Collecting opens directories and nothing else; files are only asked about. A directory is opened by its whole path
//! beneath the root (one call, and one descriptor however deep the tree is), so a path is never longer than what the
//! kernel resolves at once.
//!
//! Invariants:
//! - a listed file was a regular file, by its own inode and not by what a link points to;
//! - parents stand before their children, and a directory is kept only if a file is somewhere below it;
//! - the work is bounded by [`OutputBounds`], whatever the tree is.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use rustix::io::Errno;

use crate::bounds::KERNEL_PATH;
use crate::dir::{self, Entries};
use crate::watch::go_on;
use crate::{Bound, DepotError, OutputBounds, Skipped, Watch};

/// A listed file, with what is needed to know it again.
pub(crate) struct File {
    pub(crate) name: CString,
    pub(crate) size: u64,
    pub(crate) inode: u64,
    pub(crate) mode: u32,
    /// More than one name: the bytes must be copied, or two published files would be one.
    pub(crate) shared: bool,
}

/// A directory with a file somewhere below it.
pub(crate) struct Directory {
    /// Relative to the root; empty for the root.
    pub(crate) path: PathBuf,
    pub(crate) files: Vec<File>,
    depth: usize,
    parent: usize,
    wanted: bool,
}

/// The output of a job that has ended: its regular files, listed. Nobody else writes to it any more.
pub struct OutputTree {
    root: OwnedFd,
    path: PathBuf,
    directories: Vec<Directory>,
    files: u64,
    bytes: u64,
    skipped: Skipped,
}

impl OutputTree {
    /// Lists the tree at `root`, which must be a directory and not a link.
    ///
    /// # Errors
    ///
    /// [`DepotError::TooLarge`] when the tree is beyond `bounds`, [`DepotError::Stopped`] when `watch` says so, and
    /// otherwise what the file system answered, with the path.
    pub fn collect(
        root: &Path,
        bounds: &OutputBounds,
        watch: &dyn Watch,
    ) -> Result<Self, DepotError> {
        let top = dir::open(root).map_err(|e| DepotError::at("open the output", root, e))?;
        let mut walk = Walk {
            bounds,
            others: 0,
            tree: Self {
                root: top,
                path: root.to_owned(),
                directories: vec![Directory {
                    path: PathBuf::new(),
                    files: Vec::new(),
                    depth: 0,
                    parent: 0,
                    wanted: true,
                }],
                files: 0,
                bytes: 0,
                skipped: Skipped::default(),
            },
        };
        let mut next = 0;
        while next < walk.tree.directories.len() {
            walk.list(next, watch)?;
            next += 1;
        }
        Ok(walk.tree.without_empty_directories())
    }

    /// How many regular files it has.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files
    }

    /// How many bytes they have together, by their apparent size.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is left out.
    #[must_use]
    pub fn skipped(&self) -> &Skipped {
        &self.skipped
    }

    /// Whether there is no regular file in it, at any depth.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.files == 0
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// For messages: where something in the tree is.
    pub(crate) fn whole_path(&self, inside: &Path) -> PathBuf {
        self.path.join(inside)
    }

    fn without_empty_directories(mut self) -> Self {
        for i in (1..self.directories.len()).rev() {
            if self.directories[i].wanted {
                let parent = self.directories[i].parent;
                self.directories[parent].wanted = true;
            }
        }
        self.directories.retain(|d| d.wanted);
        self
    }
}

struct Walk<'a> {
    bounds: &'a OutputBounds,
    /// Entries that are no regular files.
    others: u64,
    tree: OutputTree,
}

impl Walk<'_> {
    /// Lists one directory; its sub-directories are appended to those to be listed.
    fn list(&mut self, this: usize, watch: &dyn Watch) -> Result<(), DepotError> {
        let here = self.tree.directories[this].path.clone();
        let depth = self.tree.directories[this].depth + 1;
        let failed = |e| DepotError::at("list the output", self.tree.path.join(&here), e);
        let dir = dir::open_beneath(self.tree.root(), &here).map_err(failed)?;
        let entries = Entries::of(dir.as_fd()).map_err(failed)?;
        for entry in entries {
            go_on(watch)?;
            let entry = entry
                .map_err(|e| DepotError::at("list the output", self.tree.path.join(&here), e))?;
            let path = here.join(dir::path_of(&entry.name));
            self.check_path(&path, depth)?;
            // The directory's word is enough to leave something out, and to descend (opening checks again). Only of
            // what may be a file more has to be known.
            match entry.kind {
                FileType::RegularFile | FileType::Unknown => {
                    let stat = match dir::stat(dir.as_fd(), &entry.name) {
                        Ok(stat) => stat,
                        Err(Errno::NOENT) => return Err(self.changed(&path)),
                        Err(e) => {
                            return Err(DepotError::at("read", self.tree.whole_path(&path), e));
                        }
                    };
                    match dir::kind(&stat) {
                        FileType::RegularFile => self.file(this, entry.name, &stat)?,
                        other => self.other(this, path, depth, other)?,
                    }
                }
                other => self.other(this, path, depth, other)?,
            }
        }
        Ok(())
    }

    fn check_path(&self, path: &Path, depth: usize) -> Result<(), DepotError> {
        let longest = self.bounds.max_path.min(KERNEL_PATH);
        if path.as_os_str().len() > longest {
            return Err(DepotError::TooLarge(Bound::Path(path.to_owned(), longest)));
        }
        if depth > self.bounds.max_depth {
            let most = self.bounds.max_depth;
            return Err(DepotError::TooLarge(Bound::Depth(path.to_owned(), most)));
        }
        Ok(())
    }

    fn file(&mut self, this: usize, name: CString, stat: &Stat) -> Result<(), DepotError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.tree.files += 1;
        self.tree.bytes = self.tree.bytes.saturating_add(size);
        if self.tree.files > self.bounds.max_files {
            return Err(DepotError::TooLarge(Bound::Files(self.bounds.max_files)));
        }
        if self.tree.bytes > self.bounds.max_bytes {
            return Err(DepotError::TooLarge(Bound::Bytes(self.bounds.max_bytes)));
        }
        let directory = &mut self.tree.directories[this];
        directory.wanted = true;
        directory.files.push(File {
            name,
            size,
            inode: stat.st_ino,
            mode: stat.st_mode,
            shared: stat.st_nlink > 1,
        });
        Ok(())
    }

    fn other(
        &mut self,
        parent: usize,
        path: PathBuf,
        depth: usize,
        kind: FileType,
    ) -> Result<(), DepotError> {
        self.others += 1;
        if self.others > self.bounds.max_files {
            let most = self.bounds.max_files;
            return Err(DepotError::TooLarge(Bound::OtherEntries(most)));
        }
        let skipped = &mut self.tree.skipped;
        match kind {
            FileType::Directory => self.tree.directories.push(Directory {
                path,
                files: Vec::new(),
                depth,
                parent,
                wanted: false,
            }),
            FileType::Symlink => skipped.symlinks.add(&path),
            FileType::Fifo => skipped.fifos.add(&path),
            FileType::Socket => skipped.sockets.add(&path),
            _ => skipped.devices.add(&path),
        }
        Ok(())
    }

    fn changed(&self, path: &Path) -> DepotError {
        DepotError::Changed {
            path: self.tree.whole_path(path),
        }
    }
}
