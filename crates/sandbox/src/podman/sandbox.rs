//! A living container of the podman runtime, behind the common contract.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bryo_model::{IdSlot, LimitPolicy, Limits, NetworkMode, ResourceUse};
use nix::sys::signal::Signal;
use rustix::io::Errno;

use super::info::CgroupManager;
use super::network::dns;
use super::proof;
use super::{Init, Placement, PodmanClient, PodmanContainer, PodmanInfo, socket_path};
use crate::cgroup::JobCgroup;
use crate::contract::{Container, Doing};
use crate::first::FirstProcess;
use crate::logs::Logs;
use crate::network::{Traffic, close_network, own_addresses, rules};
use crate::proc::parent_of;
use crate::runtime::RuntimePlaces;
use crate::selinux::{self, Labels};
use crate::userns::UserNamespace;
use crate::{Exit, Host, Leftover, Missing, SandboxError, SandboxSpec};

/// How often podman is asked to remove a container, and how far apart.
const REMOVALS: u32 = 10;
const REMOVE_AGAIN: Duration = Duration::from_millis(200);

/// How long it is tried again: a service that hangs is not asked ten times.
const REMOVING: Duration = Duration::from_secs(10);

/// What the podman runtime needs of the host.
#[derive(Clone, Debug)]
pub(crate) struct PodmanRuntime {
    client: PodmanClient,
    kept: PathBuf,
}

impl PodmanRuntime {
    /// Where its socket is, or what is missing.
    pub(crate) fn socket(places: &RuntimePlaces) -> Result<PathBuf, Missing> {
        socket_path(
            places.container_host.as_deref(),
            places.runtime_dir.as_deref(),
        )
    }

    /// Connects. What the service told about itself is kept in `state`, because asking it takes a quarter of a second.
    pub(crate) async fn connect(socket: &Path, state: &Path) -> Result<Self, SandboxError> {
        let mut hasher = DefaultHasher::new();
        socket.hash(&mut hasher);
        let kept = state.join(format!("podman-{:016x}.json", hasher.finish()));
        let known = fs::read(&kept)
            .ok()
            .and_then(|text| serde_json::from_slice::<PodmanInfo>(&text).ok());
        let client = match known.clone() {
            Some(info) => PodmanClient::connect_known(socket, info).await?,
            None => PodmanClient::connect(socket).await?,
        };
        // What the user is about to change is asked again each time.
        let settled = client.info().network_helper.is_some() && client.info().graph_driver != "vfs";
        if settled && known.as_ref() != Some(client.info()) {
            // Losing this costs the next attempt a question, nothing else.
            if let Ok(text) = serde_json::to_vec(client.info()) {
                let _ = fs::create_dir_all(state).and_then(|()| fs::write(&kept, text));
            }
        }
        Ok(Self { client, kept })
    }

    /// Whether jobs' cgroups are slices of the user's systemd.
    pub(crate) fn makes_slices(&self) -> bool {
        self.client.info().cgroup_manager == CgroupManager::Systemd
    }

    /// Something the user should know about this podman.
    pub(crate) fn advice(&self) -> Option<String> {
        (self.client.info().graph_driver == "vfs").then(|| {
            "podman uses the storage driver vfs, which copies the whole image for each job; \
             set driver = \"overlay\" in [storage] of ~/.config/containers/storage.conf and run podman system reset"
                .to_owned()
        })
    }

    /// Whether podman has the image of this id.
    pub(crate) async fn has_image(&self, id: &str) -> Result<bool, SandboxError> {
        self.client.image_exists(id).await
    }

    /// Gives podman an image as an `oci-archive`; it must then have it under this id.
    pub(crate) async fn load_image(
        &self,
        id: &str,
        archive: impl tokio::io::AsyncRead + Send + 'static,
    ) -> Result<(), SandboxError> {
        self.client.load_image(archive).await?;
        if self.client.image_exists(id).await? {
            Ok(())
        } else {
            Err(SandboxError::Podman(format!(
                "it took the image but does not know it as {id}"
            )))
        }
    }

    /// Names of our containers whose attempts have their directories beneath `work`.
    pub(crate) async fn ours(&self, work: &Path) -> Result<Vec<String>, SandboxError> {
        self.client.ours(work).await
    }

    /// Removes the container of a crashed attempt; none is no error.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), SandboxError> {
        self.client.remove(name).await
    }

    /// The client; one that is known to have too few ids is asked again, for the user may have got more meanwhile.
    async fn client_with(&self, slot: IdSlot) -> Result<PodmanClient, SandboxError> {
        if slot.is_own() && !self.client.info().has(slot) {
            return PodmanClient::connect(self.client.socket()).await;
        }
        Ok(self.client.clone())
    }

    /// Whether a container's cgroup can have these limits.
    pub(crate) fn check_limits(
        &self,
        host: &Host,
        limits: &Limits,
        policy: LimitPolicy,
        work: &Path,
    ) -> Result<(), SandboxError> {
        let delegation = match self.client.info().cgroup_manager {
            CgroupManager::Cgroupfs => Some(&host.delegation),
            CgroupManager::Systemd => None,
        };
        JobCgroup::check(delegation, limits, policy, &[work])
    }

    /// Makes the container, with its namespaces and limits; nothing of the job runs yet.
    pub(crate) async fn create(
        &self,
        host: &Host,
        spec: &SandboxSpec,
        slot: IdSlot,
        labels: Option<Arc<Labels>>,
    ) -> Result<PodmanSandbox, SandboxError> {
        let client = self.client_with(slot).await?;
        let name = spec.name.as_str();
        let (limits, policy) = (&spec.limits, spec.limit_policy);
        // The layer that the container writes to is in podman's own store.
        let at = [spec.work.as_path(), self.client.info().graph_root.as_path()];
        let cgroup = match self.client.info().cgroup_manager {
            CgroupManager::Cgroupfs => {
                JobCgroup::create_with_conmon(&host.delegation, name, limits, policy, &at)?
            }
            CgroupManager::Systemd => JobCgroup::create_slice(name, limits, policy, &at).await?,
        };
        let mut sandbox = PodmanSandbox {
            name: name.to_owned(),
            client,
            container: None,
            cgroup,
            init: None,
            labels,
            seen: None,
        };
        match sandbox.make(spec, slot, &host.userns).await {
            Ok(()) => Ok(sandbox),
            Err(error) => {
                sandbox.remove().await;
                // It may be because podman is not what it was.
                let _ = fs::remove_file(&self.kept);
                Err(error)
            }
        }
    }
}

/// A container, not yet started, running, or ended.
#[derive(Debug)]
pub(crate) struct PodmanSandbox {
    name: String,
    client: PodmanClient,
    container: Option<PodmanContainer>,
    cgroup: JobCgroup,
    init: Option<Init>,
    labels: Option<Arc<Labels>>,
    /// The label that was read back.
    seen: Option<String>,
}

impl PodmanSandbox {
    async fn make(
        &mut self,
        spec: &SandboxSpec,
        slot: IdSlot,
        userns: &UserNamespace,
    ) -> Result<(), SandboxError> {
        let placement = Placement {
            cgroup_parent: self.cgroup.podman_parent(),
            cgroup_dir: self.cgroup.dir().to_owned(),
            slot,
        };
        let container = {
            let labels = self.labels.as_deref();
            self.client.create(spec, &placement, labels).await?
        };
        let container = self.container.insert(container);
        let init = container.init().await?;
        if let Some(recipe) = container.recipe() {
            let copy = spec.work.join("podman.json");
            userns.copy(recipe, &copy).await?;
            container.verify_recipe(&copy)?;
        }
        if let Init::Ready { pid } = init
            && slot.is_own()
        {
            proof::ids(pid, userns.pid(), slot)?;
        }
        if let Init::Ready { pid } = init
            && let Some(label) = self.labels.as_ref().and_then(|labels| labels.pipes())
        {
            selinux::label_output(pid, &namespace_of(pid)?, label).await?;
        }
        if let Init::Ready { pid } = init
            && spec.network.mode == NetworkMode::Isolated
        {
            let owner = namespace_of(pid)?;
            let net = PathBuf::from(format!("/proc/{pid}/ns/net"));
            let own = own_addresses()?;
            let rules = rules(&spec.network, dns(self.client.info()), &own);
            let counters = close_network(&owner, &net, &rules).await?;
            self.container()?.count(counters);
        }
        self.init = Some(init);
        Ok(())
    }

    /// Directories of the host that hold what the job writes.
    fn writable(&self, spec: &SandboxSpec) -> Result<Vec<PathBuf>, SandboxError> {
        let mut all = spec.writable_mounts();
        if let Some(Init::NotStarted(_)) = self.init {
            return Ok(all);
        }
        let layer = self
            .container
            .as_ref()
            .and_then(PodmanContainer::upper_layer);
        let layer = layer.ok_or_else(|| SandboxError::Limit {
            limit: "disk",
            why: format!(
                "podman's storage driver {} does not keep a container's own files apart",
                self.client.info().graph_driver
            ),
            fix: "set driver = \"overlay\" in [storage] of ~/.config/containers/storage.conf and run podman \
                  system reset"
                .to_owned(),
        })?;
        all.push(layer.to_owned());
        Ok(all)
    }

    fn container(&mut self) -> Result<&mut PodmanContainer, SandboxError> {
        self.container
            .as_mut()
            .ok_or_else(|| SandboxError::Podman("the container is gone".to_owned()))
    }

    /// Starts the job and checks that it is as confined as it was to be.
    pub(crate) async fn start(&mut self) -> Result<Logs, SandboxError> {
        if let Some(Init::NotStarted(_)) = self.init {
            return Ok(Logs::empty());
        }
        let container = self.container()?;
        let logs = container.start().await?;
        if let Err(error) = container.verify_running().await {
            let _ = self.kill();
            return Err(error);
        }
        self.seen = (self.labels.as_ref()).map(|labels| labels.process().to_string());
        Ok(Logs::of_podman(logs))
    }

    pub(crate) async fn wait(&mut self) -> Result<Exit, SandboxError> {
        if let Some(Init::NotStarted(why)) = &self.init {
            return Ok(Exit::NotStarted(why.clone()));
        }
        self.container()?.wait().await
    }

    /// Sends a signal to the job's first process. Returns whether that process can notice it at all.
    ///
    /// No service is needed where the kernel lets us. Where something else does not, AppArmor for instance, podman is asked
    /// and not waited for: the time that the job is given begins at once.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let Some(first) = self.first() else {
            return false;
        };
        if !first.can_notice(signal) {
            return false;
        }
        match (first.send(signal), &self.container) {
            (Ok(()), _) => true,
            (Err(Errno::PERM | Errno::ACCESS), Some(container)) => {
                tokio::spawn(container.signal(signal as i32));
                true
            }
            (Err(_), _) => false,
        }
    }

    /// The job's first process, if it is there.
    fn first(&self) -> Option<FirstProcess> {
        match self.init {
            Some(Init::Ready { pid }) => FirstProcess::hold(pid, self.cgroup.dir()),
            _ => None,
        }
    }

    /// Kills the job's first process, and with its pid namespace all others, which needs no service to answer.
    ///
    /// Not the whole cgroup: conmon may be in it, and podman takes ten seconds to notice a container without one. What
    /// should still be there is killed with the cgroup when it is removed.
    pub(crate) fn kill(&mut self) -> Result<(), SandboxError> {
        match self.first().map(|first| first.send(Signal::SIGKILL)) {
            Some(Ok(())) => Ok(()),
            Some(Err(_)) | None => self.cgroup.kill(),
        }
    }

    /// Podman's own clean-up of a container that has just ended works at the same time, and one can be in the other's way;
    /// so what podman says is looked at, and it is asked again.
    async fn remove_container(&mut self) -> Result<(), SandboxError> {
        let mut tries = 0;
        let since = Instant::now();
        loop {
            tries += 1;
            let removed = match self.container.as_mut() {
                Some(container) => container.remove().await,
                // A creation that failed half-way may still have made it.
                None => self.client.remove(&self.name).await,
            };
            let gone = match &removed {
                Ok(()) => !self.client.container_exists(&self.name).await?,
                Err(_) => false,
            };
            let last = tries == REMOVALS || since.elapsed() > REMOVING;
            match removed {
                Ok(()) if gone => break,
                Ok(()) if last => {
                    return Err(SandboxError::Podman(
                        "it says that the container is removed, and still has it".to_owned(),
                    ));
                }
                Err(error) if last => return Err(error),
                _ => tokio::time::sleep(REMOVE_AGAIN).await,
            }
        }
        self.container = None;
        Ok(())
    }

    /// Removes everything of the container. Safe to repeat.
    pub(crate) async fn remove(&mut self) -> Vec<Leftover> {
        let mut left = Vec::new();
        if let Some(container) = &mut self.container {
            container.settle().await;
        }
        if let Some(first) = self.first() {
            let _ = first.send(Signal::SIGKILL);
        }
        self.init = None;
        if let Err(error) = self.remove_container().await {
            left.push(Leftover(format!("container {}: {error}", self.name)));
        }
        left.extend(self.cgroup.remove().await);
        left
    }
}

impl Container for PodmanSandbox {
    fn start(&mut self) -> Doing<'_, Result<Logs, SandboxError>> {
        Box::pin(Self::start(self))
    }

    fn stop(&mut self, signal: Signal) -> bool {
        self.signal(signal)
    }

    fn kill(&mut self) -> Result<(), SandboxError> {
        Self::kill(self)
    }

    fn wait(&mut self) -> Doing<'_, Result<Exit, SandboxError>> {
        Box::pin(Self::wait(self))
    }

    fn has_ended(&self) -> bool {
        self.container
            .as_ref()
            .is_some_and(PodmanContainer::has_ended)
    }

    fn ended(&self) -> Doing<'static, ()> {
        match &self.container {
            Some(container) => Box::pin(container.ended()),
            None => Box::pin(std::future::pending()),
        }
    }

    fn remove(&mut self) -> Doing<'_, Vec<Leftover>> {
        Box::pin(Self::remove(self))
    }

    fn cgroup(&self) -> &JobCgroup {
        &self.cgroup
    }

    fn counted(&self) -> ResourceUse {
        ResourceUse {
            pids_refused: self
                .container
                .as_ref()
                .and_then(PodmanContainer::pids_refused),
            ..Traffic::reported(self.container.as_ref().and_then(PodmanContainer::traffic))
        }
    }

    fn writable<'a>(
        &'a self,
        spec: &'a SandboxSpec,
    ) -> Doing<'a, Result<Vec<PathBuf>, SandboxError>> {
        Box::pin(std::future::ready(Self::writable(self, spec)))
    }

    fn label(&self) -> Option<String> {
        self.seen.clone()
    }

    fn user_namespace(&self) -> Option<PathBuf> {
        match self.init {
            Some(Init::Ready { pid }) => podmans_namespace(pid),
            _ => None,
        }
    }
}

fn namespace_of(pid: i32) -> Result<PathBuf, SandboxError> {
    let gone = || SandboxError::Podman("the prepared container is gone".to_owned());
    podmans_namespace(pid).ok_or_else(gone)
}

/// Podman's own user namespace, which owns a container's others: that of conmon, its first process' parent.
fn podmans_namespace(pid: i32) -> Option<PathBuf> {
    let conmon = parent_of(pid)?;
    Some(PathBuf::from(format!("/proc/{conmon}/ns/user")))
}
