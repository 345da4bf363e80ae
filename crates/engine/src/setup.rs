//! What an attempt needs from the host, made while the source is still on its way.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bryo_model::{ContainerName, JobSpec};
use bryo_sandbox::{Host, Ready, Runtime, SandboxError};

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
    let runtime = Runtime::choose(&host, settings.runtime, job.network, &settings.places).await?;
    let name = ContainerName::of(job.id);
    let ready = runtime.ready(name.as_str(), job.network, &work_dir).await?;
    Ok(Setup {
        host,
        runtime: Arc::new(runtime),
        ready,
    })
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
