//! The bound on the log: its head goes on at once, its tail is kept until the end, the middle is counted and left out.

use std::collections::VecDeque;
use std::time::SystemTime;

use bryo_model::{ByteSize, LogPiece, LogStream};

/// The tail waits in memory, whatever the limit is.
const MOST_OF_TAIL: u64 = 16 << 20;

/// Pieces that the tail may consist of beyond one for so many bytes: without this bound a job that writes single bytes
/// would cost much more memory than its limit says.
const SOME_PIECES: usize = 1024;
const BYTES_OF_A_PIECE: u64 = 16;

/// What becomes of the pieces of one job's output, in the order in which they came.
#[derive(Debug)]
pub(crate) struct Bound {
    limit: Option<ByteSize>,
    head_left: u64,
    tail: Tail,
    left_out: u64,
}

/// The last bytes, in one ring for all pieces.
#[derive(Debug, Default)]
struct Tail {
    bytes: VecDeque<u8>,
    pieces: VecDeque<Mark>,
    most: u64,
}

#[derive(Debug)]
struct Mark {
    at: SystemTime,
    stream: LogStream,
    length: usize,
}

impl Bound {
    /// Half of the limit is for the head, half for the tail; what is more than a tail may have goes to the head.
    pub(crate) fn new(limit: Option<ByteSize>) -> Self {
        let (head_left, most) = match limit.map(ByteSize::bytes) {
            Some(bytes) => {
                let tail = (bytes / 2).min(MOST_OF_TAIL);
                (bytes - tail, tail)
            }
            None => (u64::MAX, 0),
        };
        Self {
            limit,
            head_left,
            tail: Tail {
                most,
                ..Tail::default()
            },
            left_out: 0,
        }
    }

    /// Whether pieces still go on at once.
    pub(crate) const fn is_in_head(&self) -> bool {
        self.head_left > 0
    }

    /// Takes the next piece, and gives what of it goes on at once.
    pub(crate) fn pass(&mut self, mut piece: LogPiece) -> Option<LogPiece> {
        if self.limit.is_none() {
            return Some(piece).filter(|piece| !piece.bytes.is_empty());
        }
        let room = usize::try_from(self.head_left).unwrap_or(usize::MAX);
        let rest = piece.bytes.split_off(piece.bytes.len().min(room));
        self.head_left -= piece.bytes.len() as u64;
        if !rest.is_empty() {
            self.left_out += self.tail.keep(piece.at, piece.stream, &rest);
        }
        Some(piece).filter(|piece| !piece.bytes.is_empty())
    }

    /// Bytes that are left out.
    pub(crate) const fn left_out(&self) -> u64 {
        self.left_out
    }

    /// What stands in the place of the bytes that were left out, if there are any.
    pub(crate) fn gap(&self) -> Option<String> {
        let limit = self.limit.filter(|_| self.left_out > 0)?;
        Some(format!(
            "{} bytes of output left out here (limit {limit})",
            self.left_out
        ))
    }

    /// Whether the tail has a piece.
    pub(crate) fn has_tail(&self) -> bool {
        !self.tail.pieces.is_empty()
    }

    /// The next piece of the tail.
    pub(crate) fn next_of_tail(&mut self) -> Option<LogPiece> {
        self.tail.next()
    }
}

impl Tail {
    /// Keeps these bytes as the last ones, and says how many of the first ones had to go.
    fn keep(&mut self, at: SystemTime, stream: LogStream, bytes: &[u8]) -> u64 {
        self.bytes.extend(bytes);
        self.pieces.push_back(Mark {
            at,
            stream,
            length: bytes.len(),
        });
        let mut gone = 0;
        loop {
            let over = (self.bytes.len() as u64).saturating_sub(self.most);
            let crowded = self.pieces.len() > self.most_pieces();
            let Some(oldest) = self.pieces.front_mut().filter(|_| over > 0 || crowded) else {
                return gone;
            };
            let cut = match usize::try_from(over) {
                Ok(over) if !crowded => over.min(oldest.length),
                _ => oldest.length,
            };
            oldest.length -= cut;
            if oldest.length == 0 {
                self.pieces.pop_front();
            }
            self.bytes.drain(..cut);
            gone += cut as u64;
        }
    }

    fn most_pieces(&self) -> usize {
        usize::try_from(self.most / BYTES_OF_A_PIECE).map_or(usize::MAX, |n| n + SOME_PIECES)
    }

    fn next(&mut self) -> Option<LogPiece> {
        let Mark { at, stream, length } = self.pieces.pop_front()?;
        let bytes = self.bytes.drain(..length).collect();
        Some(LogPiece { at, stream, bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn piece(second: u64, stream: LogStream, text: &str) -> LogPiece {
        LogPiece {
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            stream,
            bytes: text.as_bytes().to_vec(),
        }
    }

    fn rest(bound: &mut Bound) -> Vec<LogPiece> {
        std::iter::from_fn(|| bound.next_of_tail()).collect()
    }

    #[test]
    fn the_first_half_goes_on_and_the_last_half_comes_at_the_end() {
        use LogStream::{Stderr, Stdout};
        let mut bound = Bound::new(Some(ByteSize::new(11)));
        assert_eq!(
            bound.pass(piece(1, Stdout, "head")),
            Some(piece(1, Stdout, "head"))
        );
        assert_eq!(
            bound.pass(piece(2, Stderr, "ing, mi")),
            Some(piece(2, Stderr, "in"))
        );
        assert!(!bound.is_in_head());
        assert_eq!(bound.pass(piece(3, Stdout, "ddle")), None);
        assert_eq!(bound.pass(piece(4, Stderr, "ta")), None);
        assert_eq!(bound.pass(piece(5, Stdout, "il")), None);
        assert_eq!(bound.left_out(), 8);
        assert_eq!(
            bound.gap().as_deref(),
            Some("8 bytes of output left out here (limit 11 B)")
        );
        assert_eq!(
            rest(&mut bound),
            [
                piece(3, Stdout, "e"),
                piece(4, Stderr, "ta"),
                piece(5, Stdout, "il")
            ]
        );
    }

    #[test]
    fn what_fits_has_no_gap() {
        let mut bound = Bound::new(Some(ByteSize::new(4)));
        assert_eq!(
            bound.pass(piece(1, LogStream::Stdout, "abcd")),
            Some(piece(1, LogStream::Stdout, "ab"))
        );
        assert_eq!((bound.left_out(), bound.gap()), (0, None));
        assert_eq!(rest(&mut bound), [piece(1, LogStream::Stdout, "cd")]);
        let mut unbounded = Bound::new(None);
        let long = piece(1, LogStream::Stdout, &"x".repeat(1 << 20));
        assert_eq!(unbounded.pass(long.clone()), Some(long));
        assert_eq!(unbounded.pass(piece(2, LogStream::Stdout, "")), None);
        assert!(rest(&mut unbounded).is_empty());
    }

    #[test]
    fn a_large_limit_is_for_the_head() {
        const MIB: u64 = 1 << 20;
        let mut bound = Bound::new(Some(ByteSize::new(40 * MIB)));
        let text = "x".repeat(1 << 20);
        let pieces = (0..60).map(|n| piece(n, LogStream::Stdout, &text));
        let passed = pieces.filter_map(|piece| bound.pass(piece));
        assert_eq!(passed.count(), 24);
        assert_eq!(bound.left_out(), 20 * MIB);
        let seconds = rest(&mut bound).into_iter().map(|piece| piece.at);
        let wanted = (44..60).map(|n| piece(n, LogStream::Stdout, "").at);
        assert!(seconds.eq(wanted));
    }

    #[test]
    fn single_bytes_do_not_cost_more_than_the_limit_says() {
        let mut bound = Bound::new(Some(ByteSize::new(1 << 17)));
        let (all, mut passed) = (1_u64 << 18, 0);
        for n in 0..all {
            let given = bound.pass(piece(n, LogStream::Stdout, "x"));
            passed += given.map_or(0, |piece| piece.bytes.len() as u64);
        }
        assert_eq!(passed, 1 << 16);
        let pieces = rest(&mut bound);
        assert_eq!(pieces.len(), (1 << 12) + SOME_PIECES);
        assert_eq!(passed + bound.left_out() + pieces.len() as u64, all);
        assert_eq!(pieces.last(), Some(&piece(all - 1, LogStream::Stdout, "x")));
    }

    #[test]
    fn a_limit_of_one_byte() {
        let mut bound = Bound::new(Some(ByteSize::new(1)));
        assert!(bound.pass(piece(1, LogStream::Stdout, "ab")).is_some());
        assert_eq!(bound.left_out(), 1);
        assert!(rest(&mut bound).is_empty());
    }
}
