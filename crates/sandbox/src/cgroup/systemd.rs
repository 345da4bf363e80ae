//! Asking the user's systemd for units, over D-Bus (org.freedesktop.systemd1(5)).

use std::path::{Path, PathBuf};
use std::time::Duration;

use zbus::{OwnedObjectPath, Variant};

use super::limits::Wanted;
use super::{directory, own_line};
use crate::{Missing, SandboxError};

/// A user manager that does not place a scope within this time is not going to.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often the kernel is asked whether we were moved.
const LOOK: Duration = Duration::from_millis(1);

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
trait Manager {
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[(&str, Variant<'_>)],
        auxiliary: &[(&str, &[(&str, Variant<'_>)])],
    ) -> zbus::Result<OwnedObjectPath>;

    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    #[zbus(name = "GetUnitByPID")]
    fn get_unit_by_pid(&self, pid: u32) -> zbus::Result<OwnedObjectPath>;
}

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Service",
    default_service = "org.freedesktop.systemd1"
)]
trait Service {
    #[zbus(property)]
    fn delegate(&self) -> zbus::Result<bool>;

    #[zbus(property)]
    fn control_group(&self) -> zbus::Result<String>;
}

/// Whether this cgroup is that of a service to which the user's systemd has handed it. The mark that systemd makes on such
/// cgroups is made by the system's manager alone: in a unit of a user it has to be asked.
pub(super) async fn hands_over(own: &Path) -> bool {
    let ask = async {
        let manager = manager().await.ok()?;
        let unit = manager.get_unit_by_pid(std::process::id()).await.ok()?;
        let service = ServiceProxy::builder(manager.inner().connection())
            .path(unit)
            .build()
            .await
            .ok()?;
        let at = service.control_group().await.ok()?;
        (directory(&at) == own && service.delegate().await.ok()?).then_some(())
    };
    let asked = tokio::time::timeout(PATIENCE, ask).await;
    asked.is_ok_and(|answer| answer.is_some())
}

async fn manager() -> Result<ManagerProxy<'static>, SandboxError> {
    let connection = zbus::Connection::session().await.map_err(|e| {
        SandboxError::Host(vec![Missing::new(
            format!("no cgroup is delegated to this process and the user's systemd cannot be asked ({e})"),
            "log in through a session of your own, or enable one with loginctl enable-linger; \
             in a service set Delegate=yes",
        )])
    })?;
    ManagerProxy::new(&connection)
        .await
        .map_err(|e| SandboxError::Systemd(e.to_string()))
}

/// Moves this process into a delegated scope of its own. The scope ends with the last process in it.
pub(super) async fn request_scope() -> Result<(), SandboxError> {
    let before = own_cgroup();
    let name = format!("bryo-{}.scope", std::process::id());
    let ask = async {
        let properties = [
            ("Description", Variant::from("Bryo build runner")),
            ("PIDs", Variant::from(vec![std::process::id()])),
            ("Delegate", Variant::from(true)),
            ("CollectMode", Variant::from("inactive-or-failed")),
        ];
        manager()
            .await?
            .start_transient_unit(&name, "fail", &properties, &[])
            .await
            .map_err(|e| SandboxError::Systemd(e.to_string()))?;
        // The answer says that the job is queued; the kernel says when we have moved.
        while own_cgroup() == before {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, ask)
        .await
        .unwrap_or_else(|_| Err(SandboxError::Systemd("no answer in time".to_owned())))
}

fn own_cgroup() -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    own_line(&text).map(str::to_owned)
}

/// The cgroup of the user's systemd.
pub(super) fn manager_dir() -> PathBuf {
    let uid = nix::unistd::Uid::effective();
    directory(&format!("/user.slice/user-{uid}.slice/user@{uid}.service"))
}

/// The slice of this job. "a-b.slice" lies in "a.slice", which systemd would make and leave.
pub(super) fn unit_of(name: &str) -> String {
    format!("{}.slice", name.replace('-', "_"))
}

/// A slice of the user's systemd: a cgroup that stays when the container in it ends, so that it can still be read.
///
/// Podman with systemd as its cgroup manager takes only slices as a parent.
#[derive(Debug)]
pub(crate) struct Slice {
    name: String,
}

impl Slice {
    /// Makes it. The limits are properties, so that systemd does not undo what was written behind its back.
    pub(super) async fn start(name: &str, wanted: &Wanted) -> Result<Self, SandboxError> {
        let slice = unit_of(name);
        let mut properties = vec![
            ("Description", Variant::from("Bryo job")),
            ("CollectMode", Variant::from("inactive-or-failed")),
            ("MemoryAccounting", Variant::from(true)),
            ("TasksAccounting", Variant::from(true)),
            ("CPUAccounting", Variant::from(true)),
            ("IOAccounting", Variant::from(true)),
        ];
        if let Some(bytes) = wanted.memory {
            properties.push(("MemoryMax", Variant::from(bytes)));
            properties.push(("MemorySwapMax", Variant::from(0_u64)));
        }
        if let Some(bytes) = wanted.memory_high {
            properties.push(("MemoryHigh", Variant::from(bytes)));
        }
        if let Some(most) = wanted.pids {
            properties.push(("TasksMax", Variant::from(u64::from(most))));
        }
        if let Some(cpus) = wanted.cpu {
            let us = u64::from(cpus.millis()) * 1000;
            properties.push(("CPUQuotaPerSecUSec", Variant::from(us)));
        }
        if let Some(weight) = wanted.cpu_weight {
            properties.push(("CPUWeight", Variant::from(u64::from(weight.get()))));
        }
        let ask = async {
            manager()
                .await?
                .start_transient_unit(&slice, "fail", &properties, &[])
                .await
                .map_err(|e| SandboxError::Systemd(e.to_string()))
        };
        tokio::time::timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_| Err(SandboxError::Systemd("no answer in time".to_owned())))?;
        Ok(Self { name: slice })
    }

    /// The one whose cgroup this is, if it is one.
    pub(super) fn at(dir: &Path) -> Option<Self> {
        let name = dir.file_name()?.to_str()?;
        let is_slice = name.ends_with(".slice") && dir.parent() == Some(&manager_dir());
        is_slice.then(|| Self {
            name: name.to_owned(),
        })
    }

    /// The unit's name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Where its cgroup is: beneath the user manager's own.
    pub(crate) async fn directory(&self) -> Result<PathBuf, SandboxError> {
        let dir = manager_dir().join(&self.name);
        let appear = async {
            while !dir.is_dir() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(PATIENCE, appear)
            .await
            .map_err(|_| SandboxError::Systemd(format!("{} did not appear", dir.display())))?;
        Ok(dir)
    }

    /// Ends it.
    pub(crate) async fn stop(&self) -> Result<(), SandboxError> {
        let ask = async {
            manager()
                .await?
                .stop_unit(&self.name, "replace")
                .await
                .map_err(|e| SandboxError::Systemd(e.to_string()))
        };
        tokio::time::timeout(PATIENCE, ask)
            .await
            .unwrap_or_else(|_| Err(SandboxError::Systemd("no answer in time".to_owned())))
            .map(drop)
    }
}
