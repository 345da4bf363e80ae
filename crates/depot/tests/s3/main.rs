//! The S3 depot against stores: s3s-fs inside this process, with faults at the wire, and the real server that
//! `make test-s3` starts.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test code")]

/// What the tests are told with.
mod bed;
/// Stores that refuse, storm, hang or go away.
mod faults;
/// Half publications, and what follows them.
mod half;
/// What only the real server can do.
mod real;
/// Two publications of one version at one time.
mod together;
/// What is there after a publication; told to both stores.
mod whole;
