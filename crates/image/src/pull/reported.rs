//! A reader that tells how far it got.

use std::io::{self, Read};

use bryo_model::Amount;

use crate::store::Progress;

/// Reports every piece that is read.
pub(super) struct Reported<'a, R> {
    inner: R,
    done: u64,
    total: u64,
    progress: &'a Progress,
}

impl<'a, R: Read> Reported<'a, R> {
    pub(super) fn new(inner: R, total: u64, progress: &'a Progress) -> Self {
        Self::from(inner, 0, total, progress)
    }

    /// One that continues after other readers.
    pub(super) fn from(inner: R, done: u64, total: u64, progress: &'a Progress) -> Self {
        Self {
            inner,
            done,
            total,
            progress,
        }
    }
}

impl<R: Read> Read for Reported<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.done += n as u64;
        (self.progress)(Amount::Bytes {
            done: self.done.min(self.total),
            total: self.total,
        });
        Ok(n)
    }
}
