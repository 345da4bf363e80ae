//! What an attempt needs from the host, made while the source is still on its way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{ContainerName, JobSpec, NetworkMode};
use bryo_sandbox::{Host, Network, Ready, Runtime, SandboxError};

use crate::settings::Settings;
use crate::work;

/// The host, the chosen runtime and the namespaces of this attempt.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) host: Host,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) ready: Ready,
}

/// Makes all three.
pub(crate) async fn set_up(
    job: JobSpec,
    settings: Settings,
    work_dir: PathBuf,
) -> Result<Setup, SandboxError> {
    let keep = [&settings.cache, &settings.work, &settings.places.state].map(|dir| real(dir));
    let host = Host::settle(&keep).await?;
    let network = network(&job, &settings);
    let runtime = Runtime::choose(&host, settings.runtime, network.mode, &settings.places).await?;
    runtime.check_apparmor(settings.apparmor.as_deref())?;
    let name = ContainerName::of(job.id);
    let ready = runtime.ready(name.as_str(), &network, &work_dir).await?;
    Ok(Setup {
        host,
        runtime: Arc::new(runtime),
        ready,
    })
}

/// What the job gets: what it asks for within what the host's owner allows.
pub(crate) fn network(job: &JobSpec, settings: &Settings) -> Network {
    let host = settings.network.host && job.network == NetworkMode::Isolated;
    Network {
        mode: if host { NetworkMode::Host } else { job.network },
        egress: job.egress.clone(),
        closed: settings.network.closed.clone(),
        reach_host: settings.network.reach_host,
    }
}

/// The path without links, as far as it exists: what a mount would cover is a matter of real paths.
fn real(path: &Path) -> PathBuf {
    path.ancestors()
        .find_map(|above| {
            let standing = above.canonicalize().ok()?;
            let rest = path.strip_prefix(above).ok()?;
            Some(standing.join(rest))
        })
        .unwrap_or_else(|| path.to_owned())
}

/// Removes what crashed attempts left; what cannot be removed is told, and tried again by the next attempt.
pub(crate) async fn sweep(host: Host, runtime: Arc<Runtime>, settings: Settings) -> Option<String> {
    match work::sweep(&settings.work, &host, &runtime).await {
        Ok(0) => None,
        Ok(n) => Some(format!(
            "removed what {n} earlier attempts left that were killed"
        )),
        Err(error) => Some(format!(
            "could not remove what an earlier attempt left: {}",
            crate::cause::chain(&error)
        )),
    }
}
