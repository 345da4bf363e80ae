//! The attach stream: frames of an 8-byte header and a payload, of one of two streams.
//!
//! ```text
//! | stream: 1 or 2 | 0 | 0 | 0 | length: 4 bytes, big endian | payload ...
//! ```
//!
//! A frame of any length is given out in pieces while it arrives, so memory is bounded by the reader's buffer and not by
//! what a header claims.

use bryo_model::LogStream;
use bytes::{Buf, BytesMut};

use crate::Piece;

/// The most that one piece holds.
pub(crate) const MOST_PIECE: usize = 64 << 10;

const HEADER: usize = 8;

/// The stream does not keep to the format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a frame of the log stream belongs to stream {0}, which does not exist")]
    Stream(u8),
    #[error("the log stream ended in the middle of a frame")]
    Truncated,
}

/// Where in the stream the decoder is.
#[derive(Debug, Default)]
pub(crate) enum Frames {
    /// Before a header.
    #[default]
    Between,
    /// In a payload of which so much is left.
    Within { stream: LogStream, left: usize },
}

impl Frames {
    /// Takes the next piece out of what has arrived; `None` when more must arrive first.
    ///
    /// # Errors
    ///
    /// When a header names a stream that does not exist.
    pub(crate) fn next(&mut self, arrived: &mut BytesMut) -> Result<Option<Piece>, FrameError> {
        loop {
            match self {
                Self::Between => {
                    if arrived.len() < HEADER {
                        return Ok(None);
                    }
                    let stream = match arrived.get_u32().to_be_bytes()[0] {
                        1 => LogStream::Stdout,
                        2 => LogStream::Stderr,
                        other => return Err(FrameError::Stream(other)),
                    };
                    let left = arrived.get_u32() as usize;
                    if left > 0 {
                        *self = Self::Within { stream, left };
                    }
                }
                Self::Within { stream, left } => {
                    let take = (*left).min(arrived.len()).min(MOST_PIECE);
                    if take == 0 {
                        return Ok(None);
                    }
                    let piece = Piece {
                        stream: *stream,
                        bytes: arrived.split_to(take).to_vec(),
                    };
                    *left -= take;
                    if *left == 0 {
                        *self = Self::Between;
                    }
                    return Ok(Some(piece));
                }
            }
        }
    }

    /// Checks that the stream may end here.
    ///
    /// # Errors
    ///
    /// When a frame or a header is not whole.
    pub(crate) fn end(&self, arrived: &BytesMut) -> Result<(), FrameError> {
        match self {
            Self::Between if arrived.is_empty() => Ok(()),
            _ => Err(FrameError::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds the parts one after the other and joins neighbouring pieces of one stream.
    fn decode(parts: &[&[u8]]) -> Result<Vec<(LogStream, Vec<u8>)>, FrameError> {
        let (mut frames, mut arrived) = (Frames::default(), BytesMut::new());
        let mut got: Vec<(LogStream, Vec<u8>)> = Vec::new();
        for part in parts {
            arrived.extend_from_slice(part);
            while let Some(piece) = frames.next(&mut arrived)? {
                assert!(!piece.bytes.is_empty() && piece.bytes.len() <= MOST_PIECE);
                match got.last_mut() {
                    Some((stream, bytes)) if *stream == piece.stream => bytes.extend(piece.bytes),
                    _ => got.push((piece.stream, piece.bytes)),
                }
            }
        }
        frames.end(&arrived)?;
        Ok(got)
    }

    /// Recorded from podman 4.3.1: `sh -c 'echo hi; echo no >&2; printf "\xff\0"'`, with an empty frame put in.
    const RECORDED: &[u8] =
        b"\x01\0\0\0\0\0\0\x03hi\n\x02\0\0\0\0\0\0\x03no\n\x02\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\x02\xff\0";

    fn recorded() -> Vec<(LogStream, Vec<u8>)> {
        vec![
            (LogStream::Stdout, b"hi\n".to_vec()),
            (LogStream::Stderr, b"no\n".to_vec()),
            (LogStream::Stdout, b"\xff\0".to_vec()),
        ]
    }

    #[test]
    fn whole_split_anywhere_and_byte_by_byte() {
        assert_eq!(decode(&[RECORDED]), Ok(recorded()));
        for at in 0..=RECORDED.len() {
            let (a, b) = RECORDED.split_at(at);
            assert_eq!(decode(&[a, b]), Ok(recorded()), "split at {at}");
        }
        let bytes: Vec<&[u8]> = RECORDED.chunks(1).collect();
        assert_eq!(decode(&bytes), Ok(recorded()));
    }

    #[test]
    fn a_stream_may_end_between_frames_only() {
        let ends = [0, 11, 22, 30, RECORDED.len()];
        for at in 0..=RECORDED.len() {
            let result = decode(&[&RECORDED[..at]]);
            if ends.contains(&at) {
                assert!(result.is_ok(), "{at}");
            } else {
                assert_eq!(result, Err(FrameError::Truncated), "{at}");
            }
        }
    }

    #[test]
    fn streams_that_do_not_exist() {
        for id in [0, 3, b'H', 255] {
            let head = [id, 0, 0, 0, 0, 0, 0, 1, b'x'];
            assert_eq!(decode(&[&head]), Err(FrameError::Stream(id)));
        }
    }

    #[test]
    fn a_header_that_claims_four_gigabytes_costs_nothing() {
        let head = [1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let (mut frames, mut arrived) = (Frames::default(), BytesMut::from(&head[..]));
        assert_eq!(frames.next(&mut arrived), Ok(None));
        arrived.extend_from_slice(&[7; 100_000]);
        assert_eq!(
            frames.next(&mut arrived).unwrap().unwrap().bytes.len(),
            MOST_PIECE
        );
        assert_eq!(
            frames.next(&mut arrived).unwrap().unwrap().bytes.len(),
            100_000 - MOST_PIECE
        );
        assert!(arrived.is_empty());
    }
}
