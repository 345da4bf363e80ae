//! The job's output on its way to whoever listens: without secrets, and not more of it than its bound.
//!
//! ```text
//! runtime ── piece ──> masker of its stream ──> bound ──> head: at once, when there is room for an event
//!                                                 └────> tail: at the end, behind a notice of what is left out
//! ```
//!
//! Invariants: pieces keep their order, within a stream exactly and between streams as they were taken (what a masker
//! holds back comes with the next piece of its stream); nothing is taken for which there is no place, so a listener that
//! does not read makes the job wait; every byte that the runtime handed out is told, masked or counted as left out, and
//! if the sum is not right, a notice says so.

mod bound;
mod forms;
mod masker;
mod secrets;

pub(crate) use bound::Bound;
pub(crate) use masker::Masker;
pub(crate) use secrets::Secrets;

use std::time::{Duration, SystemTime};

use bryo_model::{ByteSize, Event, LogPiece, LogStream, Notice};
use bryo_sandbox::{Logs, Piece, SandboxError};
use tokio::time::timeout;

use crate::events::{Events, Room};

/// How long a listener may take for what is left of a job that was stopped.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(2);

/// What came of asking for the next piece.
#[derive(Debug)]
pub(crate) enum Taken {
    /// It is on its way.
    Piece,
    /// Both streams have ended.
    Silent,
    /// The output broke.
    Broken(SandboxError),
}

/// The output of one job.
pub(crate) struct JobLog {
    events: Events,
    stdout: Masker,
    stderr: Masker,
    bound: Bound,
    /// Bytes that the runtime handed out.
    written: u64,
    /// Bytes that were told.
    told: u64,
}

impl JobLog {
    pub(crate) fn new(events: Events, limit: Option<ByteSize>) -> Self {
        Self {
            stdout: Masker::new(events.secrets()),
            stderr: Masker::new(events.secrets()),
            bound: Bound::new(limit),
            events,
            written: 0,
            told: 0,
        }
    }

    /// Takes the next piece, once there is a place for it. Dropping the future loses nothing.
    pub(crate) async fn next(&mut self, logs: &mut Logs) -> Taken {
        let room = self.room_in_head().await;
        match logs.next().await {
            Some(Ok(piece)) => self.pass(piece, room),
            Some(Err(error)) => return Taken::Broken(error),
            None => return Taken::Silent,
        }
        Taken::Piece
    }

    fn pass(&mut self, Piece { stream, bytes }: Piece, room: Option<Room>) {
        self.written += bytes.len() as u64;
        let bytes = self.masker(stream).push(bytes);
        if let (Some(piece), Some(room)) = (self.bounded(stream, bytes), room) {
            self.tell(piece, room);
        }
    }

    fn tell(&mut self, piece: LogPiece, room: Room) {
        self.told += piece.bytes.len() as u64;
        room.fill(Event::Log(piece));
    }

    /// Once the head is full nothing needs room before the end.
    async fn room_in_head(&self) -> Option<Room> {
        if !self.bound.is_in_head() {
            return None;
        }
        Some(self.events.room().await)
    }

    /// Whether it is the listener that keeps silent, and not the job.
    pub(crate) fn is_held_up(&self) -> bool {
        self.bound.is_in_head() && self.events.is_full()
    }

    /// Tells what is left. A listener that does not read is waited for until `patience` ends, and a little longer.
    pub(crate) async fn end(&mut self, patience: impl Future<Output = ()>) {
        tokio::select! {
            biased;
            () = self.tell_rest() => {}
            () = async {
                patience.await;
                tokio::time::sleep(LAST_WORDS).await;
            } => {}
        }
        if let Some(text) = self.mismatch() {
            // Whoever does not read is not waited for again.
            let _ = timeout(Duration::ZERO, self.events.notice(text)).await;
        }
    }

    async fn tell_rest(&mut self) {
        for stream in [LogStream::Stdout, LogStream::Stderr] {
            if self.masker(stream).held().is_empty() {
                continue;
            }
            let room = self.events.room().await;
            let bytes = self.masker(stream).finish();
            if let Some(piece) = self.bounded(stream, bytes) {
                self.tell(piece, room);
            }
        }
        if let Some(text) = self.bound.gap() {
            let notice = Event::Notice(Notice(text));
            self.events.room().await.fill(notice);
        }
        while self.bound.has_tail() {
            let room = self.events.room().await;
            if let Some(piece) = self.bound.next_of_tail() {
                self.tell(piece, room);
            }
        }
    }

    /// What the job wrote, in bytes.
    pub(crate) const fn written(&self) -> u64 {
        self.written
    }

    /// What of it was left out for the bound, in bytes.
    pub(crate) const fn left_out(&self) -> u64 {
        self.bound.left_out()
    }

    /// Compares what was handed out with what became of it. There is nothing else to compare with: neither the kernel's
    /// pipes nor conmon count what went through them.
    fn mismatch(&self) -> Option<String> {
        let masked = self.stdout.shrunk() + self.stderr.shrunk();
        let accounted = (self.told + self.left_out()).checked_add_signed(masked);
        (accounted != Some(self.written)).then(|| {
            format!(
                "not all of the job's output was shown: it wrote {} bytes, {} were shown and {} left out",
                self.written,
                self.told,
                self.left_out()
            )
        })
    }

    fn masker(&mut self, stream: LogStream) -> &mut Masker {
        match stream {
            LogStream::Stdout => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }

    fn bounded(&mut self, stream: LogStream, bytes: Vec<u8>) -> Option<LogPiece> {
        let at = SystemTime::now();
        self.bound.pass(LogPiece { at, stream, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bryo_model::EnvVar;
    use tokio::sync::mpsc;

    fn log(room: usize, limit: u64) -> (JobLog, mpsc::Receiver<Event>) {
        let (sender, receiver) = mpsc::channel(room);
        let secret = EnvVar::new("TOKEN", "secret").unwrap();
        let secrets = Secrets::of(&[secret]).unwrap();
        let log = JobLog::new(Events::new(sender, secrets), Some(ByteSize::new(limit)));
        (log, receiver)
    }

    async fn write(log: &mut JobLog, pieces: &[(LogStream, &str)]) {
        for (stream, text) in pieces {
            let room = log.room_in_head().await;
            let bytes = text.as_bytes().to_vec();
            log.pass(
                Piece {
                    stream: *stream,
                    bytes,
                },
                room,
            );
        }
    }

    fn told(events: &mut mpsc::Receiver<Event>) -> Vec<String> {
        let text = |event| match event {
            Event::Log(LogPiece { stream, bytes, .. }) => {
                format!("{stream:?} {}", String::from_utf8(bytes).unwrap())
            }
            Event::Notice(Notice(text)) => text,
            other => format!("{other:?}"),
        };
        std::iter::from_fn(|| events.try_recv().ok())
            .map(text)
            .collect()
    }

    #[tokio::test]
    async fn head_gap_and_tail_without_secrets() {
        use LogStream::{Stderr, Stdout};
        let (mut log, mut events) = log(16, 20);
        let pieces = [
            (Stdout, "begin sec"),
            (Stderr, "x"),
            (Stdout, "ret middle"),
            (Stderr, " end sec"),
        ];
        write(&mut log, &pieces).await;
        assert_eq!(
            told(&mut events),
            ["Stdout begin ", "Stderr x", "Stdout ***"]
        );
        log.end(std::future::pending()).await;
        assert_eq!(
            told(&mut events),
            [
                "5 bytes of output left out here (limit 20 B)",
                "Stdout le",
                "Stderr  end ",
                "Stderr sec"
            ]
        );
        assert_eq!(
            (log.written(), log.left_out(), log.mismatch()),
            (28, 5, None)
        );
    }

    #[tokio::test]
    async fn a_listener_that_does_not_read_holds_up_neither_the_tail_nor_the_end() {
        let (mut log, mut events) = log(1, 8);
        write(&mut log, &[(LogStream::Stdout, "head")]).await;
        assert!(
            !log.is_held_up(),
            "the head is full, and nothing waits for room"
        );
        write(&mut log, &[(LogStream::Stdout, "middle and tail")]).await;
        log.end(std::future::ready(())).await;
        assert_eq!(told(&mut events), ["Stdout head"]);
        // What was not shown is not forgotten.
        assert_eq!((log.written(), log.left_out()), (19, 11));
        assert!(
            log.mismatch()
                .unwrap()
                .contains("wrote 19 bytes, 4 were shown and 11 left out")
        );
    }

    #[tokio::test]
    async fn a_listener_that_is_slow_gets_all() {
        let (mut log, mut events) = log(1, 8);
        write(&mut log, &[(LogStream::Stdout, "headtail")]).await;
        let listen = async {
            let mut all = Vec::new();
            while all.len() < 2 {
                all.push(events.recv().await);
            }
            all.len()
        };
        let (listened, ()) = tokio::join!(listen, log.end(std::future::pending()));
        assert_eq!((listened, log.mismatch()), (2, None));
    }
}
