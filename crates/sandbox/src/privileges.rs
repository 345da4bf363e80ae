//! What a job's root may do: the documented, minimal set of capabilities.
//!
//! All of them act inside the job's own user namespace only. A build needs to own files (`CHOWN`, `FOWNER`,
//! `DAC_OVERRIDE`), to become another user of its image (`SETUID`, `SETGID`) and to end its own children of another user
//! (`KILL`). It needs no network administration, no raw sockets, no mounting, no device nodes and no file capabilities.

/// The capabilities of the job, without the `CAP_` prefix, in alphabetical order.
pub const CAPABILITIES: [&str; 6] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "KILL",
    "SETGID",
    "SETUID",
];

/// Parts of `/proc` and `/sys` that a job cannot see into.
pub(crate) const MASKED_PATHS: [&str; 10] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Parts of `/proc` that a job cannot write to.
pub(crate) const READONLY_PATHS: [&str; 6] = [
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// What a job's first process does not give to others by default.
pub(crate) const UMASK: u32 = 0o022;

/// Where a job with a read-only root can write, besides its mounts: file systems in memory.
pub(crate) const SCRATCH: [&str; 3] = ["/tmp", "/var/tmp", "/run"];

/// How each of them is mounted. What is in them counts as the job's memory.
pub(crate) const SCRATCH_OPTIONS: [&str; 4] = ["nosuid", "nodev", "mode=1777", "size=512m"];

/// Open files of a job: soft and hard bound.
pub(crate) const OPEN_FILES: u64 = 65_536;

/// Gives up every capability that this process was started with. Ambient ones would else pass to each program that it
/// starts.
pub fn give_up_capabilities() {
    use caps::CapSet::{Ambient, Effective, Inheritable, Permitted};

    // The permitted set last: the others are taken from it.
    for set in [Ambient, Inheritable, Effective, Permitted] {
        let _ = caps::clear(None, set);
    }
}
