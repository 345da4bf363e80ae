//! What all attempts of one agent share.

use std::path::PathBuf;
use std::sync::Arc;

use bryo_image::{ImageError, ImageStore};
use bryo_source::{SourceCache, SourceError};

use crate::caches::Caches;
use crate::hosts::Hosts;
use crate::settings::Settings;

/// Settings, and the host made ready for them at the first attempt. Cheap to clone; the last clone ends what it started.
#[derive(Clone, Debug)]
pub struct Engine {
    settings: Arc<Settings>,
    hosts: Arc<Hosts>,
    caches: Arc<Caches>,
}

impl Engine {
    /// An engine with these settings. Nothing is started yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            hosts: Arc::new(Hosts::new(&settings)),
            caches: Arc::default(),
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

    pub(crate) fn source_cache(&self) -> Result<SourceCache, SourceError> {
        self.caches.source(&self.settings)
    }

    pub(crate) fn image_store(&self) -> Result<Arc<ImageStore>, ImageError> {
        self.caches.images(&self.settings)
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }
}
