//! Entries of a tar stream from strangers.
//!
//! The tar crate reads long names and extended headers into memory, whatever length they claim. So it reads through a
//! guard that allows a bounded number of bytes between the content of one entry and the beginning of the next.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, Entry};

use crate::error::ImageError;

/// For the extended headers of one entry, and for the padding before.
const MAX_HEADERS: u64 = 2 << 20;

/// A tar stream whose entries are visited once.
pub(crate) struct TarStream<R: Read> {
    archive: Archive<Guard<R>>,
    left: Rc<Cell<Option<u64>>>,
}

impl<R: Read> TarStream<R> {
    pub(crate) fn new(input: R) -> Self {
        let left = Rc::new(Cell::new(None));
        let guard = Guard {
            inner: input,
            left: Rc::clone(&left),
        };
        Self {
            archive: Archive::new(guard),
            left,
        }
    }

    /// Visits every entry. What a visitor does not read of an entry's content is skipped.
    pub(crate) fn for_each(
        &mut self,
        damaged: impl Fn(io::Error) -> ImageError,
        mut visit: impl FnMut(&mut Entry<'_, Guard<R>>) -> Result<(), ImageError>,
    ) -> Result<(), ImageError> {
        let mut entries = self.archive.entries().map_err(&damaged)?;
        loop {
            self.left.set(Some(MAX_HEADERS));
            let Some(entry) = entries.next() else {
                return Ok(());
            };
            let mut entry = entry.map_err(&damaged)?;
            self.left.set(None);
            visit(&mut entry)?;
            io::copy(&mut entry, &mut io::sink()).map_err(&damaged)?;
        }
    }
}

/// A reader that gives no more than is left.
pub(crate) struct Guard<R> {
    inner: R,
    left: Rc<Cell<Option<u64>>>,
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        if let Some(left) = self.left.get() {
            let rest = left
                .checked_sub(n as u64)
                .ok_or_else(|| io::Error::other("the headers of an entry are too long"))?;
            self.left.set(Some(rest));
        }
        Ok(n)
    }
}
