//! Long work with files, beside the async threads, that ends when nobody waits for it any more.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::ImageError;

/// Whether anybody still waits for the work.
#[derive(Clone)]
pub(crate) struct Waiting(Arc<AtomicBool>);

impl Waiting {
    /// A reader that fails once nobody waits.
    pub(crate) fn watch<R: Read>(&self, inner: R) -> Watched<R> {
        Watched {
            inner,
            waiting: self.clone(),
        }
    }
}

/// A reader that fails once nobody waits for what is done with it.
pub(crate) struct Watched<R> {
    inner: R,
    waiting: Waiting,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.waiting.0.load(Ordering::Relaxed) {
            self.inner.read(buffer)
        } else {
            Err(io::Error::other("nobody waits for it"))
        }
    }
}

struct Waiter(Arc<AtomicBool>);

impl Drop for Waiter {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Runs `work` on a thread of its own kind. When the future is dropped, readers that `work` watches begin to fail.
pub(crate) async fn run<T: Send + 'static>(
    work: impl FnOnce(&Waiting) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let flag = Arc::new(AtomicBool::new(true));
    let _waiter = Waiter(Arc::clone(&flag));
    tokio::task::spawn_blocking(move || work(&Waiting(flag)))
        .await
        .unwrap_or(Err(ImageError::GivenUp))
}
