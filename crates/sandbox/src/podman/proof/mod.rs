//! What `/proc` and podman say about a container: is it really as confined as the recipe says?
//!
//! libpod drops fields that it does not know, and some that it cannot honour, without a word; a user's configuration can
//! add to every container. So nothing that protects the host is taken on trust: ids, namespaces, mounts and cgroup are
//! looked at before the job's first instruction, what `execve` brings (capabilities, `no_new_privs`, seccomp) right
//! after it.

mod inspected;
mod mounts;
mod recipe;
mod status;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bryo_model::IdSlot;
use oci_spec::runtime::LinuxSeccomp;

use crate::{CAPABILITIES, SandboxError, selinux};

pub(super) use inspected::{Confinement, HostConfig};
pub(super) use mounts::Wanted;
pub(crate) use status::field;

/// What a container must be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expected {
    /// The host's ids behind the container's, as [`host_ids`] has them.
    pub(super) uids: Vec<(u64, u64)>,
    /// The same of groups.
    pub(super) gids: Vec<(u64, u64)>,
    pub(super) mounts: Vec<Wanted>,
    pub(super) read_only_root: bool,
    /// In podman's words.
    pub(super) network_mode: &'static str,
    /// The system-call filter that podman was given.
    pub(super) filter: LinuxSeccomp,
    /// The set as the kernel writes it.
    pub(super) capabilities: u64,
    pub(super) open_files: u64,
    /// None where there is no SELinux.
    pub(super) labels: Option<ExpectedLabels>,
}

impl Expected {
    fn has_hosts_network(&self) -> bool {
        self.network_mode == "host"
    }
}

/// The SELinux labels of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ExpectedLabels {
    pub(super) process: String,
    pub(super) file: String,
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

/// Checks what podman has written down for the runtime, in a copy of its file that we can read.
///
/// # Errors
///
/// When it is not what was asked for: another system-call filter, a path that is not hidden or can be written to.
pub(super) fn recipe(file: &Path, expected: &Expected) -> Result<(), SandboxError> {
    recipe::check(file, expected)
}

/// Namespaces that are never the agent's own.
const NAMESPACES: [&str; 6] = ["user", "pid", "mnt", "ipc", "uts", "cgroup"];

/// Checks a container that has not started yet, and gives its cgroup's directory.
///
/// # Errors
///
/// When our own uid or gid is mapped or the map is not the recipe's, a namespace is ours, something else than the recipe
/// is mounted, or the cgroup is not beneath `parent`.
pub(super) fn before_start(
    pid: i32,
    parent: &Path,
    podmans: Confinement<'_>,
    expected: &Expected,
) -> Result<PathBuf, SandboxError> {
    let refuse = SandboxError::Podman;
    podmans.check(expected).map_err(refuse)?;
    let uid = nix::unistd::Uid::effective().as_raw();
    let gid = nix::unistd::Gid::effective().as_raw();
    for (file, own, wanted) in [
        ("uid_map", uid, &expected.uids),
        ("gid_map", gid, &expected.gids),
    ] {
        check_map(&read(pid, file)?, own, wanted)
            .map_err(|why| refuse(format!("the container's {file} {why}")))?;
    }
    namespaces(pid, expected)?;
    if expected.network_mode == "none" {
        check_alone(&read(pid, "net/dev")?).map_err(refuse)?;
    }
    mounts::check(&read(pid, "mountinfo")?, expected).map_err(refuse)?;
    if let Some(labels) = &expected.labels {
        selinux::read_back(pid, "exec", &labels.process).map_err(refuse)?;
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

/// The agent owns the user namespace above the container's, so it may look.
fn namespaces(pid: i32, expected: &Expected) -> Result<(), SandboxError> {
    let network = (!expected.has_hosts_network()).then_some("net");
    for kind in NAMESPACES.into_iter().chain(network) {
        let link = |of: &str| {
            let path = format!("/proc/{of}/ns/{kind}");
            fs::read_link(&path).map_err(SandboxError::file("read", path))
        };
        if link("self")? == link(&pid.to_string())? {
            return Err(SandboxError::Podman(format!(
                "the container has no {kind} namespace of its own"
            )));
        }
    }
    Ok(())
}

/// Checks `/proc/PID/net/dev` of a container without a network: nothing but the loopback device is in it.
fn check_alone(text: &str) -> Result<(), String> {
    let devices = text.lines().filter_map(|line| line.split_once(':'));
    let mut devices = devices.map(|(name, _)| name.trim());
    match devices.find(|name| *name != "lo") {
        Some(device) => Err(format!(
            "the container has the network device {device}, and was to have none"
        )),
        None => Ok(()),
    }
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
/// When it has other capabilities than ours, can gain new ones, has no system call filter, or higher limits than ours.
pub(super) async fn running(
    pid: i32,
    before: &str,
    expected: &Expected,
) -> Result<(), SandboxError> {
    let began = Instant::now();
    loop {
        let Some(text) = read_living(pid, "status")? else {
            return Ok(());
        };
        let checked = match status::check(&text, expected) {
            Ok(()) if status::is_over(&text) => return Ok(()),
            Ok(()) => labelled(pid, expected),
            other => other,
        };
        match checked {
            Ok(()) => break,
            Err(_) if field(&text, "Name") == before && began.elapsed() < EXEC => {}
            Err(why) => return Err(SandboxError::Podman(why)),
        }
        tokio::time::sleep(LOOK).await;
    }
    match read_living(pid, "limits")? {
        // A process that is over has no limits to read.
        Some(text) if !text.is_empty() => {
            status::check_limits(&text, expected).map_err(SandboxError::Podman)
        }
        _ => Ok(()),
    }
}

/// `execve` gives a process the label that was set before. One that has ended meanwhile needs none.
fn labelled(pid: i32, expected: &Expected) -> Result<(), String> {
    let Some(labels) = &expected.labels else {
        return Ok(());
    };
    match selinux::read_back(pid, "current", &labels.process) {
        Err(_) if matches!(read_living(pid, "status"), Ok(None)) => Ok(()),
        other => other,
    }
}

/// Our capabilities as the kernel writes the set.
pub(super) fn capability_bits() -> u64 {
    CAPABILITIES
        .iter()
        .filter_map(|name| format!("CAP_{name}").parse::<caps::Capability>().ok())
        .fold(0, |set, capability| set | capability.bitmask())
}

/// Whether a map has the ids that were asked for, from 0 on, no more of them, and not this id of ours.
pub(crate) fn check_map(map: &str, own: u32, wanted: &[(u64, u64)]) -> Result<(), String> {
    let count = wanted.iter().map(|(_, count)| count).sum::<u64>();
    let from_0_on = u32::try_from(count)
        .ok()
        .and_then(|count| host_ids(map, 0, count));
    let whole = host_ids(map, 0, u32::MAX);
    let own_is_in = wanted
        .iter()
        .any(|(first, count)| (*first..first.saturating_add(*count)).contains(&u64::from(own)));
    if whole.as_deref() == Some(wanted) && from_0_on == whole && !own_is_in {
        return Ok(());
    }
    Err(format!(
        "is {:?} instead of 0 and up on {wanted:?} (first and count), without our own id {own}",
        map.trim()
    ))
}

/// What a file of the process says; nothing when it has ended.
fn read_living(pid: i32, file: &str) -> Result<Option<String>, SandboxError> {
    let path = format!("/proc/{pid}/{file}");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) if e.raw_os_error() == Some(nix::libc::ESRCH) => Ok(None),
        Err(e) => Err(SandboxError::file("read", path)(e)),
    }
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
        let wanted = [(100_000, 65_536)];
        for (map, good) in [
            ("         0     100000      65536\n", true),
            ("0 1501 1\n1 100000 65536\n", false),
            ("0 100000 65535\n", false),
            ("1 100000 65536\n", false),
            ("", false),
            ("0 x 1\n", false),
            ("0 100000 30000\n30000 130000 35536\n", true),
            ("0 100000 65536\n65536 200000 1\n", false),
            ("0 100000 65536\n70000 165536 1\n", false),
        ] {
            assert_eq!(check_map(map, 1501, &wanted).is_ok(), good, "{map:?}");
        }
        assert!(check_map("0 1000 502\n", 1501, &[(1000, 502)]).is_err());
        assert!(check_map("0 1000 501\n", 1501, &[(1000, 501)]).is_ok());
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
    fn devices_of_a_container_without_a_network() {
        let head = "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes packets\n";
        let lo = format!("{head}    lo:       0       0    0    0\n");
        assert_eq!(check_alone(&lo), Ok(()));
        assert_eq!(check_alone(head), Ok(()));
        let tap = format!("{lo}  tap0: 100       1    0    0\n");
        assert!(check_alone(&tap).unwrap_err().contains("tap0"));
    }

    #[test]
    fn our_own_process_shares_every_namespace_with_us() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let error = namespaces(pid, &Expected::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("no user namespace"), "{error}");
    }

    #[test]
    fn the_set_of_capabilities() {
        assert_eq!(capability_bits(), 0xeb);
    }
}
