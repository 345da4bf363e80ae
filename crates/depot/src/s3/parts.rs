//! A file's bytes, read in pieces of a known size.

use std::fs::File as StdFile;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use bytes::{Bytes, BytesMut};

use super::tag::Tag;
use crate::source::{open_directory, open_file};
use crate::{DepotError, OutputTree, dir};

/// The least that a store takes as a part, but for the last one.
const LEAST: u64 = 5 << 20;

/// The most parts of one object.
const MOST_PARTS: u64 = 10_000;

/// Of the buffer with which a large file is summed.
const BUFFER: usize = 1 << 20;

/// The size of the parts in which `size` bytes are sent; `None`: at once.
pub(crate) fn part_size(size: u64, wanted: u64) -> Option<u64> {
    let wanted = wanted.max(LEAST);
    (size > wanted).then(|| wanted.max(size.div_ceil(MOST_PARTS)))
}

/// An opened file of the output.
pub(crate) struct Source {
    file: StdFile,
    size: u64,
    path: PathBuf,
}

impl Source {
    /// Opens the tree's file `n` beneath its root; blocking.
    pub(crate) fn open(tree: &OutputTree, n: usize) -> Result<Self, DepotError> {
        let directory = tree.directory_of(n);
        let file = &tree.all_files()[n];
        let dir_path = tree.whole_path(&directory.path);
        let from = open_directory(tree, directory)?;
        let (opened, _) = open_file(from.as_fd(), &dir_path, file)?;
        Ok(Self {
            file: opened.into(),
            size: file.size,
            path: dir_path.join(dir::path_of(&file.name)),
        })
    }

    /// `length` bytes from `offset`; those to the end of the file must be its end. Blocking.
    pub(crate) fn read(&self, offset: u64, length: u64) -> Result<Bytes, DepotError> {
        let mut buffer = BytesMut::zeroed(usize::try_from(length).unwrap_or(usize::MAX));
        self.exactly(&mut buffer, offset)?;
        let end = offset + length;
        if end == self.size && !matches!(self.file.read_at(&mut [0], end), Ok(0)) {
            return Err(self.changed());
        }
        Ok(buffer.freeze())
    }

    /// The entity tag it would have when sent in parts of `part` bytes. Blocking.
    pub(crate) fn tag_of_parts(&self, part: u64) -> Result<Option<Tag>, DepotError> {
        let mut sums = Vec::new();
        let mut buffer = vec![0; BUFFER];
        let mut offset = 0;
        while offset < self.size {
            let end = (offset + part).min(self.size);
            let mut sum = md5::Context::new();
            while offset < end {
                let piece = usize::try_from(end - offset).unwrap_or(BUFFER).min(BUFFER);
                self.exactly(&mut buffer[..piece], offset)?;
                sum.consume(&buffer[..piece]);
                offset += piece as u64;
            }
            sums.push(sum.finalize().0);
        }
        Ok(Tag::of_parts(&sums))
    }

    fn exactly(&self, buffer: &mut [u8], offset: u64) -> Result<(), DepotError> {
        self.file.read_exact_at(buffer, offset).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                self.changed()
            } else {
                DepotError::io("read", &self.path, e)
            }
        })
    }

    fn changed(&self) -> DepotError {
        DepotError::Changed {
            path: self.path.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_as_large_as_a_store_wants() {
        const MIB: u64 = 1 << 20;
        for (size, wanted, part) in [
            (0, 8 * MIB, None),
            (8 * MIB, 8 * MIB, None),
            (8 * MIB + 1, 8 * MIB, Some(8 * MIB)),
            (6 * MIB, 1, Some(5 * MIB)),
            (5 * MIB, 1, None),
            (160_000 * MIB, 8 * MIB, Some(16 * MIB)),
        ] {
            assert_eq!(part_size(size, wanted), part, "{size} {wanted}");
        }
    }

    #[test]
    fn the_last_part_is_what_is_left() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"aab", 0).unwrap();
        let source = Source {
            file,
            size: 3,
            path: "x".into(),
        };
        let wanted = Tag::of_parts(&[md5::compute(b"aa").0, md5::compute(b"b").0]);
        assert_eq!(source.tag_of_parts(2).unwrap(), wanted);
    }
}
