//! An agent: takes jobs from feeds, lets the engine run them, and tells every result.
//!
//! No feed that it speaks to has leases or heartbeats, so the agent is the party that must not forget: a job is on the disk
//! before anything is begun for it, its result is on the disk before anybody is told, and goes from there only when its
//! feed knows it. Whatever dies when, the next start finds what was not brought to an end, and brings it there.
//!
//! ```text
//!  feed ──claim──> intake ──> store: taken ──> work: begun ──> engine ──> store: ended + outbox ──> deliver ──result──> feed
//!                    ^                                                          |
//!                    └──────────── slots, host, free space, phase               └── recover, at the next start
//! ```
//!
//! Where to look: [`Agent`] is the whole, [`AgentSettings`] what it needs to know, [`control`] how it is spoken to. It
//! refuses to read files of settings, environment or command line, and to listen for signals: that is the edge's.

mod agent;
mod backoff;
mod collector;
pub mod control;
mod deliver;
mod doc_thor;
mod ending;
mod error;
mod feed;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod host;
mod http;
mod intake;
mod job_log;
mod lock;
mod metrics;
mod notify;
mod pattern;
mod policy;
mod recover;
mod settings;
mod shared;
mod slots;
mod socket;
mod store;
mod tasks;
mod watermark;
mod work;

#[cfg(test)]
mod tests;

pub use agent::{Agent, Order};
pub use doc_thor::ClientError;
pub use error::AgentError;
pub use pattern::{HostPattern, ImagePattern, InvalidPattern};
pub use settings::{
    AgentSettings, CacheBudget, DocThorSettings, FeedName, FeedSettings, InvalidFeedName,
    JobPolicy, Listen, Recovery, Watermarks,
};
pub use store::StoreError;
