//! Learns from the kernel what happens to a container, without asking Podman again and again.
//!
//! `cgroup.events` of the container's own cgroup tells pollers when its last process is gone. libpod's `wait` asks
//! every 250 ms unless told otherwise, and holds the container's lock while it does. `pids.events` tells when a process was
//! refused; kernels before 6.11 count that in the container's own cgroup, which podman removes at its end.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

/// An open file of a cgroup that tells pollers of changes.
#[derive(Debug)]
struct Notifying(AsyncFd<File>);

impl Notifying {
    #[expect(
        deprecated,
        reason = "the successor is unsafe for the sake of types that change their descriptor; a File does not"
    )]
    fn open(path: &Path) -> io::Result<Self> {
        AsyncFd::with_interest(File::open(path)?, Interest::PRIORITY).map(Self)
    }

    /// What it says; nothing when the cgroup was removed.
    fn text(&self) -> String {
        let mut file = self.0.get_ref();
        let mut text = String::new();
        let read = file.rewind().and_then(|()| file.read_to_string(&mut text));
        read.map(|_| text).unwrap_or_default()
    }

    /// Waits for a change. Returns whether there can be another.
    async fn changed(&self) -> bool {
        match self.0.ready(Interest::PRIORITY).await {
            Ok(mut ready) => {
                ready.clear_ready();
                true
            }
            Err(_) => false,
        }
    }
}

/// Watches a container's end.
#[derive(Debug)]
pub(super) struct Watch(Notifying);

impl Watch {
    /// Begins with a cgroup that has processes.
    ///
    /// # Errors
    ///
    /// When there is no such cgroup.
    pub(super) fn open(cgroup: &Path) -> io::Result<Self> {
        Notifying::open(&cgroup.join("cgroup.events")).map(Self)
    }

    /// Waits until no process is left in it. Safe to drop and to call again.
    pub(super) async fn emptied(&self) {
        while !self.is_empty() {
            if !self.0.changed().await {
                return;
            }
        }
    }

    /// Whether no process is left in it. A cgroup that was removed cannot be read any more, and nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        !self.0.text().lines().any(|line| line == "populated 1")
    }
}

/// Counts how often a container was refused a process, for as long as its cgroup is there.
#[derive(Debug)]
pub(super) struct Refusals {
    count: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Refusals {
    /// Watches the cgroup, or the nearest one above it that counts, up to `top`, which counts for itself. `None` when
    /// none does.
    pub(super) fn watch(cgroup: &Path, top: &Path) -> Option<Self> {
        let counting = cgroup
            .ancestors()
            .take_while(|dir| dir.starts_with(top) && *dir != top)
            .find_map(|dir| Notifying::open(&dir.join("pids.events")).ok())?;
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let task = tokio::spawn(async move {
            loop {
                let text = counting.text();
                let max = text.lines().find_map(|line| line.strip_prefix("max "));
                match max.and_then(|n| n.trim().parse().ok()) {
                    Some(n) => counted.store(n, Ordering::Relaxed),
                    None => return,
                }
                if !counting.changed().await {
                    return;
                }
            }
        });
        Some(Self { count, task })
    }

    /// How often so far.
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        self.task.abort();
    }
}
