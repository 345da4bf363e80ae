//! The helper's input, line by line, in a way that leaves it time for its children.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

/// Whoever sends a longer line has lost its mind.
const LONGEST: usize = 16 << 20;

/// Lines that come in pieces.
#[derive(Debug)]
pub(super) struct Input {
    // Not the library's standard input: what that has read already, no poll tells of.
    from: File,
    buffer: Vec<u8>,
    /// Up to here no line ends.
    looked: usize,
}

impl Input {
    /// That of this process.
    pub(super) fn standard() -> io::Result<Self> {
        Ok(Self::of(File::from(
            io::stdin().as_fd().try_clone_to_owned()?,
        )))
    }

    fn of(from: File) -> Self {
        Self {
            from,
            buffer: Vec::new(),
            looked: 0,
        }
    }

    /// What tells that there is more.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.from.as_fd()
    }

    /// The next line, waited for.
    pub(super) fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(line) = self.next() {
                return Some(line);
            }
            if !self.read_more() {
                return None;
            }
        }
    }

    /// The next line, if it is there.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer[self.looked..].iter().position(|b| *b == b'\n');
        let Some(end) = end.map(|end| self.looked + end) else {
            self.looked = self.buffer.len();
            return None;
        };
        let line = self.buffer[..end].to_vec();
        self.buffer.drain(..=end);
        self.looked = 0;
        Some(line)
    }

    /// Takes what has come, and waits if nothing has. Whether there can be more.
    pub(super) fn read_more(&mut self) -> bool {
        let mut piece = [0; 8192];
        match self.from.read(&mut piece) {
            Ok(0) => false,
            Ok(n) => {
                self.buffer.extend_from_slice(&piece[..n]);
                self.buffer.len() <= LONGEST
            }
            Err(e) => e.kind() == io::ErrorKind::Interrupted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::OwnedFd;

    #[test]
    fn lines_come_whole_and_in_order_however_they_were_cut() {
        let (from, mut to) = io::pipe().unwrap();
        let mut input = Input::of(File::from(OwnedFd::from(from)));
        for piece in ["a", "b\nc\n\nd", "d\nrest"] {
            to.write_all(piece.as_bytes()).unwrap();
            assert!(input.read_more());
        }
        let mut lines = Vec::new();
        while let Some(line) = input.next() {
            lines.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(lines, ["ab", "c", "", "dd"]);
        drop(to);
        assert_eq!(input.line(), None);
    }
}
