//! Podman's own store, kept from growing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Keeps podman from making containers, in the middle of making one, until it is dropped.
///
/// It shares the lock that podman must have alone for adding a container to its store, after everything that could have
/// it refuse. Whoever only reads there is not kept from it.
#[derive(Debug)]
pub struct HeldStore(File);

impl HeldStore {
    /// Takes the lock.
    #[must_use]
    pub fn hold() -> Self {
        let out = Command::new("podman")
            .args([
                "info",
                "--format",
                "{{.Store.GraphRoot}} {{.Store.GraphDriverName}}",
            ])
            .output()
            .unwrap();
        let said = String::from_utf8(out.stdout).unwrap();
        let (root, driver) = said.trim().rsplit_once(' ').unwrap();
        let lock = PathBuf::from(root)
            .join(format!("{driver}-containers"))
            .join("containers.lock");
        let file = OpenOptions::new().read(true).open(lock).unwrap();
        let whole = libc::flock {
            l_type: i16::try_from(libc::F_RDLCK).unwrap(),
            l_whence: i16::try_from(libc::SEEK_SET).unwrap(),
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(&file, FcntlArg::F_OFD_SETLKW(&whole)).unwrap();
        Self(file)
    }

    /// Whether somebody waits for it.
    #[must_use]
    pub fn is_waited_for(&self) -> bool {
        let file = format!(":{} ", self.0.metadata().unwrap().ino());
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks
            .lines()
            .any(|line| line.contains("->") && line.contains(&file))
    }
}
