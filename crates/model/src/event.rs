//! The one ordered stream of events that an attempt emits.
//!
//! A terminal, a log file or a remote server are consumers of it; the engine knows none of them.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::Serialize;

/// A step of an attempt. The order of the variants is the order of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The source arrives in the mirror.
    Fetch,
    /// The checkout and the image are made ready.
    Prepare,
    /// The job runs.
    Run,
    /// The output is counted and checked.
    Collect,
    /// The output becomes visible.
    Publish,
}

impl Stage {
    /// All of them, in order.
    pub const ALL: [Self; 5] = [
        Self::Fetch,
        Self::Prepare,
        Self::Run,
        Self::Collect,
        Self::Publish,
    ];

    /// The stage of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.to_string() == name)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fetch => "fetch",
            Self::Prepare => "prepare",
            Self::Run => "run",
            Self::Collect => "collect",
            Self::Publish => "publish",
        })
    }
}

/// Which of the job's two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of the job's output: as it came, of any length, not necessarily text or whole lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPiece {
    /// When it was taken from the job.
    pub at: SystemTime,
    /// Where it was written to.
    pub stream: LogStream,
    /// The bytes, with secrets masked.
    pub bytes: Vec<u8>,
}

/// How much of something is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// Bytes.
    Bytes {
        /// So far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// Files, objects or layers.
    Items {
        /// So far.
        done: u64,
        /// In all.
        total: u64,
    },
}

/// Something the user should know that is not the job's output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice(pub String);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stage began.
    StageBegan(Stage),
    /// A stage got further.
    Progress(Stage, Amount),
    /// A stage ended, well or not.
    StageEnded {
        /// Which.
        stage: Stage,
        /// How long it took.
        took: Duration,
        /// What it achieved, in a few words.
        summary: String,
    },
    /// The job wrote something.
    Log(LogPiece),
    /// Something the user should know.
    Notice(Notice),
}
