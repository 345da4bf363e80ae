//! What `/proc` says about a container's first process: is it really as confined as the recipe says?
//!
//! libpod drops fields that it does not know, and some that it cannot honour, without a word. So nothing that protects
//! the host is taken on trust: ids and cgroup are looked at before the job's first instruction, what `execve` brings
//! (capabilities, `no_new_privs`, seccomp) right after it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bryo_model::IdSlot;

use crate::{CAPABILITIES, SandboxError};

/// Checks the id maps of a process that has not started yet, and gives its cgroup's directory.
///
/// # Errors
///
/// When our own uid or gid is mapped, or the cgroup is not beneath `parent`.
pub(super) fn before_start(pid: i32, parent: &Path) -> Result<PathBuf, SandboxError> {
    let uid = nix::unistd::Uid::effective().as_raw();
    let gid = nix::unistd::Gid::effective().as_raw();
    for (file, own) in [("uid_map", uid), ("gid_map", gid)] {
        let map = read(pid, file)?;
        if !is_unmapped(&map, own) {
            return Err(SandboxError::Podman(format!(
                "the container's {file} has the agent's own id {own} in it, or nothing: {:?}",
                map.trim()
            )));
        }
    }
    let text = read(pid, "cgroup")?;
    let cgroup = crate::cgroup::directory(crate::cgroup::own_line(&text).unwrap_or_default());
    if cgroup.starts_with(parent) && cgroup != parent {
        Ok(cgroup)
    } else {
        Err(SandboxError::Podman(format!(
            "the container is in the cgroup {}, not beneath {}",
            cgroup.display(),
            parent.display()
        )))
    }
}

/// Checks that a container has exactly the ids of its slot, as the helper's own maps have them: podman counts the user's
/// subordinate ids by itself, and need not count as we do.
///
/// # Errors
///
/// When it has others, which may be those of another job.
pub(super) fn ids(pid: i32, helper: i32, slot: IdSlot) -> Result<(), SandboxError> {
    for file in ["uid_map", "gid_map"] {
        let (map, ours) = (read(pid, file)?, read(helper, file)?);
        let whole = host_ids(&map, 0, u32::MAX);
        if whole.is_none() || whole != host_ids(&ours, slot.first(), IdSlot::IDS) {
            return Err(SandboxError::Podman(format!(
                "the container's {file} does not have the ids that are this job's: {:?}; podman must have the ranges \
                 of /etc/subuid and /etc/subgid in their order there (podman system migrate)",
                map.trim()
            )));
        }
    }
    Ok(())
}

/// The host's ids behind `count` ids from `first` on, as far as the map has them: first and count of each range, the
/// shortest list of them. A map that is not understood has none.
pub(crate) fn host_ids(map: &str, first: u32, count: u32) -> Option<Vec<(u64, u64)>> {
    let (first, end) = (u64::from(first), u64::from(first) + u64::from(count));
    let mut lines = map
        .lines()
        .map(|line| {
            let numbers: Result<Vec<u64>, _> = line.split_whitespace().map(str::parse).collect();
            let [inside, host, count] = numbers.ok()?.try_into().ok()?;
            Some((inside, host, count))
        })
        .collect::<Option<Vec<(u64, u64, u64)>>>()?;
    lines.sort_unstable();
    let mut found: Vec<(u64, u64)> = Vec::new();
    for (inside, host, count) in lines {
        let from = inside.max(first);
        let until = inside.saturating_add(count).min(end);
        if from >= until {
            continue;
        }
        let (at, count) = (host.saturating_add(from - inside), until - from);
        match found.last_mut() {
            Some(last) if last.0.saturating_add(last.1) == at => {
                last.1 = last.1.saturating_add(count);
            }
            _ => found.push((at, count)),
        }
    }
    (!found.is_empty()).then_some(found)
}

/// How long the runtime may take from the word "start" to the job's first instruction, and how often it is looked.
const EXEC: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(1);

/// The name that the runtime's own process has before it becomes the job.
pub(super) fn name(pid: i32) -> Result<String, SandboxError> {
    Ok(field(&read(pid, "status")?, "Name").to_owned())
}

/// Checks the privileges of a started process. One that has ended has none.
///
/// The filter is set right before `execve`, after "start" was answered, so a process that still has the runtime's name
/// (`before`) is given a moment; one that has another name has none to lose.
///
/// # Errors
///
/// When it has other capabilities than ours, can gain new ones, or has no system call filter.
pub(super) async fn running(pid: i32, before: &str) -> Result<(), SandboxError> {
    let began = Instant::now();
    loop {
        let text = match fs::read_to_string(format!("/proc/{pid}/status")) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => return Ok(()),
            Err(e) => return Err(SandboxError::file("read", format!("/proc/{pid}/status"))(e)),
        };
        match check_status(&text) {
            Ok(()) => return Ok(()),
            Err(_) if field(&text, "Name") == before && began.elapsed() < EXEC => {}
            Err(why) => return Err(SandboxError::Podman(why)),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn check_status(text: &str) -> Result<(), String> {
    if field(text, "State").starts_with(['Z', 'X']) {
        return Ok(());
    }
    let set = format!("{:016x}", capability_bits());
    for (name, wanted) in [
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
        ("CapBnd", set.as_str()),
    ] {
        let is = field(text, name);
        if is != wanted {
            return Err(format!(
                "the container runs with {name} {is:?} instead of {wanted}"
            ));
        }
    }
    Ok(())
}

/// A field of `/proc/PID/status`; empty when it is not there.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> &'a str {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_default()
        .trim()
}

/// The set as the kernel writes it.
fn capability_bits() -> u64 {
    CAPABILITIES
        .iter()
        .filter_map(|name| format!("CAP_{name}").parse::<caps::Capability>().ok())
        .fold(0, |set, capability| set | capability.bitmask())
}

/// Whether a map has lines, and none of them has this id of ours.
pub(crate) fn is_unmapped(map: &str, own: u32) -> bool {
    let mut lines = map.lines().peekable();
    lines.peek().is_some()
        && lines.all(|line| {
            let mut numbers = line.split_whitespace().map(str::parse::<u64>);
            let (_, first, count) = (numbers.next(), numbers.next(), numbers.next());
            match (first, count) {
                (Some(Ok(first)), Some(Ok(count))) => {
                    !(first..first.saturating_add(count)).contains(&u64::from(own))
                }
                _ => false,
            }
        })
}

fn read(pid: i32, file: &str) -> Result<String, SandboxError> {
    let path = format!("/proc/{pid}/{file}");
    fs::read_to_string(&path).map_err(SandboxError::file("read", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps() {
        for (map, unmapped) in [
            ("         0     100000      65536\n", true),
            ("0 1501 1\n1 100000 65536\n", false),
            ("0 1000 502\n", false),
            ("0 1000 501\n", true),
            ("", false),
            ("0 x 1\n", false),
        ] {
            assert_eq!(is_unmapped(map, 1501), unmapped, "{map:?}");
        }
    }

    #[test]
    fn the_hosts_ids_behind_a_map() {
        let helper = "0 1500 1\n1 100000 70000\n70001 300000 61072\n";
        let shared = host_ids(helper, 1, 65_536);
        assert_eq!(shared, Some(vec![(100_000, 65_536)]));
        let own = host_ids(helper, 65_537, 65_536).unwrap();
        assert_eq!(own, [(165_536, 4464), (300_000, 61_072)]);
        // The container's own map has the same ids in other words.
        let container = "4464 300000 30000\n0 165536 4464\n34464 330000 31072\n";
        assert_eq!(host_ids(container, 0, u32::MAX), Some(own.clone()));
        for other in [
            "0 165537 65536\n",
            "0 165536 4464\n4464 300001 61072\n",
            "0 165536 4464\n4464 300000 61073\n",
        ] {
            assert_ne!(host_ids(other, 0, u32::MAX), Some(own.clone()), "{other}");
        }
        for bad in ["", "0 1\n", "0 x 1\n", "0 1 1 1\n"] {
            assert_eq!(host_ids(bad, 0, u32::MAX), None, "{bad:?}");
        }
    }

    #[test]
    fn statuses() {
        let good = "State:\tS (sleeping)\nCapBnd:\t00000000000000eb\nNoNewPrivs:\t1\nSeccomp:\t2\nSeccomp_filters:\t1\n";
        assert_eq!(check_status(good), Ok(()));
        for (from, to) in [
            ("NoNewPrivs:\t1", "NoNewPrivs:\t0"),
            ("Seccomp:\t2", "Seccomp:\t0"),
            ("eb\n", "ff\n"),
            ("CapBnd", "CapOther"),
        ] {
            assert!(check_status(&good.replace(from, to)).is_err(), "{to}");
        }
        assert_eq!(check_status("State:\tZ (zombie)\n"), Ok(()));
        assert_eq!(capability_bits(), 0xeb);
    }
}
