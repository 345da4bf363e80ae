//! The index of a tree: what `git status` compares the files with.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use git2::{Index, IndexEntry, IndexTime};

use super::plan::{Entry, Kind};
use crate::SourceError;

/// What the index keeps of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    mtime: (i32, u32),
    ctime: (i32, u32),
    dev: u32,
    ino: u32,
    uid: u32,
    gid: u32,
    size: u32,
}

impl Stat {
    pub(super) const NONE: Self = Self {
        mtime: (0, 0),
        ctime: (0, 0),
        dev: 0,
        ino: 0,
        uid: 0,
        gid: 0,
        size: 0,
    };

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the format keeps the low 32 bits of each"
    )]
    pub(super) fn of(meta: &Metadata) -> Self {
        Self {
            mtime: (meta.mtime() as i32, meta.mtime_nsec() as u32),
            ctime: (meta.ctime() as i32, meta.ctime_nsec() as u32),
            dev: meta.dev() as u32,
            ino: meta.ino() as u32,
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.size() as u32,
        }
    }
}

/// Writes the index of these entries, each with its file's.
pub(super) fn write(path: &Path, entries: &[Entry], stats: &[Stat]) -> Result<(), SourceError> {
    let failed =
        |e: git2::Error| SourceError::io(path)(std::io::Error::other(e.message().to_owned()));
    let mut index = Index::open(path).map_err(failed)?;
    for (entry, stat) in entries.iter().zip(stats) {
        let mode = match entry.kind {
            Kind::File => 0o100_644,
            Kind::Executable => 0o100_755,
            Kind::Symlink => 0o120_000,
            Kind::Module => 0o160_000,
        };
        let new = IndexEntry {
            ctime: IndexTime::new(stat.ctime.0, stat.ctime.1),
            mtime: IndexTime::new(stat.mtime.0, stat.mtime.1),
            dev: stat.dev,
            ino: stat.ino,
            mode,
            uid: stat.uid,
            gid: stat.gid,
            file_size: stat.size,
            id: entry.id,
            flags: 0,
            flags_extended: 0,
            path: entry.path.clone(),
        };
        index.add(&new).map_err(failed)?;
    }
    index.write().map_err(failed)
}
