//! The host looked at before there is a job: an agent must not take jobs that cannot run.

use bryo_model::{LimitPolicy, Limits, NetworkMode, RuntimeKind};
use bryo_sandbox::{Runtime, SandboxError};

use crate::cause::chain;
use crate::engine::Engine;
use crate::work;

/// What all jobs of an agent need of their host.
#[derive(Clone, Debug)]
pub struct Needs {
    /// What they can reach.
    pub network: NetworkMode,
    /// Their bounds, before the ceiling.
    pub limits: Limits,
    /// What to do about a bound that this host cannot enforce.
    pub limit_policy: LimitPolicy,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// How sandboxes will be made.
    pub runtime: RuntimeKind,
    /// How many attempts that were killed had left something, which is removed.
    pub swept: u32,
    /// What of it could not be removed.
    pub left: Option<String>,
}

/// The host cannot run jobs; the text says what is missing and how to get it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(String);

impl From<SandboxError> for NotReady {
    fn from(error: SandboxError) -> Self {
        Self(chain(&error))
    }
}

impl Engine {
    /// Starts what all attempts share, chooses the runtime for such jobs, and removes what attempts that were killed have
    /// left. The first attempt then finds everything there.
    ///
    /// # Errors
    ///
    /// When the host lacks something.
    pub async fn prepare(&self, jobs: &Needs) -> Result<Prepared, NotReady> {
        let settings = self.settings();
        let host = self.hosts().get().await?;
        let runtime =
            Runtime::choose(&host, settings.runtime, jobs.network, &settings.places).await?;
        runtime.check_apparmor(settings.apparmor.as_deref())?;
        runtime
            .prepare_selinux(&settings.selinux, &settings.source_cache())
            .await?;
        let (limits, _) = settings.ceiling.over(&jobs.limits);
        // The directory itself is made for the first attempt.
        let standing = settings.work.ancestors().find(|dir| dir.is_dir());
        let work = standing.unwrap_or(&settings.work);
        runtime.check_limits(&limits, jobs.limit_policy, work)?;
        let (swept, left) = match work::sweep(&settings.work, &host, &runtime).await {
            Ok(swept) => (swept, None),
            Err(error) => (0, Some(chain(&error))),
        };
        Ok(Prepared {
            runtime: runtime.kind(),
            swept,
            left,
        })
    }
}
