//! What an attempt needs from the host, made while the source is still on its way.

use std::sync::Arc;

use bryo_model::{ContainerName, IdSlot, JobSpec, NetworkMode};
use bryo_sandbox::{Host, Network, Ready, Runtime, SandboxError};

use crate::engine::Engine;
use crate::settings::Settings;
use crate::work;

/// The host, the chosen runtime and the namespaces of this attempt.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) host: Host,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) ready: Ready,
    /// What the user should know about the host.
    pub(crate) advice: Option<String>,
}

/// Makes all three.
pub(crate) async fn set_up(
    job: JobSpec,
    engine: Engine,
    slot: IdSlot,
) -> Result<Setup, SandboxError> {
    let settings = engine.settings();
    let host = engine.hosts().get().await?;
    let network = network(&job, settings);
    let runtime = Runtime::choose(&host, settings.runtime, network.mode, &settings.places).await?;
    runtime.check_apparmor(settings.apparmor.as_deref())?;
    let advice = runtime
        .prepare_selinux(&settings.selinux, &settings.source_cache())
        .await?;
    let name = ContainerName::of(job.id);
    let ready = runtime.ready(name.as_str(), &network, slot).await?;
    Ok(Setup {
        host,
        runtime: Arc::new(runtime),
        ready,
        advice,
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

/// Removes what crashed attempts left; what cannot be removed is told, and tried again by the next attempt that
/// looks: where attempts follow each other closely, not each one does.
///
/// Where something was found, there is a second look when `over` comes true: a podman service may have been at work for an
/// attempt that was already dead.
pub(crate) async fn sweep(
    host: Host,
    runtime: Arc<Runtime>,
    settings: Settings,
    over: impl Future<Output = ()>,
) -> Option<String> {
    let once = async || work::sweep(&settings.work, &host, &runtime).await;
    let swept = match once().await {
        Ok(0) => return None,
        Ok(n) => {
            over.await;
            once().await.map(|_| n)
        }
        Err(error) => Err(error),
    };
    Some(match swept {
        Ok(n) => format!("removed what {n} earlier attempts left that were killed"),
        Err(error) => format!(
            "could not remove what an earlier attempt left: {}",
            crate::cause::chain(&error)
        ),
    })
}
