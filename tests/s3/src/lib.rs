//! Object stores for tests.
//!
//! - [`Server`] is s3s-fs inside the test process, with [`Fault`]s at the wire and a record of what was asked. It takes no
//!   time to start and is gone with its value.
//! - [`Store`] is any S3 store with what a test wants to know of it: which keys, which bytes, which headers. A [`Server`] has
//!   one; [`Store::real`] is the real server that `make test-s3` starts.
//!
//! s3s-fs keeps objects as files. What it therefore cannot do is left to the real server: keys with `//`, a key that is
//! also the beginning of another one with a slash, `+` and `%` in keys, lists of unfinished uploads.

// The crate is test code: it may stop a test by panicking.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

mod fault;
mod filesystem;
mod server;
mod store;

pub use fault::{Conditions, Fault, Gate, Seen};
pub use server::Server;
pub use store::{Object, Store};
