//! The log of one job as its feed is told: both streams in the order of arrival, with what Bryo itself has to say.
//!
//! The engine bounds what the job wrote, so it is kept whole here, as bytes: a character may come in two pieces.

use bryo_model::{Event, Notice};

/// What has been written so far.
#[derive(Debug, Default)]
pub(crate) struct JobLog {
    bytes: Vec<u8>,
}

impl JobLog {
    /// Takes what of an event belongs into the log.
    pub(crate) fn take(&mut self, event: &Event) {
        match event {
            Event::Log(piece) => self.bytes.extend_from_slice(&piece.bytes),
            Event::Notice(Notice(text)) => self.say(text),
            Event::StageEnded {
                stage,
                took,
                summary,
            } => {
                let ms = took.as_secs_f64() * 1000.0;
                self.say(&format!("{stage} {ms:.1} ms {summary}"));
            }
            Event::StageBegan(_) | Event::Progress(..) => {}
        }
    }

    /// A line of Bryo's own, whatever the job left its line at.
    fn say(&mut self, text: &str) {
        if self.bytes.last().is_some_and(|last| *last != b'\n') {
            self.bytes.push(b'\n');
        }
        self.bytes.extend_from_slice(b"bryo: ");
        self.bytes.extend_from_slice(text.trim_end().as_bytes());
        self.bytes.push(b'\n');
    }

    /// As text. What is no UTF-8 becomes U+FFFD.
    pub(crate) fn into_text(self) -> String {
        String::from_utf8(self.bytes)
            .unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use bryo_model::{LogPiece, LogStream, Stage};

    use super::*;

    fn piece(stream: LogStream, bytes: &[u8]) -> Event {
        Event::Log(LogPiece {
            at: SystemTime::UNIX_EPOCH,
            stream,
            bytes: bytes.to_vec(),
        })
    }

    #[test]
    fn streams_notices_and_stages_in_order() {
        let mut log = JobLog::default();
        for event in [
            Event::StageBegan(Stage::Run),
            piece(LogStream::Stdout, b"caf\xc3"),
            piece(LogStream::Stdout, b"\xa9 \xff"),
            Event::Notice(Notice("something".to_owned())),
            piece(LogStream::Stderr, b"x\n"),
            Event::StageEnded {
                stage: Stage::Run,
                took: Duration::from_micros(1500),
                summary: "exit code 0".to_owned(),
            },
        ] {
            log.take(&event);
        }
        assert_eq!(
            log.into_text(),
            "café \u{fffd}\nbryo: something\nx\nbryo: run 1.5 ms exit code 0\n"
        );
    }
}
