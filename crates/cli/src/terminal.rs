//! What people see: one line per stage, the job's own output as it comes, a verdict at the end.
//!
//! On a terminal a stage whose amount is known shows a bar while it goes on; elsewhere there are only plain lines. What
//! Bryo says goes to standard error. The job's streams go where they belong, but with `--json` both go to standard
//! error, because standard output is the report's.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use bryo_model::{Amount, Event, LogStream, Notice, Report, Stage};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::mpsc;

use crate::stamps::Stamps;

/// What shows the events of an attempt.
#[derive(Debug)]
pub(crate) struct Screen {
    json: bool,
    bar: Option<ProgressBar>,
    stage: Option<Stage>,
    colour: bool,
    /// The job's last output did not end with a line feed.
    open_line: bool,
    /// The job has written since the last line of ours.
    spoken: bool,
    /// If lines of the job have times.
    stamps: Option<Stamps>,
}

/// Ends a string sequence, resets colours, shows the cursor (ECMA-48).
const AFTER_THE_JOB: &str = "\x1b\\\x1b[0m\x1b[?25h";

impl Screen {
    /// With `json`, standard output is the report's alone; with `timestamps`, lines of the job begin with their time.
    pub(crate) fn new(json: bool, timestamps: bool) -> Self {
        let colour = io::stderr().is_terminal();
        let shared = json || (colour && io::stdout().is_terminal());
        Self {
            json,
            bar: None,
            stage: None,
            colour,
            open_line: false,
            spoken: false,
            stamps: timestamps.then(|| Stamps::new(shared)),
        }
    }

    /// Shows events until the stream ends. Runs on a thread of its own: a terminal that is slow, or stopped with Ctrl-S,
    /// makes the attempt wait, never lose.
    pub(crate) fn show(mut self, mut events: mpsc::Receiver<Event>) {
        while let Some(event) = events.blocking_recv() {
            self.event(event);
        }
        self.drop_bar();
        self.end_line();
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::StageBegan(stage) => {
                self.stage = Some(stage);
                if stage == Stage::Run {
                    self.line(&format!("{stage:<8} ..."));
                }
            }
            Event::Progress(stage, amount) if Some(stage) == self.stage => {
                self.progress(stage, amount);
            }
            Event::Progress(..) => {}
            Event::StageEnded {
                stage,
                took,
                summary,
            } => {
                self.drop_bar();
                self.stage = None;
                self.line(&format!(
                    "{stage:<8} {:>8}  {}",
                    seconds(took),
                    printable(&summary)
                ));
            }
            Event::Log(piece) => match &mut self.stamps {
                Some(stamps) => {
                    let stamped = stamps.stamp(piece.at, piece.stream, &piece.bytes);
                    self.log(piece.stream, &stamped);
                }
                None => self.log(piece.stream, &piece.bytes),
            },
            Event::Notice(Notice(text)) => self.line(&format!("note     {}", printable(&text))),
        }
    }

    fn line(&mut self, text: &str) {
        self.end_line();
        // Nobody reading is no reason to stop.
        let _ = writeln!(io::stderr(), "{}", mark(text, self.colour));
    }

    fn log(&mut self, stream: LogStream, bytes: &[u8]) {
        let result = if stream == LogStream::Stdout && !self.json {
            let mut out = io::stdout();
            out.write_all(bytes).and_then(|()| out.flush())
        } else {
            io::stderr().write_all(bytes)
        };
        self.spoken = true;
        if result.is_ok() {
            self.open_line = bytes.last().is_some_and(|b| *b != b'\n');
        }
    }

    fn end_line(&mut self) {
        if self.spoken {
            // Whatever sequence the job left open on the terminal ends here: it must not swallow a line of ours.
            self.spoken = false;
            if self.colour {
                let _ = write!(io::stderr(), "{AFTER_THE_JOB}");
            }
        }
        if self.open_line {
            self.open_line = false;
            let _ = writeln!(io::stderr());
            if let Some(stamps) = &mut self.stamps {
                stamps.interrupted();
            }
        }
    }

    fn progress(&mut self, stage: Stage, amount: Amount) {
        if !self.colour {
            return;
        }
        let (done, total, bytes) = match amount {
            Amount::Bytes { done, total } => (done, total, true),
            Amount::Items { done, total } => (done, total, false),
        };
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            let counts = if bytes {
                "{bytes}/{total_bytes}"
            } else {
                "{pos}/{len}"
            };
            if let Ok(style) =
                ProgressStyle::with_template(&format!("{{prefix:8}} {{bar:30}} {counts}"))
            {
                bar.set_style(style);
            }
            bar.set_prefix(stage.to_string());
            bar
        });
        bar.set_length(total);
        bar.set_position(done);
    }

    fn drop_bar(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

/// The last line: what became of the job.
pub(crate) fn verdict_line(report: &Report) {
    let colour = io::stderr().is_terminal();
    let why = report
        .reason
        .as_ref()
        .map_or(String::new(), |reason| format!(": {}", printable(reason)));
    let text = format!(
        "{} after {}{why}",
        report.verdict.replace('_', " "),
        seconds(Duration::from_secs_f64(report.total_ms / 1e3)),
    );
    let good = report.verdict == "succeeded";
    let text = match (colour, good) {
        (true, true) => format!("\x1b[1;32m{text}\x1b[0m"),
        (true, false) => format!("\x1b[1;31m{text}\x1b[0m"),
        (false, _) => text,
    };
    let mut err = io::stderr();
    let _ = writeln!(err, "bryo: {text}");
    for left in &report.leftovers {
        let _ = writeln!(err, "bryo: not removed: {}", printable(left));
    }
}

/// An error of the command line or the host, before there was an attempt.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "bryo: {}", printable(text));
}

fn mark(text: &str, colour: bool) -> String {
    if colour {
        format!("\x1b[2mbryo:\x1b[0m {text}")
    } else {
        format!("bryo: {text}")
    }
}

/// Text from outside must neither drive the terminal nor look like a line of ours.
pub(crate) fn printable(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| {
            line.chars()
                .map(|c| {
                    if c.is_control() || turns(c) {
                        '\u{fffd}'
                    } else {
                        c
                    }
                })
                .collect()
        })
        .collect();
    lines.join("; ")
}

/// Characters that change the direction of text, and with it what a reader sees.
const fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn seconds(took: Duration) -> String {
    let s = took.as_secs_f64();
    if s < 1.0 {
        format!("{:.1} ms", s * 1e3)
    } else if s < 60.0 {
        format!("{s:.2} s")
    } else {
        format!("{} m {:02} s", took.as_secs() / 60, took.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short() {
        assert_eq!(seconds(Duration::from_micros(1250)), "1.2 ms");
        assert_eq!(seconds(Duration::from_millis(2340)), "2.34 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 m 05 s");
    }

    #[test]
    fn names_cannot_drive_the_terminal() {
        assert_eq!(printable("a\x1b[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(printable("no\nbryo: succeeded"), "no; bryo: succeeded");
        assert_eq!(printable("a\u{202e}b"), "a\u{fffd}b");
    }
}
