//! The crun runtime: a bundle of our own, started by crun(1), no engine anywhere.

mod ahead;
mod bundle;
mod filter;
mod parent;
mod sandbox;
mod sealed;
mod worker;

pub(crate) use self::ahead::Ahead;
pub(crate) use parent::End;
pub(crate) use sandbox::CrunSandbox;
pub(crate) use sealed::SealedCrun;
pub(crate) use worker::{END_OF_PATH, worker};

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use bryo_model::{IdSlot, NetworkMode};
use bryo_process::find_program;
use oci_spec::runtime::LinuxSeccomp;

use ahead::Wanted;
use filter::Filter;

use crate::network::{Counters, NetworkHelper, NetworkProgram, Rule, close_network};
use crate::proc::kernel_version;
use crate::userns::{Nested, UserNamespace, Worker};
use crate::{Host, Leftover, Missing, Network, SandboxError, seccomp};

/// Overlay mounts in user namespaces came with 5.11, `cgroup.kill` with 5.14. Whether the overlay module is loaded does not
/// matter: the kernel loads it for the first mount.
const OLDEST_KERNEL: (u32, u32) = (5, 14);

/// What the crun runtime needs of the host.
#[derive(Clone, Debug)]
pub(crate) struct CrunRuntime {
    crun: FileStamp,
    network: Result<NetworkProgram, Missing>,
    seccomp: LinuxSeccomp,
    filter: Filter,
    userns: Arc<UserNamespace>,
    ahead: Arc<Ahead>,
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

    /// What the runtime needs of the host, read anew only if it has changed since an attempt read it last. `state` is a
    /// directory of the agent for what is kept between jobs.
    pub(crate) fn on(host: &Host, state: &Path) -> Result<Arc<Self>, SandboxError> {
        let crun = find_program("crun")
            .ok_or_else(|| SandboxError::Host(Self::missing(NetworkMode::None)))?;
        let profile = seccomp::find_profile().map_err(|m| SandboxError::Host(vec![m]))?;
        make_state(state)?;
        let stamp = Stamp {
            files: [FileStamp::of(crun)?, FileStamp::of(profile)?],
            state: state.to_owned(),
        };
        let mut known = host.crun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known_stamp, runtime)) = &*known
            && *known_stamp == stamp
        {
            return Ok(Arc::clone(runtime));
        }
        let [crun, profile] = &stamp.files;
        let seccomp = seccomp::load(&profile.path)?;
        let runtime = Arc::new(Self {
            filter: Filter::new(state, &seccomp, &crun.path),
            crun: crun.clone(),
            network: NetworkProgram::find(),
            seccomp,
            userns: Arc::clone(&host.userns),
            ahead: Arc::clone(&host.ahead),
        });
        *known = Some((stamp, Arc::clone(&runtime)));
        Ok(runtime)
    }

    /// What an attempt needs before its source is there: taken from what was made ahead, or made now.
    pub(crate) async fn ready(
        &self,
        name: &str,
        network: &Network,
        slot: IdSlot,
    ) -> Result<Ready, SandboxError> {
        let wanted = Wanted::of(network, slot, &self.crun)?;
        match self.ahead.take(&wanted) {
            Some(ready) => Ok(ready),
            None => self.make(name, wanted).await,
        }
    }

    async fn make(&self, name: &str, wanted: Wanted) -> Result<Ready, SandboxError> {
        let Some(rules) = wanted.rules() else {
            // Where there is nobody to be connected, crun makes the namespaces with the container.
            return Ok(Ready {
                worker: self.userns.work(&self.crun.path).await?,
                wanted,
                nested: None,
                network: None,
            });
        };
        let nested = self.userns.nest(name, wanted.slot()).await?;
        let made = tokio::try_join!(
            self.userns.work(&self.crun.path),
            self.connect(&nested, rules)
        );
        match made {
            Ok((worker, network)) => Ok(Ready {
                network: Some(network),
                nested: Some(nested),
                worker,
                wanted,
            }),
            Err(error) => {
                let _ = self.userns.unnest(&nested).await;
                Err(error)
            }
        }
    }

    async fn connect(&self, nested: &Nested, rules: &[Rule]) -> Result<Connected, SandboxError> {
        let program = self
            .network
            .as_ref()
            .map_err(|missing| SandboxError::Host(vec![missing.clone()]))?;
        // Not both at once: the kernel takes no route through a gateway that a rule has closed.
        let helper = program.start(&self.userns, nested).await?;
        let counters = close_network(nested.user(), nested.net(), rules).await?;
        Ok(Connected {
            helper,
            counters: Some(counters),
        })
    }

    /// Has the next attempt that wants the same find it made.
    pub(crate) fn make_another(&self, wanted: &Wanted) {
        let Some(place) = Ahead::reserve(&self.ahead, wanted) else {
            return;
        };
        let (runtime, wanted) = (self.clone(), wanted.clone());
        self.ahead.beside(async move {
            let made = runtime.make(&place.name(), wanted).await;
            // What failed now is tried by the attempt that needs it, which can say so.
            if let Ok(ready) = made
                && let Some(ready) = place.fill(ready)
            {
                let _ = runtime.release(ready).await;
            }
        });
    }

    /// Lets go of namespaces that no sandbox took.
    pub(crate) async fn release(&self, ready: Ready) -> Result<(), SandboxError> {
        let Ready {
            nested,
            mut worker,
            network,
            ..
        } = ready;
        worker.kill().await;
        match self.let_go(nested, network).await {
            None => Ok(()),
            Some(left) => Err(SandboxError::Helper(left.to_string())),
        }
    }

    /// Lets go of an attempt's namespaces and ends its network. Returns what is left of them, if that is known already: the
    /// kernel takes its time to take a network device away, and where attempts follow each other it is waited for beside the
    /// next one, and by [`Ahead::close`] at last.
    async fn let_go(&self, nested: Option<Nested>, network: Option<Connected>) -> Option<Leftover> {
        let nested = nested?;
        if let Some(network) = &network {
            network.helper.end();
        }
        let (userns, ahead) = (Arc::clone(&self.userns), Arc::clone(&self.ahead));
        let gone = async move {
            let gone = userns.unnest(&nested).await;
            if let Some(network) = network
                && let Some(left) = ahead.see_off(network.helper.into()).await
            {
                return Some(left);
            }
            // A helper that is gone has taken them along.
            let error = gone.err().filter(|_| userns.is_alive())?;
            Some(Leftover(format!("namespaces {}: {error}", nested.name())))
        };
        self.ahead.now_or_beside(gone).await
    }
}

/// What was true of the host when the runtime's needs were read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    files: [FileStamp; 2],
    state: PathBuf,
}

/// A file by what changes when it is replaced or written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct FileStamp {
    path: PathBuf,
    ino: u64,
    size: u64,
    changed: (i64, i64),
}

impl FileStamp {
    fn of(path: PathBuf) -> Result<Self, SandboxError> {
        let meta = fs::metadata(&path).map_err(SandboxError::file("look at", &path))?;
        Ok(Self {
            ino: meta.ino(),
            size: meta.size(),
            changed: (meta.ctime(), meta.ctime_nsec()),
            path,
        })
    }
}

fn make_state(state: &Path) -> Result<(), SandboxError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(SandboxError::file("make", state))?;
    ours_alone(state)
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

/// What an attempt needs that does not depend on its source or its image.
#[derive(Debug)]
pub(crate) struct Ready {
    wanted: Wanted,
    /// Where there is a network.
    nested: Option<Nested>,
    worker: Worker,
    network: Option<Connected>,
}

impl Ready {
    /// Whether its programs still run.
    fn is_whole(&mut self) -> bool {
        let network = self.network.as_mut();
        self.worker.is_alive() && network.is_none_or(|network| network.helper.is_alive())
    }
}

/// A network that is up, with its rules in force.
#[derive(Debug)]
pub(crate) struct Connected {
    helper: NetworkHelper,
    /// Until the job has ended.
    counters: Option<Counters>,
}
