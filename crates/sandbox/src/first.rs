//! A job's first process, held on to for as long as it is signalled.
//!
//! Invariant: a signal reaches that process or nobody. Its number may be another's at any moment; a pidfd stays that of the
//! process for which it was opened.
//!
//! No service and no helper is asked, so none of them can keep a signal back. Why the user may signal a subordinate id: in
//! a user namespace, and in all beneath it, its maker has every capability (user_namespaces(7)), and it is the user who
//! made the helper's and podman's.

use std::os::fd::OwnedFd;
use std::path::Path;

use nix::sys::signal::Signal;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

use crate::proc;

/// The first process of a job.
#[derive(Debug)]
pub(crate) struct FirstProcess {
    pid: i32,
    fd: OwnedFd,
}

impl FirstProcess {
    /// Holds the process of this number, if it is in this cgroup or one beneath it.
    pub(crate) fn hold(pid: i32, cgroup: &Path) -> Option<Self> {
        let fd = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        // Looked at with the process in hand: should the number have changed hands since, it is a dead one that is held.
        proc::is_in(pid, cgroup).then_some(Self { pid, fd })
    }

    /// Whether it is the first one of its pid namespace.
    pub(crate) fn is_first(&self) -> bool {
        proc::is_first(self.pid)
    }

    /// Whether it can notice the signal.
    pub(crate) fn can_notice(&self, signal: Signal) -> bool {
        proc::can_notice(self.pid, signal)
    }

    /// Sends it the signal.
    ///
    /// # Errors
    ///
    /// When it is over, or the kernel refuses.
    pub(crate) fn send(&self, signal: Signal) -> Result<(), Errno> {
        let signal = rustix::process::Signal::from_named_raw(signal as i32).ok_or(Errno::INVAL)?;
        pidfd_send_signal(&self.fd, signal)
    }
}
