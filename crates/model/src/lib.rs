//! The words of Bryo as plain data: what a job asks for, what an attempt tells while it runs, and how it ended.
//!
//! Everything here is pure: no file system, no clock, no environment, no terminal. Values that arrive from outside
//! (an address, a reference, a size) become validated newtypes at the edge, so that no later floor has to check them
//! again. The crate refuses to know how anything is done.
//!
//! Where to look:
//! - [`JobSpec`] is one request; [`SourceSpec`], [`ImageRef`] and [`Limits`] are its parts.
//! - [`Cached`] is one thing that a cache keeps between jobs.
//! - [`Event`] is the one ordered stream that an attempt emits; [`Stage`] names its steps.
//! - [`Verdict`] is the state of the user's build, never of Bryo; [`Report`] is the record of an attempt.

mod cached;
mod ceiling;
mod event;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod id;
mod id_slot;
mod image_ref;
mod job;
mod limits;
mod network;
mod report;
mod secret;
mod source;
mod verdict;

pub use cached::{Cached, CachedKind};
pub use ceiling::Ceiling;
pub use event::{Amount, Event, LogPiece, LogStream, Notice, Stage};
pub use id::{CommitId, InvalidCommitId, InvalidJobId, JobId};
pub use id_slot::IdSlot;
pub use image_ref::{ImageRef, InvalidImageRef, RegistryRef};
pub use job::{ContainerName, EnvVar, InvalidEnvVar, JobSpec, RuntimeKind, UnknownWord};
pub use limits::{
    ByteSize, Cpus, InvalidLimit, LimitPolicy, Limits, StageLimit, StopSignal, Weight,
    parse_duration,
};
pub use network::{
    Destination, Egress, InvalidDestination, METADATA_SERVICES, NetworkMode, Protocol,
};
pub use report::{Blame, LimitsInForce, Pressure, Report, ResourceUse, StageTime};
pub use secret::Secret;
pub use source::{GitRef, GitUrl, InvalidSource, Scheme, SourceLocation, SourceSpec, SubDir};
pub use verdict::{Failure, OutOfMemory, ResourceLimit, TimeLimit, Verdict};
