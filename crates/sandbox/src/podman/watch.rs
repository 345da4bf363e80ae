//! Learns from the kernel that a container is over, without asking Podman again and again.
//!
//! `cgroup.events` of the container's own cgroup tells pollers when its last process is gone. libpod's `wait` asks
//! every 250 ms unless told otherwise, and holds the container's lock while it does.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An open `cgroup.events`.
#[derive(Debug)]
pub(super) struct Watch(AsyncFd<File>);

impl Watch {
    /// Opens that of a cgroup.
    ///
    /// # Errors
    ///
    /// When there is no such cgroup.
    #[expect(
        deprecated,
        reason = "the successor is unsafe for the sake of types that change their descriptor; a File does not"
    )]
    pub(super) fn open(cgroup: &Path) -> io::Result<Self> {
        let file = File::open(cgroup.join("cgroup.events"))?;
        AsyncFd::with_interest(file, Interest::PRIORITY).map(Self)
    }

    /// Waits until no process is left in it. Safe to drop and to call again.
    pub(super) async fn emptied(&self) {
        loop {
            if !is_populated(self.0.get_ref()) {
                return;
            }
            match self.0.ready(Interest::PRIORITY).await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }
}

/// A cgroup that was removed cannot be read any more, and nothing is in it.
fn is_populated(mut file: &File) -> bool {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
    read.is_ok() && text.lines().any(|line| line == "populated 1")
}
