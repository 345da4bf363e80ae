//! The depot's own threads, each with an event loop.
//!
//! *Why threads of its own?* Signing hashes every byte, and a caller's event loop has reports to send meanwhile. Two threads
//! are enough for a store on the same machine to be the slower one.
//!
//! *Why not one event loop with two threads?* What is told to a thread stays there: nothing is gained by moving it, and an
//! agent that waits has less of the program in its memory.
//!
//! They are there while something is published and a little longer, so that what follows finds its connections open.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// So long nothing has to be published until the threads end.
const KEEP: Duration = Duration::from_secs(10);

/// Threads that are there when they are needed.
#[derive(Debug)]
pub(crate) struct Threads {
    count: usize,
    running: Mutex<Weak<Loops>>,
}

impl Threads {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            count: count.max(1),
            running: Mutex::default(),
        }
    }

    /// Those that run, or new ones. They run while anybody has them.
    ///
    /// # Errors
    ///
    /// When the system gives no thread or no event queue.
    pub(crate) fn get(&self) -> io::Result<Arc<Loops>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loops) = running.upgrade() {
            return Ok(loops);
        }
        let loops = Arc::new(Loops::start(self.count)?);
        *running = Arc::downgrade(&loops);
        Ok(loops)
    }
}

/// Event loops, each on a thread. Dropping them ends them, without waiting: that may happen on an event loop.
#[derive(Debug)]
pub(crate) struct Loops {
    handles: Vec<Handle>,
    next: AtomicUsize,
    end: CancellationToken,
}

impl Loops {
    fn start(count: usize) -> io::Result<Self> {
        let mut loops = Self {
            handles: Vec::with_capacity(count),
            next: AtomicUsize::new(0),
            end: CancellationToken::new(),
        };
        for _ in 0..count {
            let runtime = Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()?;
            loops.handles.push(runtime.handle().clone());
            let end = loops.end.clone();
            thread::Builder::new()
                .name("bryo-s3".to_owned())
                .spawn(move || {
                    runtime.block_on(end.cancelled());
                    runtime.shutdown_background();
                })?;
        }
        Ok(loops)
    }

    /// One after the other.
    pub(crate) fn next(&self) -> &Handle {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        &self.handles[next % self.handles.len()]
    }

    /// Lets go of them later. In an event loop; should that end before, they end with it.
    pub(crate) fn keep(self: Arc<Self>) {
        tokio::spawn(async move {
            tokio::time::sleep(KEEP).await;
            drop(self);
        });
    }
}

impl Drop for Loops {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a thread of the depot's is there.
    fn named(name: &str) -> bool {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
        tasks
            .filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok())
            .any(|is| is.trim() == name)
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_shared_while_they_are_needed_and_end_then() {
        let threads = Threads::new(2);
        let loops = threads.get().unwrap();
        assert!(Arc::ptr_eq(&loops, &threads.get().unwrap()));
        let names = [loops.next(), loops.next()].map(|handle| {
            handle.spawn(async {
                (
                    thread::current().id(),
                    thread::current().name().map(str::to_owned),
                )
            })
        });
        let [one, other] = names;
        let (one, other) = (one.await.unwrap(), other.await.unwrap());
        assert_ne!(one.0, other.0);
        assert_eq!(one.1.as_deref(), Some("bryo-s3"));

        let (left, ended) = (loops.end.clone(), Arc::downgrade(&loops));
        loops.keep();
        tokio::time::sleep(KEEP / 2).await;
        assert!(Arc::ptr_eq(
            &threads.get().unwrap(),
            &ended.upgrade().unwrap()
        ));
        tokio::time::sleep(KEEP).await;
        assert!(left.is_cancelled() && ended.upgrade().is_none());
        while named("bryo-s3") {
            thread::yield_now();
        }
        drop(threads.get().unwrap());
    }
}
