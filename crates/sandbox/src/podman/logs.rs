//! The output of a container, as it comes.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

use super::frames::{FrameError, Frames, MOST_PIECE};
use crate::{Piece, SandboxError};

/// The attached output of one container.
///
/// What is not asked for stays in the socket and in the end makes the job wait: nothing is dropped and nothing piles up.
#[derive(Debug)]
pub(crate) struct PodmanLogs {
    connection: UnixStream,
    arrived: BytesMut,
    frames: Frames,
    ended: bool,
}

impl PodmanLogs {
    pub(super) fn new(connection: UnixStream, already: &Bytes) -> Self {
        Self {
            connection,
            arrived: BytesMut::from(&already[..]),
            frames: Frames::default(),
            ended: false,
        }
    }

    /// The next piece; `None` when all streams are closed. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// (As an item.) When the connection breaks or does not keep to the format; nothing comes after that.
    pub(crate) async fn next(&mut self) -> Option<Result<Piece, SandboxError>> {
        if self.ended {
            return None;
        }
        let result = self.piece().await;
        self.ended = !matches!(result, Ok(Some(_)));
        result.transpose()
    }

    async fn piece(&mut self) -> Result<Option<Piece>, SandboxError> {
        loop {
            if let Some(piece) = self
                .frames
                .next(&mut self.arrived)
                .map_err(|e| malformed(&e))?
            {
                return Ok(Some(piece));
            }
            self.arrived.reserve(MOST_PIECE);
            // `read_buf` either moves bytes into the buffer or is still pending: it can be dropped at any time.
            let read = self.connection.read_buf(&mut self.arrived).await;
            if read.map_err(|e| broken(&e))? == 0 {
                self.frames.end(&self.arrived).map_err(|e| malformed(&e))?;
                return Ok(None);
            }
        }
    }
}

fn malformed(error: &FrameError) -> SandboxError {
    SandboxError::Podman(error.to_string())
}

fn broken(error: &io::Error) -> SandboxError {
    SandboxError::Podman(format!("the log stream broke: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bryo_model::LogStream;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn dropping_next_loses_nothing_and_an_error_is_the_last_item() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut logs = PodmanLogs::new(ours, &Bytes::from_static(b"\x01\0\0\0"));
        theirs.write_all(b"\0\0\0\x03a").await.unwrap();
        assert_eq!(logs.next().await.unwrap().unwrap().bytes, b"a");
        for _ in 0..3 {
            let waiting = std::pin::pin!(logs.next());
            tokio::select! {
                biased;
                _ = waiting => panic!("there is nothing to read yet"),
                () = tokio::task::yield_now() => {}
            }
        }
        theirs.write_all(b"bc\x02\0\0").await.unwrap();
        let piece = logs.next().await.unwrap().unwrap();
        assert_eq!(
            (piece.stream, &piece.bytes[..]),
            (LogStream::Stdout, &b"bc"[..])
        );
        drop(theirs);
        let error = logs.next().await.unwrap().unwrap_err().to_string();
        assert!(error.contains("middle of a frame"), "{error}");
        assert!(logs.next().await.is_none());
    }
}
