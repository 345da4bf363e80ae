//! What a sandbox tells: how it ended, what it wrote, what could not be removed.

use std::fmt;

use bryo_model::LogStream;

/// How the job's first process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It ran and ended with this code. A runtime that does not tell signals apart gives 128 + n after signal n.
    Code(i32),
    /// It ran and was ended by this signal.
    Signal(i32),
    /// It never ran because the image has no such command, or it cannot be executed.
    NotStarted(String),
}

/// Something of a sandbox that is still there although it should not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover(pub String);

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A piece of the job's output, as it came: any length, any bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which stream it was written to.
    pub stream: LogStream,
    /// The bytes.
    pub bytes: Vec<u8>,
}
