//! The door to one Podman service.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::{Method, StatusCode};
use oci_spec::runtime::LinuxSeccomp;
use serde::Deserialize;
use tokio::net::UnixStream;

use super::container::PodmanContainer;
use super::create::{Create, Host, LABEL, Placement, WORK_LABEL, hosts_file};
use super::error::RequestError;
use super::info::{self, PodmanInfo};
use super::network::resolver_file;
use super::request::{Answer, Call};
use crate::seccomp;
use crate::selinux::Labels;
use crate::{SandboxError, SandboxSpec};

/// The first container of an image makes podman write the image again for the job's ids, which takes its time.
const CREATING: Duration = Duration::from_secs(60);

/// A service that does not even answer a ping by then is stuck.
const PING: Duration = Duration::from_secs(10);

/// Removing a container that runs kills it first.
const REMOVING: Duration = Duration::from_secs(15);

/// One service, reached by one socket. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct PodmanClient {
    socket: PathBuf,
    info: PodmanInfo,
}

impl PodmanClient {
    /// Connects, and asks what kind of Podman it is.
    ///
    /// # Errors
    ///
    /// When nobody or somebody else listens there, or the service cannot run jobs (see [`PodmanInfo`]).
    pub(crate) async fn connect(socket: &Path) -> Result<Self, SandboxError> {
        owned_by_us(socket).await?;
        ping(socket).await?;
        let info = ask(socket).await?;
        Ok(Self {
            socket: socket.to_owned(),
            info,
        })
    }

    /// Connects to a service that was asked before. If it is not the same version any more, it is asked again.
    ///
    /// # Errors
    ///
    /// As [`PodmanClient::connect`].
    pub(crate) async fn connect_known(
        socket: &Path,
        known: PodmanInfo,
    ) -> Result<Self, SandboxError> {
        owned_by_us(socket).await?;
        let answer = ping(socket).await?;
        let version = answer.headers.get("libpod-api-version");
        let same = version.is_some_and(|v| v.as_bytes() == known.version.as_bytes());
        let info = if same { known } else { ask(socket).await? };
        Ok(Self {
            socket: socket.to_owned(),
            info,
        })
    }

    /// What it told about itself.
    pub(crate) fn info(&self) -> &PodmanInfo {
        &self.info
    }

    /// Makes a container, which does not run yet. On an error nothing is left behind.
    ///
    /// If this future is dropped there may be a container of that name: [`PodmanClient::remove`] takes it away.
    ///
    /// # Errors
    ///
    /// When the recipe is not for podman, or podman refuses it.
    pub(crate) async fn create(
        &self,
        spec: &SandboxSpec,
        placement: &Placement,
        labels: Option<&Labels>,
    ) -> Result<PodmanContainer, SandboxError> {
        #[derive(Deserialize)]
        struct Created {
            #[serde(rename = "Id")]
            id: String,
        }
        let (hosts, seccomp) = (spec.work.join("hosts"), spec.work.join("seccomp.json"));
        let resolver = resolver_file(spec.network.mode, &self.info)
            .map(|text| (spec.work.join("resolv.conf"), text));
        let host = Host {
            info: &self.info,
            hosts: &hosts,
            seccomp: &seccomp,
            resolver: resolver.as_ref().map(|(path, _)| path.as_path()),
            labels,
            open_files: most_open_files(),
        };
        let recipe = Create::new(spec, placement, &host)?;
        fs::write(&hosts, hosts_file()).map_err(SandboxError::file("write", &hosts))?;
        let filter = write_filter(&seccomp)?;
        if let Some((path, text)) = &resolver {
            fs::write(path, text).map_err(SandboxError::file("write", path))?;
        }
        if let Some(labels) = labels {
            let mounted = resolver.as_ref().map(|(path, _)| path);
            std::iter::once(&hosts)
                .chain(mounted)
                .try_for_each(|file| labels.share(file))?;
        }
        let made = async {
            let call = Call::post("/containers/create").json(&recipe)?;
            let answer = self.send(call.within(CREATING)).await?;
            answer.json::<Created>()
        };
        match made.await {
            Ok(created) => Ok(PodmanContainer::new(
                self.clone(),
                created.id,
                placement.cgroup_dir.clone(),
                recipe.expected(&self.info, labels, filter),
            )),
            // A refusal leaves nothing; after any other end podman may still have made it.
            Err(error) => {
                if error.refusal().is_none() {
                    let _ = self.remove(spec.name.as_str()).await;
                }
                Err(error.during("make the container"))
            }
        }
    }

    /// Whether there is a container of this name or id.
    ///
    /// # Errors
    ///
    /// When podman does not say.
    pub(crate) async fn container_exists(&self, name: &str) -> Result<bool, SandboxError> {
        match self
            .send(Call::get(format!("/containers/{name}/exists")))
            .await
        {
            Ok(_) => Ok(true),
            Err(e)
                if e.refusal()
                    .is_some_and(|r| r.status == StatusCode::NOT_FOUND) =>
            {
                Ok(false)
            }
            Err(e) => Err(e.during("look for the container")),
        }
    }

    /// Names of our containers whose attempts have their directories beneath `work`.
    ///
    /// # Errors
    ///
    /// When podman does not say.
    pub(crate) async fn ours(&self, work: &Path) -> Result<Vec<String>, SandboxError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Listed {
            #[serde(default)]
            names: Vec<String>,
            #[serde(default)]
            labels: Option<BTreeMap<String, String>>,
        }
        // The filter {"label":["org.bryo.job"]}, as it stands in a query.
        let filter = format!("%7B%22label%22%3A%5B%22{LABEL}%22%5D%7D");
        let call = Call::get(format!("/containers/json?all=true&filters={filter}"));
        let listed = async { self.send(call).await?.json::<Option<Vec<Listed>>>() };
        let listed = listed.await.map_err(|e| e.during("list containers"))?;
        let of_this_work = |one: &Listed| {
            let root = one
                .labels
                .as_ref()
                .and_then(|labels| labels.get(WORK_LABEL));
            root.is_some_and(|root| Path::new(root) == work)
        };
        let ours = listed.unwrap_or_default().into_iter().filter(of_this_work);
        Ok(ours.flat_map(|one| one.names).collect())
    }

    /// Removes the container of this name or id, running or not, with its anonymous volumes. None is no error.
    ///
    /// # Errors
    ///
    /// When podman cannot.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), SandboxError> {
        let path = format!("/containers/{name}?force=true&v=true&timeout=0&ignore=true");
        let call = Call::new(Method::DELETE, path).within(REMOVING);
        match self.send(call).await {
            Ok(answer) => removed(&answer).map_err(SandboxError::Podman),
            Err(e)
                if e.refusal()
                    .is_some_and(|r| r.status == StatusCode::NOT_FOUND) =>
            {
                Ok(())
            }
            Err(e) => Err(e.during("remove the container")),
        }
    }

    pub(super) async fn send(&self, call: Call) -> Result<Answer, RequestError> {
        call.send(&self.socket).await
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }
}

/// A removal answers with success and tells in the body what went wrong.
fn removed(answer: &Answer) -> Result<(), String> {
    #[derive(Deserialize)]
    struct One {
        #[serde(rename = "Err")]
        error: Option<serde_json::Value>,
    }
    let all: Vec<One> = answer.json().unwrap_or_default();
    match all.into_iter().find_map(|one| one.error) {
        Some(error) => Err(format!("could not remove the container: {error}")),
        None => Ok(()),
    }
}

async fn ping(socket: &Path) -> Result<Answer, SandboxError> {
    let answer = Call::get("/_ping").within(PING).send(socket).await;
    answer.map_err(|e| e.during("reach the service"))
}

async fn ask(socket: &Path) -> Result<PodmanInfo, SandboxError> {
    let wire = async { Call::get("/info").send(socket).await?.json::<info::Wire>() };
    PodmanInfo::read(
        wire.await
            .map_err(|e| e.during("ask the service what it is"))?,
    )
}

/// A socket of somebody else would be given our mounts.
async fn owned_by_us(socket: &Path) -> Result<(), SandboxError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(SandboxError::file("connect to", socket))?;
    let peer = stream
        .peer_cred()
        .map_err(SandboxError::file("ask who listens on", socket))?;
    if peer.uid() == nix::unistd::Uid::effective().as_raw() {
        Ok(())
    } else {
        Err(SandboxError::Podman(format!(
            "the service on {} runs as another user (uid {}); use your own",
            socket.display(),
            peer.uid()
        )))
    }
}

/// The same filter that a crun job has. In its lowered form it is valid for podman too.
fn write_filter(to: &Path) -> Result<LinuxSeccomp, SandboxError> {
    let profile = seccomp::find_profile().map_err(|missing| SandboxError::Host(vec![missing]))?;
    let filter = seccomp::load(&profile)?;
    let text = serde_json::to_vec(&filter).map_err(|e| SandboxError::Podman(e.to_string()))?;
    fs::write(to, text).map_err(SandboxError::file("write", to))?;
    Ok(filter)
}

/// A rootless container cannot have more than its user.
fn most_open_files() -> u64 {
    use nix::sys::resource::{Resource, getrlimit};
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard)
}
