//! What the stories are told with: a world of their own, real containers, and a look around afterwards.
//!
//! A [`World`] is a home, a cache and repositories in a temporary directory. [`World::run`] starts the real `bryo`
//! program; [`Told`] is what it said. After every story [`World::nothing_is_left`] looks for what a job could leave behind
//! (container, cgroup, mount, process, work directory) and fails the story if there is any.
//!
//! The stories need a rootless host, which `tests/bed/as-user.sh` makes. Without it they are skipped, loudly.

// The crate is test code that several test programs share: it may stop a story by panicking.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "test code"
)]

mod agent;
mod bucket;
mod doc_thor;
mod gate;
mod http;
mod jobs;
mod look;
mod repository;
mod store;
mod told;
mod world;

pub use agent::{Agent, Recipe, until_its_processes_are_gone};
pub use bucket::{Bucket, Object};
pub use doc_thor::{Build, DocThor, Endpoint, Exchange, Fault, History, Project, Status, TOKEN};
pub use gate::Gate;
pub use http::Request;
pub use jobs::{let_go, running_jobs};
pub use repository::Repository;
pub use store::HeldStore;
pub use told::Told;
pub use world::{Going, Runtime, World, wait_until};
