//! The crun runtime: a bundle of our own, started by crun(1), no engine anywhere.

mod bundle;
mod filter;
mod parent;
mod sandbox;
mod worker;

pub(crate) use sandbox::CrunSandbox;
pub(crate) use worker::worker_main;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{IdSlot, NetworkMode};
use bryo_process::find_program;
use oci_spec::runtime::LinuxSeccomp;

use filter::Filter;

use crate::network::{Counters, DNS, NetworkHelper, NetworkProgram, close_network, rules};
use crate::proc::kernel_version;
use crate::userns::{Nested, UserNamespace};
use crate::{Missing, Network, SandboxError, seccomp};

/// Overlay mounts in user namespaces came with 5.11, `cgroup.kill` with 5.14. Whether the overlay module is loaded does not
/// matter: the kernel loads it for the first mount.
const OLDEST_KERNEL: (u32, u32) = (5, 14);

/// What the crun runtime needs of the host.
#[derive(Clone, Debug)]
pub(crate) struct CrunRuntime {
    crun: PathBuf,
    network: Result<NetworkProgram, Missing>,
    seccomp: LinuxSeccomp,
    filter: Filter,
    userns: Arc<UserNamespace>,
}

impl CrunRuntime {
    /// What is missing on this host for the crun runtime; empty when it can be used.
    pub(crate) fn missing(network: NetworkMode) -> Vec<Missing> {
        let mut missing = Vec::new();
        if find_program("crun").is_none() {
            missing.push(Missing::new(
                "crun is not installed",
                "install it: apt install crun (Debian), dnf install crun (Fedora)",
            ));
        }
        missing.extend(seccomp::find_profile().err());
        if network == NetworkMode::Isolated {
            missing.extend(NetworkProgram::find().err());
        }
        if kernel_version() < OLDEST_KERNEL {
            let (major, minor) = OLDEST_KERNEL;
            missing.push(Missing::new(
                format!("the kernel is older than {major}.{minor}"),
                "use a newer one: overlay mounts in user namespaces and cgroup.kill are needed",
            ));
        }
        missing
    }

    /// Reads what the runtime needs. `state` is a directory of the agent for what is kept between jobs.
    pub(crate) fn new(userns: Arc<UserNamespace>, state: &Path) -> Result<Self, SandboxError> {
        let crun = find_program("crun")
            .ok_or_else(|| SandboxError::Host(Self::missing(NetworkMode::None)))?;
        let profile = seccomp::find_profile().map_err(|m| SandboxError::Host(vec![m]))?;
        let seccomp = seccomp::load(&profile)?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state)
            .map_err(SandboxError::file("make", state))?;
        ours_alone(state)?;
        Ok(Self {
            filter: Filter::new(state, &seccomp, &crun),
            crun,
            network: NetworkProgram::find(),
            seccomp,
            userns,
        })
    }

    /// Makes the namespaces of an attempt, and its network, before they are needed.
    pub(crate) async fn ready(
        &self,
        name: &str,
        network: &Network,
        work: &Path,
        slot: IdSlot,
    ) -> Result<Ready, SandboxError> {
        let isolated = network.mode == NetworkMode::Isolated;
        let nested = self.userns.nest(name, slot, isolated).await?;
        let mut ready = Ready {
            nested,
            network: None,
            counters: None,
        };
        if isolated {
            match self.connect(&ready.nested, network, work).await {
                Ok((helper, counters)) => {
                    ready.network = Some(helper);
                    ready.counters = Some(counters);
                }
                Err(error) => {
                    let _ = self.userns.unnest(&ready.nested).await;
                    return Err(error);
                }
            }
        }
        Ok(ready)
    }

    async fn connect(
        &self,
        nested: &Nested,
        network: &Network,
        work: &Path,
    ) -> Result<(NetworkHelper, Counters), SandboxError> {
        let rules = rules(network, DNS)?;
        let program = self
            .network
            .as_ref()
            .map_err(|missing| SandboxError::Host(vec![missing.clone()]))?;
        let net = nested.net().unwrap_or(nested.user());
        let (user, net) = (nested.on_host(nested.user()), nested.on_host(net));
        // Not both at once: the kernel takes no route through a gateway that a rule has closed.
        let helper = program.start(&self.userns, nested, work).await?;
        let counters = close_network(&user, &net, &rules).await?;
        Ok((helper, counters))
    }

    /// Lets go of namespaces that no sandbox took.
    pub(crate) async fn release(&self, ready: Ready) -> Result<(), SandboxError> {
        drop((ready.network, ready.counters));
        self.userns.unnest(&ready.nested).await
    }
}

/// What is kept in the state directory is trusted, so nobody else may be able to put it there.
fn ours_alone(dir: &Path) -> Result<(), SandboxError> {
    let meta = fs::symlink_metadata(dir).map_err(SandboxError::file("look at", dir))?;
    let ours = meta.uid() == nix::unistd::Uid::effective().as_raw();
    if meta.is_dir() && ours && meta.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(SandboxError::Host(vec![Missing::new(
        format!(
            "{} belongs to somebody else, or others may write to it",
            dir.display()
        ),
        "remove it, and set XDG_RUNTIME_DIR to a directory of your own",
    )]))
}

/// The namespaces of an attempt, made before they are needed.
#[derive(Debug)]
pub(crate) struct Ready {
    nested: Nested,
    network: Option<NetworkHelper>,
    counters: Option<Counters>,
}
