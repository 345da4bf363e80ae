//! What the kernel tells about itself and about one process.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::cgroup::{directory, own_line};

/// Whether the process, the first one of its pid namespace, can notice the signal. For such a one the kernel drops what
/// it has no handler for, but nothing that it blocks: it may be waiting for that in sigwait(3), by a signalfd(2), or later.
///
/// The main thread's status is enough: for a signal to a process the kernel looks at no other thread's mask before it
/// drops it. One that blocks it and never waits only spends the time that it is given, and so does one of which it cannot
/// be known.
pub(crate) fn can_notice(pid: i32, signal: Signal) -> bool {
    let before = status(pid);
    if takes(&before, signal) {
        return true;
    }
    // As long as it sleeps in sigwait(3), what it waits for is not among the blocked signals.
    let asleep_in = fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    let after = status(pid);
    // It may have been about to sleep.
    takes(&after, signal) || may_wait_for_signals(&asleep_in, &after)
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

/// Whether it is in `SigCgt` or `SigBlk` of proc_pid_status(5): bit n - 1 for signal n.
pub(crate) fn takes(status: &str, signal: Signal) -> bool {
    ["SigCgt:", "SigBlk:"]
        .iter()
        .filter_map(|name| u64::from_str_radix(field(status, name)?, 16).ok())
        .any(|mask| mask >> (signal as i32 - 1) & 1 == 1)
}

/// Whether the function of the kernel in which a process sleeps (proc_pid_wchan(5)) is rt_sigtimedwait(2), or is not told
/// although it does sleep. Which signals it waits for stands in its memory alone.
///
/// Why not proc_pid_syscall(5), which is no guess: only the process's own user may open it.
pub(crate) fn may_wait_for_signals(wchan: &str, status: &str) -> bool {
    match wchan.trim() {
        "" | "0" => field(status, "State:").is_some_and(|state| state.starts_with('S')),
        function => function.contains("sigtimedwait"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_for_sigterm_is_bit_14() {
        let status = "Name:\tx\nPPid:\t42\nSigCgt:\t0000000000004000\n";
        assert!(takes(status, Signal::SIGTERM));
        assert_eq!(field(status, "PPid:"), Some("42"));
        assert_eq!(innermost("NSpid:\t4711\t1\n"), Some(1));
        assert_eq!(innermost("NSpid:\t4711\t12\n"), Some(12));
        assert_eq!(innermost(""), None);
        assert!(!takes("SigCgt:\t0000000000000000\n", Signal::SIGTERM));
        assert!(!takes("", Signal::SIGTERM));
    }

    #[test]
    fn a_blocked_signal_is_kept_and_an_ignored_one_is_not() {
        let status =
            "SigBlk:\t0000000000004000\nSigIgn:\t0000000000000002\nSigCgt:\t0000000000000200\n";
        let all = [
            Signal::SIGTERM,
            Signal::SIGUSR1,
            Signal::SIGINT,
            Signal::SIGHUP,
        ];
        assert_eq!(
            all.map(|signal| takes(status, signal)),
            [true, true, false, false]
        );
    }

    #[test]
    fn who_may_sleep_until_a_signal_comes() {
        let (asleep, at_work) = ("State:\tS (sleeping)\n", "State:\tR (running)\n");
        for function in ["do_sigtimedwait.isra.0", "__x64_sys_rt_sigtimedwait\n"] {
            assert!(may_wait_for_signals(function, asleep), "{function:?}");
        }
        assert!(!may_wait_for_signals("do_wait", asleep));
        assert!(may_wait_for_signals("0", asleep), "it is not told");
        assert!(!may_wait_for_signals("0", at_work));
        assert!(!may_wait_for_signals("", ""), "it is gone");
    }
}
