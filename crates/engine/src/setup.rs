//! What an attempt needs from the host, made while the source is still on its way.

use std::path::PathBuf;

use bryo_model::{ContainerName, JobSpec};
use bryo_sandbox::{Host, Ready, Runtime, SandboxError};

use crate::settings::Settings;
use crate::work;

/// The host, the chosen runtime and the namespaces of this attempt.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) host: Host,
    pub(crate) runtime: Runtime,
    pub(crate) ready: Ready,
}

/// Makes all three.
pub(crate) async fn set_up(
    job: JobSpec,
    settings: Settings,
    work_dir: PathBuf,
) -> Result<Setup, SandboxError> {
    let keep = [settings.cache.clone(), settings.work.clone()];
    let host = Host::settle(&keep).await?;
    let runtime = Runtime::choose(&host, settings.runtime, job.network, &settings.places).await?;
    let name = ContainerName::of(job.id);
    let ready = runtime.ready(name.as_str(), job.network, &work_dir).await?;
    Ok(Setup {
        host,
        runtime,
        ready,
    })
}

/// Removes what crashed attempts left; what cannot be removed is told, and tried again by the next attempt.
pub(crate) async fn sweep(host: Host, settings: Settings) -> Option<String> {
    match work::sweep(&settings.work, host.userns()).await {
        Ok(0) => None,
        Ok(n) => Some(format!(
            "removed the work directories of {n} earlier attempts that did not end"
        )),
        Err(error) => Some(format!(
            "could not remove what an earlier attempt left: {}",
            crate::cause::chain(&error)
        )),
    }
}
