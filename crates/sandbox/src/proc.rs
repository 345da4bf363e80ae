//! What the kernel tells about itself and about one process.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::cgroup::{directory, own_line};

/// Whether the process has a handler for the signal. The first process of a pid namespace notices no other, and
/// `SIGKILL`.
pub(crate) fn handles(pid: i32, signal: Signal) -> bool {
    caught(&status(pid), signal)
}

/// Whether it is the first process of its pid namespace.
pub(crate) fn is_first(pid: i32) -> bool {
    innermost(&status(pid)) == Some(1)
}

/// The last number of `NSpid`: the process's own in the innermost namespace.
pub(crate) fn innermost(status: &str) -> Option<i32> {
    field(status, "NSpid:")?
        .split_whitespace()
        .next_back()?
        .parse()
        .ok()
}

/// Whether it is in this cgroup or one beneath it: a process id may be another's by now.
pub(crate) fn is_in(pid: i32, cgroup: &Path) -> bool {
    let line = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    own_line(&line).is_some_and(|name| directory(name).starts_with(cgroup))
}

/// Its parent.
pub(crate) fn parent_of(pid: i32) -> Option<i32> {
    field(&status(pid), "PPid:")?.parse().ok()
}

/// Major and minor version of the running kernel.
pub(crate) fn kernel_version() -> (u32, u32) {
    let release = nix::sys::utsname::uname()
        .map(|u| u.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn status(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default()
}

pub(crate) fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

/// `SigCgt` of proc_pid_status(5): bit n - 1 for signal n.
pub(crate) fn caught(status: &str, signal: Signal) -> bool {
    field(status, "SigCgt:")
        .and_then(|mask| u64::from_str_radix(mask, 16).ok())
        .is_some_and(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_for_sigterm_is_bit_14() {
        let status = "Name:\tx\nPPid:\t42\nSigCgt:\t0000000000004000\n";
        assert!(caught(status, Signal::SIGTERM));
        assert_eq!(field(status, "PPid:"), Some("42"));
        assert_eq!(innermost("NSpid:\t4711\t1\n"), Some(1));
        assert_eq!(innermost("NSpid:\t4711\t12\n"), Some(12));
        assert_eq!(innermost(""), None);
        assert!(!caught("SigCgt:\t0000000000000000\n", Signal::SIGTERM));
        assert!(!caught("", Signal::SIGTERM));
    }
}
