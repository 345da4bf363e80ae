//! The contract that every runtime fulfils, whatever it is made of.
//!
//! `ready` → `create` → `start` → (`signal`, `kill`) → `wait` → `close`. Limits are in force and read back after `create`;
//! the job's first instruction runs after `start`; after `close` nothing is left. `close` may be called at any point.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{LimitsInForce, NetworkMode, ResourceUse, RuntimeKind};
use nix::sys::signal::Signal;

use crate::apparmor;
use crate::cgroup::JobCgroup;
use crate::crun::{self, CrunRuntime, CrunSandbox};
use crate::logs::Logs;
use crate::podman::{PodmanRuntime, PodmanSandbox};
use crate::userns::UserNamespace;
use crate::{Access, Exit, Host, Leftover, Missing, Network, SandboxError, SandboxSpec};

/// Where a runtime finds things that the environment of the process names.
#[derive(Clone, Debug)]
pub struct RuntimePlaces {
    /// A directory of the agent for runtime state, empty after a reboot where possible.
    pub state: PathBuf,
    /// `CONTAINER_HOST`.
    pub container_host: Option<String>,
    /// `XDG_RUNTIME_DIR`.
    pub runtime_dir: Option<PathBuf>,
}

/// How sandboxes are made on this host.
#[derive(Debug)]
pub struct Runtime {
    host: Host,
    made_by: MadeBy,
}

#[derive(Debug)]
enum MadeBy {
    Crun(Box<CrunRuntime>),
    Podman(Box<PodmanRuntime>),
}

impl Runtime {
    /// Takes the wanted runtime, or without a wish `crun` where the host can do it, else `podman`.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Host`] with everything that is missing and how to get it.
    pub async fn choose(
        host: &Host,
        wanted: Option<RuntimeKind>,
        network: NetworkMode,
        places: &RuntimePlaces,
    ) -> Result<Self, SandboxError> {
        let crun = || -> Result<MadeBy, SandboxError> {
            let crun = CrunRuntime::new(host.userns.clone(), &places.state)?;
            Ok(MadeBy::Crun(Box::new(crun)))
        };
        let podman = async |socket: PathBuf| -> Result<MadeBy, SandboxError> {
            let podman = PodmanRuntime::connect(&socket, &places.state).await?;
            Ok(MadeBy::Podman(Box::new(podman)))
        };
        let made_by = match wanted {
            Some(RuntimeKind::Crun) => match CrunRuntime::missing(network) {
                missing if missing.is_empty() => crun()?,
                missing => return Err(SandboxError::Host(missing)),
            },
            Some(RuntimeKind::Podman) => match PodmanRuntime::socket(places) {
                Ok(socket) => podman(socket).await?,
                Err(missing) => return Err(SandboxError::Host(vec![missing])),
            },
            None => match (CrunRuntime::missing(network), PodmanRuntime::socket(places)) {
                (missing, _) if missing.is_empty() => crun()?,
                (_, Ok(socket)) => podman(socket).await?,
                (for_crun, Err(for_podman)) => return Err(neither(for_crun, for_podman)),
            },
        };
        Ok(Self {
            host: host.clone(),
            made_by,
        })
    }

    /// Which runtime it is.
    #[must_use]
    pub const fn kind(&self) -> RuntimeKind {
        match self.made_by {
            MadeBy::Crun(_) => RuntimeKind::Crun,
            MadeBy::Podman(_) => RuntimeKind::Podman,
        }
    }

    /// Whether jobs can run under this AppArmor profile; always, without one.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Host`] when the host or the runtime cannot do it.
    pub fn check_apparmor(&self, profile: Option<&str>) -> Result<(), SandboxError> {
        profile.map_or(Ok(()), |name| apparmor::check(name, self.kind()))
    }

    /// Something the user should know about the host, though the job can run.
    #[must_use]
    pub fn advice(&self) -> Option<String> {
        match &self.made_by {
            MadeBy::Crun(_) => None,
            MadeBy::Podman(podman) => podman.advice(),
        }
    }

    /// Whether the runtime keeps images itself and has this one. A runtime that takes unpacked layers has none.
    ///
    /// # Errors
    ///
    /// When podman does not say.
    pub async fn has_image(&self, id: &str) -> Result<bool, SandboxError> {
        match &self.made_by {
            MadeBy::Crun(_) => Ok(false),
            MadeBy::Podman(podman) => podman.has_image(id).await,
        }
    }

    /// Gives a runtime that keeps images itself this one, as an `oci-archive`.
    ///
    /// # Errors
    ///
    /// When the runtime keeps none, or does not know the image by its id afterwards.
    pub async fn load_image(
        &self,
        id: &str,
        archive: impl tokio::io::AsyncRead + Send + 'static,
    ) -> Result<(), SandboxError> {
        match &self.made_by {
            MadeBy::Crun(_) => Err(SandboxError::Crun("it keeps no images".to_owned())),
            MadeBy::Podman(podman) => podman.load_image(id, archive).await,
        }
    }

    /// Makes what an attempt needs before its source is there: namespaces and network.
    ///
    /// # Errors
    ///
    /// When the host refuses.
    pub async fn ready(
        &self,
        name: &str,
        network: &Network,
        work: &Path,
    ) -> Result<Ready, SandboxError> {
        Ok(Ready(match &self.made_by {
            MadeBy::Crun(crun) => Some(crun.ready(name, network, work).await?),
            // Podman makes them with the container.
            MadeBy::Podman(_) => None,
        }))
    }

    /// Lets go of what no sandbox took.
    ///
    /// # Errors
    ///
    /// When the helper refuses or is gone.
    pub async fn release(&self, ready: Ready) -> Result<(), SandboxError> {
        match (&self.made_by, ready.0) {
            (MadeBy::Crun(crun), Some(ready)) => crun.release(ready).await,
            (MadeBy::Crun(_), None) | (MadeBy::Podman(_), _) => Ok(()),
        }
    }

    /// Makes the sandbox; its limits are in force, nothing of the job runs yet.
    ///
    /// # Errors
    ///
    /// When a limit cannot be enforced or the runtime refuses. Nothing is left then.
    pub async fn create(&self, spec: &SandboxSpec, ready: Ready) -> Result<Sandbox, SandboxError> {
        if let Err(error) = self.check_apparmor(spec.apparmor.as_deref()) {
            let _ = self.release(ready).await;
            return Err(error);
        }
        let living = match (&self.made_by, ready.0) {
            (MadeBy::Crun(crun), Some(ready)) => {
                Living::Crun(Box::new(self.create_crun(crun, spec, ready).await?))
            }
            (MadeBy::Crun(_), None) => {
                return Err(SandboxError::Crun(
                    "its namespaces are not ready".to_owned(),
                ));
            }
            (MadeBy::Podman(podman), _) => {
                for mount in spec.mounts.iter().filter(|m| m.access == Access::ReadWrite) {
                    self.host.userns.give(&mount.host).await?;
                }
                let sandbox = podman.create(&self.host.delegation, spec).await?;
                Living::Podman(Box::new(sandbox))
            }
        };
        let mut sandbox = Sandbox {
            living,
            userns: self.host.userns.clone(),
        };
        match sandbox.guard(&spec.work).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                sandbox.close().await;
                Err(error)
            }
        }
    }

    /// Removes what a crashed attempt left in the kernel and in podman. `work` was its directory; after this nothing of
    /// it runs any more.
    ///
    /// # Errors
    ///
    /// When something of it is still there.
    pub async fn sweep(&self, name: &str, work: &Path) -> Result<(), SandboxError> {
        if let Ok(cgroup) = fs::read_to_string(work.join(CGROUP_NOTE)) {
            let left = JobCgroup::of_crashed(PathBuf::from(cgroup.trim()))
                .remove()
                .await;
            if let Some(left) = left.first() {
                return Err(SandboxError::Helper(left.to_string()));
            }
        }
        match &self.made_by {
            MadeBy::Crun(_) => Ok(()),
            MadeBy::Podman(podman) => podman.remove(name).await,
        }
    }

    async fn create_crun(
        &self,
        crun: &CrunRuntime,
        spec: &SandboxSpec,
        ready: crun::Ready,
    ) -> Result<CrunSandbox, SandboxError> {
        let cgroup = JobCgroup::create(
            &self.host.delegation,
            spec.name.as_str(),
            &spec.limits,
            spec.limit_policy,
        );
        let cgroup = match cgroup {
            Ok(cgroup) => cgroup,
            Err(error) => {
                let _ = crun.release(ready).await;
                return Err(error);
            }
        };
        let mut sandbox = CrunSandbox::new(crun, spec, ready, cgroup);
        match sandbox.write(crun, spec) {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                sandbox.close().await;
                Err(error)
            }
        }
    }
}

/// What was made ready for an attempt.
#[derive(Debug)]
pub struct Ready(Option<crun::Ready>);

/// Where an attempt's work directory says which cgroup is its.
const CGROUP_NOTE: &str = "cgroup";

/// One rootless container.
#[derive(Debug)]
pub struct Sandbox {
    living: Living,
    userns: Arc<UserNamespace>,
}

#[derive(Debug)]
enum Living {
    Crun(Box<CrunSandbox>),
    Podman(Box<PodmanSandbox>),
}

impl Sandbox {
    /// From here on the job ends with this process, and the next attempt knows what to remove.
    async fn guard(&self, work: &Path) -> Result<(), SandboxError> {
        let dir = self.cgroup().dir();
        let note = work.join(CGROUP_NOTE);
        fs::write(&note, dir.as_os_str().as_encoded_bytes())
            .map_err(SandboxError::file("write", note))?;
        self.userns.guard(dir).await
    }

    /// Whether no process of the job is left.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.cgroup().is_empty()
    }

    /// Starts the job. Its output must be read to the end, or the job waits.
    ///
    /// # Errors
    ///
    /// When the runtime refuses, or the job turns out to be less confined than its recipe says.
    pub async fn start(&mut self) -> Result<Logs, SandboxError> {
        match &mut self.living {
            Living::Crun(sandbox) => sandbox.start(),
            Living::Podman(sandbox) => sandbox.start().await,
        }
    }

    /// Waits for the end of the job's first process. Safe to drop and to call again.
    ///
    /// # Errors
    ///
    /// When the runtime could not make the container, or lost it.
    pub async fn wait(&mut self) -> Result<Exit, SandboxError> {
        match &mut self.living {
            Living::Crun(sandbox) => sandbox.wait().await,
            Living::Podman(sandbox) => sandbox.wait().await,
        }
    }

    /// Asks the job's first process to end. Returns whether it can notice: the first process of a pid namespace is ended
    /// only by signals that it handles, and by `SIGKILL`; if it has no handler, waiting for it is pointless.
    pub async fn signal(&mut self, signal: Signal) -> bool {
        match &mut self.living {
            Living::Crun(sandbox) => sandbox.signal(signal),
            Living::Podman(sandbox) => sandbox.signal(signal).await,
        }
    }

    /// Kills everything of the job. [`Sandbox::wait`] then returns.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<(), SandboxError> {
        match &mut self.living {
            Living::Crun(sandbox) => sandbox.kill(),
            Living::Podman(sandbox) => sandbox.kill(),
        }
    }

    /// What the job used so far, as the kernel counts it.
    #[must_use]
    pub fn usage(&self) -> ResourceUse {
        let traffic = match &self.living {
            Living::Crun(sandbox) => sandbox.traffic(),
            Living::Podman(sandbox) => sandbox.traffic(),
        };
        ResourceUse {
            network_received_bytes: traffic.map(|t| t.received),
            network_sent_bytes: traffic.map(|t| t.sent),
            ..self.cgroup().usage()
        }
    }

    /// The limits that were read back from the kernel.
    #[must_use]
    pub fn limits_in_force(&self) -> LimitsInForce {
        self.cgroup().limits_in_force().clone()
    }

    /// Removes it: processes, cgroup, mounts, namespaces, network. Never stops early; safe to repeat.
    pub async fn close(&mut self) -> Vec<Leftover> {
        let left = match &mut self.living {
            Living::Crun(sandbox) => sandbox.close().await,
            Living::Podman(sandbox) => sandbox.close().await,
        };
        if self.is_over() {
            // A helper that is gone guards nothing.
            let _ = self.userns.unguard(self.cgroup().dir()).await;
        }
        left
    }

    fn cgroup(&self) -> &JobCgroup {
        match &self.living {
            Living::Crun(sandbox) => sandbox.cgroup(),
            Living::Podman(sandbox) => sandbox.cgroup(),
        }
    }
}

/// What is missing for each runtime, for people who ask why none can be used.
fn neither(crun: Vec<Missing>, podman: Missing) -> SandboxError {
    let tag = |kind: RuntimeKind, missing: Missing| {
        Missing::new(format!("for {kind}: {}", missing.what), missing.fix)
    };
    let mut all: Vec<_> = crun
        .into_iter()
        .map(|missing| tag(RuntimeKind::Crun, missing))
        .collect();
    all.push(tag(RuntimeKind::Podman, podman));
    SandboxError::Host(all)
}
