//! A doc-thor server as a feed of jobs.
//!
//! Its protocol has two requests and no lease: `GET builds/pending` gives a build away for good, and
//! `POST builds/{id}/result` tells how it ended. Whoever took a build and dies leaves it `running` for ever, so everything
//! here is about knowing what was taken and telling what became of it.
//!
//! Refused: following redirects (the token would go wherever the server says), answers beyond a bound, and repeating a
//! claim (each one may give a build away).

mod claim;
mod client;
mod result;
mod texts;

pub(crate) use claim::{BuildId, Claim, Wishes};
pub use client::ClientError;
pub(crate) use client::{Client, one_line};
pub(crate) use result::{BuildResult, ResultText};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use claim::salvage;

#[cfg(test)]
mod tests;
