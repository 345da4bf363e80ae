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

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.hosts
    }
}
