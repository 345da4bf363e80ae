//! Where an attempt's output goes.

use crate::{S3Target, Target};

/// A place for the output of one attempt.
#[derive(Clone, Debug)]
pub enum Depot {
    /// A directory of this host.
    Directory(Target),
    /// A prefix of a bucket.
    S3(S3Target),
}

impl Depot {
    /// The place, for a message.
    #[must_use]
    pub fn place(&self) -> String {
        match self {
            Self::Directory(target) => target.path().display().to_string(),
            Self::S3(target) => target.place(),
        }
    }
}
