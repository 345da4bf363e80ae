//! The `podman` runtime: one container through the libpod REST API on the user's own socket.
//!
//! ```text
//! socket ── request ── error          where it listens | one request, bounded | what went wrong with it
//!              │
//! info ──── client ──── images        what this podman is | the door | what it has stored
//!              │
//!          container ── create        the living thing | the recipe as libpod's JSON
//!           │     │
//!       logs(frames)  proof, watch    output with backpressure | what /proc says is really in force, and when it ended
//! ```
//!
//! Why a client of our own: libpod drops every field that it does not know, silently, and the public clients misspell
//! some of those that matter. Here each field is one that a live test looks for in `/proc`.
//!
//! Refuses: rootful services, remote services (ssh, tcp), and a container that `/proc` shows to be less confined than
//! its recipe. Invariants: every request but `wait` and the log stream ends within a bounded time; nothing is buffered
//! whole; what a future of this module was doing when it was dropped is undone by [`PodmanClient::remove`].
//!
//! API: <https://docs.podman.io/en/v4.3.1/_static/api.html>.

mod client;
mod container;
mod create;
mod error;
pub(crate) mod frames;
mod images;
mod info;
mod logs;
mod network;
pub(crate) mod proof;
mod request;
mod sandbox;
mod socket;
mod watch;

#[cfg(test)]
mod live_tests;

use client::PodmanClient;
use container::{Init, PodmanContainer};
use create::Placement;
use info::PodmanInfo;
pub(crate) use logs::PodmanLogs;
pub(crate) use sandbox::PodmanRuntime;
use socket::socket_path;
