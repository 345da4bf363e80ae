//! A second process without starting a program.
//!
//! Starting a program costs what its loader does, and a helper that makes several processes for each job pays that several
//! times. A copy of a process that is there already costs a fraction of it.

use std::io;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{ForkResult, Pid};

/// Which of the two processes this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// The one that was there, and the process id of the other.
    Parent(Pid),
    /// The copy. It must not return to what its parent does, and ends by [`std::process::exit`].
    Child,
}

/// The link count of a process' directory of threads is two more than there are threads.
const ONE_THREAD: u64 = 3;

/// Copies this process.
///
/// # Errors
///
/// When the process has more than one thread, for the copy would have the locks of the others and nobody who opens them;
/// and when the system has no room for a further process.
pub fn fork() -> io::Result<Fork> {
    if std::fs::metadata("/proc/self/task")?.nlink() != ONE_THREAD {
        return Err(io::Error::other(
            "only a process with one thread can be copied",
        ));
    }
    // SAFETY: there is no other thread, and so none that holds a lock or is in the middle of a change; the copy can do
    // whatever its parent could.
    #[expect(unsafe_code, reason = "the system call has no other form")]
    let forked = unsafe { nix::unistd::fork() }?;
    Ok(match forked {
        ForkResult::Parent { child } => Fork::Parent(child),
        ForkResult::Child => Fork::Child,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_copied() {
        let (stay, gone) = std::sync::mpsc::channel::<()>();
        let other = std::thread::spawn(move || gone.recv().is_err());
        let error = fork().unwrap_err();
        assert!(error.to_string().contains("one thread"), "{error}");
        drop(stay);
        assert!(other.join().unwrap());
    }
}
