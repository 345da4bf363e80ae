//! Control groups, version 2: where a job's processes are counted, limited and killed.
//!
//! ```text
//! /sys/fs/cgroup/<delegated to us>/        controllers enabled here
//!     agent/                               Bryo itself, where it may move
//!     bryo-<job>/                          ours: the limits are written and read back here
//!         box/                             the container's: handed over by the runtime
//! ```
//!
//! The limits are on a directory that the container does not own, so it cannot lift them; `cgroup.kill` there ends
//! everything beneath, whatever it forked; `cgroup.events` there proves that nothing is left.
//! See <https://docs.kernel.org/admin-guide/cgroup-v2.html>.

mod delegation;
mod disks;
mod job;
mod limits;
mod systemd;
pub(crate) mod usage;

pub use delegation::Delegation;
pub(crate) use job::JobCgroup;

use std::fs;
use std::path::{Path, PathBuf};

/// Where the hierarchy is mounted.
pub(crate) const ROOT: &str = "/sys/fs/cgroup";

/// The directory of a cgroup given as `/proc/PID/cgroup` names it.
pub(crate) fn directory(name: &str) -> PathBuf {
    Path::new(ROOT).join(name.trim_start_matches('/'))
}

/// The name of a cgroup directory, as `/proc/PID/cgroup` would give it.
pub(crate) fn name_of(directory: &Path) -> String {
    directory.strip_prefix(ROOT).map_or_else(
        |_| directory.display().to_string(),
        |rest| format!("/{}", rest.display()),
    )
}

/// The processes in a cgroup and beneath it.
pub(crate) fn processes(directory: &Path) -> Vec<u32> {
    let here = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    let mut all: Vec<u32> = here.lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            all.extend(processes(&entry.path()));
        }
    }
    all
}

/// The version 2 line of `/proc/PID/cgroup`.
pub(crate) fn own_line(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_line_is_found_among_version_1_lines() {
        let text = "9:name=systemd:/\n8:pids:/x\n0::/user.slice/a\n";
        assert_eq!(own_line(text), Some("/user.slice/a"));
        assert_eq!(own_line("8:pids:/x\n"), None);
        assert_eq!(name_of(&directory("/a/b")), "/a/b");
    }
}
