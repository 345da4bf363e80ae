//! The index of a tree, version 2 of git's format (gitformat-index): what `git status` compares the files with.
//!
//! Why not libgit2's? It has all entries in memory. Where each one stands in the file is known from the paths before it, so
//! whoever has made a file writes its entry, in any order.

use std::cmp::Ordering;
use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use git2::{Tree, TreeEntry};
use sha1::{Digest, Sha1};

use super::walk::{Entry, Kind};
use crate::SourceError;

/// Signature, version and number of entries.
const HEADER: u64 = 12;

/// An entry up to its path.
const FIXED: usize = 62;

/// What the index keeps of a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    mtime: (u32, u32),
    ctime: (u32, u32),
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
            mtime: (meta.mtime() as u32, meta.mtime_nsec() as u32),
            ctime: (meta.ctime() as u32, meta.ctime_nsec() as u32),
            dev: meta.dev() as u32,
            ino: meta.ino() as u32,
            uid: meta.uid(),
            gid: meta.gid(),
            size: meta.size() as u32,
        }
    }
}

/// Where an entry of the index begins, from the file's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

impl Place {
    pub(super) const FIRST: Self = Self(HEADER);

    /// That of the entry after this one, whose path has so many bytes.
    pub(super) fn after(self, path: usize) -> Self {
        Self(self.0 + length(path) as u64)
    }
}

/// Bytes of an entry: one to eight NULs are behind its path, so that they are a multiple of eight.
fn length(path: usize) -> usize {
    (FIXED + path + 8) & !7
}

/// An index that is being written, by any number of threads.
pub(super) struct Writer {
    path: PathBuf,
    file: File,
}

impl Writer {
    /// Begins the index of so many entries.
    pub(super) fn new(path: &Path, entries: u32) -> Result<Self, SourceError> {
        let mut header = *b"DIRC\0\0\0\x02\0\0\0\0";
        header[8..].copy_from_slice(&entries.to_be_bytes());
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(path)
            .and_then(|file| file.write_all_at(&header, 0).map(|()| file));
        let path = path.to_owned();
        match file {
            Ok(file) => Ok(Self { path, file }),
            Err(e) => Err(SourceError::io(&path)(e)),
        }
    }

    /// Writes neighbours, the first of them at `place`.
    pub(super) fn put<'e>(
        &self,
        place: Place,
        entries: impl Iterator<Item = (&'e Entry, Stat)>,
    ) -> Result<(), SourceError> {
        let mut bytes = Vec::new();
        for (entry, stat) in entries {
            encode(entry, stat, &mut bytes);
        }
        self.file
            .write_all_at(&bytes, place.0)
            .map_err(SourceError::io(&self.path))
    }

    /// Ends the index with the checksum of all of it. `end` is where its entries end.
    pub(super) fn finish(self, end: Place) -> Result<(), SourceError> {
        let sum = || -> std::io::Result<()> {
            let mut sum = Sha1::new();
            let mut bytes = vec![0; 64 << 10];
            let mut at = 0;
            while at < end.0 {
                let most =
                    usize::try_from(end.0 - at).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.file.read_exact_at(&mut bytes[..most], at)?;
                sum.update(&bytes[..most]);
                at += most as u64;
            }
            self.file.write_all_at(&sum.finalize(), end.0)
        };
        sum().map_err(SourceError::io(&self.path))
    }
}

fn encode(entry: &Entry, stat: Stat, bytes: &mut Vec<u8>) {
    let mode = match entry.kind {
        Kind::File => 0o100_644,
        Kind::Executable => 0o100_755,
        Kind::Symlink => 0o120_000,
        Kind::Module => 0o160_000,
    };
    let end = bytes.len() + length(entry.path.len());
    let (ctime, mtime) = (stat.ctime, stat.mtime);
    for field in [
        ctime.0, ctime.1, mtime.0, mtime.1, stat.dev, stat.ino, mode, stat.uid, stat.gid, stat.size,
    ] {
        bytes.extend_from_slice(&field.to_be_bytes());
    }
    bytes.extend_from_slice(entry.id.as_bytes());
    // The lowest twelve bits of the flags are the path's length, or all ones for a longer one; none of the others is set.
    let flags = u16::try_from(entry.path.len()).map_or(0xfff, |n| n.min(0xfff));
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&entry.path);
    bytes.resize(end, 0);
}

/// The positions of a tree's entries in the order of the index; `None` if that is the order they have.
pub(super) fn order(tree: &Tree<'_>) -> Option<Vec<usize>> {
    let entries = || (0..tree.len()).filter_map(|at| tree.get(at));
    let is_sorted = entries()
        .zip(entries().skip(1))
        .all(|(one, next)| compare(&one, &next).is_le());
    if is_sorted {
        return None;
    }
    let mut all: Vec<_> = entries().enumerate().collect();
    all.sort_by(|(_, one), (_, other)| compare(one, other));
    Some(all.into_iter().map(|(at, _)| at).collect())
}

/// By the paths of files; those in a directory have a slash behind its name.
fn compare(one: &TreeEntry<'_>, other: &TreeEntry<'_>) -> Ordering {
    let ends = |entry: &TreeEntry<'_>| match entry.filemode_raw() & 0o170_000 {
        0o040_000 => Some(b'/'),
        _ => None,
    };
    let (a, b) = (one.name_bytes(), other.name_bytes());
    let common = a.len().min(b.len());
    a[..common].cmp(&b[..common]).then_with(|| {
        let next = |name: &[u8], entry| name.get(common).copied().or(ends(entry));
        next(a, one).cmp(&next(b, other))
    })
}
