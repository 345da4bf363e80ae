//! Looking around after a story: what is there that should not be.
//!
//! Each finding is a sentence. The look is at the kernel and at podman, not at what Bryo believes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::Pid;

pub(crate) const PREFIX: &str = "bryo-01";

/// Everything of Bryo's jobs that is still there. `world` and `work` are directories of the story.
pub(crate) fn around(world: &Path, work: &Path) -> Vec<String> {
    let mut found = Vec::new();
    work_directories(work, &mut found);
    cgroups(&mut found);
    processes(world, &mut found);
    containers(&mut found);
    found
}

/// Only the processes.
pub(crate) fn processes_of_jobs(world: &Path) -> Vec<String> {
    let mut found = Vec::new();
    processes(world, &mut found);
    found
}

fn work_directories(work: &Path, found: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(work) else {
        return;
    };
    for entry in entries.flatten() {
        found.push(format!("work directory {}", entry.path().display()));
    }
}

fn cgroups(found: &mut Vec<String>) {
    for dir in cgroups_of_jobs() {
        found.push(format!("cgroup {}", dir.display()));
    }
}

/// Cgroups of jobs, below the one that the bed, or systemd, gave to this user.
pub(crate) fn cgroups_of_jobs() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let top = std::env::var("BRYO_TEST_CGROUP").unwrap_or_else(|_| {
        let uid = nix::unistd::Uid::effective();
        format!("/sys/fs/cgroup/user.slice/user-{uid}.slice")
    });
    let mut stack = vec![top.into()];
    while let Some(dir) = stack.pop() {
        let dir: PathBuf = dir;
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|t| t.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.replace('_', "-").starts_with(PREFIX) || name.starts_with("libpod-") {
                found.push(entry.path());
            }
            stack.push(entry.path());
        }
    }
    found
}

/// Processes of this user and of its subordinate ids that belong to a job or help one, and mounts of the story in any of
/// their mount namespaces.
fn processes(world: &Path, found: &mut Vec<String>) {
    let world = world.to_string_lossy();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|b| b.is_ascii_digit()) || name == std::process::id().to_string() {
            continue;
        }
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let stat = read("stat");
        // A dead process that its parent has not asked about yet runs nothing and holds nothing.
        if stat.rsplit(") ").next().is_some_and(|s| s.starts_with('Z')) {
            continue;
        }
        let command = read("cmdline").replace('\0', " ");
        if read("cgroup").contains(PREFIX) {
            found.push(format!("process {name} in a job's cgroup: {command}"));
        }
        let ours = ["__helper", "__inside", "slirp4netns", "pasta"]
            .iter()
            .any(|word| command.contains(word));
        if ours && !command.contains("podman") {
            found.push(format!("process {name}: {command}"));
        }
        for line in read("mountinfo").lines() {
            if line.contains(&*world) {
                found.push(format!(
                    "mount in the namespace of process {name} ({command}): {line}"
                ));
            }
        }
    }
}

/// The processes of which this is true: of their `/proc/PID/status` and their command line.
pub(crate) fn processes_that(is: impl Fn(&str, &str) -> bool) -> Vec<Pid> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let command = fs::read_to_string(entry.path().join("cmdline")).ok()?;
            is(&status, &command.replace('\0', " ")).then_some(Pid::from_raw(pid))
        })
        .collect()
}

fn containers(found: &mut Vec<String>) {
    let all = Command::new("podman")
        .args(["ps", "--all", "--format", "{{.Names}}"])
        .output();
    // A host without podman has no containers; a podman that fails hides them.
    if let Ok(out) = all {
        assert!(
            out.status.success(),
            "podman ps: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        for name in String::from_utf8_lossy(&out.stdout).lines() {
            found.push(format!("container {name}"));
        }
    }
}

/// Processes that show this text: in their command line, or in the environment that `agent` gave to its descendants.
pub(crate) fn shown_in_processes(agent: Pid, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for pid in processes_that(|_, command| command.contains(text)) {
        found.push(format!("command line of process {pid}"));
    }
    let mut family = vec![agent];
    let mut next = 0;
    while let Some(parent) = family.get(next).copied() {
        let parent = format!("PPid:\t{parent}\n");
        family.extend(processes_that(|status, _| status.contains(&parent)));
        next += 1;
    }
    for pid in family.into_iter().skip(1) {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(text) {
            found.push(format!("environment of process {pid}"));
        }
    }
    found
}
