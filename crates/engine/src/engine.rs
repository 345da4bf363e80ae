//! What all attempts of one agent share.

use std::path::PathBuf;
use std::sync::Arc;

use crate::hosts::Hosts;
use crate::settings::Settings;

/// Settings, and the host made ready for them at the first attempt. Cheap to clone; the last clone ends what it started.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: Arc<Settings>,
    hosts: Arc<Hosts>,
}

impl Engine {
    /// An engine with these settings. Nothing is started yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            hosts: Arc::new(Hosts::new(&settings)),
            settings: Arc::new(settings),
        }
    }

    /// The directories in which it keeps things: the cache, and where attempts work.
    #[must_use]
    pub fn places(&self) -> Vec<PathBuf> {
        vec![self.settings.cache.clone(), self.settings.work.clone()]
    }

    /// The same engine for attempts that follow each other: it has so many of what an attempt needs of the host (namespaces,
    /// a network) made before the attempt is there, where the last one of its kind wanted the same. Call it before the first
    /// attempt, and [`Engine::close`] after the last one.
    #[must_use]
    pub fn keeping_ready(self, count: usize) -> Self {
        Self {
            hosts: Arc::new(Hosts::keeping_ready(&self.settings, count)),
            ..self
        }
    }

    /// Ends what was made ahead, and waits until all that goes on beside attempts is over. Returns what is left of it, which
    /// should be nothing. No attempt begins after this.
    pub async fn close(&self) -> Vec<String> {
        self.hosts.close().await
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }
}
