//! The cgroup of one job: limits written and read back, everything in it killed, emptiness proved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bryo_model::{Cpus, LimitPolicy, Limits, LimitsInForce, ResourceUse};

use nix::unistd::{SysconfVar, sysconf};

use super::systemd::Slice;
use super::{Delegation, name_of, usage};
use crate::{Leftover, SandboxError};

/// The period of `cpu.max`, in microseconds: the kernel's default.
const CPU_PERIOD: u64 = 100_000;

/// After a kill the kernel needs a moment to end what was in a system call; a process that survives this long is stuck.
const DYING: Duration = Duration::from_secs(10);

/// How long systemd may take to set the limits of a unit that it has started.
const APPLYING: Duration = Duration::from_secs(5);

/// How often emptiness is looked for after a kill.
const LOOK: Duration = Duration::from_millis(1);

/// A job's cgroup.
#[derive(Debug)]
pub(crate) struct JobCgroup {
    dir: PathBuf,
    slice: Option<Slice>,
    in_force: LimitsInForce,
}

impl JobCgroup {
    /// Makes it below the delegation, with its limits in force.
    ///
    /// # Errors
    ///
    /// When a limit cannot be enforced and the policy does not allow to go without it.
    pub(crate) fn create(
        delegation: &Delegation,
        name: &str,
        limits: &Limits,
        policy: LimitPolicy,
    ) -> Result<Self, SandboxError> {
        let wanted = Wanted::new(limits, policy, |c| delegation.has(c))?;
        let dir = delegation.base().join(name);
        fs::create_dir(&dir).map_err(SandboxError::file("make", &dir))?;
        let mut job = Self {
            dir,
            slice: None,
            in_force: wanted.unlimited(limits),
        };
        let result = wanted.write(&job.dir).and_then(|()| job.read_back(&wanted));
        if let Err(error) = result {
            let _ = fs::remove_dir(&job.dir);
            return Err(error);
        }
        Ok(job)
    }

    /// Makes it as a slice of the user's systemd, for a Podman whose cgroups systemd manages.
    ///
    /// # Errors
    ///
    /// As [`JobCgroup::create`].
    pub(crate) async fn create_slice(
        name: &str,
        limits: &Limits,
        policy: LimitPolicy,
    ) -> Result<Self, SandboxError> {
        let uid = nix::unistd::Uid::effective();
        let manager = super::directory(&format!("/user.slice/user-{uid}.slice/user@{uid}.service"));
        let available = fs::read_to_string(manager.join("cgroup.controllers")).unwrap_or_default();
        let wanted = Wanted::new(limits, policy, |c| {
            available.split_whitespace().any(|word| word == c)
        })?;
        let slice = Slice::start(
            name,
            wanted.memory,
            wanted.pids,
            wanted.cpu.map(|c| u64::from(c.millis()) * 1000),
        )
        .await?;
        let dir = match slice.directory().await {
            Ok(dir) => dir,
            Err(error) => {
                let _ = slice.stop().await;
                return Err(error);
            }
        };
        let mut job = Self {
            dir,
            slice: Some(slice),
            in_force: wanted.unlimited(limits),
        };
        if let Err(error) = job.wait_for(&wanted).await {
            job.remove().await;
            return Err(error);
        }
        // systemd has no property for this on a slice, and leaves the file alone.
        if wanted.memory.is_some() {
            let _ = fs::write(job.dir.join("memory.oom.group"), "1");
        }
        Ok(job)
    }

    /// That of an attempt whose process is gone.
    pub(crate) fn of_crashed(dir: PathBuf) -> Self {
        Self {
            dir,
            slice: None,
            in_force: LimitsInForce::default(),
        }
    }

    /// Its directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// What Podman takes as `cgroup_parent`.
    pub(crate) fn podman_parent(&self) -> String {
        self.slice
            .as_ref()
            .map_or_else(|| name_of(&self.dir), |slice| slice.name().to_owned())
    }

    /// The limits that the kernel confirmed.
    pub(crate) fn limits_in_force(&self) -> &LimitsInForce {
        &self.in_force
    }

    /// What was used in it so far.
    pub(crate) fn usage(&self) -> ResourceUse {
        usage::read(&self.dir)
    }

    /// Kills everything in it, frozen or not. Does not wait.
    pub(crate) fn kill(&self) -> Result<(), SandboxError> {
        let path = self.dir.join("cgroup.kill");
        fs::write(&path, "1").map_err(SandboxError::file("write", path))
    }

    /// Whether no process is left in it.
    pub(crate) fn is_empty(&self) -> bool {
        match fs::read_to_string(self.dir.join("cgroup.events")) {
            Ok(text) => usage::keyed(&text, "populated") == Some(0),
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Kills what is left, proves that it is empty, and removes it. Safe to repeat.
    pub(crate) async fn remove(&self) -> Vec<Leftover> {
        let mut left = Vec::new();
        if !self.is_empty() {
            let _ = self.kill();
            let empty = async {
                while !self.is_empty() {
                    tokio::time::sleep(LOOK).await;
                }
            };
            if tokio::time::timeout(DYING, empty).await.is_err() {
                left.push(Leftover(format!(
                    "processes in cgroup {} cannot be killed",
                    self.dir.display()
                )));
            }
        }
        if let Some(slice) = &self.slice {
            let gone = async {
                slice.stop().await?;
                while self.dir.exists() {
                    tokio::time::sleep(LOOK).await;
                }
                Ok::<_, SandboxError>(())
            };
            match tokio::time::timeout(DYING, gone).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => left.push(Leftover(format!("slice {}: {error}", slice.name()))),
                Err(_) => left.push(Leftover(format!("slice {} does not end", slice.name()))),
            }
        } else if let Err(error) = remove_tree(&self.dir) {
            left.push(Leftover(format!(
                "cgroup {} could not be removed: {error}",
                self.dir.display()
            )));
        }
        left
    }

    /// systemd makes the directory first and sets the limits after that.
    async fn wait_for(&mut self, wanted: &Wanted) -> Result<(), SandboxError> {
        let since = Instant::now();
        loop {
            match self.read_back(wanted) {
                Err(_) if since.elapsed() < APPLYING => tokio::time::sleep(LOOK).await,
                other => return other,
            }
        }
    }

    /// What was written is compared with what the kernel shows; only that is reported.
    fn read_back(&mut self, wanted: &Wanted) -> Result<(), SandboxError> {
        let read = |file: &str| {
            let path = self.dir.join(file);
            fs::read_to_string(&path)
                .map(|text| text.trim().to_owned())
                .map_err(SandboxError::file("read", path))
        };
        let compare = |limit, wrote: String, read: String| {
            if wrote == read {
                Ok(())
            } else {
                Err(SandboxError::ReadBack { limit, wrote, read })
            }
        };
        if let Some(bytes) = wanted.memory {
            compare("memory", bytes.to_string(), read("memory.max")?)?;
            // A kernel without swap accounting has no such file, and then no swap to bound by job.
            if self.dir.join("memory.swap.max").exists() {
                compare("swap", "0".to_owned(), read("memory.swap.max")?)?;
            }
            self.in_force.memory = Some(bryo_model::ByteSize::new(bytes));
        }
        if let Some(most) = wanted.pids {
            compare("pids", most.to_string(), read("pids.max")?)?;
            self.in_force.pids = Some(most);
        }
        if let Some(cpus) = wanted.cpu {
            compare("cpu", cpu_max(cpus), read("cpu.max")?)?;
            self.in_force.cpus = Some(cpus);
        }
        Ok(())
    }
}

/// The limits that can be enforced here.
struct Wanted {
    memory: Option<u64>,
    pids: Option<u32>,
    cpu: Option<Cpus>,
}

impl Wanted {
    fn new(
        limits: &Limits,
        policy: LimitPolicy,
        has: impl Fn(&str) -> bool,
    ) -> Result<Self, SandboxError> {
        let asked = [
            ("memory", limits.memory.is_some()),
            ("pids", limits.pids.is_some()),
            ("cpu", limits.cpus.is_some()),
        ];
        for (limit, asked) in asked {
            if asked && !has(limit) && policy == LimitPolicy::Enforce {
                return Err(SandboxError::Limit {
                    limit,
                    why: format!("the cgroup controller {limit} is not delegated to this user"),
                    fix: "delegate it: sudo systemctl edit user@.service, add [Service] \
                          Delegate=cpu cpuset io memory pids, then log in again"
                        .to_owned(),
                });
            }
        }
        // The kernel counts memory in pages; what it would round must not look like a refusal.
        let page = sysconf(SysconfVar::PAGE_SIZE)
            .ok()
            .flatten()
            .and_then(|n| u64::try_from(n).ok())
            .unwrap_or(4096);
        Ok(Self {
            memory: limits
                .memory
                .filter(|_| has("memory"))
                .map(|size| (size.bytes() / page).max(1) * page),
            pids: limits.pids.filter(|_| has("pids")),
            cpu: limits.cpus.filter(|_| has("cpu")),
        })
    }

    /// What was asked for and is not here.
    fn unlimited(&self, limits: &Limits) -> LimitsInForce {
        let pairs = [
            ("memory", limits.memory.is_some() && self.memory.is_none()),
            ("pids", limits.pids.is_some() && self.pids.is_none()),
            ("cpus", limits.cpus.is_some() && self.cpu.is_none()),
        ];
        LimitsInForce {
            timeout_s: limits.timeout.as_secs_f64(),
            unlimited: pairs
                .into_iter()
                .filter(|(_, missing)| *missing)
                .map(|(name, _)| name.to_owned())
                .collect(),
            ..LimitsInForce::default()
        }
    }

    fn write(&self, dir: &Path) -> Result<(), SandboxError> {
        let write = |file: &str, value: &str| {
            let path = dir.join(file);
            fs::write(&path, value).map_err(SandboxError::file("write", path))
        };
        if let Some(bytes) = self.memory {
            write("memory.max", &bytes.to_string())?;
            if dir.join("memory.swap.max").exists() {
                write("memory.swap.max", "0")?;
            }
            // Half a build is no build: the kernel ends all of it or none.
            write("memory.oom.group", "1")?;
        }
        if let Some(most) = self.pids {
            write("pids.max", &most.to_string())?;
        }
        if let Some(cpus) = self.cpu {
            write("cpu.max", &cpu_max(cpus))?;
        }
        Ok(())
    }
}

fn cpu_max(cpus: Cpus) -> String {
    format!(
        "{} {CPU_PERIOD}",
        u64::from(cpus.millis()) * CPU_PERIOD / 1000
    )
}

/// Removes a cgroup and those beneath it. One that is gone is no error.
fn remove_tree(dir: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
