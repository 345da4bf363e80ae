//! One helper for all attempts of an agent, and another one when it is lost.

use std::path::{Path, PathBuf};
use std::sync::{self, PoisonError};
use std::time::{Duration, Instant};

use bryo_model::RuntimeKind;
use bryo_sandbox::{Host, SandboxError};
use tokio::sync::Mutex;

use crate::settings::Settings;

/// The host as attempts share it.
#[derive(Debug)]
pub(crate) struct Hosts {
    keep: [PathBuf; 3],
    ready: usize,
    current: Mutex<Option<Host>>,
    swept: sync::Mutex<Vec<(RuntimeKind, Instant)>>,
}

/// Attempts that follow each other more closely look for leftovers of crashed ones once.
const SWEEP: Duration = Duration::from_secs(1);

impl Hosts {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self::keeping_ready(settings, 0)
    }

    pub(crate) fn keeping_ready(settings: &Settings, ready: usize) -> Self {
        Self {
            ready,
            keep: [&settings.cache, &settings.work, &settings.places.state].map(|dir| real(dir)),
            current: Mutex::new(None),
            swept: sync::Mutex::default(),
        }
    }

    fn swept(&self) -> sync::MutexGuard<'_, Vec<(RuntimeKind, Instant)>> {
        self.swept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is time to look once more for what crashed attempts left in this runtime. The next one is told no for a
    /// while.
    pub(crate) fn sweep_is_due(&self, kind: RuntimeKind) -> bool {
        let mut swept = self.swept();
        swept.retain(|(_, at)| at.elapsed() < SWEEP);
        let due = swept.iter().all(|(other, _)| *other != kind);
        if due {
            swept.push((kind, Instant::now()));
        }
        due
    }

    /// The host with a helper that lives. Attempts that begin together wait for one helper, and share it.
    pub(crate) async fn get(&self) -> Result<Host, SandboxError> {
        let mut current = self.current.lock().await;
        let host = match &*current {
            Some(host) if host.userns().is_alive() => return Ok(host.clone()),
            Some(host) => {
                // What was lost with the old one is the next attempt's to remove.
                self.swept().clear();
                host.renew(&self.keep).await?
            }
            None => Host::settle(&self.keep).await?.keeping_ready(self.ready),
        };
        *current = Some(host.clone());
        Ok(host)
    }
}

impl Hosts {
    /// As [`crate::Engine::close`].
    pub(crate) async fn close(&self) -> Vec<String> {
        let host = self.current.lock().await.take();
        let left = match host {
            Some(host) => host.close().await,
            None => Vec::new(),
        };
        left.iter().map(ToString::to_string).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runtime_is_swept_at_once_and_then_from_time_to_time() {
        let hosts = Hosts {
            keep: Default::default(),
            ready: 0,
            current: Mutex::default(),
            swept: sync::Mutex::default(),
        };
        assert!(hosts.sweep_is_due(RuntimeKind::Crun) && hosts.sweep_is_due(RuntimeKind::Podman));
        assert!(!hosts.sweep_is_due(RuntimeKind::Crun) && !hosts.sweep_is_due(RuntimeKind::Podman));
        hosts.swept().retain_mut(|(kind, at)| {
            *at -= SWEEP;
            *kind == RuntimeKind::Crun
        });
        assert!(hosts.sweep_is_due(RuntimeKind::Crun) && !hosts.sweep_is_due(RuntimeKind::Crun));
    }
}
