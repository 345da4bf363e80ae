//! From a layer as it is distributed to its tar stream.
//!
//! Unpacking has two halves that can run at the same time: decompressing and hashing here, on a thread of its own, and
//! making files in the caller. The digest is that of the whole stream, also of what comes after the archive's end.

use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use flate2::bufread::MultiGzDecoder;

use crate::digest::{Digest, Hasher};
use crate::error::{ImageError, reading};
use crate::image::Compression;

const PIECE: usize = 256 * 1024;
/// How many pieces the decoder may be ahead.
const AHEAD: usize = 8;

/// Gives the decoded stream to `consume` and returns what that made of it, with the digest of the stream.
pub(super) fn decoded<T>(
    input: impl Read + Send,
    compression: Compression,
    most: u64,
    path: &Path,
    consume: impl FnOnce(&mut dyn Read) -> Result<T, ImageError>,
) -> Result<(T, Digest), ImageError> {
    thread::scope(|scope| {
        let (send, receive) = sync_channel(AHEAD);
        let (give_back, reuse) = channel();
        let decoder = scope.spawn(move || decode(input, compression, most, &send, &reuse));
        let mut stream = Pieces {
            receive,
            give_back,
            current: Vec::new(),
            at: 0,
        };
        let made = consume(&mut stream)?;
        io::copy(&mut stream, &mut io::sink()).map_err(reading("one of its layers", path))?;
        drop(stream);
        let digest = decoder.join().map_err(|_| ImageError::GivenUp)?;
        Ok((made, digest))
    })
}

type Piece = io::Result<Vec<u8>>;

/// Ends at the end of the stream, at the first error, or when nobody receives any more.
fn decode(
    input: impl Read,
    compression: Compression,
    most: u64,
    send: &SyncSender<Piece>,
    reuse: &Receiver<Vec<u8>>,
) -> Digest {
    let mut hasher = Hasher::default();
    let input = BufReader::with_capacity(PIECE, input);
    let mut input: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(MultiGzDecoder::new(input)),
        Compression::Zstd => match zstd::Decoder::with_buffer(input) {
            Ok(decoder) => Box::new(decoder),
            Err(error) => {
                let _ = send.send(Err(error));
                return hasher.finish().0;
            }
        },
    };
    loop {
        let mut piece = reuse.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let result = fill(&mut input, &mut piece);
        let done = !matches!(result, Ok(n) if n > 0);
        let message = result.and_then(|n| {
            piece.truncate(n);
            hasher.update(&piece);
            if hasher.bytes() > most {
                Err(io::Error::other("it becomes larger than a layer may be"))
            } else {
                Ok(piece)
            }
        });
        if done && message.is_ok() || send.send(message).is_err() {
            return hasher.finish().0;
        }
    }
}

/// As much as fits, for small reads would make small pieces.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// The receiving end as a reader.
struct Pieces {
    receive: Receiver<Piece>,
    give_back: Sender<Vec<u8>>,
    current: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            match self.receive.recv() {
                Ok(piece) => {
                    let used = std::mem::replace(&mut self.current, piece?);
                    self.at = 0;
                    // The decoder may have ended already.
                    let _ = self.give_back.send(used);
                }
                Err(_) => return Ok(0),
            }
        }
        let n = buffer.len().min(self.current.len() - self.at);
        buffer[..n].copy_from_slice(&self.current[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}
