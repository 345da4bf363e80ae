//! The recipe of a sandbox: plain data, comparable, made anew for each attempt.

use std::path::{Path, PathBuf};

use bryo_model::{ContainerName, Destination, Egress, LimitPolicy, Limits, NetworkMode};

use crate::Selinux;

/// Whether the job may write through a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may not.
    ReadOnly,
    /// It may. A directory that is mounted so is given to the job's root.
    ReadWrite,
}

/// A directory or file of the host that the job sees. Always `nosuid,nodev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where it is on the host; absolute.
    pub host: PathBuf,
    /// Where the job sees it; absolute. A mount beneath another one comes after it in the list.
    pub guest: PathBuf,
    /// What the job may do with it.
    pub access: Access,
}

/// What a sandbox is connected to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// How.
    pub mode: NetworkMode,
    /// Where the job may connect to.
    pub egress: Egress,
    /// What the host's owner keeps closed to every job, whatever it asks for: the control plane.
    pub closed: Vec<Destination>,
    /// Whether the job may connect to the host's own addresses. Loopback and link-local ones are closed all the same.
    pub reach_host: bool,
}

impl Network {
    /// None at all.
    #[must_use]
    pub fn none() -> Self {
        Self {
            mode: NetworkMode::None,
            egress: Egress::default(),
            closed: Vec::new(),
            reach_host: false,
        }
    }
}

/// Numeric identity of the job's first process, inside its user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserIds {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What the job's root file system is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Root {
    /// Unpacked layers, topmost first, whose files belong to the ids of the slot that the attempt was made ready with.
    Layers {
        /// The directories.
        dirs: Vec<PathBuf>,
        /// Who the job runs as.
        user: UserIds,
    },
    /// An image in the user's Podman store.
    PodmanImage {
        /// The image id: 64 hexadecimal digits.
        id: String,
        /// The `User` of the image's configuration, as it stands there.
        user: String,
    },
}

impl SandboxSpec {
    /// A directory on each file system that a job reads from or writes to without an engine; its own one first.
    pub(crate) fn disks(&self) -> Vec<&Path> {
        let mut all = vec![self.work.as_path()];
        if self.limits.io_read.is_some() {
            all.extend(self.mounts.iter().map(|mount| mount.host.as_path()));
            if let Root::Layers { dirs, .. } = &self.root {
                all.extend(dirs.iter().map(PathBuf::as_path));
            }
        }
        all
    }

    /// Directories of the host that the job may write to.
    pub(crate) fn writable_mounts(&self) -> Vec<PathBuf> {
        let writable = self.mounts.iter().filter(|m| m.access == Access::ReadWrite);
        writable.map(|mount| mount.host.clone()).collect()
    }
}

/// The recipe of one sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSpec {
    /// Name of container and cgroup, and label by which leftovers are found.
    pub name: ContainerName,
    /// What `/` is.
    pub root: Root,
    /// What runs; never empty.
    pub args: Vec<String>,
    /// Its whole environment.
    pub env: Vec<(String, String)>,
    /// The directory it starts in; absolute, as the job sees it.
    pub cwd: String,
    /// What it sees of the host.
    pub mounts: Vec<Mount>,
    /// What it can reach.
    pub network: Network,
    /// Whether `/` is read-only; `/tmp`, `/var/tmp` and `/run` are then file systems in memory.
    pub read_only_root: bool,
    /// Name of a loaded AppArmor profile that the job runs under.
    pub apparmor: Option<String>,
    /// Which SELinux labels it has, where the host has SELinux.
    pub selinux: Selinux,
    /// Its bounds. The time limits are the engine's matter.
    pub limits: Limits,
    /// What to do about a bound that this host cannot enforce.
    pub limit_policy: LimitPolicy,
    /// A directory of this attempt alone, for the runtime's own files; absolute, owned by the agent.
    pub work: PathBuf,
}
