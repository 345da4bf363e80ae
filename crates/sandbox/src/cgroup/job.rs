//! The cgroup of one job: limits written and read back, everything in it killed, emptiness proved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bryo_model::{LimitPolicy, Limits, LimitsInForce, ResourceUse};

use super::delegation::mark;
use super::limits::Wanted;
use super::systemd::{Slice, manager_dir, unit_of};
use super::{Delegation, name_of, usage};
use crate::{Leftover, SandboxError};

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
        at: &[&Path],
    ) -> Result<Self, SandboxError> {
        let wanted = Wanted::new(limits, policy, |c| delegation.has(c), at)?;
        Self::of(delegation, name, &wanted, at)
    }

    /// The same for a Podman that makes its cgroups itself, and puts conmon beside the container.
    ///
    /// # Errors
    ///
    /// As [`JobCgroup::create`].
    pub(crate) fn create_with_conmon(
        delegation: &Delegation,
        name: &str,
        limits: &Limits,
        policy: LimitPolicy,
        at: &[&Path],
    ) -> Result<Self, SandboxError> {
        let wanted = Wanted::new(limits, policy, |c| delegation.has(c), at)?.with_conmon();
        Self::of(delegation, name, &wanted, at)
    }

    fn of(
        delegation: &Delegation,
        name: &str,
        wanted: &Wanted,
        at: &[&Path],
    ) -> Result<Self, SandboxError> {
        let dir = delegation.base().join(name);
        fs::create_dir(&dir).map_err(SandboxError::file("make", &dir))?;
        if let Some(work) = at.first().and_then(|dir| dir.parent()) {
            mark(&dir, work);
        }
        let mut job = Self {
            dir,
            slice: None,
            in_force: wanted.without(),
        };
        match wanted
            .write(&job.dir)
            .and_then(|()| wanted.read_back(&job.dir))
        {
            Ok(in_force) => {
                job.in_force = in_force;
                Ok(job)
            }
            Err(error) => {
                let _ = fs::remove_dir(&job.dir);
                Err(error)
            }
        }
    }

    /// Whether it could be made with these limits; for a slice without a delegation.
    ///
    /// # Errors
    ///
    /// As [`JobCgroup::create`].
    pub(crate) fn check(
        delegation: Option<&Delegation>,
        limits: &Limits,
        policy: LimitPolicy,
        at: &[&Path],
    ) -> Result<(), SandboxError> {
        let has = |controller: &str| match delegation {
            Some(delegation) => delegation.has(controller),
            None => manager_has(controller),
        };
        Wanted::new(limits, policy, has, at).map(drop)
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
        at: &[&Path],
    ) -> Result<Self, SandboxError> {
        let wanted = Wanted::new(limits, policy, manager_has, at)?.with_conmon();
        let slice = Slice::start(name, &wanted).await?;
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
            in_force: wanted.without(),
        };
        match wait_for(&job.dir, &wanted).await {
            Ok(in_force) => {
                job.in_force = in_force;
                Ok(job)
            }
            Err(error) => {
                job.remove().await;
                Err(error)
            }
        }
    }

    /// Where [`JobCgroup::create_slice`] makes it.
    pub(crate) fn slice_dir(name: &str) -> PathBuf {
        manager_dir().join(unit_of(name))
    }

    /// That of an attempt whose process is gone.
    pub(crate) fn of_crashed(dir: PathBuf) -> Self {
        Self {
            slice: Slice::at(&dir),
            dir,
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
        match usage::text_of(&self.dir.join("cgroup.events")) {
            Ok(text) => usage::keyed(&text, "populated") == Some(0),
            Err(e) => e.kind() == io::ErrorKind::NotFound,
        }
    }

    /// Whether it has processes, and whether they are frozen.
    pub(crate) fn state(&self) -> (bool, bool) {
        let events = usage::text_of(&self.dir.join("cgroup.events")).unwrap_or_default();
        let is = |key| usage::keyed(&events, key) == Some(1);
        (is("populated"), is("frozen"))
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
                // A unit that systemd does not know any more, or no systemd that could be asked.
                if slice.stop().await.is_err() && self.dir.exists() {
                    remove_tree(&self.dir).map_err(SandboxError::file("remove", &self.dir))?;
                }
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
}

/// Whether the user's systemd can set limits of this kind.
fn manager_has(controller: &str) -> bool {
    let controllers = manager_dir().join("cgroup.controllers");
    let available = fs::read_to_string(controllers).unwrap_or_default();
    available.split_whitespace().any(|word| word == controller)
}

/// systemd makes the directory first and sets the limits, and with them the controllers' files, after that.
async fn wait_for(dir: &Path, wanted: &Wanted) -> Result<LimitsInForce, SandboxError> {
    let since = Instant::now();
    loop {
        let set = wanted
            .write_beside_systemd(dir)
            .and_then(|()| wanted.read_back(dir));
        match set {
            Err(_) if since.elapsed() < APPLYING => tokio::time::sleep(LOOK).await,
            other => return other,
        }
    }
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
