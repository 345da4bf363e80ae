//! Work on a stack of its own.

use std::panic::resume_unwind;
use std::thread;

/// Does what is done once and needs a deep stack: what the main thread has touched of its own stays in memory for as long as
/// the process lives, and an agent lives long. Where the system gives no thread it is done all the same.
pub(crate) fn apart<T: Send>(work: impl Fn() -> T + Sync) -> T {
    thread::scope(
        |scope| match thread::Builder::new().spawn_scoped(scope, &work) {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => work(),
        },
    )
}
