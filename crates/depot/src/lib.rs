//! Files out: an output tree becomes a published directory, or the objects below a prefix of a bucket.
//!
//! The tree was written by a job that nobody trusts; somebody's web server may be reading the target at this moment.
//! Between them stand these types, in the order in which an attempt meets them:
//!
//! - [`Depot`] is where the output goes: a [`Target`], which is a directory that may be replaced, or an [`S3Target`]. It is
//!   made before the job runs, so that an attempt does not fail at its end for a reason that was known at its beginning.
//! - [`OutputTree`] is what the job left, listed and counted within [`OutputBounds`].
//! - [`publish`] moves the tree beside a directory and switches them in one rename; [`S3Target::publish`] puts objects.
//!
//! Invariants:
//! - nothing outside the output root is ever read, whatever links the job left: every directory is opened beneath the
//!   root without following links, and only regular files are opened at all;
//! - a directory is the old complete tree or the new complete tree, at every moment, for every reader; an error or a stop
//!   leaves it as it was, and no staging directory beside it;
//! - a store has no rename: a publication there that fails deletes nothing and says what readers may see, and the next one
//!   repairs it.
//!
//! It refuses to know what is in the files, to keep links, and to merge into an existing directory. What concerns
//! directories is synchronous: a caller with an event loop runs it on a blocking thread and stops it through [`Watch`]. What
//! concerns stores is asynchronous.

mod bounds;
mod collect;
mod copy;
mod depot;
mod dir;
mod error;
mod fill;
mod publish;
mod remove;
mod s3;
mod skipped;
mod source;
mod staging;
mod switch;
mod target;
#[cfg(test)]
mod tests;
mod watch;

pub use bounds::{Bound, OutputBounds};
pub use collect::OutputTree;
pub use depot::Depot;
pub use error::DepotError;
pub use publish::{Leftover, Published, publish};
pub use s3::{
    BadKey, CacheRule, InvalidCacheRule, InvalidPrefix, Prefix, Retry, S3Credentials, S3Depot,
    S3Settings, S3Target, S3Tuning, StoreAnswer, StoreFault, Uploaded, Visible,
};
pub use skipped::{Skipped, SkippedKind};
pub use target::{Refusal, Target};
pub use watch::Watch;
