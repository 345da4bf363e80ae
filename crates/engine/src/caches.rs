//! The two halves of the cache, opened once for all attempts.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bryo_image::{ImageError, ImageStore};
use bryo_source::{SourceCache, SourceError};

use crate::settings::Settings;

/// What is open. Somebody may remove the cache while an agent runs: then it is made again.
#[derive(Debug, Default)]
pub(crate) struct Caches {
    source: Mutex<Option<SourceCache>>,
    images: Mutex<Option<Arc<ImageStore>>>,
}

impl Caches {
    pub(crate) fn source(&self, settings: &Settings) -> Result<SourceCache, SourceError> {
        kept(&self.source, SourceCache::is_there, || {
            let cache = SourceCache::open(&settings.source_cache())?;
            Ok(cache.with_policy(Arc::clone(&settings.source)))
        })
    }

    pub(crate) fn images(&self, settings: &Settings) -> Result<Arc<ImageStore>, ImageError> {
        let is_there = |store: &Arc<ImageStore>| store.is_there();
        kept(&self.images, is_there, || {
            ImageStore::open(&images(&settings.cache)).map(Arc::new)
        })
    }
}

/// Where images are, in the cache.
pub(crate) fn images(cache: &Path) -> std::path::PathBuf {
    cache.join("images")
}

fn kept<T: Clone, E>(
    slot: &Mutex<Option<T>>,
    is_there: impl FnOnce(&T) -> bool,
    open: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = slot.as_ref()
        && is_there(open)
    {
        return Ok(open.clone());
    }
    let opened = open()?;
    *slot = Some(opened.clone());
    Ok(opened)
}
