//! One helper for all attempts of an agent, and another one when it is lost.

use std::path::{Path, PathBuf};

use bryo_sandbox::{Host, SandboxError};
use tokio::sync::Mutex;

use crate::settings::Settings;

/// The host as attempts share it.
#[derive(Debug)]
pub(crate) struct Hosts {
    keep: [PathBuf; 3],
    ready: usize,
    current: Mutex<Option<Host>>,
}

impl Hosts {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self::keeping_ready(settings, 0)
    }

    pub(crate) fn keeping_ready(settings: &Settings, ready: usize) -> Self {
        Self {
            ready,
            keep: [&settings.cache, &settings.work, &settings.places.state].map(|dir| real(dir)),
            current: Mutex::new(None),
        }
    }

    /// The host with a helper that lives. Attempts that begin together wait for one helper, and share it.
    pub(crate) async fn get(&self) -> Result<Host, SandboxError> {
        let mut current = self.current.lock().await;
        let host = match &*current {
            Some(host) if host.userns().is_alive() => return Ok(host.clone()),
            Some(host) => host.renew(&self.keep).await?,
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
