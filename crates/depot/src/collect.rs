//! What a job left, listed and counted.
//!
//! Collecting opens directories and nothing else; files are only asked about. A directory is opened by its whole path
//! beneath the root (one call, and one descriptor however deep the tree is), so a path is never longer than what the
//! kernel resolves at once.
//!
//! Invariants:
//! - a listed file was a regular file, by its own inode and not by what a link points to;
//! - directories stand in the order in which [`Path`]s are sorted, so parents before their children, and the files of each
//!   by their names: what is known by its path is found without another list;
//! - a directory is kept only if a file is somewhere below it;
//! - of a file no more is kept than what is needed: there may be a million;
//! - the work is bounded by [`OutputBounds`], whatever the tree is.

use std::ffi::CString;
use std::ops::Range;
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
    pub(crate) path: Box<Path>,
    /// Which of the tree's files are its own.
    pub(crate) files: Range<usize>,
}

/// The output of a job that has ended: its regular files, listed. Nobody else writes to it any more.
pub struct OutputTree {
    root: OwnedFd,
    path: PathBuf,
    directories: Vec<Directory>,
    files: Vec<File>,
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
            next: vec![Box::from(Path::new(""))],
            tree: Self {
                root: top,
                path: root.to_owned(),
                directories: Vec::new(),
                files: Vec::new(),
                bytes: 0,
                skipped: Skipped::default(),
            },
        };
        while let Some(path) = walk.next.pop() {
            walk.list(path, watch)?;
        }
        walk.tree.directories.shrink_to_fit();
        walk.tree.files.shrink_to_fit();
        Ok(walk.tree)
    }

    /// How many regular files it has.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.files.len() as u64
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
        self.files.is_empty()
    }

    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn directories(&self) -> &[Directory] {
        &self.directories
    }

    /// All files, those of one directory after those of the other.
    pub(crate) fn all_files(&self) -> &[File] {
        &self.files
    }

    /// The directory of that one of all files.
    pub(crate) fn directory_of(&self, file: usize) -> &Directory {
        let before = |directory: &Directory| directory.files.end <= file;
        &self.directories[self.directories.partition_point(before)]
    }

    /// The directory that has this path, relative to the root.
    pub(crate) fn directory(&self, path: &Path) -> Option<&Directory> {
        let order = |directory: &Directory| (*directory.path).cmp(path);
        let found = &self.directories[self.directories.binary_search_by(order).ok()?];
        // To a sorted path "a//b" and "a/./b" are "a/b".
        (found.path.as_os_str() == path.as_os_str()).then_some(found)
    }

    /// For messages: where something in the tree is.
    pub(crate) fn whole_path(&self, inside: &Path) -> PathBuf {
        self.path.join(inside)
    }
}

struct Walk<'a> {
    bounds: &'a OutputBounds,
    /// Entries that are no regular files.
    others: u64,
    /// Directories that are not listed yet, the next one last.
    next: Vec<Box<Path>>,
    tree: OutputTree,
}

impl Walk<'_> {
    /// Lists one directory; its sub-directories are the next ones.
    fn list(&mut self, here: Box<Path>, watch: &dyn Watch) -> Result<(), DepotError> {
        let depth = here.components().count() + 1;
        let (first, next) = (self.tree.files.len(), self.next.len());
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
                        FileType::RegularFile => self.file(entry.name, &stat)?,
                        other => self.other(path, other)?,
                    }
                }
                other => self.other(path, other)?,
            }
        }
        self.next[next..].sort_unstable_by(|a, b| b.cmp(a));
        self.tree.files[first..].sort_unstable_by(|a, b| a.name.cmp(&b.name));
        if self.tree.files.len() > first {
            self.keep(here, first);
        }
        Ok(())
    }

    /// Keeps the directory of the files from `first` on, and those it lies in.
    fn keep(&mut self, here: Box<Path>, first: usize) {
        let directories = &mut self.tree.directories;
        let is_there = |above: &Path| {
            let last = directories.last();
            last.is_some_and(|last| last.path.starts_with(above))
        };
        let above = here.ancestors().skip(1);
        let new: Vec<Box<Path>> = above
            .take_while(|above| !is_there(above))
            .map(Box::from)
            .collect();
        directories.extend(new.into_iter().rev().map(|path| Directory {
            path,
            files: first..first,
        }));
        directories.push(Directory {
            path: here,
            files: first..self.tree.files.len(),
        });
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

    fn file(&mut self, name: CString, stat: &Stat) -> Result<(), DepotError> {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        self.tree.files.push(File {
            name,
            size,
            inode: stat.st_ino,
            mode: stat.st_mode,
            shared: stat.st_nlink > 1,
        });
        self.tree.bytes = self.tree.bytes.saturating_add(size);
        if self.tree.files() > self.bounds.max_files {
            return Err(DepotError::TooLarge(Bound::Files(self.bounds.max_files)));
        }
        if self.tree.bytes > self.bounds.max_bytes {
            return Err(DepotError::TooLarge(Bound::Bytes(self.bounds.max_bytes)));
        }
        Ok(())
    }

    fn other(&mut self, path: PathBuf, kind: FileType) -> Result<(), DepotError> {
        self.others += 1;
        if self.others > self.bounds.max_files {
            let most = self.bounds.max_files;
            return Err(DepotError::TooLarge(Bound::OtherEntries(most)));
        }
        let skipped = &mut self.tree.skipped;
        match kind {
            FileType::Directory => self.next.push(path.into_boxed_path()),
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
