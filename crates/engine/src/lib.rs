//! One attempt, from source to verdict.
//!
//! [`run_attempt`] takes a job through its stages (fetch, prepare, run, collect, publish), emits one ordered stream of
//! events and returns a report. It knows no feed, no terminal and no database: whoever calls it does.
//!
//! [`Engine::cached`] and [`Engine::collect`] are about what attempts leave for the next ones.
//!
//! Invariants:
//! - every path ends in clean-up, and only then in a report;
//! - what ended the job is decided from facts (our own stop record, the kernel's counters, the exit code), never from
//!   what the job wrote;
//! - a cancel or a deadline takes effect in every stage; until the target is switched nothing was published.

mod attempt;
mod caches;
mod cause;
mod collect;
mod container;
mod control;
mod engine;
mod events;
#[doc(hidden)]
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hosts;
mod inputs;
mod logs;
mod outside;
mod publish;
mod ready;
mod record;
mod run;
mod settings;
mod setup;
mod supervise;
mod work;

pub use attempt::run_attempt;
pub use collect::{Collect, CollectError, Collected, Room};
pub use control::Control;
pub use engine::Engine;
pub use ready::{Needs, NotReady, Prepared};
pub use settings::{NetworkSettings, Settings};
