//! Choosing a runtime for this host, and what it does besides single containers: images, namespaces made ahead, sweeping.
//!
//! What a single container must do is the contract in [`crate::contract`].

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{IdSlot, LimitPolicy, Limits, NetworkMode, RuntimeKind};

use crate::apparmor;
use crate::cgroup::JobCgroup;
use crate::contract::Container;
use crate::crun::{self, CrunRuntime, CrunSandbox};
use crate::podman::PodmanRuntime;
use crate::selinux::{self, Labelling, Labels};
use crate::{Access, Host, Missing, Network, Sandbox, SandboxError, SandboxSpec, Selinux};

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
    state: PathBuf,
    made_by: MadeBy,
}

#[derive(Debug)]
enum MadeBy {
    Crun(Arc<CrunRuntime>),
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
            Ok(MadeBy::Crun(CrunRuntime::on(host, &places.state)?))
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
            state: places.state.clone(),
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

    /// Whether jobs that work below `work` can have these limits, as far as that can be known without a job.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Limit`] with the one that cannot be enforced, unless the policy allows to go without it.
    pub fn check_limits(
        &self,
        limits: &Limits,
        policy: LimitPolicy,
        work: &Path,
    ) -> Result<(), SandboxError> {
        match &self.made_by {
            MadeBy::Crun(_) => {
                JobCgroup::check(Some(&self.host.delegation), limits, policy, &[work])
            }
            MadeBy::Podman(podman) => podman.check_limits(&self.host, limits, policy, work),
        }
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

    /// Makes what an attempt needs before its source is there: namespaces and network. Its job has the ids of `slot`.
    ///
    /// # Errors
    ///
    /// When the host refuses.
    pub async fn ready(
        &self,
        name: &str,
        network: &Network,
        slot: IdSlot,
    ) -> Result<Ready, SandboxError> {
        let crun = match &self.made_by {
            MadeBy::Crun(crun) => Some(crun.ready(name, network, slot).await?),
            // Podman makes them with the container.
            MadeBy::Podman(_) => None,
        };
        Ok(Ready { crun, slot })
    }

    /// Lets go of what no sandbox took.
    ///
    /// # Errors
    ///
    /// When the helper refuses or is gone.
    pub async fn release(&self, ready: Ready) -> Result<(), SandboxError> {
        match (&self.made_by, ready.crun) {
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
        let labels = match self.labels(spec).await {
            Ok(labels) => labels,
            Err(error) => {
                let _ = self.release(ready).await;
                return Err(error);
            }
        };
        // Noted before it is made: whoever finds the directory knows of the cgroup.
        let note = spec.work.join(CGROUP_NOTE);
        let noted = fs::write(
            &note,
            self.cgroup_of(spec.name.as_str())
                .as_os_str()
                .as_encoded_bytes(),
        )
        .map_err(SandboxError::file("write", note));
        if let Err(error) = noted {
            let _ = self.release(ready).await;
            return Err(error);
        }
        let Ready { crun: ready, slot } = ready;
        let container: Box<dyn Container> = match (&self.made_by, ready) {
            (MadeBy::Crun(crun), Some(ready)) => Box::new(
                self.create_crun(crun, spec, ready, labels.as_deref())
                    .await?,
            ),
            (MadeBy::Crun(_), None) => {
                return Err(SandboxError::Crun(
                    "its namespaces are not ready".to_owned(),
                ));
            }
            (MadeBy::Podman(podman), _) => {
                for mount in spec.mounts.iter().filter(|m| m.access == Access::ReadWrite) {
                    self.host.userns.give(&mount.host, slot).await?;
                }
                Box::new(Box::pin(podman.create(&self.host, spec, slot, labels.clone())).await?)
            }
        };
        Sandbox::complete(container, Arc::clone(&self.host.userns), spec, labels).await
    }

    /// Whether jobs can have the SELinux labels that the host's owner wants; and what the user should know about them.
    /// `shared` is a tree that all jobs may read from.
    ///
    /// # Errors
    ///
    /// [`SandboxError::Host`] when the host cannot do it, [`SandboxError::File`] when the tree cannot be labelled.
    pub async fn prepare_selinux(
        &self,
        wanted: &Selinux,
        shared: &Path,
    ) -> Result<Option<String>, SandboxError> {
        let advice = match selinux::labels(wanted, self.kind(), &self.state)? {
            Labelling::None => return Ok(None),
            Labelling::Labels(_) => None,
            Labelling::Cannot(why) => Some(format!(
                "jobs run without SELinux labels, which is possible only because nothing is enforced: {why}"
            )),
        };
        let (wanted, shared) = (wanted.clone(), shared.to_owned());
        blocking(move || match shared.exists() {
            true => selinux::share(&wanted, &shared),
            false => Ok(()),
        })
        .await?;
        Ok(advice)
    }

    /// The labels of one job, which what it sees of the host has after this.
    async fn labels(&self, spec: &SandboxSpec) -> Result<Option<Arc<Labels>>, SandboxError> {
        let labels = match selinux::labels(&spec.selinux, self.kind(), &self.state)? {
            Labelling::Labels(labels) => Arc::new(*labels),
            Labelling::None | Labelling::Cannot(_) => return Ok(None),
        };
        let (given, spec) = (Arc::clone(&labels), spec.clone());
        blocking(move || given.give(&spec)).await?;
        Ok(Some(labels))
    }

    /// The cgroup that the job of this name gets.
    fn cgroup_of(&self, name: &str) -> PathBuf {
        match &self.made_by {
            MadeBy::Podman(podman) if podman.makes_slices() => JobCgroup::slice_dir(name),
            _ => self.host.delegation.base().join(name),
        }
    }

    /// Removes what a crashed attempt left in the kernel and in podman. `work` was its directory; after this nothing of
    /// it runs any more.
    ///
    /// # Errors
    ///
    /// When something of it is still there.
    pub async fn sweep(&self, name: &str, work: &Path) -> Result<(), SandboxError> {
        // The container first: a service that is still at work for it makes its cgroup, with all those above.
        if let MadeBy::Podman(podman) = &self.made_by {
            podman.remove(name).await?;
        }
        let Ok(cgroup) = fs::read_to_string(work.join(CGROUP_NOTE)) else {
            return Ok(());
        };
        let cgroup = JobCgroup::of_crashed(PathBuf::from(cgroup.trim()));
        match cgroup.remove().await.first() {
            Some(left) => Err(SandboxError::Helper(left.to_string())),
            None => Ok(()),
        }
    }

    /// Names of everything of ours in the kernel and in podman whose attempts have their directories beneath `work`,
    /// living or not. It finds what has no directory any more.
    ///
    /// # Errors
    ///
    /// When podman does not say.
    pub async fn ours(&self, work: &Path) -> Result<Vec<String>, SandboxError> {
        let mut names = self.host.delegation.ours(work);
        if let MadeBy::Podman(podman) = &self.made_by {
            names.extend(podman.ours(work).await?);
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Removes what [`Runtime::ours`] found and no attempt holds.
    ///
    /// # Errors
    ///
    /// When it is still there.
    pub async fn remove_stray(&self, name: &str) -> Result<(), SandboxError> {
        if let MadeBy::Podman(podman) = &self.made_by {
            podman.remove(name).await?;
        }
        let cgroup = JobCgroup::of_crashed(self.cgroup_of(name));
        match cgroup.remove().await.first() {
            Some(left) => Err(SandboxError::Helper(left.to_string())),
            None => Ok(()),
        }
    }

    async fn create_crun(
        &self,
        crun: &Arc<CrunRuntime>,
        spec: &SandboxSpec,
        ready: crun::Ready,
        labels: Option<&Labels>,
    ) -> Result<CrunSandbox, SandboxError> {
        let cgroup = JobCgroup::create(
            &self.host.delegation,
            spec.name.as_str(),
            &spec.limits,
            spec.limit_policy,
            &spec.disks(),
        );
        let cgroup = match cgroup {
            Ok(cgroup) => cgroup,
            Err(error) => {
                let _ = crun.release(ready).await;
                return Err(error);
            }
        };
        let mut sandbox = CrunSandbox::new(crun, spec, ready, cgroup);
        match sandbox.write(spec, labels) {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                sandbox.remove().await;
                Err(error)
            }
        }
    }
}

/// What was made ready for an attempt.
#[derive(Debug)]
pub struct Ready {
    crun: Option<crun::Ready>,
    slot: IdSlot,
}

/// A tree of files may take long.
async fn blocking(
    work: impl FnOnce() -> Result<(), SandboxError> + Send + 'static,
) -> Result<(), SandboxError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| SandboxError::Helper(e.to_string()))?
}

/// Where an attempt's work directory says which cgroup is its.
const CGROUP_NOTE: &str = "cgroup";

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
