//! Speaking to an agent that runs: one line of JSON there, one line of JSON back, over a unix socket that only its user can
//! open.

mod client;
mod server;
mod wire;

pub use client::{ControlError, ask};
pub(crate) use server::{bind, serve};
pub use wire::{Alarm, FeedStatus, JobLine, Request, Response, RunningJob, Status};
