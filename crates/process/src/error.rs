//! What can go wrong with a program.

use std::io;
use std::time::Duration;

/// A program could not be run to its end. Its exit status is not an error of this kind.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// No such program on `PATH`, or it is not executable.
    #[error("the program {program} is not installed")]
    NotInstalled {
        /// Its name.
        program: String,
    },
    /// It could not be started.
    #[error("could not start {program}")]
    Start {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// Talking to it failed.
    #[error("could not exchange data with {program}")]
    Exchange {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It did not end in time and was killed.
    #[error("{program} did not end within {} s and was stopped", after.as_secs())]
    Deadline {
        /// Its name.
        program: String,
        /// How long it was given.
        after: Duration,
    },
    /// It wrote more than it may and was killed.
    #[error("{program} wrote more than {most} bytes and was stopped")]
    TooMuchOutput {
        /// Its name.
        program: String,
        /// What it was allowed.
        most: usize,
    },
    /// It ended, but not with success.
    #[error("{program} ended with {status}{}", tail(stderr))]
    Unsuccessful {
        /// Its name.
        program: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it wrote to standard error.
        stderr: String,
    },
}

fn tail(stderr: &str) -> String {
    let trimmed = stderr.trim();
    if trimmed.is_empty() {
        String::new()
    } else {
        format!(": {trimmed}")
    }
}
