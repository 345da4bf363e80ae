//! Times before the lines of a job's output, for `--timestamps`.
//!
//! A line gets the time at which its first byte was taken from the job; its other bytes may come in later pieces. Where
//! both streams go to one place, a line of one that is still open ends when the other goes on, and its rest has a time
//! of its own: each line of the screen has one, and no line is of both streams.

use std::time::SystemTime;

use bryo_model::LogStream;
use jiff::Timestamp;

/// Which streams stand in the middle of a line.
#[derive(Debug)]
pub(crate) struct Stamps {
    shared: bool,
    open: [bool; 2],
}

impl Stamps {
    /// `shared`: both streams go to one place.
    pub(crate) const fn new(shared: bool) -> Self {
        Self {
            shared,
            open: [false; 2],
        }
    }

    /// The bytes with a time before each line that begins in them.
    pub(crate) fn stamp(&mut self, at: SystemTime, stream: LogStream, bytes: &[u8]) -> Vec<u8> {
        let (own, other) = match stream {
            LogStream::Stdout => (0, 1),
            LogStream::Stderr => (1, 0),
        };
        let time = rfc3339(at);
        let mut out = Vec::with_capacity(bytes.len() + time.len() + 1);
        if self.shared && self.open[other] && !bytes.is_empty() {
            self.open[other] = false;
            out.push(b'\n');
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            if !self.open[own] {
                out.extend_from_slice(time.as_bytes());
                out.push(b' ');
            }
            out.extend_from_slice(line);
            self.open[own] = !line.ends_with(b"\n");
        }
        out
    }

    /// A line of ours comes on standard error: what was open there has been ended.
    pub(crate) const fn interrupted(&mut self) {
        self.open[1] = false;
        if self.shared {
            self.open[0] = false;
        }
    }
}

/// UTC with milliseconds, always of the same length. A time that no calendar has is the first one.
pub(crate) fn rfc3339(at: SystemTime) -> String {
    let at = Timestamp::try_from(at).unwrap_or(Timestamp::UNIX_EPOCH);
    format!("{at:.3}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
    }

    #[test]
    fn times_have_one_length() {
        assert_eq!(rfc3339(at(1_763_726_400_007)), "2025-11-21T12:00:00.007Z");
        assert_eq!(rfc3339(at(1_763_726_400_000)), "2025-11-21T12:00:00.000Z");
    }

    fn told(shared: bool, pieces: &[(u64, LogStream, &str)]) -> String {
        let mut stamps = Stamps::new(shared);
        let out = pieces.iter().flat_map(|(ms, stream, text)| {
            let out = stamps.stamp(at(*ms), *stream, text.as_bytes());
            String::from_utf8(out).unwrap().into_bytes()
        });
        let text = String::from_utf8(out.collect()).unwrap();
        text.replace("1970-01-01T00:00:00.00", "")
    }

    #[test]
    fn lines_that_are_split_over_pieces_have_one_time() {
        use LogStream::{Stderr, Stdout};
        let pieces = [
            (1, Stdout, "a\nb"),
            (2, Stdout, "c\n"),
            (3, Stdout, "\nd"),
            (4, Stdout, ""),
        ];
        assert_eq!(told(true, &pieces), "1Z a\n1Z bc\n3Z \n3Z d");
        let both = [(1, Stdout, "ab"), (2, Stderr, "x\n"), (3, Stdout, "c\n")];
        assert_eq!(told(true, &both), "1Z ab\n2Z x\n3Z c\n");
        assert_eq!(told(false, &both), "1Z ab2Z x\nc\n");
    }

    #[test]
    fn a_line_of_ours_ends_those_of_its_place() {
        for (shared, wanted) in [(true, "1970-01-01T00:00:00.001Z x"), (false, "x")] {
            let mut stamps = Stamps::new(shared);
            stamps.stamp(at(0), LogStream::Stdout, b"open");
            stamps.interrupted();
            assert_eq!(
                stamps.stamp(at(1), LogStream::Stdout, b"x"),
                wanted.as_bytes()
            );
        }
    }
}
