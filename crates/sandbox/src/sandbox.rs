//! One rootless container, whatever runtime made it.

use std::sync::Arc;

use bryo_model::{LimitPolicy, Limits, LimitsInForce, ResourceUse};
use nix::sys::signal::Signal;

use crate::contract::Container;
use crate::logs::Logs;
use crate::selinux::Labels;
use crate::userns::UserNamespace;
use crate::{DiskWatch, Exit, Leftover, SandboxError, SandboxSpec};

/// Where a job is in its life, as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Its limits are in force; nothing of it has run.
    Made,
    /// It has processes.
    Running,
    /// It has processes, and none of them runs.
    Frozen,
    /// No process of it is left.
    Over,
}

/// One rootless container.
#[derive(Debug)]
pub struct Sandbox {
    container: Box<dyn Container>,
    userns: Arc<UserNamespace>,
    disk: Option<DiskWatch>,
    /// Whether there is, or was before it was taken, a watch.
    watched: bool,
    limits: Limits,
    started: bool,
    /// Kept for its categories: no other job has them as long as this one may have processes.
    _labels: Option<Arc<Labels>>,
}

impl Sandbox {
    /// From here on the job ends with this process, and its bounds are watched.
    pub(crate) async fn complete(
        container: Box<dyn Container>,
        userns: Arc<UserNamespace>,
        spec: &SandboxSpec,
        labels: Option<Arc<Labels>>,
    ) -> Result<Self, SandboxError> {
        let mut sandbox = Self {
            _labels: labels,
            container,
            userns,
            disk: None,
            watched: false,
            limits: spec.limits.clone(),
            started: false,
        };
        let guarded = sandbox.userns.guard(sandbox.container.cgroup().dir()).await;
        let watched = match guarded {
            Ok(()) => sandbox.watch_disk(spec).await,
            Err(error) => Err(error),
        };
        match watched {
            Ok(disk) => {
                sandbox.watched = disk.is_some();
                sandbox.disk = disk;
                Ok(sandbox)
            }
            Err(error) => {
                sandbox.close().await;
                Err(error)
            }
        }
    }

    async fn watch_disk(&self, spec: &SandboxSpec) -> Result<Option<DiskWatch>, SandboxError> {
        if spec.limits.disk.is_none() && spec.limits.disk_files.is_none() {
            return Ok(None);
        }
        let dirs = match self.container.writable(spec).await {
            Err(SandboxError::Limit { .. }) if spec.limit_policy == LimitPolicy::AllowUnlimited => {
                return Ok(None);
            }
            dirs => dirs?,
        };
        let elsewhere = self.container.user_namespace();
        let cgroup = self.container.cgroup().dir().to_owned();
        let userns = Arc::clone(&self.userns);
        let watch = DiskWatch::begin(userns, dirs, cgroup, elsewhere, &spec.limits).await?;
        Ok(Some(watch))
    }

    /// The watch over what the job has on disk, if it is bounded. It can be taken once.
    pub fn take_disk_watch(&mut self) -> Option<DiskWatch> {
        self.disk.take()
    }

    /// Waits until the helper that the job's clean-up needs has ended, which it does only when something is wrong.
    pub fn helper_lost(&self) -> impl Future<Output = SandboxError> + 'static {
        let userns = Arc::clone(&self.userns);
        async move { SandboxError::Helper(userns.ended().await) }
    }

    /// Where the job is in its life.
    #[must_use]
    pub fn status(&self) -> Status {
        match self.container.cgroup().state() {
            _ if !self.started => Status::Made,
            (false, _) => Status::Over,
            (true, true) => Status::Frozen,
            (true, false) => Status::Running,
        }
    }

    /// Whether no process of the job is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.container.cgroup().is_empty()
    }

    /// Starts the job. Its output must be read to the end, or the job waits.
    ///
    /// # Errors
    ///
    /// When the runtime refuses, or the job turns out to be less confined than its recipe says.
    pub async fn start(&mut self) -> Result<Logs, SandboxError> {
        self.started = true;
        self.container.start().await
    }

    /// Waits for the end of the job's first process. Safe to drop and to call again.
    ///
    /// # Errors
    ///
    /// When the runtime could not make the container, or lost it.
    pub async fn wait(&mut self) -> Result<Exit, SandboxError> {
        self.container.wait().await
    }

    /// Asks the job's first process to end. Returns whether it can notice: the first process of a pid namespace is met
    /// only by signals that it handles or blocks, and by `SIGKILL`; if it does neither, waiting for it is pointless.
    pub fn stop(&mut self, signal: Signal) -> bool {
        self.container.stop(signal)
    }

    /// Kills everything of the job. [`Sandbox::wait`] then returns.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<(), SandboxError> {
        self.container.kill()
    }

    /// Whether the started job has ended, though nobody has waited for it yet.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.container.has_ended()
    }

    /// Waits until the job has ended although a service does not say so. Without a service it waits for ever.
    pub fn ended(&self) -> impl Future<Output = ()> + 'static {
        self.container.ended()
    }

    /// What the job used so far, as the kernel counts it.
    #[must_use]
    pub fn usage(&self) -> ResourceUse {
        let counted = self.container.counted();
        let of_cgroup = self.container.cgroup().usage();
        let refused = [of_cgroup.pids_refused, counted.pids_refused];
        ResourceUse {
            pids_refused: refused.into_iter().flatten().reduce(u64::max),
            network_received_bytes: counted.network_received_bytes,
            network_sent_bytes: counted.network_sent_bytes,
            ..of_cgroup
        }
    }

    /// The limits that were read back from the kernel, and those that are watched.
    #[must_use]
    pub fn limits_in_force(&self) -> LimitsInForce {
        let mut limits = self.container.cgroup().limits_in_force().clone();
        if self.watched {
            (limits.disk, limits.disk_files) = (self.limits.disk, self.limits.disk_files);
        } else if self.limits.disk.is_some() || self.limits.disk_files.is_some() {
            limits.unlimited.push("disk".to_owned());
        }
        limits
    }

    /// The SELinux label of the job that was read back before its first instruction. None where there is no SELinux, and
    /// before the job runs.
    #[must_use]
    pub fn label(&self) -> Option<String> {
        self.container.label()
    }

    /// Removes it: processes, cgroup, mounts, namespaces, network. Never stops early; safe to repeat.
    pub async fn close(&mut self) -> Vec<Leftover> {
        let left = self.container.remove().await;
        if self.is_over() {
            self.userns.unguard(self.container.cgroup().dir());
        }
        left
    }
}
