//! Finding, or asking for, a cgroup that is ours to divide.
//!
//! Systemd allows exactly one writer per cgroup. So a directory is used only when it was delegated to us: it carries
//! systemd's `user.delegate` mark, or there is no systemd at all. From a terminal, where nothing is delegated, the
//! user's systemd is asked for a scope of our own.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};

use super::{ROOT, directory, own_line, systemd};
use crate::proc::parent_of;
use crate::{Missing, SandboxError};

/// Controllers that limits are made of.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];

/// How often our own programs are looked for while they are moved.
const MOVES: u32 = 20;

/// A cgroup in which we may make others.
#[derive(Clone, Debug)]
pub struct Delegation {
    base: PathBuf,
    controllers: BTreeSet<String>,
}

impl Delegation {
    /// Finds or asks for one. Bryo's own process is moved into a leaf of it where that is needed.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Host`] when the host has no cgroup v2, or nothing is delegated and no systemd can be asked.
    pub async fn acquire() -> Result<Self, SandboxError> {
        if !Path::new(ROOT).join("cgroup.controllers").exists() {
            return Err(SandboxError::Host(vec![Missing::new(
                "there is no cgroup v2 hierarchy at /sys/fs/cgroup",
                "boot with systemd.unified_cgroup_hierarchy=1",
            )]));
        }
        let own = own_directory()?;
        if let Some(found) = Self::from_surroundings(&own) {
            return Ok(found);
        }
        if systemd::hands_over(&own).await
            && let Some(found) = Self::take_over(&own)
        {
            return Ok(found);
        }
        systemd::request_scope().await?;
        let scope = own_directory()?;
        Self::take_over(&scope)
            .ok_or_else(|| SandboxError::Systemd(format!("{} cannot be divided", scope.display())))
    }

    /// The directory in which a job's cgroup is made.
    pub(crate) fn base(&self) -> &Path {
        &self.base
    }

    /// Names of cgroups in it whose attempts have their directories beneath `work`.
    pub(crate) fn ours(&self, work: &Path) -> Vec<String> {
        let entries = fs::read_dir(&self.base).into_iter().flatten().flatten();
        entries
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
            .filter(|entry| owner(&entry.path()).is_some_and(|root| root == work))
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// Whether limits of this kind can be set.
    pub(crate) fn has(&self, controller: &str) -> bool {
        self.controllers.contains(controller)
    }

    fn from_surroundings(own: &Path) -> Option<Self> {
        // We are in a leaf that somebody prepared inside a delegated cgroup.
        if let Some(parent) = own.parent().filter(|p| p.starts_with(ROOT))
            && delegated(parent)
            && members(parent).is_empty()
        {
            return Some(Self::divide(parent));
        }
        if delegated(own) {
            return Self::take_over(own);
        }
        None
    }

    /// Makes a cgroup that we are in divisible: limits need a directory without processes of its own.
    fn take_over(own: &Path) -> Option<Self> {
        let me = std::process::id();
        // A helper of ours (newuidmap) may end between two looks, and then has no parent: it is not somebody else.
        let foreign = |pid| !descends(pid, me) && members(own).contains(&pid) && !descends(pid, me);
        let others = members(own).into_iter().any(foreign);
        if others {
            // They are not ours to move. Jobs can still be told apart and killed, but not limited.
            return systemd_is_absent().then(|| Self {
                base: own.to_owned(),
                controllers: BTreeSet::new(),
            });
        }
        let leaf = own.join("agent");
        match fs::create_dir(&leaf) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(_) => return None,
        }
        let procs = leaf.join("cgroup.procs");
        fs::write(&procs, me.to_string()).ok()?;
        // Programs that were started meanwhile are ours too; those started from here on begin in the leaf.
        for _ in 0..MOVES {
            let left = members(own);
            if left.is_empty() {
                break;
            }
            for pid in left {
                // One that has just ended is no trouble.
                let _ = fs::write(&procs, pid.to_string());
            }
        }
        Some(Self::divide(own))
    }

    fn divide(base: &Path) -> Self {
        // Each by itself: one that is not available must not cost the others.
        for controller in CONTROLLERS {
            let _ = fs::write(
                base.join("cgroup.subtree_control"),
                format!("+{controller}"),
            );
        }
        let enabled = fs::read_to_string(base.join("cgroup.subtree_control")).unwrap_or_default();
        Self {
            base: base.to_owned(),
            controllers: enabled.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

fn own_directory() -> Result<PathBuf, SandboxError> {
    let path = "/proc/self/cgroup";
    let text = fs::read_to_string(path).map_err(SandboxError::file("read", path))?;
    own_line(&text).map(directory).ok_or_else(|| {
        SandboxError::Host(vec![Missing::new(
            "this process is in no cgroup v2",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )])
    })
}

/// Whether this cgroup was handed to us.
fn delegated(dir: &Path) -> bool {
    let writable = [
        dir.to_owned(),
        dir.join("cgroup.procs"),
        dir.join("cgroup.subtree_control"),
    ]
    .iter()
    .all(|p| access(p, AccessFlags::W_OK).is_ok());
    writable && dir != Path::new(ROOT) && (systemd_is_absent() || marked(dir))
}

/// The mark on a job's cgroup: the directory in which its attempt has its own.
const OWNER: &str = "user.bryo.work";

/// Marks it. A kernel that keeps no such marks (before 5.7) leaves a cgroup to the attempt's own notes.
pub(super) fn mark(dir: &Path, work: &Path) {
    let value = work.as_os_str().as_encoded_bytes();
    let _ = rustix::fs::setxattr(dir, OWNER, value, rustix::fs::XattrFlags::empty());
}

fn owner(dir: &Path) -> Option<PathBuf> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(dir, OWNER, value.as_mut_slice()).ok()?;
    value.truncate(length);
    Some(PathBuf::from(OsString::from_vec(value)))
}

fn marked(dir: &Path) -> bool {
    let mut value = [0_u8; 8];
    rustix::fs::getxattr(dir, "user.delegate", &mut value).is_ok_and(|n| &value[..n] == b"1")
}

/// sd_booted(3).
fn systemd_is_absent() -> bool {
    !Path::new("/run/systemd/system").exists()
}

/// Whether the process is `ancestor` or was started by it, however indirectly.
fn descends(pid: u32, ancestor: u32) -> bool {
    let mut at = pid;
    while at != ancestor {
        let parent = i32::try_from(at).ok().and_then(parent_of);
        match parent.and_then(|p| u32::try_from(p).ok()) {
            Some(parent) if parent > 1 => at = parent,
            _ => return false,
        }
    }
    true
}

fn members(dir: &Path) -> Vec<u32> {
    fs::read_to_string(dir.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        .collect()
}
