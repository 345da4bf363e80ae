//! A word from the kernel before somebody else opens a file.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use nix::errno::Errno;
use nix::libc;

/// A write lease on a file (fcntl(2), "Leases").
///
/// Who opens the file waits, for as long as this is held and no longer than `/proc/sys/fs/lease-break-time`, or until it is
/// killed; and the process that took the lease gets `SIGIO`, which it must have blocked: it ends who does not expect it.
///
/// Dropping the last descriptor of it, in this process and its copies, gives it back.
#[derive(Debug)]
pub struct Lease {
    file: File,
}

impl Lease {
    /// Takes it.
    ///
    /// # Errors
    ///
    /// When the file is another user's or open elsewhere too, or its file system or this host has no leases.
    pub fn take(file: File) -> io::Result<Self> {
        number_fcntl(&file, libc::F_SETLEASE, libc::F_WRLCK)?;
        Ok(Self { file })
    }

    /// Whether somebody waits who wants to write, or has gone on after waiting too long. One who wants to read does not count.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        number_fcntl(&self.file, libc::F_GETLEASE, 0).is_ok_and(|kept| kept == libc::F_UNLCK)
    }
}

impl AsRawFd for Lease {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn number_fcntl(
    file: &File,
    command: libc::c_int,
    argument: libc::c_int,
) -> io::Result<libc::c_int> {
    // SAFETY: both commands that are given take a number, or nothing, and touch no memory of this process; the descriptor is
    // open as long as the file is borrowed.
    #[expect(unsafe_code, reason = "no library has these commands")]
    let done = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    Ok(Errno::result(done)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::OpenOptions;
    use std::os::unix::fs::OpenOptionsExt;
    use std::path::Path;
    use tokio::signal::unix::{SignalKind, signal};

    fn leased(path: &Path) -> io::Result<Lease> {
        Lease::take(File::create(path)?)
    }

    #[tokio::test]
    async fn who_opens_the_file_waits_and_the_holder_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut told = signal(SignalKind::io()).unwrap();
        let lease = leased(&path).unwrap();
        assert!(!lease.is_wanted());
        let opens = move || OpenOptions::new().write(true).open(path).is_ok();
        let opener = tokio::task::spawn_blocking(opens);
        // The signal is the process's; it may have been another test's.
        while !lease.is_wanted() {
            told.recv().await;
        }
        assert!(!opener.is_finished());
        drop(lease);
        assert!(opener.await.unwrap());
    }

    #[test]
    fn one_who_reads_does_not_want_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let lease = leased(&path).unwrap();
        let at_once = |options: &mut OpenOptions| {
            let flag = nix::fcntl::OFlag::O_NONBLOCK.bits();
            options.custom_flags(flag).open(&path).unwrap_err().kind()
        };
        // The default of the signal would be the end of this process.
        let _told = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap()
            .block_on(async { signal(SignalKind::io()).unwrap() });
        let busy = io::ErrorKind::WouldBlock;
        assert_eq!(at_once(OpenOptions::new().read(true)), busy);
        assert!(!lease.is_wanted());
        assert_eq!(at_once(OpenOptions::new().write(true)), busy);
        assert!(lease.is_wanted());
    }

    #[test]
    fn there_is_none_of_a_file_that_is_open_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let _also = File::create(&path).unwrap();
        assert!(leased(&path).is_err());
    }
}
